//! Raft's messages between replicas.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_telemetry::metrics::Source;
use api_wire::peer::peer_server::PeerServer;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;

use crate::accept::accept;
use crate::dial::WIRE_BYTES_MAX;
use crate::directory::Directory;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::queue::MESSAGE_BYTES_MAX;
use crate::relay::{Receiving, Relaying, relay};
use crate::seen::Seen;
use crate::service::Service;
use crate::tls::PeerTls;

/// Snapshots for replicas that nothing is known of, of which raft was not told yet that they did not arrive.
const UNSENT_MAX: usize = 64;

/// Settings of a transport.
#[derive(Debug, Clone)]
pub struct Config {
    /// This replica's raft id.
    pub id: u64,
    /// The number at the end of its pod's name; its certificate must name it.
    pub ordinal: u64,
    /// The cluster that it is of; messages of another one are refused.
    pub cluster: String,
    /// Largest snapshot that is taken from another replica, bytes; a larger one is refused. It is held in memory.
    pub snapshot_bytes_max: usize,
}

impl Config {
    /// With the default bound: snapshots up to 512 MiB.
    pub fn new(id: u64, ordinal: u64, cluster: impl Into<String>) -> Self {
        Self {
            id,
            ordinal,
            cluster: cluster.into(),
            snapshot_bytes_max: 512 * 1024 * 1024,
        }
    }
}

/// Raft, as the transport sees it; a [`operator_consensus::Node`] is one. Called on the runtime's threads: no method may wait.
pub trait Inbox: Send + Sync + 'static {
    /// A message of another replica, as its raft made it. False when it was not taken: a snapshot is then reported to its
    /// sender as lost, anything else is sent again by raft when it still counts.
    fn message(&self, message: Vec<u8>) -> bool;

    /// Messages to this replica were lost, or it cannot be reached.
    fn unreachable(&self, id: u64);

    /// A snapshot for this replica was taken by it, or was lost. Told once for each, unless a newer one took its place
    /// before it left.
    fn snapshot_sent(&self, id: u64, ok: bool);
}

/// The transport cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Without TLS everybody would be believed.
    #[error("replicas without TLS must listen on a loopback address, not on {0}")]
    NotLoopback(std::net::SocketAddr),
    /// The listener.
    #[error("find the address that replicas listen on")]
    Listener(#[source] io::Error),
}

/// What all parts of a transport see.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tls: PeerTls,
    pub(crate) directory: Directory,
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) seen: Seen,
    pub(crate) metrics: Arc<Metrics>,
}

/// A transport that is not started yet.
pub struct Transport {
    config: Config,
    directory: Directory,
    metrics: Arc<Metrics>,
    unsent: mpsc::Receiver<u64>,
    relaying: Option<Relaying>,
}

/// Where raft puts its messages. Until the transport is started it drops them.
pub struct PeerOutbox {
    metrics: Arc<Metrics>,
    unsent: mpsc::Sender<u64>,
}

impl Transport {
    /// A transport in two halves, since raft wants the outbox before there is an inbox.
    pub fn new(config: Config, directory: Directory) -> (Self, PeerOutbox) {
        let metrics = Arc::<Metrics>::default();
        let (unsent, receiver) = mpsc::channel(UNSENT_MAX);
        let outbox = PeerOutbox {
            metrics: Arc::clone(&metrics),
            unsent,
        };
        let transport = Self {
            config,
            directory,
            metrics,
            unsent: receiver,
            relaying: None,
        };
        (transport, outbox)
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }

    /// Relays what shards say as well.
    #[must_use]
    pub fn relaying(mut self, relaying: Relaying) -> Self {
        self.relaying = Some(relaying);
        self
    }

