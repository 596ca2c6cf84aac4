//! What raft reads of its own log: everything behind the last snapshot, in memory.

use std::cell::Cell;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::store::{Recovered, SavedSnapshot, Vote};

/// The log behind a snapshot. Bounded by the snapshots that the node takes.
pub(super) struct Tail {
    hard_state: HardState,
    voters: Vec<u64>,
    /// Index and term of the last entry that is not here any more.
    start: (u64, u64),
    entries: Vec<Entry>,
    /// For a follower that is behind `start`; put here when raft asks, taken away when it was sent.
    offered: Option<Snapshot>,
    wanted: Cell<bool>,
}

impl Tail {
    /// What was recovered; `voters` are those of the configuration unless a snapshot says otherwise.
    pub(super) fn new(voters: Vec<u64>, recovered: Recovered) -> Self {
        let snapshot = recovered.snapshot;
        let start = snapshot
            .as_ref()
            .map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
        let hard_state = HardState {
            term: recovered.vote.term,
            vote: recovered.vote.vote,
            commit: start.0,
        };
        Self {
            hard_state,
            voters: snapshot.map_or(voters, |snapshot| snapshot.voters),
            start,
            entries: recovered.entries,
            offered: None,
            wanted: Cell::new(false),
        }
    }

    pub(super) fn voters(&self) -> &[u64] {
        &self.voters
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
    pub(super) fn reset(&mut self, index: u64, term: u64, voters: Vec<u64>) {
        self.start = (index, term);
        self.entries.clear();
        self.voters = voters;
        self.hard_state.commit = self.hard_state.commit.max(index);
    }

    /// Forgets the entries through `index`.
    pub(super) fn compact(&mut self, index: u64) {
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
        metadata.set_conf_state(conf_state(saved.voters));
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

pub(super) fn conf_state(voters: Vec<u64>) -> ConfState {
    ConfState {
        voters,
        ..ConfState::default()
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            conf_state(self.voters.clone()),
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
        let mut entries = self.entries[self.position(low)..self.position(high)].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
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
