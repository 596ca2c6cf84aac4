//! Processes that outlive the command that starts them. A file tells who they are: the process's id with its start time, so
//! that an id that the kernel gave to another process since is never taken for ours.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use serde_json::{Value, json};

use crate::Cluster;
use crate::network;
use crate::run::wait;

/// Time for a process to end by itself before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A process by its id and its start time, in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: i32,
    pub(crate) started: u64,
}

impl Process {
    /// The process that has the id now; none when there is none, or only what its parent did not wait for yet.
    pub(crate) fn now(id: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name may hold anything, so fields count from its end: state is the third, start time the 22nd.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        // The first thread of a program that is killed may be over before the others are.
        let over = matches!(state, "Z" | "X") && threads(id) < 2;
        (!over).then_some(Self { id, started })
    }

    /// Whether it still runs.
    pub(crate) fn runs(self) -> bool {
        Self::now(self.id) == Some(self)
    }

    /// A handle that can mean no other process, if it still runs.
    fn handle(self) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(self.id)?, PidfdFlags::empty()).ok()?;
        self.runs().then_some(handle)
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(self, signal: Signal) {
        if let Some(handle) = self.handle() {
            // Gone in between: then there is nothing to tell.
            let _ = pidfd_send_signal(handle.as_fd(), signal);
        }
    }

    /// Whether it has ended; reaps it if it is a child of this process.
    pub(crate) fn ended(self) -> bool {
        if self.runs() {
            return false;
        }
        // An error says that it is no child of this process: then its parent sees to it.
        !Pid::from_raw(self.id)
            .is_some_and(|pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)))
    }
}

fn threads(id: i32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count)
}

/// Ends processes: all are asked at once, and killed when the time is over.
pub(crate) fn end(processes: &[Process]) -> anyhow::Result<()> {
    for process in processes {
        process.signal(Signal::TERM);
    }
    let ended = || Ok(processes.iter().all(|process| process.ended()));
    if wait("processes end", STOP_WITHIN, ended).is_ok() {
        return Ok(());
    }
    kill(processes)
}

/// Kills processes and waits until they are gone.
pub(crate) fn kill(processes: &[Process]) -> anyhow::Result<()> {
    for process in processes {
        process.signal(Signal::KILL);
    }
    wait("killed processes are gone", STOP_WITHIN, || {
        Ok(processes.iter().all(|process| process.ended()))
    })
}

/// Where a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the cluster's network.
    Network,
    /// In the network and the mount namespace of the node.
    Node,
}

/// Starts `program` under a name and remembers it, with its arguments so that [`start_again`] can.
pub(crate) fn start(
    cluster: &Cluster,
    name: &str,
    place: Place,
    program: PathBuf,
    arguments: &[String],
) -> anyhow::Result<Process> {
    let mut line = vec![format!("--net={}", network::file(cluster.name()).display())];
    if place == Place::Node {
        let node = find(cluster, "node").context("the node's namespaces are gone")?;
        line.push(format!("--mount=/proc/{}/ns/mnt", node.id));
    }
    line.push("--".into());
    line.push(program.to_string_lossy().into_owned());
    line.extend(arguments.iter().cloned());
    spawn(cluster, name, &line)
}

/// Starts a process that was stopped, as it was started.
///
/// # Errors
/// When it runs, and when it was never started.
pub fn start_again(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    if find(cluster, name).is_some() {
        bail!("{name} runs");
    }
    let file = file(cluster, name);
    let text = fs::read_to_string(&file)
        .with_context(|| format!("{name} was never started: read {}", file.display()))?;
    let line: Vec<String> = serde_json::from_str::<Value>(&text)?["line"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|argument| argument.as_str().map(str::to_owned))
        .collect();
    spawn(cluster, name, &line).map(drop)
}

/// Starts every process of the cluster again that has ended, as kubelet would with those of a real one: kube-scheduler ends
/// itself when a pod that was deleted by force comes back on another node than it knows.
///
/// # Errors
/// When one of them does not start.
pub fn revive(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut revived = Vec::new();
    for name in names(cluster) {
        if find(cluster, &name).is_none() {
            start_again(cluster, &name)?;
            revived.push(name);
        }
    }
    Ok(revived)
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is asked, and killed when it does not end by itself.
    Asked,
    /// It is killed.
    Killed,
}

/// Ends a process by its name; nothing happens when it does not run.
///
/// # Errors
/// When it does not end even if killed, and when there never was such a process.
pub fn stop(cluster: &Cluster, name: &str, ending: Ending) -> anyhow::Result<()> {
    let names = names(cluster);
    if !names.iter().any(|known| known == name) {
        bail!("no process is named {name}, but {}", names.join(", "));
    }
    match (find(cluster, name), ending) {
        (Some(process), Ending::Asked) => end(&[process]),
        (Some(process), Ending::Killed) => kill(&[process]),
        (None, _) => Ok(()),
    }
}

/// Names of the processes that were started, in the order of their names.
pub(crate) fn names(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(cluster.state().join("run"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".json").map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

/// The process that was started under a name, if it still runs.
pub(crate) fn find(cluster: &Cluster, name: &str) -> Option<Process> {
    let text = fs::read_to_string(file(cluster, name)).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    let process = Process {
        id: i32::try_from(value["pid"].as_i64()?).ok()?,
        started: value["started"].as_u64()?,
    };
    process.runs().then_some(process)
}

/// Fails with the end of its log when a process has ended.
pub(crate) fn must_run(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    if find(cluster, name).is_some() {
        return Ok(());
    }
    let log = cluster.log(name);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(10)..].join("\n");
    bail!("{name} ended; the last lines of {}:\n{last}", log.display())
}

fn spawn(cluster: &Cluster, name: &str, line: &[String]) -> anyhow::Result<Process> {
    let log = cluster.log(name);
    let output = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    // A session of its own, so that no terminal's signal reaches it. Both programs become the next one, so the id is that
    // of the program at the end of the line. The environment is empty: a proxy that is named there would be asked.
    let child = Command::new("setsid")
        .arg("nsenter")
        .args(line)
        .env_clear()
        .env("PATH", cluster.path())
        .env("HOME", cluster.state())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let id = i32::try_from(child.id()).context("a process id is a number of 31 bits")?;
    let Some(process) = Process::now(id) else {
        must_run(cluster, name)?;
        bail!("{name} ended at once");
    };
    let told = json!({"pid": process.id, "started": process.started, "line": line});
    let file = file(cluster, name);
    fs::write(&file, format!("{told:#}\n")).with_context(|| format!("write {}", file.display()))?;
    Ok(process)
}

fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.state().join("run").join(format!("{name}.json"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn another_process_with_the_same_id_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::now(i32::try_from(child.id()).unwrap()).unwrap();
        let other = Process {
            started: process.started + 1,
            ..process
        };
        other.signal(Signal::KILL);
        assert!(!other.runs());
        assert!(process.runs());
        kill(&[process]).unwrap();
        assert!(process.ended());
        let _ = child.wait();
    }

    #[test]
    fn a_name_with_brackets_is_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::now(own).unwrap();
        assert!(process.started > 0);
        assert!(process.runs());
    }
}
