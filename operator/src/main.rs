//! The operator: sets the stages up and lets them run. No logic of its own.

mod changelog;
mod config;
mod delta;
mod kept;
mod machine;
mod owned;
mod pipeline;
mod privileged;
mod progress;
mod replica;
mod retire;
mod security;
mod source;
mod statuses;
mod view;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::PoolKey;
use api_snapshot::Command;
use api_telemetry::Chain;
use operator_consensus::{Leadership, Observed};
use operator_distribute::{AppliedEvent, Distributor};
use operator_kubernetes::{Client, EventWriter, KubeSource, StatusWriter};
use operator_placement::{Allocator, PortRules, Rules};
use operator_source::DirSource;
use operator_status::{StatusFolder, Statuses};
use parking_lot::RwLock;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::{Config, SourceSpec};
use crate::machine::Machine;
use crate::pipeline::{Moving, Pipeline, Services};
use crate::replica::Replica;
use crate::source::Source;
use crate::statuses::Sink;
use crate::view::{PipelineMetrics, Published, View};

/// Reports of the rollout that wait for the pipeline.
const REPORTS_MAX: usize = 4096;

fn main() -> anyhow::Result<()> {
    let config: Config = api_settings::parse()?;
    if config.exit_with_parent {
        api_settings::exit_with_parent().context("tie this process to its parent")?;
    }
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let telemetry = api_telemetry::init("operator", config.log_format)?;
    if let Some(name) = &config.controller_name {
        let set = api::set_controller_name(name.clone());
        set.map_err(|before| anyhow::anyhow!("the controller name is {before} already"))?;
    }
    let (folder, client) = match &config.source {
        SourceSpec::Dir(folder) => (Some(DirSource::open(folder, &config.data)?), None),
        SourceSpec::Kube => (None, Some(operator_kubernetes::client().await?)),
    };
    let pool = config.pool_key()?;
    if let (Some(client), Some(pool), Some(set)) = (&client, &pool, config.stateful_set()) {
        let adopted = owned::adopt(client.clone(), pool.namespace.clone(), set.to_owned());
        api_telemetry::task::spawn("owned", adopted);
    }
    let security = security::open(&config, client.as_ref()).await?;

    let machine = Machine::default();
    let (activate, activations) = mpsc::channel(1);
    let (reports, reported) = mpsc::channel(REPORTS_MAX);
    let rollout = operator_distribute::Config {
        prepare_deadline: Duration::from_millis(config.prepare_deadline_ms),
    };
    let distributor =
        operator_distribute::start(rollout, Arc::clone(&machine.snapshot), activate, reports);
    let observer = observer(distributor.clone());
    let peers = security.peers.as_ref();
    let Replica {
        node,
        metrics: replica_metrics,
    } = replica::start(
        &config,
        client.as_ref(),
        peers,
        &machine,
        &distributor,
        observer,
    )
    .await?;
    // Entries that are replayed at start go into the snapshot, not to the distributor: it reads it now.
    let replayed = distributor.clone();
    tokio::task::spawn_blocking(move || replayed.restored()).await?;
    let (leads, leading) = watch::channel(false);

    let stream = TcpListener::bind(config.stream)
        .await
        .with_context(|| format!("bind the stream address {}", config.stream))?;
    let admin = TcpListener::bind(config.admin)
        .await
        .with_context(|| format!("bind the admin address {}", config.admin))?;
    let (stream_address, admin_address) = (stream.local_addr()?, admin.local_addr()?);
    let info = json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "source": match &folder {
            // As it was given: it may lead through links that are swapped.
            Some(folder) => json!(std::path::absolute(folder.given())?),
            None => json!("kube"),
        },
        "data": std::fs::canonicalize(&config.data)?,
        "stream": stream_address,
        "admin": admin_address,
        "shards": config.shards,
    });
    let found_by = config.data.join("operator.json");
    std::fs::write(&found_by, info.to_string())
        .with_context(|| format!("write {}", found_by.display()))?;

    let seen = folder.as_ref().map(DirSource::seen).unwrap_or_default();
    let services = match (&client, &pool) {
        (Some(client), Some(pool)) => Some(Services::start(client, &config, pool)?),
        _ => None,
    };
    let Ends {
        source,
        sink,
        statuses,
        metrics: ends_metrics,
    } = ends(&config, folder, client, pool.clone())?;
    let published = Arc::new(RwLock::new(Published::default()));
    let translate_duration = Arc::default();
    let metrics = PipelineMetrics {
        published: Arc::clone(&published),
        translate: Arc::clone(&translate_duration),
    };
    let mut sources = vec![
        distributor.metrics(),
        Arc::new(metrics),
        telemetry.metrics(),
    ];
    sources.extend(ends_metrics);
    sources.extend(services.iter().map(Services::metrics));
    sources.extend(replica_metrics);
    sources.extend(security.metrics);
    telemetry.export_metrics(sources.clone());
    let view = View {
        info,
        machine: machine.clone(),
        node: Arc::clone(&node),
        distributor: distributor.clone(),
        statuses: Arc::clone(&statuses),
        published: Arc::clone(&published),
        seen,
        sources,
    };
    api_telemetry::task::spawn(
        "admin",
        api_telemetry::admin::serve(admin, move |path, _| view.answer(path)),
    );
    let served = api_telemetry::task::spawn(
        "streams",
        operator_distribute::serve(distributor.clone(), stream, security.streams),
    );
    let activated =
        api_telemetry::task::spawn("activations", activate_all(Arc::clone(&node), activations));

    api_telemetry::task::spawn(
        "leadership",
        tell_leadership(node.leadership(), sink.clone(), leads),
    );

    let statuses_to_save = Arc::clone(&statuses);
    let privileged_below = privileged::below(config.privileged_ports);
    let rules = match &pool {
        Some(_) => Rules::Services,
        None => Rules::Addresses {
            range: config.address_range,
            ports: PortRules { privileged_below },
        },
    };
    let moving = match &pool {
        Some(_) => Moving::by_endpoints(),
        None => Moving::by_addresses(),
    };
    let pipeline = Pipeline {
        index: operator_index::Index::new(),
        translation: operator_translate::Translation::with(operator_translate::Settings { pool }),
        allocator: Allocator::new(config.shards, usize::from(config.shards_per_gateway), rules),
        node: Arc::clone(&node),
        machine,
        progress: progress::Progress::default(),
        statuses,
        published,
        reports: reported,
        distributor,
        translate_duration,
        put_off: std::collections::VecDeque::new(),
        retiring: retire::Retiring::default(),
        changelog: changelog::ChangeLog::default(),
        unavailable: std::collections::BTreeMap::new(),
        refused: std::collections::BTreeMap::new(),
        kept: kept::Kept::default(),
        moving,
        services,
        blocked: None,
        astray: false,
        gateways_changed: false,
        leading,
        leads: false,
    };
    api_telemetry::task::spawn(
        "statuses",
        statuses::save(Arc::clone(&statuses_to_save), sink.clone()),
    );
    tracing::info!(admin = %admin_address, stream = %stream_address, privileged_below, "operator started");
    let pipeline = api_telemetry::task::spawn("pipeline", pipeline.run(source));

    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = node.stopped() => anyhow::bail!("the raft log has failed; see the log above"),
        ended = pipeline => anyhow::bail!("the pipeline ended: {ended:?}"),
        ended = served => anyhow::bail!("the delta streams ended: {ended:?}"),
        ended = activated => anyhow::bail!("activations ended: {ended:?}"),
    }
    tracing::info!("stopping");
    statuses::save_now(&statuses_to_save, &sink).await;
    // A leader hands over, so that nobody waits for an election.
    let _ = tokio::task::spawn_blocking(move || node.shutdown()).await;
    let _ = std::fs::remove_file(&found_by);
    Ok(())
}

