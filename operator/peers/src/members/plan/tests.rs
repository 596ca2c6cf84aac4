//! Random histories of replicas that crash, lose their disks, come and go; never more than raft bears at a time.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Most ordinals of a history.
const ORDINALS: u64 = 6;

#[derive(Debug, Clone)]
enum Event {
    /// The replica stops; its disk stays.
    Crash(u64),
    /// It comes back with its disk.
    Start(u64),
    /// It comes back with an empty disk.
    LoseDisk(u64),
    /// It claims an id and stops before its disk says so.
    StopWhileJoining(u64),
    /// Another number is wanted; pods from there on are ended.
    Scale(u64),
    /// The leader takes a step; with `false` its write does not arrive.
    Step(bool),
    /// Another voter leads.
    Elect(u64),
}

#[derive(Debug, Clone, Default)]
struct Disk {
    token: String,
    id: Option<u64>,
}

struct World {
    document: Document,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    disks: BTreeMap<u64, Disk>,
    /// Ids of replicas that run, by ordinal.
    running: BTreeMap<u64, u64>,
    leader: u64,
    wanted: u64,
    tokens: u64,
    /// Which disk has which id, for ever.
    owners: BTreeMap<u64, String>,
}

impl World {
    fn new(wanted: u64) -> Self {
        let document = Document::found("c".into(), wanted, |ordinal| ordinal.to_string());
        let mut world = Self {
            voters: document.founders.iter().copied().collect(),
            learners: BTreeSet::new(),
            disks: BTreeMap::new(),
            running: BTreeMap::new(),
            leader: 1,
            wanted,
            tokens: 0,
            owners: BTreeMap::new(),
            document,
        };
        for ordinal in 0..wanted {
            world.start(ordinal);
        }
        world
    }

    /// As `join` does.
    fn start(&mut self, ordinal: u64) {
        self.tokens += 1;
        let fresh = format!("disk {}", self.tokens);
        let disk = self.disks.entry(ordinal).or_insert(Disk {
            token: fresh,
            id: None,
        });
        let token = disk.token.clone();
        let id = match disk.id {
            Some(id) => id,
            None => {
                let claim = self.document.claim(ordinal, &token, "");
                if let Some(next) = claim.write {
                    self.document = next;
                }
                claim.id
            }
        };
        self.disks.get_mut(&ordinal).unwrap().id = Some(id);
        let owner = self.owners.entry(id).or_insert_with(|| token.clone());
        assert_eq!(*owner, token, "id {id} is given to a second disk");
        // As `keep` does.
        if self.document.standing("c", ordinal, id) == super::super::Standing::Replaced {
            self.disks.remove(&ordinal);
            self.running.remove(&ordinal);
            return self.start(ordinal);
        }
        self.running.insert(ordinal, id);
    }

    fn is_running(&self, id: u64) -> bool {
        self.running.values().any(|running| *running == id)
    }

    fn majority_without(&self, ordinal: u64) -> bool {
        let gone = self.running.get(&ordinal);
        let heard = |id: &&u64| self.is_running(**id) && gone != Some(*id);
        self.voters.iter().filter(heard).count() > self.voters.len() / 2
    }

    fn members(&self) -> Vec<MemberStatus> {
        let status = |id: &u64, voter| MemberStatus {
            id: *id,
            voter,
            matched: Some(1),
            active: Some(self.is_running(*id)),
        };
        let voters = self.voters.iter().map(|id| status(id, true));
        voters
            .chain(self.learners.iter().map(|id| status(id, false)))
            .collect()
    }

    fn leader(&mut self) -> u64 {
        if !(self.voters.contains(&self.leader) && self.is_running(self.leader)) {
            let heard = self.voters.iter().find(|id| self.is_running(**id));
            self.leader = *heard.unwrap();
        }
        self.leader
    }

