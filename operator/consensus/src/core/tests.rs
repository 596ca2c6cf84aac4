//! Three voters in one thread: a network that drops, doubles and reorders, disks that tear, crashes at any moment.
//!
//! **Invariants** checked after every step: one leader for each term; all voters apply the same entry at an index; what
//! was acknowledged is never lost; after healing all have the same state.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;

use raft::eraftpb::{Message, MessageType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{CommittedEntry, Core};
use crate::StateMachine;
use crate::chunk::{Assembly, split};
use crate::store::fake::FakeDisk;
use crate::store::{SavedSnapshot, Store};
use crate::testing::{Ledger, seeds};

const VOTERS: [u64; 3] = [1, 2, 3];
/// Messages that wait; more are lost.
const NETWORK_MAX: usize = 500;

struct Voter {
    id: u64,
    core: Core,
    store: Store,
    disk: FakeDisk,
    state: Ledger,
    assembly: Assembly,
    applied: (u64, u64),
    snapshot_index: u64,
}

impl Voter {
    fn open(id: u64, disk: FakeDisk, seed: u64) -> Self {
        let (store, recovered) = Store::open(disk.boxed(), id).unwrap();
        let mut state = Ledger::default();
        let mut applied = (0, 0);
        if let Some(saved) = &recovered.snapshot {
            state.restore(&saved.state).unwrap();
            applied = (saved.index, saved.term);
        }
        let core = Core::new(id, VOTERS.to_vec(), recovered, seed).unwrap();
        Self {
            id,
            core,
            store,
            disk,
            state,
            assembly: Assembly::default(),
            applied,
            snapshot_index: applied.0,
        }
    }

    /// Does all there is to do. Gives messages to send and entries applied; false when the disk is gone.
    fn work(&mut self, out: &mut Vec<Message>, applied: &mut Vec<(u64, u64)>) -> bool {
        while let Some(mut work) = self.core.ready() {
            out.append(&mut work.messages);
            if let Some(saved) = &work.install {
                if self.store.install_snapshot(saved).is_err() {
                    return false;
                }
                self.state.restore(&saved.state).unwrap();
                self.assembly.clear();
                self.applied = (saved.index, saved.term);
                self.snapshot_index = saved.index;
            }
            let written = self.store.append(&work.entries, work.vote);
            if written.and_then(|()| self.store.sync()).is_err() {
                return false;
            }
            let freed = self.core.persisted(&work);
            out.extend(freed.messages);
            self.apply(work.committed, applied);
            self.apply(freed.committed, applied);
            self.core.applied();
        }
        true
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>, applied: &mut Vec<(u64, u64)>) {
        for entry in entries {
            assert_eq!(entry.index, self.applied.0 + 1, "applied out of order");
            self.applied = (entry.index, entry.term);
            if let Some(data) = self.assembly.push(&entry.data) {
                self.state.apply(entry.index, &data);
                applied.push((entry.index, entry.term));
            }
        }
    }

    fn saved(&self) -> SavedSnapshot {
        SavedSnapshot {
            index: self.applied.0,
            term: self.applied.1,
            voters: self.core.voters().to_vec(),
            state: self.state.snapshot(),
        }
    }

    /// Takes a snapshot when it is due. False when the disk is gone.
    fn compact(&mut self, after: u64) -> bool {
        let (index, _) = self.applied;
        if index < self.snapshot_index + after || !self.assembly.is_empty() {
            return true;
        }
        self.snapshot_index = index;
        if self.store.save_snapshot(&self.saved()).is_err() {
            return false;
        }
        self.core.compact(index);
        assert_eq!(self.core.compacted(), index);
        true
    }
}

struct Cluster {
    seed: u64,
    random: StdRng,
    voters: Vec<Voter>,
    network: Vec<Message>,
    /// Voters that nothing reaches and that reach nobody.
    cut_off: Option<u64>,
    /// Chance that a message is lost, doubled.
    lost: f64,
    doubled: f64,
    leaders: BTreeMap<u64, u64>,
    /// What any voter applied.
    applied: Ledger,
    acknowledged: Ledger,
    /// Proposals in a leader's log: voter, index, term, content.
    waiting: Vec<(u64, u64, u64, Vec<u8>)>,
    next: u64,
    snapshots_installed: u64,
    lives: u64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let voters = VOTERS.map(|id| Voter::open(id, FakeDisk::default(), seed));
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            voters: voters.into(),
            network: Vec::new(),
            cut_off: None,
            lost: 0.0,
            doubled: 0.0,
            leaders: BTreeMap::new(),
            applied: Ledger::default(),
            acknowledged: Ledger::default(),
            waiting: Vec::new(),
            next: 0,
            snapshots_installed: 0,
            lives: 0,
        }
    }

    fn replay(&self) -> String {
        let seed = self.seed;
        format!(
            "replay: CONSENSUS_SEED={seed} cargo test -p operator-consensus three_voters_survive"
        )
    }

    /// Lets a voter work; it comes back from its disk when that one crashed.
    fn work(&mut self, position: usize) {
        let voter = &mut self.voters[position];
        let (id, mut out, mut applied) = (voter.id, Vec::new(), Vec::new());
        let before = voter.snapshot_index;
        let alive = voter.work(&mut out, &mut applied);
        let installed = voter.snapshot_index > before;
        let alive = alive && voter.compact(30);
        if voter.core.wants_snapshot() && voter.assembly.is_empty() {
            let saved = voter.saved();
            voter.core.offer_snapshot(saved);
        }
        self.snapshots_installed += u64::from(installed);
        // What left before the crash is on its way.
        self.send(position, out);
        self.observe(position, &applied);
        if !alive {
            assert!(
                self.voters[position].disk.crashed(),
                "a disk failed unasked"
            );
            self.restart(position);
            return;
        }
        let core = &self.voters[position].core;
        if core.leads() {
            let term = core.status(0, 0).term;
            let leader = *self.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {term}; {}", self.replay());
        }
    }

    fn observe(&mut self, position: usize, applied: &[(u64, u64)]) {
        let replay = self.replay();
        let voter = &self.voters[position];
        for (index, term) in applied {
            let content = voter.state.applied[index].clone();
            let known = self.applied.applied.entry(*index);
            let known = known.or_insert_with(|| content.clone());
            assert_eq!(*known, content, "voters differ at {index}; {replay}");
            // The proposer answers when it applies its own entry.
            let ours = |(proposer, at, in_term, _): &(u64, u64, u64, Vec<u8>)| {
                (*proposer, at, in_term) == (voter.id, index, term)
            };
            if let Some(at) = self.waiting.iter().position(ours) {
                let (.., proposed) = self.waiting.swap_remove(at);
                assert_eq!(proposed, content, "answered with another's entry; {replay}");
                self.acknowledged.applied.insert(*index, proposed);
            }
        }
    }

    fn send(&mut self, position: usize, messages: Vec<Message>) {
        for message in messages {
            let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            let lost = self.network.len() >= NETWORK_MAX
                || self.cut_off == Some(message.to)
                || self.cut_off == Some(message.from)
                || self.random.random_bool(self.lost);
            if snapshot {
                let core = &mut self.voters[position].core;
                core.report_snapshot(message.to, !lost);
                core.withdraw_snapshot();
            }
            if lost {
                continue;
            }
            if self.random.random_bool(self.doubled) {
                self.network.push(message.clone());
            }
            self.network.push(message);
        }
    }

    /// Kills a voter, loses what its disk had not synced, and starts it again.
    fn restart(&mut self, position: usize) {
        let voter = &self.voters[position];
        let disk = voter.disk.after_power_loss(self.random.random());
        self.lives += 1;
        let id = voter.id;
        self.waiting.retain(|(proposer, ..)| *proposer != id);
        self.voters[position] = Voter::open(id, disk, self.seed ^ self.lives << 8);
    }

    fn propose(&mut self, position: usize) {
        let voter = &mut self.voters[position];
        if !voter.core.leads() {
            return;
        }
        let mut content = self.next.to_le_bytes().to_vec();
        self.next += 1;
        // Mostly one entry, sometimes chunks.
        content.resize(
            if self.next.is_multiple_of(15) {
                20_000
            } else {
                50
            },
            7,
        );
        let mut last = None;
        for entry in split(self.next, &content) {
            last = voter.core.propose(entry);
        }
        if let Some((index, term)) = last {
            self.waiting.push((voter.id, index, term, content));
        }
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.network.len());
        let message = self.network.swap_remove(at);
        let position = (message.to - 1) as usize;
        self.voters[position].core.step(message);
        self.work(position);
    }

    /// One random event.
    fn step(&mut self) {
        let position = self.random.random_range(0..VOTERS.len());
        match self.random.random_range(0..1000) {
            0..300 => {
                self.voters[position].core.tick();
                self.work(position);
            }
            300..350 => {
                self.propose(position);
                self.work(position);
            }
            350 => self.restart(position),
            351..353 => {
                let disk = &self.voters[position].disk;
                disk.crash_at(Some(disk.steps() + self.random.random_range(1..30)));
            }
            353 => self.cut_off = Some(VOTERS[position]),
            354..358 => self.cut_off = None,
            _ => self.deliver(),
        }
    }

    /// Everything works again; runs until all have applied the same.
    fn heal(&mut self) {
        (self.cut_off, self.lost, self.doubled) = (None, 0.0, 0.0);
        for position in 0..VOTERS.len() {
            self.voters[position].disk.crash_at(None);
            if self.voters[position].disk.crashed() {
                self.restart(position);
            }
        }
        let target = self.next;
        for round in 0..2000 {
            for position in 0..VOTERS.len() {
                self.voters[position].core.tick();
                if self.next == target {
                    self.propose(position);
                }
                self.work(position);
            }
            while !self.network.is_empty() {
                self.deliver();
            }
            let first = &self.voters[0];
            let equal =
                |voter: &Voter| voter.applied == first.applied && voter.state == first.state;
            let done = self.next > target && self.waiting.is_empty();
            if done && self.voters.iter().all(equal) {
                assert!(
                    round < 1000,
                    "healing took {round} rounds; {}",
                    self.replay()
                );
                return;
            }
            // A leader that lost the lead never answers.
            if round == 200 {
                self.waiting.clear();
            }
        }
        panic!("the voters never agreed; {}", self.replay());
    }
}

