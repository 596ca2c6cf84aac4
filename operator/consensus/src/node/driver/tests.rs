//! A node without its thread, on a disk that crashes: the same seed gives the same run.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use prost_raft::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::Driver;
use crate::chunk::{ENTRY_DATA_MAX, split};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mutation::{self, Mutation};
use crate::node::Nobody;
use crate::node::mailbox::{Proposal, Request};
use crate::store::fake::FakeDisk;
use crate::store::{Store, Vote};
use crate::testing::{Ledger, seeds};
use crate::{Committed, Config, Observed, ProposeError};

type Observer = Box<dyn FnMut(Observed<u64>)>;
type Answer = oneshot::Receiver<Result<Committed<u64>, ProposeError>>;

struct Life {
    driver: Driver<Ledger, Observer>,
    state: Arc<RwLock<Ledger>>,
}

impl Life {
    /// What `start` does, without the thread. None when the disk crashed meanwhile.
    fn begin(disk: &FakeDisk, snapshot_after: u64) -> Option<Self> {
        Self::begin_as(disk, snapshot_after, vec![1])
    }

    fn begin_as(disk: &FakeDisk, snapshot_after: u64, founders: Vec<u64>) -> Option<Self> {
        let mut config = Config::member(PathBuf::from("fake"), 1, founders);
        config.snapshot_after_entries = snapshot_after;
        let state = Arc::new(RwLock::new(Ledger::default()));
        let opened = Driver::open(
            config,
            disk.boxed(),
            Arc::clone(&state),
            Box::new(|_| {}) as Observer,
            Box::new(Nobody),
            1,
        );
        let opened = opened.inspect_err(|error| assert!(disk.crashed(), "{error:?}"));
        let driver = opened.ok()?;
        Some(Self { driver, state })
    }

    fn propose(&mut self, data: Vec<u8>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let held = Metrics::hold(&self.driver.metrics, data.len(), usize::MAX).unwrap();
        self.driver.propose(Proposal {
            data,
            called: Instant::now(),
            answer,
            held,
        });
        answered
    }
}

/// A content that no other proposal has: its number, then filling.
fn content(random: &mut StdRng, number: u64) -> Vec<u8> {
    let len = match random.random_range(0..20) {
        0 => random.random_range(1..5) * ENTRY_DATA_MAX + random.random_range(0..50),
        1..5 => random.random_range(500..4000),
        _ => random.random_range(0..200),
    };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len + 8, number as u8);
    bytes
}

/// Lives of one node with random work, each ended by a kill or a loss of power at a random step.
fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut disk = FakeDisk::default();
    // What anyone has seen as committed, by index.
    let mut seen = Ledger::default();
    let mut number = 0;
    for _ in 0..8 {
        disk.crash_at(Some(disk.steps() + random.random_range(1..60)));
        let snapshot_after = random.random_range(2..15);
        if let Some(mut life) = Life::begin(&disk, snapshot_after) {
            check(seed, &life.state.read(), &seen);
            seen = life.state.read().clone();
            loop {
                let mut waiting = Vec::new();
                for _ in 0..random.random_range(1..6) {
                    let data = content(&mut random, number);
                    number += 1;
                    waiting.push((life.propose(data.clone()), data));
                }
                let worked = life.driver.work();
                for (mut answer, data) in waiting {
                    match answer.try_recv() {
                        Ok(Ok(committed)) => {
                            seen.applied.insert(committed.index, data);
                        }
                        // The new segment could not be made: the crash came then.
                        Ok(Err(ProposeError::NoRoom(_))) => assert!(disk.crashed()),
                        Ok(Err(error)) => panic!("seed {seed}: {error}"),
                        Err(_) => assert!(worked.is_err(), "seed {seed}: no answer"),
                    }
                }
                if worked.is_err() || disk.crashed() {
                    break;
                }
            }
        }
        disk = if random.random_bool(0.3) {
            disk.after_kill()
        } else {
            disk.after_power_loss(random.random())
        };
    }
    disk.crash_at(None);
    let life = Life::begin(&disk, 10).unwrap();
    check(seed, &life.state.read(), &seen);
}

/// All that was seen is there, at its index and in front of everything that was not.
fn check(seed: u64, found: &Ledger, seen: &Ledger) {
    let replay = format!(
        "replay: CONSENSUS_SEED={seed} cargo test -p operator-consensus crashes_at_any_step"
    );
    for (index, content) in &seen.applied {
        assert!(
            found.applied.get(index) == Some(content),
            "entry {index} was seen and is lost or changed; {replay}"
        );
    }
    let newest = seen.applied.last_key_value().map_or(0, |(index, _)| *index);
    let within = found.applied.range(..=newest).count();
    assert_eq!(within, seen.applied.len(), "entries came up late; {replay}");
    let mut numbers: Vec<&[u8]> = found
        .applied
        .values()
        .map(|content| &content[..8])
        .collect();
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "an entry was applied twice; {replay}");
}