    fn step(&mut self, arrives: bool) -> bool {
        let own = self.leader();
        let Some(step) = plan(&self.document, own, &self.members(), self.wanted) else {
            return false;
        };
        match step {
            Step::Write(next) if arrives => self.document = next,
            Step::Write(_) => {}
            Step::Change(Change::AddLearner(id)) => {
                assert!(!self.voters.contains(&id));
                assert!(self.learners.insert(id), "{id} is added twice");
            }
            Step::Change(Change::Promote(id)) => {
                assert!(self.learners.remove(&id), "{id} is no learner");
                self.voters.insert(id);
            }
            Step::Change(Change::Remove(id)) => {
                assert!(self.voters.remove(&id) | self.learners.remove(&id));
            }
        }
        let heard = self.voters.iter().filter(|id| self.is_running(**id));
        assert!(
            heard.count() > self.voters.len() / 2,
            "no majority is left of {:?}, running {:?}",
            self.voters,
            self.running
        );
        true
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Crash(ordinal) if self.majority_without(ordinal) => {
                self.running.remove(&ordinal);
            }
            Event::LoseDisk(ordinal) if ordinal < self.wanted && self.majority_without(ordinal) => {
                self.running.remove(&ordinal);
                self.disks.remove(&ordinal);
                self.start(ordinal);
            }
            Event::StopWhileJoining(ordinal)
                if ordinal < self.wanted && self.majority_without(ordinal) =>
            {
                self.running.remove(&ordinal);
                self.disks.remove(&ordinal);
                self.start(ordinal);
                self.running.remove(&ordinal);
                self.disks.get_mut(&ordinal).unwrap().id = None;
            }
            Event::Start(ordinal) if ordinal < self.wanted => self.start(ordinal),
            Event::Scale(wanted) => {
                self.wanted = wanted;
                for ordinal in (wanted..ORDINALS).rev() {
                    if self.majority_without(ordinal) {
                        self.running.remove(&ordinal);
                    }
                }
            }
            Event::Step(arrives) => {
                self.step(arrives);
            }
            Event::Elect(n) => {
                let heard = self.voters.iter().filter(|id| self.is_running(**id));
                let heard: Vec<u64> = heard.copied().collect();
                self.leader = heard[n as usize % heard.len()];
            }
            _ => {}
        }
    }

    /// All that is wanted runs; the leader does what there is to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            for ordinal in 0..self.wanted {
                self.start(ordinal);
            }
            if !self.step(true) {
                return;
            }
        }
        panic!("the plan never ends");
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..ORDINALS).prop_map(Event::Crash),
        3 => (0..ORDINALS).prop_map(Event::Start),
        2 => (0..ORDINALS).prop_map(Event::LoseDisk),
        1 => (0..ORDINALS).prop_map(Event::StopWhileJoining),
        1 => (1..=ORDINALS).prop_map(Event::Scale),
        6 => prop::bool::weighted(0.8).prop_map(Event::Step),
        1 => (0..ORDINALS).prop_map(Event::Elect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn each_wanted_ordinal_ends_as_one_voter_and_a_majority_is_never_lost(
        wanted in 1..=5u64,
        history in prop::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new(wanted);
        for event in history {
            world.take(event);
        }
        world.settle();
        let ordinals: Vec<Option<u64>> = world.voters.iter().map(|id| world.document.ordinal_of(*id)).collect();
        let expected: Vec<u64> = (0..world.wanted).collect();
        let mut found: Vec<u64> = ordinals.iter().copied().flatten().collect();
        found.sort_unstable();
        prop_assert_eq!(&found, &expected, "voters {:?}", world.voters);
        prop_assert_eq!(ordinals.len(), expected.len(), "voters {:?}", world.voters);
        prop_assert_eq!(world.learners.len(), 0);
    }
}

fn status(id: u64, voter: bool, active: bool) -> MemberStatus {
    MemberStatus {
        id,
        voter,
        matched: Some(1),
        active: Some(active),
    }
}

fn founded(disks: &[&str]) -> Document {
    let document = Document::found("c".into(), disks.len() as u64, |ordinal| {
        ordinal.to_string()
    });
    let claims = disks.iter().enumerate();
    claims.fold(document, |document, (ordinal, disk)| {
        document.claim(ordinal as u64, disk, "").write.unwrap()
    })
}

#[test]
fn a_lost_disk_leaves_first_and_the_new_one_joins_as_a_learner() {
    let document = founded(&["a", "b", "c"]);
    let document = document.claim(2, "d", "").write.unwrap();
    let mut members = vec![
        status(1, true, true),
        status(2, true, true),
        status(3, true, false),
    ];
    let next = |document: &Document, members: &[MemberStatus]| plan(document, 1, members, 3);
    let change = |change| Some(Step::Change(change));
    assert_eq!(next(&document, &members), change(Change::Remove(3)));
    members.pop();
    assert_eq!(next(&document, &members), change(Change::AddLearner(4)));
    members.push(status(4, false, false));
    assert_eq!(next(&document, &members), None, "not heard of yet");
    members[2].active = Some(true);
    assert_eq!(next(&document, &members), change(Change::Promote(4)));
    members[2].voter = true;
    let Some(Step::Write(document)) = next(&document, &members) else {
        panic!("the table must say that it has joined")
    };
    assert_eq!(document.members[&2].state, MemberState::Member);
    assert_eq!(next(&document, &members), None);
}

#[test]
fn five_become_three_from_the_highest_and_never_without_a_majority() {
    let document = founded(&["a", "b", "c", "d", "e"]);
    let mut members: Vec<MemberStatus> = (1..=5).map(|id| status(id, true, true)).collect();
    let next = |own, members: &[MemberStatus]| plan(&document, own, members, 3);
    let remove = |id| Some(Step::Change(Change::Remove(id)));
    assert_eq!(next(1, &members), remove(5));
    assert_eq!(next(5, &members), remove(4), "the leader last");
    // Two do not answer: without a third that does, three of four would be needed.
    members[0].active = Some(false);
    members[1].active = Some(false);
    assert_eq!(next(3, &members), None);
    members[4].active = Some(false);
    members[1].active = Some(true);
    assert_eq!(
        next(3, &members),
        remove(5),
        "one that is gone costs nothing"
    );
}

#[test]
fn one_that_has_joined_nowhere_waits_until_it_is_wanted() {
    let document = founded(&["a", "b", "c"]);
    let document = document.claim(3, "d", "").write.unwrap();
    let members: Vec<MemberStatus> = (1..=3).map(|id| status(id, true, true)).collect();
    assert_eq!(plan(&document, 1, &members, 3), None);
    let add = Some(Step::Change(Change::AddLearner(4)));
    assert_eq!(plan(&document, 1, &members, 4), add);
    assert_eq!(
        plan(&document, 9, &members, 4),
        None,
        "a leader that was replaced"
    );
}