/// Gives what was acknowledged, how many leaders and installed snapshots there were.
fn run(seed: u64, steps: u64) -> (usize, usize, u64) {
    let mut cluster = Cluster::new(seed);
    cluster.lost = [0.0, 0.02, 0.1][cluster.random.random_range(0..3)];
    cluster.doubled = [0.0, 0.02, 0.1][cluster.random.random_range(0..3)];
    for _ in 0..steps {
        cluster.step();
    }
    cluster.heal();
    let state = &cluster.voters[0].state.applied;
    for (index, content) in &cluster.acknowledged.applied {
        let found = state.get(index);
        assert!(
            found == Some(content),
            "entry {index} was lost; {}",
            cluster.replay()
        );
    }
    let acknowledged = cluster.acknowledged.applied.len();
    (
        acknowledged,
        cluster.leaders.len(),
        cluster.snapshots_installed,
    )
}

#[test]
fn three_voters_survive_crashes_and_a_bad_network() {
    let (mut acknowledged, mut leaders, mut installed) = (0, 0, 0);
    let seeds = seeds(300);
    for seed in seeds.clone() {
        let figures = run(seed, 3000);
        acknowledged += figures.0;
        leaders += figures.1;
        installed += figures.2;
    }
    // The runs did something: they average 40 answers, 3 leaders and a third of an install.
    let runs = seeds.count();
    if runs >= 100 {
        assert!(acknowledged > 20 * runs && leaders > 2 * runs && installed > runs as u64 / 6);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        assert_eq!(run(seed, 1500), run(seed, 1500));
    }
}