#[test]
fn crashes_at_any_step_lose_nothing_that_was_seen() {
    for seed in seeds(300) {
        run(seed);
    }
}

#[test]
fn a_group_costs_one_sync() {
    let disk = FakeDisk::default();
    let mut life = Life::begin(&disk, 1_000_000).unwrap();
    let syncs = |life: &mut Life, proposals: u64| {
        let before = disk.syncs();
        let mut answers: Vec<_> = (0..proposals)
            .map(|n| life.propose(n.to_le_bytes().to_vec()))
            .collect();
        life.driver.work().unwrap();
        for answer in &mut answers {
            answer.try_recv().unwrap().unwrap();
        }
        disk.syncs() - before
    };
    assert_eq!(
        syncs(&mut life, 1),
        1,
        "a lone proposal is done in one pass"
    );
    assert_eq!(syncs(&mut life, 200), 1);
}

#[test]
fn a_full_disk_refuses_proposals_and_reads_go_on() {
    let disk = FakeDisk::default();
    let mut life = Life::begin(&disk, 1_000_000).unwrap();
    disk.set_full(true);
    let mut taken = 0;
    let refused = loop {
        let mut answer = life.propose(vec![1; 4000]);
        life.driver.work().unwrap();
        match answer.try_recv().unwrap() {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, ProposeError::NoRoom(text) if text.contains("log-")),
        "{refused}"
    );
    assert!(taken > 5);
    assert_eq!(life.state.read().applied.len(), taken);
    // A large one is refused as a whole: no chunk of it stays behind.
    let mut answer = life.propose(vec![2; 5 * ENTRY_DATA_MAX]);
    life.driver.work().unwrap();
    assert!(matches!(
        answer.try_recv().unwrap(),
        Err(ProposeError::NoRoom(_))
    ));
    disk.set_full(false);
    let mut answer = life.propose(vec![3; 5 * ENTRY_DATA_MAX]);
    life.driver.work().unwrap();
    answer.try_recv().unwrap().unwrap();
    assert_eq!(
        life.state.read().contents().last(),
        Some(&vec![3; 5 * ENTRY_DATA_MAX])
    );
}

#[test]
fn a_proposal_that_was_cut_in_half_by_a_crash_never_shows() {
    for step in 1..12 {
        let disk = FakeDisk::default();
        let mut life = Life::begin(&disk, 1_000_000).unwrap();
        disk.crash_at(Some(disk.steps() + step));
        // Several frames, each synced on its own.
        let large = vec![9; 9 * ENTRY_DATA_MAX];
        let mut answer = life.propose(large.clone());
        let _ = life.driver.work();
        let acknowledged = matches!(answer.try_recv(), Ok(Ok(_)));
        let disk = disk.after_power_loss(step);
        let mut life = Life::begin(&disk, 1).unwrap();
        let contents = life.state.read().contents();
        assert!(
            contents.is_empty() && !acknowledged || contents == [large],
            "{step}"
        );
        let mut answer = life.propose(b"next".to_vec());
        life.driver.work().unwrap();
        answer.try_recv().unwrap().unwrap();
        let life = Life::begin(&disk.after_power_loss(1), 1).unwrap();
        assert_eq!(life.state.read().contents().last(), Some(&b"next".to_vec()));
    }
}

fn entry(index: u64, data: Vec<u8>) -> Entry {
    Entry {
        index,
        term: 1,
        data,
        ..Entry::default()
    }
}

#[test]
fn a_lone_voter_of_format_1_goes_on_and_others_can_join() {
    let disk = FakeDisk::default();
    {
        let (mut store, _) = Store::open(disk.boxed(), 1).unwrap();
        let vote = Vote { term: 1, vote: 1 };
        let data = split(1, b"old").remove(0);
        let entries = [entry(1, Vec::new()), entry(2, data)];
        store.append(&entries, Some(vote)).unwrap();
        store.sync().unwrap();
    }
    let disk = disk.in_format_1();
    for _ in 0..2 {
        let life = Life::begin(&disk, 1_000_000).unwrap();
        assert_eq!(life.state.read().contents(), [b"old".to_vec()]);
        assert_eq!(life.driver.members(), Members::of(vec![1]));
        assert!(life.driver.leadership().leads);
        // The log does not begin at its first entry any more: whoever joins gets a snapshot.
        assert!(life.driver.core.compacted() > 0);
    }
}