    /// Serves other replicas on `listener` and connects to all in the directory, for as long as the runtime runs.
    ///
    /// # Errors
    /// [`StartError::NotLoopback`] without TLS on another address.
    pub fn start(
        self,
        listener: TcpListener,
        tls: PeerTls,
        inbox: Arc<dyn Inbox>,
    ) -> Result<(), StartError> {
        let address = listener.local_addr().map_err(StartError::Listener)?;
        if matches!(tls, PeerTls::LoopbackOnly) && !address.ip().is_loopback() {
            return Err(StartError::NotLoopback(address));
        }
        let incoming = accept(listener, tls.clone(), Arc::clone(&self.metrics));
        let shared = Arc::new(Shared {
            config: self.config,
            tls,
            directory: self.directory,
            inbox,
            seen: Seen::default(),
            metrics: self.metrics,
        });
        let receiving = self.relaying.map(|relaying| {
            let (shards, leadership) = (Arc::clone(&relaying.shards), relaying.leadership.clone());
            let metrics = Arc::clone(&shared.metrics);
            api_telemetry::task::spawn("relay", relay(relaying, Arc::clone(&shared)));
            Receiving::new(shared.config.id, shards, leadership, metrics)
        });
        let service = PeerServer::new(Service::new(Arc::clone(&shared), receiving))
            .max_decoding_message_size(WIRE_BYTES_MAX)
            .max_encoding_message_size(WIRE_BYTES_MAX);
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .add_service(service);
        api_telemetry::task::spawn("peer server", async move {
            if let Err(error) = server.serve_with_incoming(incoming).await {
                tracing::error!(%error, "replicas are not served any more");
            }
        });
        api_telemetry::task::spawn("peer links", supervise(shared, self.unsent));
        Ok(())
    }
}

/// Keeps one link for each replica in the directory.
async fn supervise(shared: Arc<Shared>, mut unsent: mpsc::Receiver<u64>) {
    let mut directory = shared.directory.watch();
    loop {
        let peers = Arc::clone(&directory.borrow_and_update());
        let started: Vec<Arc<Link>> = {
            let mut links = shared.metrics.links.write();
            // Nothing is put into a link after this: its end reports what waits.
            links.retain(|id, link| {
                let stays = peers.get(id) == Some(&link.peer);
                if !stays {
                    link.gone.cancel();
                }
                stays
            });
            let missing = peers.iter();
            let missing = missing.filter(|(id, _)| **id != shared.config.id);
            missing
                .filter_map(|(id, peer)| match links.entry(*id) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let link = Arc::new(Link::new(*id, peer.clone()));
                        Some(Arc::clone(entry.insert(link)))
                    }
                    std::collections::btree_map::Entry::Occupied(_) => None,
                })
                .collect()
        };
        for link in started {
            link.start(&shared);
        }
        loop {
            tokio::select! {
                changed = directory.changed() => match changed {
                    Ok(()) => break,
                    // Cannot be: the directory is held here.
                    Err(_) => return,
                },
                Some(id) = unsent.recv() => shared.inbox.snapshot_sent(id, false),
            }
        }
    }
}

impl PeerOutbox {
    /// Puts a message of raft's on its way to a replica. Never waits: what does not fit, or is for a replica that is not in
    /// the directory, is dropped and counted.
    ///
    /// Cost: a lock; the message is not copied.
    pub fn send(&self, to: u64, message: Vec<u8>) {
        let metrics = &self.metrics;
        let links = metrics.links.read();
        let dropped = match links.get(&to) {
            None => &metrics.unknown,
            Some(_) if message.len() > MESSAGE_BYTES_MAX => {
                tracing::error!(
                    peer = to,
                    bytes = message.len(),
                    "raft message over the limit dropped"
                );
                &metrics.large
            }
            Some(link) if !link.queue.push(Bytes::from(message)) => &metrics.full,
            Some(_) => return,
        };
        dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a message that holds a snapshot on its way, on a connection of its own. [`Inbox::snapshot_sent`] is told what
    /// became of it. One waits for each replica; a newer one takes its place.
    ///
    /// Cost: a lock; the message is not copied.
    pub fn send_snapshot(&self, to: u64, message: Vec<u8>) {
        let links = self.metrics.links.read();
        if let Some(link) = links.get(&to) {
            link.snapshot.put(Bytes::from(message));
        } else {
            self.metrics.unknown.fetch_add(1, Ordering::Relaxed);
            // One for each replica at a time: there is room.
            let _ = self.unsent.try_send(to);
        }
    }
}
