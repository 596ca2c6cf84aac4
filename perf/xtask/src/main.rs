//! `cargo xtask`: the one entry point. It sets up what is missing, builds, and starts the programs that do the work.

#![allow(clippy::print_stdout)] // what it prints is what it is for

mod cluster;
mod setup;
mod test;
mod tidy;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// Runs, tests and measures Shardway.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Flags {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run operator, shards and example backends on a folder of manifests
    Up {
        /// Folder of manifests, then flags of shardway-up (--help names them)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Everything that CI runs: format, lints, unit tests, tests with real processes; as root, tests in a cluster too
    Test,
    /// The inner loop: format, lints, unit tests
    Check,
    /// Write the Gateway API's types from its CRDs
    Codegen,
    /// A real Kubernetes on this machine: up, down, status, load-image; as root
    Cluster {
        /// Command of shardway-cluster, then its flags (--help names them)
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Install Shardway in that cluster, which is started if it is not up
    Install {
        /// Flags of shardway-cluster install, such as --set KEY=VALUE; --release first builds with optimisation
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Make images of operator and shard-proxy, shardway/NAME:dev, and import them into that cluster
    Images {
        /// --release first builds with optimisation; --name names the cluster
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Install Shardway in that cluster and run the Gateway API's conformance suite
    Conformance {
        /// --run TEST runs one test alone
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Break a part of Shardway in that cluster under traffic and count what fails
    Fault {
        /// Name of the fault, then its flags; --list names all
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure: hosts, propagation, change, proxy
    Bench {
        /// Name of the benchmark, then its flags
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Programs that `up` needs.
const PROGRAMS: &[&str] = &[
    "operator",
    "shard-proxy",
    "operator-cli",
    "perf-load",
    "perf-up",
];

fn main() -> ExitCode {
    let flags = Flags::parse();
    let done = match flags.task {
        Task::Up { arguments } => up(arguments),
        Task::Test => test::all(),
        Task::Check => test::quick(),
        Task::Codegen => run(Command::new(root().join("api/gateway-types/codegen.sh"))),
        Task::Cluster { arguments } => cluster::any(arguments),
        Task::Install { arguments } => cluster::of_images("install", arguments),
        Task::Images { arguments } => cluster::of_images("images", arguments),
        Task::Conformance { arguments } => cluster::of_images("conformance", arguments),
        Task::Fault { arguments } => cluster::fault(arguments),
        Task::Bench { arguments } => bench(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::from(2)
        }
    }
}

fn up(arguments: Vec<OsString>) -> Result<(), String> {
    setup::packages(
        &["protobuf-compiler", "libprotobuf-dev"],
        &[
            "/usr/bin/protoc",
            "/usr/include/google/protobuf/descriptor.proto",
        ],
    )?;
    let bin = build(PROGRAMS)?;
    let mut command = Command::new(bin.join("shardway-up"));
    // A folder that is not named is the quick start.
    let named = arguments
        .first()
        .is_some_and(|first| !first.to_string_lossy().starts_with('-'));
    if !named {
        command.arg(root().join("api/examples/quickstart"));
    }
    command.args(arguments);
    // This process becomes that one: signals reach it and nobody else is in between.
    Err(format!("start shardway-up: {}", command.exec()))
}

fn bench(arguments: Vec<OsString>) -> Result<(), String> {
    setup::packages(
        &["protobuf-compiler", "libprotobuf-dev"],
        &[
            "/usr/bin/protoc",
            "/usr/include/google/protobuf/descriptor.proto",
        ],
    )?;
    setup::packages(
        &["wrk", "nghttp2-client", "nginx-light", "haproxy"],
        &[
            "/usr/bin/wrk",
            "/usr/bin/h2load",
            "/usr/sbin/nginx",
            "/usr/sbin/haproxy",
        ],
    )?;
    let bin = build(&[
        "operator",
        "shard-proxy",
        "operator-cli",
        "perf-load",
        "perf-up",
        "perf-bench",
    ])?;
    let mut command = Command::new(bin.join("shardway-bench"));
    let proxy = arguments.first().is_some_and(|name| name == "proxy");
    command.args(arguments);
    if proxy {
        match setup::envoy(&target().join("peers")) {
            Ok(envoy) => {
                command.arg("--envoy").arg(envoy);
            }
            Err(error) => println!("xtask: without envoy: {error}"),
        }
    }
    Err(format!("start shardway-bench: {}", command.exec()))
}

/// Builds packages as people run them, and gives the folder of the programs.
fn build(packages: &[&str]) -> Result<PathBuf, String> {
    build_as(packages, "release")
}

/// Builds packages in a profile whose folder has its name, or `debug` for the one without optimisation.
fn build_as(packages: &[&str], profile: &str) -> Result<PathBuf, String> {
    // What is asked for, such as a list of names, has the standard output for itself.
    eprintln!(
        "xtask: building {} ({profile}; the first time takes minutes)",
        packages.join(", ")
    );
    let mut cargo = cargo();
    cargo.args(["build", "--locked"]);
    if profile != "debug" {
        cargo.args(["--profile", profile]);
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
    run(cargo)?;
    Ok(absolute_target().join(profile))
}

/// The checkout.
fn root() -> PathBuf {
    // perf/xtask is two folders down.
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map_or_else(|| ".".into(), PathBuf::from)
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// [`target`], from wherever it is looked at.
fn absolute_target() -> PathBuf {
    let target = target();
    if target.is_absolute() {
        target
    } else {
        root().join(target)
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a program to its end.
fn run(mut command: Command) -> Result<(), String> {
    let name = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("start {name}: {error}")),
    }
}
