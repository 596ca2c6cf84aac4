//! A shard that is told to stop: not ready at once, gone no sooner than load balancers were given time to see it.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(20);

/// A shard process without an operator; ended with the test.
struct Shard {
    child: Child,
    folder: PathBuf,
}

impl Shard {
    fn start(name: &str, flags: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("leave-{name}-{}", std::process::id()));
        let child = Command::new(env!("CARGO_BIN_EXE_shard-proxy"))
            .args(["--operator", "127.0.0.1:1", "--insecure-stream"])
            .args(["--id", "0", "--workers", "1", "--data"])
            .arg(&folder)
            .args(flags)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn stop(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// What the readiness probe gets; none while the admin endpoint does not answer.
    fn readiness(&self) -> Option<String> {
        let address = admin(&self.folder)?;
        let mut stream = TcpStream::connect(address).ok()?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn admin(folder: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(folder.join("shard-0/admin.addr")).ok()?;
    text.parse().ok()
}

fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_is_not_ready_at_once_and_waits_before_it_drains() {
    const WAIT_MS: u64 = 1500;
    let mut shard = Shard::start("waits", &["--drain-wait-ms", &WAIT_MS.to_string()]);
    wait_for(|| shard.readiness());
    let told = Instant::now();
    shard.stop();
    wait_for(|| {
        shard
            .readiness()
            .filter(|answer| answer.contains("draining"))
    });
    let status = wait_for(|| shard.ended());
    assert!(status.success(), "{status}");
    assert!(told.elapsed() >= Duration::from_millis(WAIT_MS));
}

#[test]
fn without_a_wait_it_ends_at_once() {
    let mut shard = Shard::start("at-once", &[]);
    wait_for(|| shard.readiness());
    shard.stop();
    let status = wait_for(|| shard.ended());
    assert!(status.success(), "{status}");
}
