//! Drives `shardway-up` as a user would: a folder, the programs, curl.
//!
//! The programs come from `SHARDWAY_BIN_DIR`; `cargo xtask test` builds them and sets it. Each test has folders,
//! addresses and ports of its own, so that tests run side by side and beside a running `up`.

// A harness for tests: what cannot be done is a failed test.
#![allow(clippy::unwrap_used)]

mod programs;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use programs::{Programs, example};

/// Longest wait for any condition.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `check` until it gives something; fails, naming what was waited for, after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(
            Instant::now() < until,
            "waited {} s for {what}",
            PATIENCE.as_secs()
        );
        std::thread::yield_now();
        // The condition is looked at again; nothing depends on how long this takes.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A running `up`.
pub struct Up {
    child: Option<Child>,
    /// Folder of manifests.
    pub folder: PathBuf,
    /// Data folder.
    pub data: PathBuf,
    /// What it has printed.
    pub output: PathBuf,
    bin: PathBuf,
    range: u8,
    _root: TempDir,
}

impl Up {
    /// Starts `up` on a copy of an example, at addresses and echo ports of its own.
    pub fn start(name: &str) -> Self {
        Self::start_at(name, None)
    }

    /// The same with a data folder elsewhere.
    pub fn start_in(name: &str, data: PathBuf) -> Self {
        Self::start_at(name, Some(data))
    }

    fn start_at(name: &str, data: Option<PathBuf>) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        // Beside other test programs and a user's own `up`: 127.(100 + pid part).N.0/24.
        let range = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("manifests");
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(example(name)).unwrap() {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            // Echo backends of this test alone: 9001 becomes another port.
            let text = text.replace(
                "127.0.3.1:900",
                &format!("127.0.3.{}:2{:03}", range + 10, std::process::id() % 1000),
            );
            fs::write(folder.join(entry.file_name()), text).unwrap();
        }
        let mut up = Self {
            child: None,
            folder,
            data: data.unwrap_or_else(|| root.path().join("data")),
            output: root.path().join("output"),
            bin: programs::bin(),
            range,
            _root: root,
        };
        up.run();
        up
    }

    /// Starts it, for the first time or again.
    pub fn run(&mut self) {
        let output = fs::File::create(&self.output).unwrap();
        let child = Command::new(self.bin.join("shardway-up"))
            .arg(&self.folder)
            .arg("--data")
            .arg(&self.data)
            .args([
                "--address-range",
                &format!("127.{}.{}.0/24", 100 + std::process::id() % 100, self.range),
            ])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.wait_for_line("up: ready");
    }

    /// An address of this test's own range, for `spec.addresses`; those from 200 on are never given by themselves here.
    pub fn address(&self, last: u8) -> String {
        format!(
            "127.{}.{}.{last}",
            100 + std::process::id() % 100,
            self.range
        )
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until it has printed a text.
    pub fn wait_for_line(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in\n{}", self.printed()), || {
            self.printed()
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        })
    }

    /// The commands to try that it printed.
    pub fn curls(&self) -> Vec<String> {
        self.printed()
            .lines()
            .filter(|line| line.starts_with("curl "))
            .map(str::to_owned)
            .collect()
    }

    /// Runs a command line; gives what it printed.
    pub fn shell(&self, line: &str) -> String {
        let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `shardway` against this operator; gives what it printed.
    pub fn shardway(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(self.bin.join("shardway"))
            .arg("--data")
            .arg(&self.data)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// The operator's own file.
    pub fn operator(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.data.join("operator.json")).ok()?).ok()
    }

    /// Address and port of a Gateway's listener port, and the target port.
    pub fn binding(&self, namespace: &str, name: &str, port: u16) -> (String, u16, u16) {
        wait_for("the binding", || {
            let admin = self.operator()?["admin"].as_str()?.to_owned();
            let text = self.shell(&format!(
                "curl -s -m 5 http://{admin}/api/v1/bindings || true"
            ));
            let bindings: Value = serde_json::from_str(&text).ok()?;
            let found = bindings
                .as_array()?
                .iter()
                .find(|b| b["namespace"] == namespace && b["name"] == name && b["port"] == port)?;
            let number = |key: &str| found[key].as_u64().and_then(|n| u16::try_from(n).ok());
            Some((
                found["addresses"][0].as_str()?.to_owned(),
                number("publicPort")?,
                number("targetPort")?,
            ))
        })
    }

    /// Address of a shard's own, on which it alone answers.
    pub fn shard_address(&self, shard: u32) -> String {
        let line = self.wait_for_line("each alone at ");
        let prefix = line
            .split("each alone at ")
            .nth(1)
            .and_then(|rest| rest.split('(').next())
            .unwrap();
        format!("{prefix}{}", shard + 1)
    }

    /// Process ids of the children whose command line has a text.
    pub fn children(&self, text: &str) -> Vec<u32> {
        let parent = self.child.as_ref().map_or(0, Child::id);
        processes()
            .filter(|(pid, line)| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let of = stat
                    .rsplit(')')
                    .next()
                    .and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
                of == Some(parent) && line.contains(text)
            })
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Rewrites a manifest as an editor does: a new file in its place.
    pub fn edit(&self, file: &str, change: impl FnOnce(String) -> String) {
        let path = self.folder.join(file);
        let text = change(fs::read_to_string(&path).unwrap());
        let temporary = self.folder.join(format!(".{file}.new"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    /// Sends an interrupt, as Ctrl-C does, and gives the exit code.
    pub fn interrupt(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        self.shell(&format!("kill -INT {}", child.id()));
        wait_for("the end of up", || child.try_wait().unwrap()).code()
    }
}

impl Up {
    /// Ends it at once, with its children.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let pid = child.id();
        wait_for("the end of the children", || {
            // They are another parent's now; their data folder tells them apart.
            let data = self.data.to_string_lossy().into_owned();
            let left = processes().any(|(_, line)| line.contains(&data) && !line.contains("curl"));
            (!left && pid > 0).then_some(())
        });
    }
}

/// Process ids with their command lines.
fn processes() -> impl Iterator<Item = (u32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
}

/// Resident memory of a process, MiB.
pub fn rss_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.unwrap_or(0.0) * 4096.0 / 1_048_576.0
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Its children end with it.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.printed());
        }
    }
}
