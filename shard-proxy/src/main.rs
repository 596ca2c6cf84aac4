//! The shard: workers for traffic, one runtime for everything else.

mod admin;
mod config;
mod files;
mod plane;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use api_telemetry::Chain;
use shard_proxy_forward::{DataPlane, ForwardConfig};
use shard_proxy_subscribe::{ClientConfig, ClientTls, Disk, Shard, ShardStatus};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{TableMetrics, View};
use crate::config::Config;
use crate::plane::Served;

fn main() -> anyhow::Result<()> {
    let config: Config = api_settings::parse()?;
    if config.exit_with_parent {
        api_settings::exit_with_parent().context("tie this process to its parent")?;
    }
    // The traffic workers have runtimes of their own: a scrape or a delta never delays a request.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("start the control runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let telemetry = api_telemetry::init("shard-proxy", config.log_format)?;
    // From here on a signal means a drain, also one that comes while the shard still boots.
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let connections_max = files::prepare(config.connections_max);
    let folder = config.folder();
    let forward = ForwardConfig {
        connections_max,
        ..config.forward()
    };
    let served = DataPlane::start(forward).context("start the traffic workers")?;
    let plane = Arc::new(Served(served));

    let (status, status_seen) = watch::channel(ShardStatus::default());
    let (connected, connected_seen) = watch::channel(false);
    let mut shard = Shard::new(Arc::clone(&plane));
    let writer = match Disk::open(&folder.join("table.redb")) {
        Ok((disk, stored)) => {
            shard.boot(stored).await;
            Some(disk.writer().context("start the disk thread")?)
        }
        Err(error) => {
            // Serving needs the operator then; that is better than not serving.
            tracing::error!(error = %Chain(&error), "no copy of the table is kept; a restart without an operator will serve nothing");
            None
        }
    };
    status.send_replace(shard.status());
    let served = shard.served();

    let admin = TcpListener::bind(config.admin)
        .await
        .with_context(|| format!("bind admin address {}", config.admin))?;
    let admin_bound = admin.local_addr().context("read the admin address")?;
    let admin_address = admin_bound.to_string();
    // For people and scripts; nothing of ours depends on it.
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join("admin.addr"), &admin_address);
    let table_metrics = TableMetrics {
        status: status_seen.clone(),
        served: served.clone(),
        connected: connected_seen.clone(),
    };
    let mut sources = vec![
        plane.0.metrics(),
        Arc::new(table_metrics),
        telemetry.metrics(),
    ];
    let tls = config.tls();
    if let Some(ClientTls::Token(certificates)) = &tls {
        sources.push(Arc::clone(certificates) as _);
    }
    sources.extend(writer.as_ref().map(|writer| writer.metrics()));
    telemetry.export_metrics(sources.clone());
    let draining = Arc::new(AtomicBool::new(false));
    let view = View {
        shard: config.id,
        plane: Arc::clone(&plane),
        status: status_seen,
        served,
        connected: connected_seen,
        draining: Arc::clone(&draining),
        sources,
    };
    api_telemetry::task::spawn("admin", async move {
        if let Err(error) =
            api_telemetry::admin::serve(admin, move |path, _| view.answer(path)).await
        {
            tracing::error!(%error, "admin endpoint ended");
        }
    });
    tracing::info!(
        shard = config.id, admin = admin_address, target_address = %config.target_address(),
        workers = config.forward().workers, "shard started"
    );

    let client = ClientConfig {
        shard: config.id,
        operators: config.operator.clone(),
        admin: admin_bound,
        tls,
    };
    let control = api_telemetry::task::spawn(
        "delta stream",
        shard_proxy_subscribe::run(client, shard, writer, Arc::clone(&plane), status, connected),
    );

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        ended = control => {
            // A bug: with the control task gone the shard would serve an ever older table in silence.
            anyhow::bail!("the delta stream's task ended: {ended:?}");
        }
    }
    draining.store(true, Ordering::Relaxed);
    let wait = Duration::from_millis(config.drain_wait_ms);
    if !wait.is_zero() {
        // Whoever balances load learns by the probe that this shard leaves, and sends connections until then.
        tracing::info!(?wait, "not ready any more; serving on");
        tokio::time::sleep(wait).await;
    }
    let deadline = Duration::from_secs(config.drain_timeout_s);
    tracing::info!(
        connections = plane.0.load().connections,
        ?deadline,
        "draining"
    );
    let clean = plane.0.drain(deadline).await;
    tracing::info!(clean, "stopped");
    Ok(())
}
