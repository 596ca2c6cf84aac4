//! The stages of `test` and `check`, with the time of each.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::{absolute_target, cargo, cluster, root, run, setup};

/// All that CI runs.
pub(crate) fn all() -> Result<(), String> {
    let began = Instant::now();
    set_up()?;
    stage("format", format)?;
    stage("lints", lints)?;
    stage("unit, golden and property tests", || {
        tests(&["--workspace", "--exclude", "perf-e2e"])
    })?;
    stage("programs", programs)?;
    stage("real processes", || tests(&["--package", "perf-e2e"]))?;
    in_a_cluster()?;
    println!("xtask: test took {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// The inner loop.
pub(crate) fn quick() -> Result<(), String> {
    set_up()?;
    stage("format", format)?;
    stage("lints", lints)?;
    stage("unit, golden and property tests", || {
        tests(&["--workspace", "--exclude", "perf-e2e"])
    })
}

fn set_up() -> Result<(), String> {
    stage("set-up", || {
        setup::packages(
            &["protobuf-compiler", "libprotobuf-dev", "curl"],
            &[
                "/usr/bin/protoc",
                "/usr/include/google/protobuf/descriptor.proto",
                "/usr/bin/curl",
            ],
        )?;
        gateway_api_module();
        Ok(())
    })
}

/// The Gateway API's examples are read from Go's module cache; without Go the tests that need them say so.
fn gateway_api_module() {
    let downloaded = Command::new("go")
        .args(["mod", "download", "sigs.k8s.io/gateway-api@v1.7.0"])
        .env("GOTOOLCHAIN", "go1.27.0")
        .env("GOFLAGS", "-mod=mod")
        .current_dir(std::env::temp_dir())
        .status();
    if !downloaded.is_ok_and(|status| status.success()) {
        println!(
            "xtask: the Gateway API's module is not to be had; tests of its examples will say that they are skipped"
        );
    }
}

fn format() -> Result<(), String> {
    let mut command = cargo();
    command.args(["fmt", "--all", "--check"]);
    run(command)
}

fn lints() -> Result<(), String> {
    let mut command = cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]);
    run(command)
}

fn tests(which: &[&str]) -> Result<(), String> {
    let mut command = cargo();
    command
        .args(["test", "--locked"])
        .args(which)
        .env("SHARDWAY_BIN_DIR", bin());
    run(command)
}

/// Tests with a real Kubernetes, then faults under traffic.
fn in_a_cluster() -> Result<(), String> {
    if let Some(reason) = cluster::reason_against() {
        println!("xtask: skipped: tests in a cluster: {reason}");
        return Ok(());
    }
    stage("cluster set-up", || {
        cluster::node()?;
        // Built first, so that its time is told apart: from cold it takes minutes.
        shardway_cluster(&["up"])
    })?;
    stage("faults in a cluster", || {
        let done = FAULTS.iter().try_for_each(|name| fault(name));
        // Whatever came of it.
        shardway_cluster(&["down"]).and(done)
    })?;
    stage("tests in a cluster", || {
        let mut command = cargo();
        command
            .args(["test", "--locked", "--package", "perf-cluster"])
            // One cluster at a time: two processors are soon busy.
            .args(["--test", "*", "--", "--test-threads=1"])
            .env("SHARDWAY_BIN_DIR", bin())
            .env("SHARDWAY_CLUSTER", "1");
        run(command)
    })
}

/// Those of `cargo xtask fault` that are part of the tests.
const FAULTS: &[&str] = &["operator-leader-killed", "shard-pod-deleted"];

/// One fault, with the programs that the tests are built with.
fn fault(name: &str) -> Result<(), String> {
    let mut command = Command::new(bin().join("shardway-fault"));
    command
        .args([name, "--name", CLUSTER, "--home"])
        .arg(absolute_target().join("cluster"))
        .arg("--root")
        .arg(root());
    run(command)
}

/// Name of the cluster that faults happen in.
const CLUSTER: &str = "test";

fn shardway_cluster(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(bin().join("shardway-cluster"));
    command
        .args(["--name", CLUSTER, "--home"])
        .arg(absolute_target().join("cluster"))
        .args(arguments);
    run(command)
}

/// The programs that the tests drive, as the tests are built.
fn programs() -> Result<(), String> {
    let mut command = cargo();
    command.args(["build", "--locked", "--workspace", "--bins"]);
    run(command)
}

fn bin() -> PathBuf {
    absolute_target().join("debug")
}

fn stage(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("xtask: {name}");
    let began = Instant::now();
    work()?;
    println!("xtask: {name} took {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
