//! `cargo xtask fault NAME`: breaks a part of an installation under traffic and counts the requests that fail.
//!
//! ```text
//!   cluster up, install, quickstart ──> open-loop traffic to the Gateways' addresses ──────────────> report
//!                                          └─ the fault: kill, delete, upgrade, scale; then a new route works
//! ```
//!
//! **Invariants**
//! - Requests come at an even rate from the cluster's network, whatever becomes of them, and nothing is sent twice.
//! - A planned removal may fail nothing. After a crash, failures outside its window fail the command too.
//! - Each fault leaves the installation as it found it: healthy, so that the next may follow.

#![allow(clippy::print_stdout)] // figures are what this prints

mod cluster;
mod crash;
mod planned;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use perf_cluster::Cluster;
use perf_cluster::install::Package;

use crate::cluster::Scene;

/// Breaks a part of Shardway in a cluster, under traffic.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask fault")]
struct Flags {
    /// What is broken; --list names all
    #[arg(required_unless_present = "list")]
    fault: Option<String>,

    /// Print the names, one at the start of each line
    #[arg(long)]
    list: bool,

    /// How long what is taken away stays away, seconds [default: as the fault's description says]
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,

    /// Requests for each second
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,

    /// Name of the cluster
    #[arg(long, default_value = "shardway")]
    name: String,

    /// Folder for the cluster's tools and state [default: cluster below the folder that cargo builds to]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,

    /// The checkout
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,

    /// Folder with operator and shard-proxy [default: the one with this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,

    /// A value of the chart, KEY=VALUE; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    values: Vec<String>,

    /// Take what is installed as it is
    #[arg(long)]
    installed: bool,
}

/// A fault: what it does to the scene, and what may fail.
struct Fault {
    name: &'static str,
    about: &'static str,
    /// How long what is taken away stays away by default.
    away: u64,
    run: fn(&Scene, Duration) -> anyhow::Result<bool>,
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "api-server-down",
        about: "the API server is killed for 2 minutes; then a new route works",
        away: 120,
        run: crash::api_server_down,
    },
    Fault {
        name: "operator-leader-killed",
        about: "the program of the leading operator replica is killed; then a new route works",
        away: 5,
        run: crash::operator_leader_killed,
    },
    Fault {
        name: "operators-down",
        about: "all operator replicas are killed for 5 minutes, a shard's container is killed meanwhile: it boots from disk at the same address",
        away: 300,
        run: crash::operators_down,
    },
    Fault {
        name: "shard-crashed",
        about: "a shard's program is killed and its pod is gone at once, as with a node: its endpoints are rewritten",
        away: 5,
        run: crash::shard_crashed,
    },
    Fault {
        name: "shard-pod-deleted",
        about: "a shard's pod is deleted and comes back with another address",
        away: 5,
        run: planned::shard_pod_deleted,
    },
    Fault {
        name: "upgrade-operators",
        about: "helm upgrade replaces the operator replicas one after the other",
        away: 5,
        run: planned::upgrade_operators,
    },
    Fault {
        name: "upgrade-shards",
        about: "helm upgrade brings another image of the shards, which are replaced one after the other",
        away: 5,
        run: planned::upgrade_shards,
    },
    Fault {
        name: "pool-scaled",
        about: "the pool goes from 2 shards to 4 and back",
        away: 10,
        run: planned::pool_scaled,
    },
];

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("fault: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<bool> {
    if flags.list {
        for fault in FAULTS {
            println!("{:24}{}", fault.name, fault.about);
        }
        return Ok(true);
    }
    let name = flags.fault.as_deref().unwrap_or_default();
    let Some(fault) = FAULTS.iter().find(|fault| fault.name == name) else {
        bail!("no fault is named {name:?}; --list names them");
    };
    if !rustix::process::geteuid().is_root() {
        bail!("needs root: it makes a cluster");
    }
    let program = std::env::current_exe().context("find this program")?;
    let own = program.parent().context("find this program's folder")?;
    let home = match &flags.home {
        Some(home) => home.clone(),
        // Programs are in a folder that is named as the profile.
        None => own
            .parent()
            .context("find the build folder")?
            .join("cluster"),
    };
    let scene = Scene {
        cluster: Cluster::new(&flags.name, &home)?,
        package: Package {
            root: flags.root.clone(),
            programs: flags.programs.clone().unwrap_or_else(|| own.to_owned()),
            values: flags.values.clone(),
        },
        rate: flags.rate,
    };
    scene.prepare(own, flags.installed)?;
    let away = Duration::from_secs(flags.seconds.unwrap_or(fault.away));
    println!("fault: {}: {}", fault.name, fault.about);
    let passed = (fault.run)(&scene, away)?;
    let word = if passed { "PASS" } else { "FAIL" };
    println!("{word}  {}", fault.name);
    Ok(passed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_once_and_fits_its_line() {
        for (at, fault) in FAULTS.iter().enumerate() {
            assert!(
                !FAULTS[at + 1..]
                    .iter()
                    .any(|other| other.name == fault.name)
            );
            assert!(fault.name.len() < 24, "{}", fault.name);
        }
    }

    #[test]
    fn a_name_or_the_list_is_asked_for() {
        assert!(Flags::try_parse_from(["fault"]).is_err());
        assert!(Flags::try_parse_from(["fault", "--list"]).unwrap().list);
    }
}
