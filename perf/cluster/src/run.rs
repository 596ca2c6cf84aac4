//! Programs that run to their end, and waiting.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Where programs of the system are.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program and gives what it prints.
///
/// # Errors
/// When it cannot be started or fails; the text has what it wrote to its standard error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program of the system with its arguments and gives what it prints.
///
/// # Errors
/// As [`output`].
pub(crate) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    output(
        Command::new(program)
            .env("PATH", SYSTEM_PATH)
            .args(arguments),
    )
}

/// Runs a program that reads `input`.
///
/// # Errors
/// As [`output`].
pub(crate) fn feed(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let name = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    // A program that ends early says why by its status.
    let _ = child
        .stdin
        .take()
        .context("feed a program")?
        .write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Asks until `ready` says so.
///
/// # Errors
/// When it takes longer than `within`; and at once when `ready` fails.
pub(crate) fn wait(
    what: &str,
    within: Duration,
    mut ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let until = Instant::now() + within;
    loop {
        if ready()? {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!("{what}: not within {} s", within.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_why() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"]).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn waiting_ends() {
        let error = wait("the moon", Duration::ZERO, || Ok(false)).unwrap_err();
        assert_eq!(error.to_string(), "the moon: not within 0 s");
    }
}
