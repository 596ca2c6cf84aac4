//! Replicas on loopback, each with a runtime of its own: dropping that is a crash.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // a failed unwrap is a failed test; not every test uses everything

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_telemetry::metrics::{HistogramValue, Labels, Sink, Source};
use futures::future::BoxFuture;
use operator_consensus::Leadership;
use operator_distribute::Event;
use operator_identity::{Authority, Credentials, Identity};
use operator_peers::{
    Config, Directory, Inbox, Peer, PeerOutbox, PeerTls, Relaying, Shards, Transport,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

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
    pub ordinal: u64,
    pub cluster: &'static str,
    pub identity: Identity,
    pub authority: Arc<Authority>,
}

impl Claim {
    /// As it should be: ordinals are one below the ids.
    pub fn of(id: u64, authority: &Arc<Authority>) -> Self {
        Self {
            id,
            ordinal: id - 1,
            cluster: "c",
            identity: Identity::Operator(id - 1),
            authority: Arc::clone(authority),
        }
    }
}

/// A replica's shards: what they say, and what others' say.
#[derive(Default)]
pub struct FakeShards {
    /// What is so; and who listens.
    said: Mutex<(Vec<Event>, Option<mpsc::Sender<Event>>)>,
    heard: Mutex<Vec<Heard>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Relayed(u64, Event),
    Ended(u64),
}

impl FakeShards {
    pub fn tell(&self, event: Event) {
        let mut said = self.said.lock().unwrap();
        said.0.push(event.clone());
        if let Some(out) = &said.1 {
            // Nobody listens any more.
            let _ = out.try_send(event);
        }
    }

    /// As a distributor whose listener does not keep up.
    pub fn end_events(&self) {
        self.said.lock().unwrap().1 = None;
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until just this was heard since the last time.
    #[track_caller]
    pub fn expect(&self, expected: impl IntoIterator<Item = Heard>) {
        let expected: Vec<Heard> = expected.into_iter().collect();
        wait_until(|| self.heard().len() >= expected.len());
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        assert_eq!(heard, expected);
    }
}

impl Shards for FakeShards {
    fn events(&self) -> BoxFuture<'_, mpsc::Receiver<Event>> {
        let (sender, receiver) = mpsc::channel(64);
        let mut said = self.said.lock().unwrap();
        let all = [Event::Restarted].into_iter().chain(said.0.clone());
        all.for_each(|event| sender.try_send(event).unwrap());
        said.1 = Some(sender);
        Box::pin(std::future::ready(receiver))
    }

    fn relayed(&self, replica: u64, event: Event) -> BoxFuture<'_, ()> {
        let heard = Heard::Relayed(replica, event);
        self.heard.lock().unwrap().push(heard);
        Box::pin(std::future::ready(()))
    }

    fn relay_ended(&self, replica: u64) -> BoxFuture<'_, ()> {
        self.heard.lock().unwrap().push(Heard::Ended(replica));
        Box::pin(std::future::ready(()))
    }
}

pub struct Replica {
    runtime: Option<Runtime>,
    pub shards: Arc<FakeShards>,
    pub leadership: watch::Sender<Leadership>,
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
        let (transport, outbox) = Transport::new(
            Config::new(claim.id, claim.ordinal, claim.cluster),
            directory.clone(),
        );
        let shards = Arc::<FakeShards>::default();
        let leadership = watch::Sender::new(Leadership::default());
        let transport = transport.relaying(Relaying {
            shards: Arc::clone(&shards) as Arc<dyn Shards>,
            leadership: leadership.subscribe(),
        });
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
            shards,
            leadership,
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

    /// Its raft says who leads.
    pub fn leader(&self, leader: u64) {
        self.leadership.send_modify(|known| {
            known.term += 1;
            known.leader = Some(leader);
        });
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
        metric(&*self.metrics, name, label)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A counter or gauge, by the value of its label.
pub fn metric(source: &dyn Source, name: &str, label: &str) -> u64 {
    let mut values = Values::default();
    source.collect(&mut values);
    let key = (name.to_owned(), label.to_owned());
    values.0.get(&key).copied().unwrap_or_default()
}

pub async fn bind(address: SocketAddr) -> TcpListener {
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

#[track_caller]
pub fn wait_until(done: impl FnMut() -> bool) {
    wait_for(20, done);
}

#[track_caller]
pub fn wait_for(seconds: u64, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(seconds), "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}