#[test]
fn a_follower_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::new(1);
    cluster.heal();
    let leads = |cluster: &Cluster| cluster.voters.iter().position(|voter| voter.core.leads());
    let leader = leads(&cluster).unwrap();
    let away = (leader + 1) % 3;
    cluster.cut_off = Some(VOTERS[away]);
    for _ in 0..100 {
        cluster.propose(leader);
        cluster.work(leader);
        while !cluster.network.is_empty() {
            cluster.deliver();
        }
    }
    assert!(cluster.voters[leader].core.compacted() > cluster.voters[away].applied.0);
    cluster.heal();
    assert_eq!(cluster.snapshots_installed, 1);
    assert!(cluster.acknowledged.applied.len() >= 100);
}

#[test]
fn another_voter_leads_when_the_leader_is_gone() {
    let mut cluster = Cluster::new(2);
    cluster.heal();
    let leader = cluster.voters.iter().position(|voter| voter.core.leads());
    let leader = leader.unwrap();
    cluster.cut_off = Some(VOTERS[leader]);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let mut ticks = 0;
    while !others.iter().any(|at| cluster.voters[*at].core.leads()) {
        for position in 0..3 {
            cluster.voters[position].core.tick();
            cluster.work(position);
        }
        while !cluster.network.is_empty() {
            cluster.deliver();
        }
        ticks += 1;
        assert!(ticks < 60, "no new leader after {ticks} ticks");
    }
    // Without a majority the old one steps down by itself.
    for _ in 0..20 {
        cluster.voters[leader].core.tick();
        cluster.work(leader);
    }
    assert!(!cluster.voters[leader].core.leads());
    cluster.heal();
}
