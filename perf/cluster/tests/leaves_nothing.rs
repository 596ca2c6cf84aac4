//! A cluster does what a cluster is for, and leaves the machine as it was: after a usual end, and after a start that was cut
//! short.
//!
//! Wants root and `SHARDWAY_CLUSTER=1`, since it takes a minute, and builds Kubernetes when it is not built yet.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

#[path = "leaves_nothing/machine.rs"]
mod machine;
mod support;
#[path = "leaves_nothing/workload.rs"]
mod workload;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use perf_cluster::process::Ending;
use perf_cluster::{Cluster, down, process, up};

use machine::Machine;
use support::{Ended, home, programs, reason_to_skip, say_skipped};

const NAME: &str = "leaves-nothing";

#[test]
fn a_cluster_works_and_leaves_nothing() {
    if let Some(reason) = reason_to_skip() {
        say_skipped(reason);
        return;
    }
    let cluster = Cluster::new(NAME, &home()).unwrap();
    down::down(&cluster).unwrap();
    let before = Machine::now(NAME);
    let _ended = Ended(&cluster);

    up::up(&cluster, programs()).unwrap();
    workload::runs(&cluster);
    let during = Machine::now(NAME);
    // What is compared can tell a difference.
    for kind in ["processes", "network names", "mounts", "cgroups", "folders"] {
        assert_ne!(before.of(kind), during.of(kind), "{kind} while it is up");
    }
    down::down(&cluster).unwrap();
    Machine::now(NAME).must_equal(&before);
    during.must_be_gone();

    a_start_that_was_cut_short(&cluster, &before);
    without_the_holder_of_its_namespace(&cluster, &before);
}

/// The command is killed when the API server's process is there, before anything else is.
fn a_start_that_was_cut_short(cluster: &Cluster, before: &Machine) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardway-cluster"))
        .args(["--name", NAME, "--home"])
        .arg(cluster.home())
        .arg("up")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = cluster.state().join("run/kube-apiserver.json");
    wait(Duration::from_secs(60), || told.exists());
    command.kill().unwrap();
    command.wait().unwrap();
    let during = Machine::now(NAME);
    down::down(cluster).unwrap();
    Machine::now(NAME).must_equal(before);
    during.must_be_gone();
}

/// What finds processes by the namespace has lost its handle.
fn without_the_holder_of_its_namespace(cluster: &Cluster, before: &Machine) {
    up::up(cluster, programs()).unwrap();
    let during = Machine::now(NAME);
    process::stop(cluster, "node", Ending::Killed).unwrap();
    down::down(cluster).unwrap();
    Machine::now(NAME).must_equal(before);
    during.must_be_gone();
}

/// Asks until it is so.
#[track_caller]
fn wait(within: Duration, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + within;
    while !ready() {
        assert!(Instant::now() < until, "not within {within:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
