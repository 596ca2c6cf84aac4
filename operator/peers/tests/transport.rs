//! Transports on loopback with mutual TLS: what arrives, what is refused, what a crash does.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use api::ShardId;
use operator_identity::{Authority, Identity};
use operator_peers::{Config, Directory, Peer, PeerTls, StartError, Transport};
use support::{Claim, Recorder, Replica, Told, free, peers, start, wait_until};
use tokio::net::TcpListener;

fn three() -> (Arc<Authority>, Vec<Replica>) {
    let authority = Arc::new(Authority::make().unwrap());
    let claims = [1, 2, 3].map(|id| Claim::of(id, &authority));
    (authority, start(&claims))
}

fn snapshot(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[test]
fn messages_reach_each_replica_in_order() {
    let (_, replicas) = three();
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            let inbox = Arc::clone(&replicas[to].inbox);
            replicas[from].send_until_received(to as u64 + 1, "first", &inbox);
            inbox.clear();
            let texts = (0..100).map(|n| format!("{from} {to} {n}"));
            let texts: Vec<String> = texts.collect();
            for text in &texts {
                replicas[from].send(to as u64 + 1, text);
            }
            let all = |told: &[Told]| {
                let told = told.iter().filter_map(|told| match told {
                    Told::Message(message) if message != b"first" => {
                        Some(String::from_utf8(message.clone()).unwrap())
                    }
                    _ => None,
                });
                told.collect::<Vec<_>>()
            };
            wait_until(|| all(&inbox.told()).len() == texts.len());
            assert_eq!(all(&inbox.told()), texts);
        }
    }
}

#[test]
fn a_replica_that_comes_back_is_reached_again_also_elsewhere() {
    let (authority, mut replicas) = three();
    let inbox = Arc::clone(&replicas[1].inbox);
    replicas[0].send_until_received(2, "before", &inbox);

    replicas[1].crash();
    replicas[0].inbox.wait_for(&Told::Unreachable(2));
    let others = Arc::clone(&replicas[2].inbox);
    replicas[0].send_until_received(3, "the others go on", &others);

    let (address, directory) = (replicas[1].address, replicas[1].directory.clone());
    replicas[1] = Replica::start(&Claim::of(2, &authority), address, directory);
    let inbox = Arc::clone(&replicas[1].inbox);
    replicas[0].send_until_received(2, "after", &inbox);

    replicas[1].crash();
    let moved = Replica::start(
        &Claim::of(2, &authority),
        free(),
        Directory::new(peers([(1, replicas[0].address)])),
    );
    let addresses = [
        (1, replicas[0].address),
        (2, moved.address),
        (3, replicas[2].address),
    ];
    replicas[0].directory.replace(peers(addresses));
    replicas[0].send_until_received(2, "elsewhere", &moved.inbox);
    assert!(replicas[0].metric("shardway_peer_connects", "opened") >= 4);
}

#[test]
fn a_replica_whose_name_leads_elsewhere_is_reached_where_it_called_from() {
    let (_, replicas) = three();
    let port = replicas[1].address.port();
    // Nobody listens there.
    let stale = SocketAddr::from(([127, 0, 0, 9], port));
    let addresses = [(2, stale), (3, replicas[2].address)];
    replicas[0].directory.replace(peers(addresses));
    let inbox = Arc::clone(&replicas[1].inbox);
    let both = [(1, replicas[0].address), (2, replicas[1].address)];
    replicas[1].directory.replace(BTreeMap::new());
    replicas[1].directory.replace(peers(both));
    replicas[0].send_until_received(2, "text", &inbox);
}

#[test]
fn a_large_snapshot_arrives_whole_and_nothing_waits_behind_it() {
    let (_, replicas) = three();
    let inbox = Arc::clone(&replicas[1].inbox);
    replicas[0].send_until_received(2, "connected", &inbox);
    inbox.clear();

    let large = snapshot(20 * 1024 * 1024);
    replicas[0].outbox.send_snapshot(2, large.clone());
    let sent = Told::SnapshotSent(2, true);
    let mut beats = 0;
    while !replicas[0].inbox.has(&sent) {
        beats += 1;
        let beat = format!("beat {beats}");
        replicas[0].send(2, &beat);
        inbox.wait_for(&Told::Message(beat.into_bytes()));
    }

    let told = inbox.told();
    let place = told
        .iter()
        .position(|told| *told == Told::Message(large.clone()));
    assert!(place.unwrap() > 0, "no beat came before the snapshot");
    assert_eq!(replicas[0].metric("shardway_peer_snapshots", "sent"), 1);
    assert_eq!(replicas[1].metric("shardway_peer_snapshots", "received"), 1);
}

#[test]
fn a_snapshot_that_does_not_arrive_is_reported() {
    let (_, mut replicas) = three();
    replicas[0].outbox.send_snapshot(9, snapshot(10));
    replicas[0].inbox.wait_for(&Told::SnapshotSent(9, false));

    replicas[1].crash();
    replicas[0].outbox.send_snapshot(2, snapshot(10));
    replicas[0].inbox.wait_for(&Told::SnapshotSent(2, false));

    // One that has left the directory.
    replicas[0].outbox.send_snapshot(3, snapshot(10));
    replicas[0].inbox.wait_for(&Told::SnapshotSent(3, true));
    replicas[0].directory.replace(BTreeMap::new());
    wait_until(|| {
        replicas[0].outbox.send_snapshot(3, snapshot(10));
        replicas[0].inbox.has(&Told::SnapshotSent(3, false))
    });
}

