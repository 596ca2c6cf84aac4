//! Replicas on loopback, each with a runtime of its own: dropping that is a crash.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // a failed unwrap is a failed test; not every test uses everything

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_telemetry::metrics::{HistogramValue, Labels, Sink, Source};
use operator_identity::{Authority, Credentials, Identity};
use operator_peers::{Config, Directory, Inbox, Peer, PeerOutbox, PeerTls, Transport};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What a replica's raft was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Message(Vec<u8>),
    Unreachable(u64),
    SnapshotSent(u64, bool),
}

#[derive(Default)]
pub struct Recorder(Mutex<Vec<Told>>);

impl Recorder {
    pub fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    pub fn has(&self, told: &Told) -> bool {
        self.0.lock().unwrap().contains(told)
    }

    pub fn wait_for(&self, told: &Told) {
        wait_until(|| self.has(told));
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Inbox for Recorder {
    fn message(&self, message: Vec<u8>) -> bool {
        self.0.lock().unwrap().push(Told::Message(message));
        true
    }

    fn unreachable(&self, id: u64) {
        self.0.lock().unwrap().push(Told::Unreachable(id));
    }

    fn snapshot_sent(&self, id: u64, ok: bool) {
        self.0.lock().unwrap().push(Told::SnapshotSent(id, ok));
    }
}

/// Who a replica says it is, and by which CA.
#[derive(Clone)]
pub struct Claim {
    pub id: u64,
    pub cluster: &'static str,
    pub identity: Identity,
    pub authority: Arc<Authority>,
}

impl Claim {
    /// As it should be: ordinals are one below the ids.
    pub fn of(id: u64, authority: &Arc<Authority>) -> Self {
        Self {
            id,
            cluster: "c",
            identity: Identity::Operator(id - 1),
            authority: Arc::clone(authority),
        }
    }
}

pub struct Replica {
    runtime: Option<Runtime>,
    pub outbox: PeerOutbox,
    pub inbox: Arc<Recorder>,
    pub directory: Directory,
    pub address: SocketAddr,
    pub metrics: Arc<dyn Source>,
}

impl Replica {
    /// Listens on `address`, with port 0 on a free one.
    pub fn start(claim: &Claim, address: SocketAddr, directory: Directory) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let inbox = Arc::<Recorder>::default();
        let (transport, outbox) =
            Transport::new(Config::new(claim.id, claim.cluster), directory.clone());
        let metrics = transport.metrics();
        let address = runtime.block_on(async {
            let listener = bind(address).await;
            let address = listener.local_addr().unwrap();
            let credentials =
                Credentials::renewing(Arc::clone(&claim.authority), claim.identity).unwrap();
            let tls = PeerTls::Mutual(Arc::new(credentials));
            transport.start(listener, tls, inbox.clone()).unwrap();
            address
        });
        Self {
            runtime: Some(runtime),
            outbox,
            inbox,
            directory,
            address,
            metrics,
        }
    }

    /// All its tasks and connections end at once.
    pub fn crash(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    pub fn send(&self, to: u64, text: &str) {
        self.outbox.send(to, text.as_bytes().to_vec());
    }

    /// Sends until it arrives: the first ones may be lost.
    pub fn send_until_received(&self, to: u64, text: &str, other: &Recorder) {
        let told = Told::Message(text.as_bytes().to_vec());
        wait_until(|| {
            self.send(to, text);
            other.has(&told)
        });
    }

    pub fn metric(&self, name: &str, label: &str) -> u64 {
        let mut values = Values::default();
        self.metrics.collect(&mut values);
        let key = (name.to_owned(), label.to_owned());
        values.0.get(&key).copied().unwrap_or_default()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.crash();
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            // The one before has not closed it yet.
            Err(_) if began.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Counters and gauges by name and the value of their label.
#[derive(Default)]
struct Values(BTreeMap<(String, String), u64>);

impl Sink for Values {
    fn counter(
        &mut self,
        desc: &'static api_telemetry::metrics::Desc,
        labels: Labels<'_>,
        value: u64,
    ) {
        let label = labels.first().map_or("", |label| label.1).to_owned();
        self.0.insert((desc.name.to_owned(), label), value);
    }

    fn gauge(
        &mut self,
        desc: &'static api_telemetry::metrics::Desc,
        labels: Labels<'_>,
        value: f64,
    ) {
        self.counter(desc, labels, value as u64);
    }

    fn histogram(
        &mut self,
        _: &'static api_telemetry::metrics::Desc,
        _: Labels<'_>,
        _: &HistogramValue,
    ) {
    }
}

pub fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A directory by raft id; ordinals are one below.
pub fn peers(addresses: impl IntoIterator<Item = (u64, SocketAddr)>) -> BTreeMap<u64, Peer> {
    let peer = |(id, address): (u64, SocketAddr)| {
        let peer = Peer {
            ordinal: id - 1,
            address: address.to_string(),
        };
        (id, peer)
    };
    addresses.into_iter().map(peer).collect()
}

/// As many replicas as `claims`, which know each other.
pub fn start(claims: &[Claim]) -> Vec<Replica> {
    let start = |claim| Replica::start(claim, free(), Directory::new(BTreeMap::new()));
    let replicas: Vec<Replica> = claims.iter().map(start).collect();
    let ids = claims.iter().map(|claim| claim.id);
    let all = peers(ids.zip(replicas.iter().map(|replica| replica.address)));
    for replica in &replicas {
        replica.directory.replace(all.clone());
    }
    replicas
}

pub fn wait_until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}
