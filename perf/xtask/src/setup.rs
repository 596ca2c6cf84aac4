//! Installs what is missing, as root; else says the one command that does.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::run;

/// Makes sure that Debian packages are there, told by the files that they bring.
pub(crate) fn packages(names: &[&str], files: &[&str]) -> Result<(), String> {
    if files.iter().all(|file| Path::new(file).exists()) {
        return Ok(());
    }
    let install = format!(
        "apt-get install -y --no-install-recommends {}",
        names.join(" ")
    );
    if !is_root() {
        return Err(format!(
            "{} are missing; run: sudo {install}",
            names.join(", ")
        ));
    }
    println!("xtask: installing {}", names.join(", "));
    let quiet = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null());
        command
    };
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(names);
    if run(quiet(&arguments)).is_ok() {
        return Ok(());
    }
    // Without lists of packages, or with old ones, nothing is found.
    run(quiet(&["update"]))?;
    run(quiet(&arguments))
}

/// Whether this process may install.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .is_some_and(|effective| effective == "0")
}
