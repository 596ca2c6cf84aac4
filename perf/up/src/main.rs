//! `cargo xtask up`: the whole of Shardway on this machine, on a folder of manifests.
//!
//! ```text
//!   operator (folder, Raft of one voter)  <--streams--  shard-proxy 0..N      echo backends, if the manifests name them
//! ```
//!
//! **Invariants**
//! - Each program runs in a process group of its own and ends with this one, however this one ends.
//! - What dies is started again, with a pause that grows to some seconds, and a line says so. Only what never worked is given up.
//! - The first signal to stop drains the shards, then stops the operator; this program then ends with 0.

mod backends;
mod claim;
mod http;
mod show;
mod supervise;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::Value;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::supervise::Supervised;

/// Time for the operator to be ready, and for all Gateways to be served.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Runs operator, shards and example backends on a folder of manifests.
#[derive(Debug, Parser)]
#[command(name = "shardway-up", version)]
struct Flags {
    /// Folder of manifests
    folder: PathBuf,

    /// Folder for state; a second start goes on from it
    #[arg(long, value_name = "DIR", default_value = ".shardway")]
    data: PathBuf,

    /// Shards, count
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: u32,

    /// Ports for the operator's stream (BASE), its admin endpoint (BASE+1) and the shards' (BASE+2, ...); free ones when
    /// left out
    #[arg(long, value_name = "BASE")]
    port_base: Option<u16>,

    /// Range that Gateways take addresses from [default: 127.1.0.0/16, or the next one that no other up uses]
    #[arg(long, value_name = "CIDR")]
    address_range: Option<String>,

    /// Traffic threads of each shard, count
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,

    /// Whether shards log each request
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    access_log: bool,

    /// Folder with the programs
    #[arg(long, value_name = "DIR", env = "SHARDWAY_BIN_DIR")]
    bin: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = run(&flags) => ended,
        _ = interrupt.recv() => stop().await,
        _ = terminate.recv() => stop().await,
    }
}

/// Drains the shards, then stops the operator and the backends.
async fn stop() -> anyhow::Result<()> {
    say("stopping: draining shards");
    supervise::stop("shard").await;
    supervise::stop("operator").await;
    supervise::stop("echo").await;
    say("stopped");
    Ok(())
}

