//! The stages of `test` and `check`, with the time of each.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::{cargo, root, run, setup, target};

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

/// The programs that the tests drive, as the tests are built.
fn programs() -> Result<(), String> {
    let mut command = cargo();
    command.args(["build", "--locked", "--workspace", "--bins"]);
    run(command)
}

fn bin() -> PathBuf {
    let target = target();
    if target.is_absolute() {
        target.join("debug")
    } else {
        root().join(target).join("debug")
    }
}

fn stage(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("xtask: {name}");
    let began = Instant::now();
    work()?;
    println!("xtask: {name} took {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
