//! Raft on disk, transports with mutual TLS and the table of members together: replicas that are lost, added and removed.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_telemetry::metrics::Source;
use operator_consensus::{Config, Node, StateMachine, start_with_peers};
use operator_identity::{Authority, Credentials, Identity};
use operator_peers::members::{FileStore, Founding, Keeping, MembersStore, Membership, join, keep};
use operator_peers::{Directory, PeerTls, Transport};
use parking_lot::RwLock;
use support::{bind, metric, wait_for};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Ordinals that a test may use.
const ORDINALS: u64 = 5;
/// Bytes of one entry.
const ENTRY: usize = 512 * 1024;

/// Entries one behind the other. One that is there already is left out: it may be proposed twice.
#[derive(Default)]
struct Entries(Vec<u8>);

impl StateMachine for Entries {
    type Output = ();

    fn apply(&mut self, _: u64, data: &[u8]) {
        if !self.numbers().contains(&data[0]) {
            self.0.extend_from_slice(data);
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

impl Entries {
    fn numbers(&self) -> Vec<u8> {
        self.0.chunks(ENTRY).map(|entry| entry[0]).collect()
    }
}

/// What runs of a replica.
struct Running {
    runtime: Runtime,
    node: Arc<Node<()>>,
    state: Arc<RwLock<Entries>>,
    membership: Membership,
    metrics: Arc<dyn Source>,
}

struct Group {
    folder: tempfile::TempDir,
    authority: Arc<Authority>,
    addresses: Vec<SocketAddr>,
    wanted: watch::Sender<u64>,
    running: Vec<Option<Running>>,
}

impl Group {
    fn new(replicas: u64) -> Self {
        let free = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let free: Vec<_> = (0..ORDINALS).map(free).collect();
        let addresses = free.iter().map(|free| free.local_addr().unwrap());
        let mut group = Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Arc::new(Authority::make().unwrap()),
            addresses: addresses.collect(),
            wanted: watch::Sender::new(replicas),
            running: (0..ORDINALS).map(|_| None).collect(),
        };
        drop(free);
        for ordinal in 0..replicas {
            group.start(ordinal);
        }
        group
    }

    fn disk(&self, ordinal: u64) -> PathBuf {
        self.folder.path().join(format!("disk-{ordinal}"))
    }

    fn start(&mut self, ordinal: u64) {
        let disk = self.disk(ordinal);
        std::fs::create_dir_all(&disk).unwrap();
        let store = FileStore::new(self.folder.path().join("members.json"));
        let address = |ordinal: u64| self.addresses[ordinal as usize].to_string();
        let founding = Founding {
            replicas: *self.wanted.borrow(),
            address: &address,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let local = disk.join("member.json");
        let running = runtime.block_on(async {
            let listener = bind(self.addresses[ordinal as usize]).await;
            let membership = join(&local, &store, ordinal, &founding).await.unwrap();
            let directory = Directory::new(membership.document.directory());
            let config =
                operator_peers::Config::new(membership.id, ordinal, &membership.cluster_id);
            let (transport, outbox) = Transport::new(config, directory.clone());
            let metrics = transport.metrics();
            let state = Arc::<RwLock<Entries>>::default();
            let voters = membership.initial_voters.clone();
            let mut config = Config::member(disk.join("raft"), membership.id, voters);
            config.snapshot_after_entries = 4;
            config.keep_entries_max = 1;
            let node = start_with_peers(config, Arc::clone(&state), outbox, |_| {}).unwrap();
            let node = Arc::new(node);
            let identity = Identity::Operator(ordinal);
            let credentials = Credentials::renewing(Arc::clone(&self.authority), identity);
            let tls = PeerTls::Mutual(Arc::new(credentials.unwrap()));
            let inbox = Arc::clone(&node) as Arc<_>;
            transport.start(listener, tls, inbox).unwrap();
            let keeping = Keeping {
                ordinal,
                membership: membership.clone(),
                local,
                store: Arc::new(store) as Arc<dyn MembersStore>,
                directory,
                group: Arc::clone(&node) as Arc<_>,
                replicas: self.wanted.subscribe(),
                every: Duration::from_millis(200),
            };
            api_telemetry::task::spawn("members", keep(keeping));
            (node, state, membership, metrics)
        });
        let (node, state, membership, metrics) = running;
        self.running[ordinal as usize] = Some(Running {
            runtime,
            node,
            state,
            membership,
            metrics,
        });
    }

    /// Ends a replica with all its connections; its disk stays.
    fn crash(&mut self, ordinal: u64) {
        let running = self.running[ordinal as usize].take().unwrap();
        running.runtime.shutdown_timeout(Duration::from_secs(10));
        let node = Arc::into_inner(running.node).unwrap();
        // Waits for its thread, so that the folder can be opened again. With nobody to hear it this hands nothing over.
        node.shutdown();
    }

    fn of(&self, ordinal: u64) -> &Running {
        self.running[ordinal as usize].as_ref().unwrap()
    }

    fn ordinals(&self) -> Vec<u64> {
        let running = self.running.iter().zip(0..);
        running
            .filter_map(|(running, ordinal)| running.is_some().then_some(ordinal))
            .collect()
    }

    /// The replica that leads.
    fn leader(&self) -> u64 {
        let leads = |ordinal: &u64| self.of(*ordinal).node.leadership().borrow().leads;
        let mut found = None;
        wait_for(60, || {
            found = self.ordinals().into_iter().find(leads);
            found.is_some()
        });
        found.unwrap()
    }

    /// Commits an entry with whoever leads.
    fn propose(&self, number: u8) {
        let data = vec![number; ENTRY];
        wait_for(60, || {
            let leader = self.of(self.leader());
            let proposed = leader.node.propose(data.clone());
            leader.runtime.block_on(proposed).is_ok()
        });
    }

    /// Waits until the voters are those of these ordinals, for all that run.
    fn settled(&self, ordinals: std::ops::Range<u64>) {
        let ids: BTreeSet<u64> = ordinals
            .map(|ordinal| self.of(ordinal).membership.id)
            .collect();
        wait_for(60, || {
            let leader = self.leader();
            let members = self.of(leader).node.members();
            let voters: BTreeSet<u64> = members.voters.into_iter().collect();
            voters == ids && members.learners.is_empty()
        });
    }

    /// Waits until all replicas that run hold just these.
    fn hold(&self, ordinals: std::ops::Range<u64>, numbers: &[u8]) {
        for ordinal in ordinals {
            let state = &self.of(ordinal).state;
            wait_for(60, || state.read().0.len() >= numbers.len() * ENTRY);
            assert_eq!(state.read().numbers(), numbers, "replica {ordinal}");
        }
    }
}

#[test]
fn a_lost_disk_comes_back_as_another_member_by_a_large_snapshot() {
    let mut group = Group::new(3);
    let numbers: Vec<u8> = (0..44).collect();
    for number in &numbers[..40] {
        group.propose(*number);
    }
    group.hold(0..3, &numbers[..40]);
    let lost = (0..3).find(|ordinal| *ordinal != group.leader()).unwrap();
    group.crash(lost);
    std::fs::remove_dir_all(group.disk(lost)).unwrap();
    for number in &numbers[40..42] {
        group.propose(*number);
    }
    group.start(lost);
    assert_eq!(group.of(lost).membership.id, 4);
    group.settled(0..3);
    for number in &numbers[42..] {
        group.propose(*number);
    }
    group.hold(0..3, &numbers);
    let received = metric(
        &*group.of(lost).metrics,
        "shardway_peer_snapshots",
        "received",
    );
    assert!(received >= 1, "20 MiB came in {received} snapshots");

    // One with its disk is the same again, and the group bears the loss of another.
    let leader = group.leader();
    group.crash(leader);
    group.propose(44);
    group.start(leader);
    let numbers: Vec<u8> = (0..45).collect();
    group.hold(0..3, &numbers);
    group.settled(0..3);
}

#[test]
fn three_become_five_and_three_again_while_entries_are_committed() {
    let mut group = Group::new(3);
    let mut numbers = Vec::new();
    let mut propose = |group: &Group| {
        let number = numbers.len() as u8;
        group.propose(number);
        numbers.push(number);
        numbers.clone()
    };
    propose(&group);
    group.start(3);
    group.start(4);
    propose(&group);
    group.wanted.send_replace(5);
    group.settled(0..5);
    let all = propose(&group);
    group.hold(0..5, &all);

    // Five bear the loss of two.
    let leader = group.leader();
    let other = (0..5).find(|ordinal| *ordinal != leader).unwrap();
    group.crash(leader);
    group.crash(other);
    propose(&group);
    group.start(leader);
    group.start(other);

    group.wanted.send_replace(3);
    group.settled(0..3);
    group.crash(4);
    group.crash(3);
    let all = propose(&group);
    group.hold(0..3, &all);
}
