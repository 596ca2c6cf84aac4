//! Raft itself, without disk, clock, network or randomness of its own.
//!
//! ```text
//!   messages, ticks, proposals --> Core::ready --> Work: messages to send, what to persist, what to apply
//!                                       ^                           |
//!                                       `------ Core::persisted <---'  gives messages and entries that had to wait
//! ```
//!
//! The caller persists [`Work::install`], then vote and entries, syncs, and only then calls [`Core::persisted`]: a vote
//! is on disk before it is answered (Raft paper, figure 2), an entry before it is acknowledged.

mod tail;
#[cfg(test)]
mod tests;

use raft::eraftpb::{Entry, EntryType, Message};
use raft::{RawNode, StateRole};

use self::tail::Tail;
use crate::logger::Bridge;
use crate::store::{Recovered, SavedSnapshot, Vote};
use crate::{StartError, Status};

/// Ticks without a leader after which an election starts; up to twice as many, drawn anew each time.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Entries given to apply at a time, and entries of one message.
const PART_BYTES: u64 = 1024 * 1024;

/// A committed entry.
#[derive(Debug)]
pub(crate) struct CommittedEntry {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) data: Vec<u8>,
}

/// What there is to do; see the module's text for the order.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// A leader's snapshot, which replaces log and state.
    pub(crate) install: Option<SavedSnapshot>,
    pub(crate) vote: Option<Vote>,
    pub(crate) entries: Vec<Entry>,
    /// What was committed earlier.
    pub(crate) committed: Vec<CommittedEntry>,
    /// May leave before anything is persisted.
    pub(crate) messages: Vec<Message>,
}

impl Work {
    /// Whether something must be on disk before [`Core::persisted`].
    pub(crate) fn must_sync(&self) -> bool {
        self.install.is_some() || self.vote.is_some() || !self.entries.is_empty()
    }
}

/// What persisting set free.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    pub(crate) committed: Vec<CommittedEntry>,
    /// Had to wait: answers to votes and appends.
    pub(crate) messages: Vec<Message>,
}

/// The state of one voter. The log is kept in memory from the last snapshot on.
pub(crate) struct Core {
    raw: RawNode<Tail>,
    waiting: Option<raft::Ready>,
    /// Election time-outs are drawn from these.
    seed: u64,
    timeouts: u64,
}

