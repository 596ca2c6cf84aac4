//! This replica of Raft: alone, or one of several that reach each other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api_telemetry::metrics::Source;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Api;
use operator_consensus::{Node, Observed};
use operator_distribute::Distributor;
use operator_identity::Credentials;
use operator_kubernetes::Client;
use operator_peers::members::{FileStore, Founding, Keeping, KubeStore, MembersStore, Membership};
use operator_peers::{Directory, PeerTls, Relaying, Transport};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::machine::{Machine, Output};

/// ConfigMap with the table of members.
const MEMBERS: &str = "shardway-members";

/// A node of Raft, and what belongs to it.
pub(crate) struct Replica {
    pub(crate) node: Arc<Node<Output>>,
    pub(crate) metrics: Vec<Arc<dyn Source>>,
}

/// Starts Raft on the data folder. `observer` is told, on Raft's own thread, of each entry from then on; what this replica's
/// shards say goes to whoever leads.
///
/// # Errors
/// A folder, an address or a table of members that cannot be used.
pub(crate) async fn start(
    config: &Config,
    client: Option<&Client>,
    credentials: Option<&Credentials>,
    machine: &Machine,
    distributor: &Distributor,
    observer: impl FnMut(Observed<Output>) + Send + 'static,
) -> anyhow::Result<Replica> {
    let state = Arc::new(RwLock::new(machine.clone()));
    let folder = config.data.join("raft");
    let Some(address) = config.peer else {
        let mut observer = observer;
        let settings = operator_consensus::Config::single(folder);
        let node = operator_consensus::start(settings, state, move |applied| {
            observer(Observed::Applied(applied));
        })?;
        let node = Arc::new(node);
        return Ok(Replica {
            metrics: vec![node.metrics()],
            node,
        });
    };
    std::fs::create_dir_all(&config.data)?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("bind the address of this replica {address}"))?;
    let ordinal = u64::from(config.ordinal());
    let store = members(config, client)?;
    let local = config.data.join("member.json");
    let membership = join(config, &local, &*store, ordinal).await;
    let directory = Directory::new(membership.document.directory());
    let (transport, outbox) = Transport::new(
        operator_peers::Config::new(membership.id, ordinal, membership.cluster_id.clone()),
        directory.clone(),
    );
    let settings = operator_consensus::Config::member(
        folder,
        membership.id,
        membership.initial_voters.clone(),
    );
    let node = operator_consensus::start_with_peers(settings, state, outbox, observer)?;
    let node = Arc::new(node);
    let metrics = vec![node.metrics(), transport.metrics()];
    let tls = match credentials {
        Some(credentials) => PeerTls::Mutual(Arc::new(credentials.clone())),
        None => PeerTls::LoopbackOnly,
    };
    let relaying = Relaying {
        shards: Arc::new(distributor.clone()),
        leadership: node.leadership(),
    };
    let inbox = Arc::clone(&node) as Arc<_>;
    transport.relaying(relaying).start(listener, tls, inbox)?;
    let (replicas_told, replicas) = watch::channel(u64::from(config.replicas));
    if let (Some(client), Some(set), Ok(namespace)) =
        (client, config.stateful_set(), config.namespace())
    {
        let sets = Api::namespaced(client.clone(), namespace);
        let follow = follow_scale(sets, set.to_owned(), replicas_told);
        api_telemetry::task::spawn("scale", follow);
    }
    let keeping = Keeping {
        ordinal,
        membership,
        local: local.clone(),
        store,
        directory,
        group: Arc::clone(&node) as Arc<_>,
        replicas,
        every: Keeping::EVERY,
    };
    let data = config.data.clone();
    api_telemetry::task::spawn("members", async move {
        operator_peers::members::keep(keeping).await;
        // Its raft id is nobody's any more: with an empty folder this replica joins as a new one.
        if let Err(error) = set_aside(&data) {
            tracing::error!(%error, folder = %data.display(), "move the content of the data folder aside and start anew");
        }
        std::process::exit(3);
    });
    Ok(Replica { node, metrics })
}

/// How often the StatefulSet is looked at.
const SCALE_EVERY: Duration = Duration::from_secs(5);

/// Tells how many replicas there are to be, as the StatefulSet says: this process was started when it said something else.
async fn follow_scale(sets: Api<StatefulSet>, set: String, replicas: watch::Sender<u64>) {
    let mut every = tokio::time::interval(SCALE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        // What it said last holds while the API server does not answer.
        let Ok(Ok(found)) = tokio::time::timeout(SCALE_EVERY, sets.get(&set)).await else {
            continue;
        };
        let wanted = found.spec.and_then(|spec| spec.replicas);
        if let Some(wanted) = wanted.and_then(|wanted| u64::try_from(wanted).ok())
            // None is a pause, not an end.
            && wanted > 0
        {
            replicas.send_if_modified(|told| std::mem::replace(told, wanted) != wanted);
        }
    }
}

/// Where the table of members is kept: in the cluster, else in a file that all replicas see.
fn members(config: &Config, client: Option<&Client>) -> anyhow::Result<Arc<dyn MembersStore>> {
    let (Some(client), Some(_)) = (client, &config.pool) else {
        let file = config.tls_dir().join("members.json");
        return Ok(Arc::new(FileStore::new(file)));
    };
    let namespace = config.namespace()?;
    let labels = [("app.kubernetes.io/part-of", "shardway")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let store = KubeStore::new(client.clone(), namespace, MEMBERS, labels.into());
    Ok(Arc::new(store))
}

/// Who this replica is. Waits for the table of members when this disk is new.
async fn join(config: &Config, local: &Path, store: &dyn MembersStore, ordinal: u64) -> Membership {
    let address = |ordinal: u64| {
        let told = u32::try_from(ordinal)
            .ok()
            .and_then(|n| config.peer_address(n));
        told.unwrap_or_default()
    };
    let founding = Founding {
        replicas: u64::from(config.replicas),
        address: &address,
    };
    loop {
        match operator_peers::members::join(local, store, ordinal, &founding).await {
            Ok(membership) => return membership,
            Err(error) => {
                let error = api_telemetry::Chain(&error);
                tracing::warn!(%error, "this replica does not know its raft id yet; trying on");
                tokio::time::sleep(JOIN_AGAIN).await;
            }
        }
    }
}

/// Pause before the table of members is asked again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// Moves what belongs to a raft id that was given up out of the way.
fn set_aside(data: &Path) -> std::io::Result<()> {
    let aside = data.join("replaced");
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    std::fs::create_dir_all(&aside)?;
    // The record last: without it the log would be taken for a new disk's.
    for name in ["raft", "member.json"] {
        std::fs::rename(data.join(name), aside.join(name))?;
    }
    Ok(())
}