async fn run(flags: &Flags) -> anyhow::Result<()> {
    if !flags.folder.is_dir() {
        bail!("{} is no folder of manifests", flags.folder.display());
    }
    std::fs::create_dir_all(&flags.data)
        .with_context(|| format!("make the data folder {}", flags.data.display()))?;
    let bin = match &flags.bin {
        Some(bin) => bin.clone(),
        None => std::env::current_exe()?
            .parent()
            .context("find the folder of this program")?
            .to_owned(),
    };
    // What an earlier run left says nothing about this one.
    let found_by = flags.data.join("operator.json");
    if let Some(pid) = running(&found_by) {
        bail!(
            "process {pid} runs on the data folder {}; stop it, or give this one a folder of its own by --data",
            flags.data.display()
        );
    }
    let _ = std::fs::remove_file(&found_by);
    let port = |n: u16| flags.port_base.map_or(0, |base| base.saturating_add(n));

    let targets = claim::targets()?;
    let (range, _held) = match &flags.address_range {
        Some(range) => (range.clone(), None),
        None => {
            let claim = claim::gateways()?;
            (format!("127.{}.0.0/16", claim.block), Some(claim))
        }
    };
    let echoes = backends::named_by(&flags.folder)?;
    if !echoes.is_empty() {
        say(&format!(
            "echo backends on {}",
            echoes
                .iter()
                .map(|(_, address)| address.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ));
        let mut command = Command::new(bin.join("echo-backend"));
        command.args(
            echoes
                .iter()
                .map(|(name, address)| format!("{name}={address}")),
        );
        Supervised::new("echo", command).start();
    }
    let mut operator = Command::new(bin.join("operator"));
    operator
        .arg("--source")
        .arg(format!("dir:{}", flags.folder.display()))
        .arg("--data")
        .arg(&flags.data)
        .args(["--shards", &flags.shards.to_string()])
        .args(["--shards-per-gateway", &flags.shards.min(2).to_string()])
        .args(["--address-range", &range])
        .args(["--stream", &format!("127.0.0.1:{}", port(0))])
        .args(["--admin", &format!("127.0.0.1:{}", port(1))]);
    say("starting operator");
    let operator = Supervised::new("operator", operator);
    operator.start();
    let info = operator_info(&found_by).await?;
    supervise::works("operator");
    let address = |name: &str| -> anyhow::Result<SocketAddr> {
        info[name]
            .as_str()
            .with_context(|| format!("{name} in operator.json"))?
            .parse()
            .context("read operator.json")
    };
    let (stream, admin) = (address("stream")?, address("admin")?);
    operator.pin(&[
        "--stream",
        &stream.to_string(),
        "--admin",
        &admin.to_string(),
    ]);
    say(&format!(
        "operator: admin http://{admin}, delta stream {stream}"
    ));
    for shard in 0..flags.shards {
        let mut command = Command::new(bin.join("shard-proxy"));
        command
            .args([
                "--operator",
                &stream.to_string(),
                "--id",
                &shard.to_string(),
            ])
            .arg("--data")
            .arg(&flags.data)
            .args([
                "--target-address",
                &format!("127.0.{}.{}", targets.block, shard + 1),
            ])
            .args(["--workers", &flags.workers.to_string()])
            .args(["--access-log", &flags.access_log.to_string()])
            .args([
                "--admin",
                &format!(
                    "127.0.0.1:{}",
                    port(2 + u16::try_from(shard).unwrap_or_default())
                ),
            ]);
        Supervised::new(&format!("shard-{shard}"), command).start();
    }
    say(&format!(
        "{} shards started; each alone at 127.0.{}.(1 + its number), on target ports",
        flags.shards, targets.block
    ));
    if wait_until_served(admin, flags.shards).await {
        supervise::works("");
    }
    show::table(&bin, &flags.data).await?;
    show::curls(&bin, admin, &flags.folder, &flags.data).await?;
    say("ready; edit the folder and watch. Ctrl-C stops");
    std::future::pending::<()>().await;
    Ok(())
}

/// The operator that the file tells of, if it is alive.
fn running(found_by: &Path) -> Option<u64> {
    let info: Value = serde_json::from_str(&std::fs::read_to_string(found_by).ok()?).ok()?;
    let pid = info["pid"].as_u64()?;
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (program.trim() == "operator").then_some(pid)
}

async fn operator_info(found_by: &PathBuf) -> anyhow::Result<Value> {
    let until = Instant::now() + READY_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    while Instant::now() < until {
        poll.tick().await;
        if let Ok(text) = std::fs::read_to_string(found_by)
            && let Ok(info) = serde_json::from_str(&text)
        {
            return Ok(info);
        }
        if supervise::given_up("operator") {
            bail!("the operator does not start; see its message above");
        }
    }
    bail!(
        "the operator was not ready within {} s",
        READY_WITHIN.as_secs()
    )
}

/// Waits until all shards are there and no Gateway is on its way; those that cannot be served are left to the table. Whether it
/// came to that in time.
async fn wait_until_served(admin: SocketAddr, shards: u32) -> bool {
    let until = Instant::now() + READY_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    while Instant::now() < until {
        poll.tick().await;
        let ask =
            |path: &'static str| async move { http::json(admin, path).await.unwrap_or_default() };
        let connected = ask("/api/v1/shards").await;
        let connected = connected.as_array().into_iter().flatten();
        let connected = connected.filter(|shard| shard["connected"] == true);
        let (info, statuses) = (ask("/api/v1/info").await, ask("/api/v1/statuses").await);
        let gateways = statuses.as_array().into_iter().flatten();
        let gateways = gateways.filter(|status| status["kind"] == "Gateway");
        // Statuses are those of the last run until the operator has read the folder. A Gateway that never was valid has one.
        let count = |name: &str| info[name].as_u64().unwrap_or_default();
        let is_read = count("gateways") + count("rejected") >= gateways.count() as u64;
        if connected.count() < shards as usize || !is_read {
            continue;
        }
        let pending = statuses
            .as_array()
            .into_iter()
            .flatten()
            .filter(|status| status["kind"] == "Gateway")
            .any(|status| {
                let conditions = status["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Programmed" && c["reason"] == "Pending")
            });
        let any = statuses
            .as_array()
            .is_some_and(|statuses| !statuses.is_empty());
        if any && !pending {
            return true;
        }
    }
    say("some gateways are not served yet; shardway status says more");
    false
}

/// One line for the person who started this.
#[allow(clippy::print_stdout)] // this program's output
fn say(text: &str) {
    println!("up: {text}");
}