/// Where objects come from, and where their statuses go.
struct Ends {
    source: Source,
    sink: Sink,
    statuses: Arc<RwLock<Statuses>>,
    metrics: Vec<Arc<dyn api_telemetry::metrics::Source>>,
}

fn ends(
    config: &Config,
    folder: Option<DirSource>,
    client: Option<Client>,
    pool: Option<PoolKey>,
) -> anyhow::Result<Ends> {
    if let Some(folder) = folder {
        let sink =
            StatusFolder::open(&config.data.join("status")).context("open the status folder")?;
        let written = sink.read().context("read the status folder")?;
        return Ok(Ends {
            source: Source::Dir(folder),
            sink: Sink::Folder(sink),
            statuses: Arc::new(RwLock::new(Statuses::restored(written))),
            metrics: Vec::new(),
        });
    }
    let client = client.context("a client of the API server")?;
    let settings = operator_kubernetes::Settings {
        namespaces: config.namespaces.clone(),
        pool,
    };
    let source = KubeSource::start(client.clone(), &settings);
    let replica = config.pod_name.clone().unwrap_or_default();
    let events = EventWriter::start(client.clone(), &replica);
    let writer = StatusWriter::new(client).with_schemas(source.schemas());
    // Until this replica leads.
    writer.pause(true);
    let metrics = vec![writer.metrics(), events.metrics()];
    let statuses: Arc<RwLock<Statuses>> = Arc::default();
    Ok(Ends {
        source: Source::Kube(source, Arc::clone(&statuses)),
        sink: Sink::Kube(writer.with_events(events)),
        statuses,
        metrics,
    })
}

/// Hands on what Raft has applied, on Raft's own thread.
fn observer(distributor: Distributor) -> impl FnMut(Observed<machine::Output>) + Send + 'static {
    move |seen| match seen {
        Observed::Applied(applied) => {
            let index = api::Revision(applied.index);
            let machine::Output { applied } = applied.output;
            distributor.applied(AppliedEvent { index, applied });
        }
        Observed::Restored { .. } => distributor.restored(),
    }
}

/// Proposes activations as the distributor asks for them.
async fn activate_all(
    node: Arc<operator_consensus::Node<machine::Output>>,
    mut activations: mpsc::Receiver<Vec<(api::GatewayKey, api::Revision)>>,
) {
    while let Some(gateways) = activations.recv().await {
        let command = Command::Activate(gateways).to_bytes();
        while let Err(error) = node.propose(command.clone()).await {
            match error {
                operator_consensus::ProposeError::Stopped => return,
                operator_consensus::ProposeError::QueueFull
                | operator_consensus::ProposeError::NoRoom(_) => {}
                // The next leader asks the shards itself.
                _ => break,
            }
            tracing::error!(error = %Chain(&error), "activation waits");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Tells the pipeline, and whoever writes statuses, whether this replica leads.
async fn tell_leadership(
    mut leadership: watch::Receiver<Leadership>,
    sink: Sink,
    leads: watch::Sender<bool>,
) {
    loop {
        let now = leadership.borrow_and_update().leads;
        if now != *leads.borrow() {
            if let Sink::Kube(writer) = &sink {
                writer.pause(!now);
            }
            leads.send_replace(now);
        }
        if leadership.changed().await.is_err() {
            return; // the node has ended, and with it the process
        }
    }
}