impl Core {
    /// A voter with what was recovered from its disk. `seed` makes its election time-outs differ from others'; the
    /// same inputs with the same seed give the same outputs.
    pub(crate) fn new(
        id: u64,
        voters: Vec<u64>,
        recovered: Recovered,
        seed: u64,
    ) -> Result<Self, StartError> {
        let refuse = |error: raft::Error| StartError::Raft(error.to_string());
        let config = raft::Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: recovered.snapshot.as_ref().map_or(0, |saved| saved.index),
            max_size_per_msg: PART_BYTES,
            max_inflight_msgs: 64,
            max_committed_size_per_ready: 8 * PART_BYTES,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Fuse(Bridge), slog::o!());
        let tail = Tail::new(voters, recovered);
        let raw = RawNode::new(&config, tail, &logger).map_err(refuse)?;
        let mut core = Self {
            raw,
            waiting: None,
            seed: seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            timeouts: 0,
        };
        core.fix_election_ticks();
        Ok(core)
    }

    /// Asks for votes now instead of after the election time-out.
    pub(crate) fn campaign(&mut self) -> Result<(), StartError> {
        let asked = self.raw.campaign();
        self.fix_election_ticks();
        asked.map_err(|error| StartError::Raft(error.to_string()))
    }

    /// One unit of time has passed.
    pub(crate) fn tick(&mut self) {
        let before = self.raw.raft.election_elapsed;
        self.raw.tick();
        if self.raw.raft.election_elapsed <= before {
            self.timeouts += 1;
        }
        self.fix_election_ticks();
    }

    /// Takes a message of another voter. One that makes no sense is dropped, as if the network had lost it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the transport"))]
    pub(crate) fn step(&mut self, message: Message) {
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft message dropped");
        }
        self.fix_election_ticks();
    }

    /// Hands in one entry; gives its index and term, or none when this voter does not lead. It may still be
    /// overwritten: it is committed when an entry with this index *and* this term is.
    pub(crate) fn propose(&mut self, data: Vec<u8>) -> Option<(u64, u64)> {
        if !self.leads() {
            return None;
        }
        self.raw.propose(Vec::new(), data).ok()?;
        Some((self.last_index(), self.raw.raft.term))
    }

    /// What is to be done next; none when there is nothing.
    pub(crate) fn ready(&mut self) -> Option<Work> {
        assert!(self.waiting.is_none(), "the last work was not persisted");
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let snapshot = ready.snapshot();
        let install = (snapshot.get_metadata().index > 0).then(|| SavedSnapshot {
            index: snapshot.get_metadata().index,
            term: snapshot.get_metadata().term,
            voters: snapshot.get_metadata().get_conf_state().voters.clone(),
            state: snapshot.data.clone(),
        });
        let kept = self.raw.store();
        let vote = ready.hs().map(|state| Vote {
            term: state.term,
            vote: state.vote,
        });
        let work = Work {
            install,
            vote: vote.filter(|vote| *vote != kept.vote()),
            committed: take(ready.take_committed_entries()),
            messages: ready.take_messages(),
            entries: ready.take_entries(),
        };
        self.waiting = Some(ready);
        Some(work)
    }

    /// What [`Core::ready`] gave last is on disk, and what it gave as committed is applied.
    pub(crate) fn persisted(&mut self, work: &Work) -> Freed {
        let Some(mut ready) = self.waiting.take() else {
            return Freed::default();
        };
        let mut messages = ready.take_persisted_messages();
        let store = self.raw.mut_store();
        if let Some(saved) = &work.install {
            store.reset(saved.index, saved.term, saved.voters.clone());
        }
        if let Some(hard_state) = ready.hs() {
            store.set_hard_state(hard_state.clone());
        }
        store.append(&work.entries);
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().set_commit(commit);
        }
        messages.extend(light.take_messages());
        Freed {
            committed: take(light.take_committed_entries()),
            messages,
        }
    }

    /// All that was handed out as committed is applied.
    pub(crate) fn applied(&mut self) {
        self.raw.advance_apply();
    }

    /// Forgets the log through `index`, which a snapshot covers and which is applied.
    pub(crate) fn compact(&mut self, index: u64) {
        self.raw.mut_store().compact(index);
    }

    /// Index through which the log was forgotten.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the transport"))]
    pub(crate) fn compacted(&self) -> u64 {
        self.raw.store().start()
    }

    /// Whether a follower needs a snapshot; the answer is [`Core::offer_snapshot`], or nothing: raft asks again.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the transport"))]
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.raw.store().take_wanted()
    }

    /// Lets raft send a snapshot to followers until [`Core::withdraw_snapshot`], which frees its memory.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the transport"))]
    pub(crate) fn offer_snapshot(&mut self, saved: SavedSnapshot) {
        self.raw.mut_store().offer(saved);
    }

    /// Takes the offer back.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the transport"))]
    pub(crate) fn withdraw_snapshot(&mut self) {
        self.raw.mut_store().withdraw();
    }

    /// Says whether a snapshot reached its follower; without this raft sends it nothing more.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the transport"))]
    pub(crate) fn report_snapshot(&mut self, to: u64, arrived: bool) {
        let status = if arrived {
            raft::SnapshotStatus::Finish
        } else {
            raft::SnapshotStatus::Failure
        };
        self.raw.report_snapshot(to, status);
    }

    /// The voters, as of the last snapshot.
    pub(crate) fn voters(&self) -> &[u64] {
        self.raw.store().voters()
    }

    /// Whether this voter leads.
    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Index of the last entry of the log.
    pub(crate) fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// The leader, if known.
    pub(crate) fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
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
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied,
            log_bytes,
        }
    }

    /// Raft draws its time-out from the thread's generator, which no run can repeat. It is replaced by one that depends
    /// on the seed, the term and how often time ran out; called after whatever may have made raft draw.
    fn fix_election_ticks(&mut self) {
        let raft = &mut self.raw.raft;
        // splitmix64
        let mut z = self.seed ^ (raft.term << 32) ^ self.timeouts;
        z = z.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let ticks = ELECTION_TICKS + (z % ELECTION_TICKS as u64) as usize;
        raft.set_randomized_election_timeout(ticks);
    }
}

fn take(entries: Vec<Entry>) -> Vec<CommittedEntry> {
    entries
        .into_iter()
        .map(|entry| {
            // The voters are fixed: nobody proposes a change of them.
            assert_eq!(
                entry.get_entry_type(),
                EntryType::EntryNormal,
                "raft entry {} changes the voters; run the version that wrote it",
                entry.index
            );
            CommittedEntry {
                index: entry.index,
                term: entry.term,
                data: entry.data,
            }
        })
        .collect()
}