/// Whether replica 1 takes what `other` says, which knows replica 1 by the id `to`.
fn is_taken(other: &Claim, to: u64, authority: &Arc<Authority>) -> bool {
    // Replica 2 is known, though not where it is.
    let known = Directory::new(peers([(2, SocketAddr::from(([127, 0, 0, 1], 1)))]));
    let one = Replica::start(&Claim::of(1, authority), free(), known);
    let mut all = peers([(1, one.address)]);
    let peer = all.remove(&1).unwrap();
    let other = Replica::start(other, free(), Directory::new(BTreeMap::from([(to, peer)])));
    let told = Told::Message(b"text".to_vec());
    wait_until(|| {
        other.send(to, "text");
        one.inbox.has(&told) || other.inbox.has(&Told::Unreachable(to))
    });
    one.inbox.has(&told)
}

#[test]
fn a_replica_is_believed_by_its_certificate_and_meant_by_its_id_and_cluster() {
    let authority = Arc::new(Authority::make().unwrap());
    let right = Claim::of(2, &authority);
    assert!(is_taken(&right, 1, &authority));

    let with = |change: &dyn Fn(&mut Claim)| {
        let mut claim = right.clone();
        change(&mut claim);
        claim
    };
    let another = with(&|claim| claim.identity = Identity::Operator(2));
    assert!(!is_taken(&another, 1, &authority), "another's certificate");
    let another = with(&|claim| {
        claim.identity = Identity::Operator(2);
        claim.ordinal = 2;
    });
    assert!(!is_taken(&another, 1, &authority), "another's raft id");
    let shard = with(&|claim| claim.identity = Identity::Shard(ShardId(1)));
    assert!(!is_taken(&shard, 1, &authority), "a shard's certificate");
    let stranger = with(&|claim| claim.authority = Arc::new(Authority::make().unwrap()));
    assert!(!is_taken(&stranger, 1, &authority), "another CA");
    let elsewhere = with(&|claim| claim.cluster = "d");
    assert!(!is_taken(&elsewhere, 1, &authority), "another cluster");
    assert!(!is_taken(&right, 3, &authority), "another id is meant");
    let new = with(&|claim| {
        claim.id = 7;
        claim.ordinal = 6;
        claim.identity = Identity::Operator(6);
    });
    assert!(is_taken(&new, 1, &authority), "one that has just joined");
}

#[test]
fn a_replica_does_not_speak_to_another_in_its_place() {
    let authority = Arc::new(Authority::make().unwrap());
    let replicas = start(&[1, 2].map(|id| Claim::of(id, &authority)));
    // What answers there has the certificate of replica 2.
    let addresses = [(3, replicas[1].address)];
    replicas[0].directory.replace(peers(addresses));
    wait_until(|| {
        replicas[0].send(3, "text");
        replicas[0].inbox.has(&Told::Unreachable(3))
    });
    assert!(!replicas[1].inbox.has(&Told::Message(b"text".to_vec())));
}

#[test]
fn a_new_ca_counts_from_the_next_connection_on() {
    let authority = Arc::new(Authority::make().unwrap());
    let replicas = start(&[1, 2].map(|id| Claim::of(id, &authority)));
    let inbox = Arc::clone(&replicas[1].inbox);
    replicas[0].send_until_received(2, "before", &inbox);

    authority.replace(&Authority::make().unwrap());
    let third = Replica::start(
        &Claim::of(3, &authority),
        free(),
        Directory::new(BTreeMap::new()),
    );
    let addresses = [(2, replicas[1].address), (3, third.address)];
    replicas[0].directory.replace(peers(addresses));
    replicas[0].send_until_received(3, "by the new CA", &third.inbox);
    replicas[0].send_until_received(2, "the open one goes on", &inbox);
}

#[tokio::test]
async fn without_tls_only_loopback_is_served_and_spoken_to() {
    let start = |id: u64, listener: TcpListener, known: BTreeMap<u64, Peer>| {
        let inbox = Arc::<Recorder>::default();
        let config = Config::new(id, id - 1, "c");
        let (transport, outbox) = Transport::new(config, Directory::new(known));
        let started = transport.start(listener, PeerTls::LoopbackOnly, inbox.clone());
        (started, outbox, inbox)
    };
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (started, ..) = start(1, everywhere, BTreeMap::new());
    assert!(matches!(started, Err(StartError::NotLoopback(_))));

    let loopback = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = loopback.local_addr().unwrap();
    let (started, _outbox, inbox) = start(1, loopback, BTreeMap::new());
    started.unwrap();
    let loopback = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Of the documentation's addresses: nothing may be sent there.
    let known = peers([(1, first), (3, SocketAddr::from(([192, 0, 2, 1], 7001)))]);
    let (started, outbox, told) = start(2, loopback, known);
    started.unwrap();
    tokio::task::spawn_blocking(move || {
        wait_until(|| {
            outbox.send(1, b"text".to_vec());
            inbox.has(&Told::Message(b"text".to_vec()))
        });
        told.wait_for(&Told::Unreachable(3));
    })
    .await
    .unwrap();
}
