//! Operators and shards as processes of a test, with one folder for all that they keep.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Programs and the folder that they share.
pub struct Programs {
    root: TempDir,
    bin: PathBuf,
}

impl Programs {
    /// With a new folder.
    #[allow(clippy::new_without_default)] // it makes a folder
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            bin: bin(),
        }
    }

    /// A file or folder in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Starts a program that ends with this process; what it prints is appended to a file.
    pub fn spawn(&self, program: &str, arguments: &[String], log: &str) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(log))
            .unwrap();
        Command::new(self.bin.join(program))
            .args(arguments)
            .args(["--exit-with-parent"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Starts a shard that follows these operators, with an address of its own in the range (`127.1.2`).
    pub fn shard(&self, shard: u32, operators: &str, range: &str) -> Child {
        let arguments = [
            format!("--operator={operators}"),
            format!("--id={shard}"),
            format!("--data={}", self.path("shards").display()),
            format!("--tls-dir={}", self.path("tls").display()),
            format!("--target-address={range}.{}", 240 + shard),
            "--workers=1".to_owned(),
            "--access-log=false".to_owned(),
        ];
        self.spawn("shard-proxy", &arguments, &format!("shard-{shard}.log"))
    }
}

/// The folder of the programs.
pub(crate) fn bin() -> PathBuf {
    let bin = std::env::var_os("SHARDWAY_BIN_DIR");
    bin.expect("SHARDWAY_BIN_DIR names the folder of the programs; run cargo xtask test")
        .into()
}

/// Folder of an example's manifests.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../api/examples")
        .join(name)
}