#[test]
fn a_node_that_is_being_added_and_restarts_is_no_lone_voter() {
    let disk = FakeDisk::default();
    {
        // It heard of a term, and got no snapshot yet.
        let (mut store, _) = Store::open(disk.boxed(), 1).unwrap();
        store.append(&[], Some(Vote { term: 7, vote: 0 })).unwrap();
        store.sync().unwrap();
    }
    let mut life = Life::begin_as(&disk, 10, Vec::new()).unwrap();
    for _ in 0..100 {
        life.driver.tick();
        life.driver.work().unwrap();
    }
    assert_eq!(life.driver.members(), Members::default());
    assert_eq!(life.driver.status().role, "outside");
    assert_eq!(life.driver.status().term, 7);
}

#[test]
fn a_barrier_costs_one_sync_and_applies_nothing() {
    let disk = FakeDisk::default();
    let mut life = Life::begin(&disk, 1_000_000).unwrap();
    let (answer, mut answered) = oneshot::channel();
    let before = disk.syncs();
    life.driver.request(Request::Barrier(answer));
    life.driver.work().unwrap();
    answered.try_recv().unwrap().unwrap();
    assert_eq!(disk.syncs() - before, 1);
    assert!(life.state.read().contents().is_empty());
}

#[test]
fn entries_of_a_leader_that_find_no_room_are_dropped_and_the_node_lives() {
    let disk = FakeDisk::default();
    let mut life = Life::begin_as(&disk, 1_000_000, vec![1, 2]).unwrap();
    disk.set_full(true);
    let append = |index: u64| {
        let mut message = Message {
            from: 2,
            to: 1,
            term: 2,
            log_term: if index == 1 { 1 } else { 2 },
            index,
            entries: vec![Entry {
                index: index + 1,
                term: 2,
                data: split(1, &[7; 4000]).remove(0),
                ..Entry::default()
            }],
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        message
    };
    let last = |life: &Life| life.driver.core.last_index();
    let mut index = 1;
    loop {
        life.driver.message(append(index)).unwrap();
        life.driver.work().unwrap();
        if last(&life) == index {
            break;
        }
        index += 1;
        assert!(index < 100, "the disk was never full");
    }
    assert!(index > 5);
    disk.set_full(false);
    life.driver.message(append(index)).unwrap();
    life.driver.work().unwrap();
    assert_eq!(last(&life), index + 1);
}

#[test]
#[should_panic(expected = "let the node join under an id that was never used")]
fn a_node_whose_folder_was_lost_stops_when_the_leader_knows_better() {
    let disk = FakeDisk::default();
    let mut life = Life::begin_as(&disk, 1_000_000, vec![1, 2]).unwrap();
    let mut message = Message {
        from: 2,
        to: 1,
        term: 2,
        commit: 9,
        ..Message::default()
    };
    message.set_msg_type(MessageType::MsgHeartbeat);
    let _ = life.driver.message(message);
}

/// An entry of term 2 that changes the members.
fn changing(index: u64, kind: ConfChangeType, id: u64) -> Entry {
    let mut change = ConfChange {
        node_id: id,
        ..ConfChange::default()
    };
    change.set_change_type(kind);
    let mut entry = Entry {
        index,
        term: 2,
        data: change.encode_to_vec(),
        ..Entry::default()
    };
    entry.set_entry_type(EntryType::EntryConfChange);
    entry
}

/// A follower crashes around the message that brings a second change of the members, and with it the news that the
/// first one is committed. Whether there is a life in which it has the second one and does not go by the first.
fn a_change_is_forgotten() -> bool {
    let message = |entries: Vec<Entry>, commit: u64| {
        let index = entries[0].index - 1;
        let mut message = Message {
            from: 2,
            to: 1,
            term: 2,
            log_term: if index == 1 { 1 } else { 2 },
            index,
            commit,
            entries,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        message
    };
    let mut forgotten = false;
    for (step, seed) in (1..8).flat_map(|step| (0..10).map(move |seed| (step, seed))) {
        let disk = FakeDisk::default();
        let mut life = Life::begin_as(&disk, 1_000_000, vec![1, 2, 3]).unwrap();
        let first = changing(2, ConfChangeType::AddLearnerNode, 4);
        life.driver.message(message(vec![first], 1)).unwrap();
        life.driver.work().unwrap();
        assert!(!life.driver.members().contains(4));
        disk.crash_at(Some(disk.steps() + step));
        let second = changing(3, ConfChangeType::AddNode, 4);
        let _ = life.driver.message(message(vec![second], 2));
        let _ = life.driver.work();
        let disk = disk.after_power_loss(seed);
        let life = Life::begin_as(&disk, 1_000_000, vec![1, 2, 3]).unwrap();
        let has_second = life.driver.core.last_index() == 3;
        forgotten |= has_second && !life.driver.members().contains(4);
    }
    forgotten
}

#[test]
fn who_holds_a_second_change_of_members_goes_by_the_first() {
    assert!(!a_change_is_forgotten());
    let faulty = mutation::with(Some(Mutation::ForgetCommit), a_change_is_forgotten);
    assert!(faulty, "the test finds nothing");
}
