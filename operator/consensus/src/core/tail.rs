//! What raft reads of its own log: everything behind the last snapshot, and a little of what it covers, in memory.

use std::cell::Cell;

use prost_raft::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::members::Members;
use crate::store::{Recovered, SavedSnapshot, Vote, kept_behind};

/// The end of the log. Bounded by the snapshots that the node takes and by what is kept behind them.
pub(super) struct Tail {
    hard_state: HardState,
    /// Members, and the index whose entry made them so.
    members: (u64, Members),
    /// Index and term of the last entry that is not here any more.
    start: (u64, u64),
    entries: Vec<Entry>,
    /// For a follower that is behind `start`; put here when raft asks, taken away when it was sent.
    offered: Option<Snapshot>,
    wanted: Cell<bool>,
}

impl Tail {
    /// What was recovered. A disk that knows no members belongs to a node that waits to be added.
    pub(super) fn new(recovered: Recovered) -> Self {
        let members = recovered.newest_members().unwrap_or_default();
        let snapshot = recovered.snapshot.as_ref();
        let covered = snapshot.map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
        // A leader's snapshot may be on disk without the vote that came with it: its term has begun, and nobody got
        // a vote in it.
        let vote = if recovered.vote.term < covered.1 {
            Vote {
                term: covered.1,
                vote: 0,
            }
        } else {
            recovered.vote
        };
        let hard_state = HardState {
            term: vote.term,
            vote: vote.vote,
            commit: recovered.commit.max(covered.0),
        };
        let mut entries = recovered.entries;
        let start = match entries.first() {
            // The first one that is kept says where the log starts: the term of the one before it is gone.
            Some(first) if first.index <= covered.0 => {
                let start = (first.index, first.term);
                entries.remove(0);
                start
            }
            _ => covered,
        };
        Self {
            hard_state,
            members,
            start,
            entries,
            offered: None,
            wanted: Cell::new(false),
        }
    }

    /// Members, and the index whose entry made them so.
    pub(super) fn members(&self) -> &(u64, Members) {
        &self.members
    }

    pub(super) fn set_members(&mut self, index: u64, members: Members) {
        self.members = (index, members);
    }

    /// Index of the last entry that is covered by a snapshot alone.
    pub(super) fn start(&self) -> u64 {
        self.start.0
    }

    /// Term and vote as of the last hard state.
    pub(super) fn vote(&self) -> Vote {
        Vote {
            term: self.hard_state.term,
            vote: self.hard_state.vote,
        }
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    /// Adds entries, which replace what is there from the first one's index on.
    ///
    /// # Panics
    /// When they leave a gap, which raft never makes.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.start.0 < first.index && first.index <= self.last() + 1,
            "raft gave entries from {} on to a log of {}..={}",
            first.index,
            self.start.0 + 1,
            self.last()
        );
        self.entries.truncate(self.position(first.index));
        self.entries.extend_from_slice(entries);
    }

    /// Replaces everything by a snapshot.
    pub(super) fn reset(&mut self, index: u64, term: u64, members: Members) {
        self.start = (index, term);
        self.entries.clear();
        self.members = (index, members);
        self.hard_state.commit = self.hard_state.commit.max(index);
    }

    /// Forgets the entries through `index` but for the last ones, of which at most `keep` entries and bytes stay.
    pub(super) fn compact(&mut self, index: u64, keep: (u64, u64)) {
        // Index 1 never stays: a log that starts there would be sent to a new member, who lacks what was before it.
        let index = kept_behind(&self.entries, index, keep.0, keep.1).max(1);
        if let Ok(term) = self.term(index)
            && index > self.start.0
        {
            self.entries.drain(..self.position(index + 1));
            self.start = (index, term);
        }
    }

    /// Whether raft asked for a snapshot since the last call.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    /// Lets raft send `snapshot`, until [`Tail::withdraw`].
    pub(super) fn offer(&mut self, saved: SavedSnapshot) {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = saved.index;
        metadata.term = saved.term;
        metadata.set_conf_state(conf_state(&saved.members));
        snapshot.data = saved.state;
        self.offered = Some(snapshot);
    }

    pub(super) fn withdraw(&mut self) {
        self.offered = None;
    }

    fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    /// Where the entry with `index`, which is behind the start, lies.
    fn position(&self, index: u64) -> usize {
        (index - self.start.0 - 1) as usize
    }
}

fn conf_state(members: &Members) -> ConfState {
    ConfState {
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        ..ConfState::default()
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            conf_state(&self.members.1),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.start.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let wanted = &self.entries[self.position(low)..self.position(high)];
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        // One always goes, whatever its size. No more is copied than goes.
        let fitting = wanted.iter().enumerate().take_while(|(position, entry)| {
            bytes += entry.encoded_len() as u64;
            *position == 0 || bytes <= bytes_max
        });
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.start.0 {
            return Ok(self.start.1);
        }
        if index < self.start.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(self.position(index));
        entry
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> Result<Snapshot> {
        match &self.offered {
            Some(snapshot) if snapshot.get_metadata().index >= request_index => {
                Ok(snapshot.clone())
            }
            _ => {
                self.wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
