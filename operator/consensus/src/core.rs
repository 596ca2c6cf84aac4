//! Raft itself, without disk, clock or network: proposals and ticks in, what to persist and what to apply out.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};

use crate::logger::Bridge;
use crate::store::Recovered;
use crate::{StartError, Status};

/// Entries that a proposal's last entry is told apart by.
type Context = Vec<u8>;

/// A committed entry.
#[derive(Debug)]
pub(crate) struct CommittedEntry {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) context: Context,
}

/// What must be on disk before [`Core::persisted`].
#[derive(Debug, Default)]
pub(crate) struct Persist {
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) must_sync: bool,
}

/// The state of one voter. The log's tail is kept in memory from the last snapshot on.
pub(crate) struct Core {
    raw: RawNode<MemStorage>,
    waiting: Option<raft::Ready>,
}

impl Core {
    /// A voter with what was recovered from its disk.
    pub(crate) fn new(
        id: u64,
        voters: Vec<u64>,
        recovered: &Recovered,
    ) -> Result<Self, StartError> {
        let refuse = |error: raft::Error| StartError::Raft(error.to_string());
        let storage = MemStorage::new_with_conf_state(ConfState {
            voters: voters.clone(),
            ..ConfState::default()
        });
        let mut applied = 0;
        if let Some(saved) = &recovered.snapshot {
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            metadata.index = saved.index;
            metadata.term = saved.term;
            metadata.set_conf_state(ConfState {
                voters,
                ..ConfState::default()
            });
            storage.wl().apply_snapshot(snapshot).map_err(refuse)?;
            applied = saved.index;
        }
        storage.wl().append(&recovered.entries).map_err(refuse)?;
        let mut hard_state = recovered.hard_state.clone();
        hard_state.commit = hard_state.commit.max(applied);
        hard_state.term = hard_state
            .term
            .max(recovered.entries.last().map_or(0, |entry| entry.term));
        storage.wl().set_hardstate(hard_state);
        let config = raft::Config {
            id,
            election_tick: 10,
            heartbeat_tick: 2,
            applied,
            max_size_per_msg: 1024 * 1024,
            max_inflight_msgs: 64,
            max_committed_size_per_ready: u64::MAX,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Fuse(Bridge), slog::o!());
        let raw = RawNode::new(&config, storage, &logger).map_err(refuse)?;
        Ok(Self { raw, waiting: None })
    }

    /// Asks for votes now instead of after the election time-out.
    pub(crate) fn campaign(&mut self) -> Result<(), StartError> {
        self.raw
            .campaign()
            .map_err(|error| StartError::Raft(error.to_string()))
    }

    /// One unit of time has passed.
    pub(crate) fn tick(&mut self) {
        self.raw.tick();
    }

    /// Hands in one entry. Returns false when this voter does not lead.
    pub(crate) fn propose(&mut self, context: Context, data: Vec<u8>) -> bool {
        self.raw.propose(context, data).is_ok()
    }

    /// What must be persisted next; none when there is nothing to do.
    pub(crate) fn ready(&mut self) -> Option<(Persist, Vec<CommittedEntry>)> {
        debug_assert!(self.waiting.is_none(), "the last ready was not persisted");
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let committed = take(ready.take_committed_entries());
        let persist = Persist {
            entries: ready.entries().clone(),
            hard_state: ready.hs().cloned(),
            must_sync: ready.must_sync(),
        };
        self.waiting = Some(ready);
        Some((persist, committed))
    }

    /// What [`Core::ready`] gave is on disk; gives what is committed by that.
    pub(crate) fn persisted(&mut self, persist: &Persist) -> Vec<CommittedEntry> {
        let Some(ready) = self.waiting.take() else {
            return Vec::new();
        };
        {
            let mut storage = self.raw.mut_store().wl();
            if let Some(hard_state) = &persist.hard_state {
                storage.set_hardstate(hard_state.clone());
            }
            // Fails only for a gap, which raft never makes.
            let appended = storage.append(&persist.entries);
            assert!(appended.is_ok(), "raft gave entries with a gap");
        }
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().wl().mut_hard_state().commit = commit;
        }
        take(light.take_committed_entries())
    }

    /// All that was handed out as committed is applied.
    pub(crate) fn applied(&mut self) {
        self.raw.advance_apply();
    }

    /// Forgets the log before `index`, which a snapshot covers.
    pub(crate) fn compact(&mut self, index: u64) {
        // Fails only when it is compacted further already.
        let _ = self.raw.mut_store().wl().compact(index);
    }

    /// Whether this voter leads.
    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Index of the last entry of the log.
    pub(crate) fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// Where it stands; `log_bytes` is the store's.
    pub(crate) fn status(&self, applied: u64, log_bytes: u64) -> Status {
        let raft = &self.raw.raft;
        Status {
            role: match raft.state {
                StateRole::Leader => "leader",
                StateRole::Follower => "follower",
                StateRole::Candidate | StateRole::PreCandidate => "candidate",
            },
            term: raft.term,
            leader: (raft.leader_id != 0).then_some(raft.leader_id),
            commit: raft.raft_log.committed,
            applied,
            log_bytes,
        }
    }
}

fn take(entries: Vec<Entry>) -> Vec<CommittedEntry> {
    entries
        .into_iter()
        .map(|entry| CommittedEntry {
            index: entry.index,
            term: entry.term,
            data: entry.data,
            context: entry.context,
        })
        .collect()
}
