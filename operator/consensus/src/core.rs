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

use std::collections::BTreeMap;

use prost_raft::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, Message, MessageType,
};
use raft::{INVALID_ID, ProgressState, RawNode, StateRole};

use self::tail::Tail;
use crate::logger::Bridge;
use crate::members::{Change, Members};
use crate::mutation::{self, Mutation};
use crate::store::{Recovered, SavedSnapshot, Vote};
use crate::{MemberStatus, StartError, Status};

/// Ticks without a leader after which an election starts; up to twice as many, drawn anew each time.
pub(crate) const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Entries given to apply at a time, and entries of one message.
const PART_BYTES: u64 = 1024 * 1024;
/// Messages with entries that are on their way to a follower, at most.
const INFLIGHT_MAX: usize = 32;

/// A committed entry.
#[derive(Debug)]
pub(crate) struct CommittedEntry {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) content: Content,
}

/// What a committed entry carries.
#[derive(Debug)]
pub(crate) enum Content {
    /// What `chunk` made of a proposal; empty for a new leader's first entry and for barriers.
    Data(Vec<u8>),
    /// To be applied by [`Core::apply_change`].
    Change(Change),
}

/// What a leader knows of a member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Last index that it has.
    pub(crate) matched: u64,
    /// Whether it was heard of within the election time-out.
    pub(crate) active: bool,
}

/// What there is to do; see the module's text for the order.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// A leader's snapshot, which replaces log and state.
    pub(crate) install: Option<SavedSnapshot>,
    pub(crate) vote: Option<Vote>,
    pub(crate) entries: Vec<Entry>,
    /// Last index that is known to be committed; need not be durable.
    pub(crate) commit: u64,
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
    /// As in [`Work::commit`].
    pub(crate) commit: u64,
    /// Had to wait: answers to votes and appends.
    pub(crate) messages: Vec<Message>,
}

/// The state of one member. The log is kept in memory from a little before the last snapshot on.
pub(crate) struct Core {
    id: u64,
    raw: RawNode<Tail>,
    waiting: Option<raft::Ready>,
    /// Election time-outs are drawn from these.
    seed: u64,
    timeouts: u64,
    ticks: u64,
    /// The tick at which a member was last heard of. Raft's own mark is wiped each time it checks its quorum.
    heard: BTreeMap<u64, u64>,
}

impl Core {
    /// A member with what was recovered from its disk. `seed` makes its election time-outs differ from others'; the
    /// same inputs with the same seed give the same outputs.
    pub(crate) fn new(id: u64, recovered: Recovered, seed: u64) -> Result<Self, StartError> {
        let refuse = |error: raft::Error| StartError::Raft(error.to_string());
        let config = raft::Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: recovered.snapshot.as_ref().map_or(0, |saved| saved.index),
            max_size_per_msg: PART_BYTES,
            max_inflight_msgs: INFLIGHT_MAX,
            max_committed_size_per_ready: 8 * PART_BYTES,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Fuse(Bridge), slog::o!());
        let tail = Tail::new(recovered);
        let raw = RawNode::new(&config, tail, &logger).map_err(refuse)?;
        let mut core = Self {
            id,
            raw,
            waiting: None,
            seed: seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            timeouts: 0,
            ticks: 0,
            heard: BTreeMap::new(),
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
        self.ticks += 1;
        let before = self.raw.raft.election_elapsed;
        self.raw.tick();
        if self.raw.raft.election_elapsed <= before {
            self.timeouts += 1;
        }
        self.fix_election_ticks();
    }

    /// Takes a message of another voter. One that makes no sense is dropped, as if the network had lost it.
    pub(crate) fn step(&mut self, message: Message) {
        // Proposals go to the leader by other ways; here they would come without an answer.
        if message.get_msg_type() == MessageType::MsgPropose || message.to != self.id {
            return;
        }
        self.check_memory(&message);
        if self.members().contains(message.from) {
            self.heard.insert(message.from, self.ticks);
        }
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft message dropped");
        }
        self.fix_election_ticks();
    }

    /// A leader knows which entries this member said it had.
    ///
    /// # Panics
    /// When some are gone: the folder was lost or replaced by an older one. The member may have forgotten votes as well,
    /// so that going on could make two leaders.
    fn check_memory(&self, message: &Message) {
        let current = message.term >= self.term();
        let heartbeat = message.get_msg_type() == MessageType::MsgHeartbeat;
        assert!(
            !heartbeat || !current || message.commit <= self.last_index(),
            "raft node {} acknowledged entries through {} and its log ends at {}: its folder was lost or is an old copy. \
             Move the folder aside and let the node join under an id that was never used",
            self.id,
            message.commit,
            self.last_index()
        );
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
            members: members_of(snapshot.get_metadata().get_conf_state()),
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
            commit: ready.hs().map_or(0, |state| state.commit),
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
            store.reset(saved.index, saved.term, saved.members.clone());
        }
        if let Some(hard_state) = ready.hs() {
            store.set_hard_state(hard_state.clone());
        }
        store.append(&work.entries);
        let mut light = self.raw.advance_append(ready);
        let commit = light.commit_index();
        if let Some(commit) = commit {
            self.raw.mut_store().set_commit(commit);
        }
        messages.extend(light.take_messages());
        if mutation::on(Mutation::CommitWithoutQuorum) && self.leads() {
            let last = self.last_index();
            self.raw.raft.raft_log.commit_to(last);
        }
        Freed {
            commit: commit.unwrap_or(0),
            committed: take(light.take_committed_entries()),
            messages,
        }
    }

    /// All that was handed out as committed is applied.
    pub(crate) fn applied(&mut self) {
        self.raw.advance_apply();
    }

    /// Forgets the log through `index`, which a snapshot covers and which is applied; at most `keep` entries and bytes
    /// before it stay.
    pub(crate) fn compact(&mut self, index: u64, keep: (u64, u64)) {
        self.raw.mut_store().compact(index, keep);
    }

    /// Index through which the log was forgotten.
    pub(crate) fn compacted(&self) -> u64 {
        self.raw.store().start()
    }

    /// Whether a follower needs a snapshot; the answer is [`Core::offer_snapshot`], or nothing: raft asks again.
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.raw.store().take_wanted()
    }

    /// Lets raft send a snapshot to followers until [`Core::withdraw_snapshot`], which frees its memory.
    pub(crate) fn offer_snapshot(&mut self, saved: SavedSnapshot) {
        self.raw.mut_store().offer(saved);
    }

    /// Takes the offer back.
    pub(crate) fn withdraw_snapshot(&mut self) {
        self.raw.mut_store().withdraw();
    }

    /// Whether a snapshot is on its way to a follower.
    pub(crate) fn sends_snapshot(&self, to: u64) -> bool {
        let progress = self.raw.raft.prs().get(to);
        self.leads() && progress.is_some_and(|progress| progress.state == ProgressState::Snapshot)
    }

    /// Says whether a snapshot reached its follower; without this raft sends it nothing more.
    pub(crate) fn report_snapshot(&mut self, to: u64, arrived: bool) {
        let status = if arrived {
            raft::SnapshotStatus::Finish
        } else {
            raft::SnapshotStatus::Failure
        };
        self.raw.report_snapshot(to, status);
    }

    /// A member was not reached: raft sends it one message at a time until it answers.
    pub(crate) fn unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
    }

    /// Hands in a change of the members; gives its index and term, or none when this voter does not lead or another
    /// change is under way.
    pub(crate) fn propose_change(&mut self, change: Change) -> Option<(u64, u64)> {
        if !self.leads() || self.is_changing() {
            return None;
        }
        self.raw
            .propose_conf_change(Vec::new(), conf_change(change))
            .ok()?;
        Some((self.last_index(), self.raw.raft.term))
    }

    /// Whether a change of the members may be in the log and not applied.
    pub(crate) fn is_changing(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Applies the change that the entry of `index` carries; gives the members when they are others now. One that the
    /// members on disk had in them already, or that raft finds impossible, changes nothing.
    pub(crate) fn apply_change(&mut self, index: u64, change: Change) -> Option<Members> {
        if index <= self.raw.store().members().0 {
            return None;
        }
        match self.raw.apply_conf_change(&conf_change(change)) {
            Ok(state) => {
                let members = members_of(&state);
                self.raw.mut_store().set_members(index, members.clone());
                self.heard.retain(|id, _| members.contains(*id));
                self.leave_if_removed();
                self.fix_election_ticks();
                Some(members)
            }
            // Every member finds the same: it depends on the members alone.
            Err(error) => {
                tracing::error!(index, %error, "change of members is impossible and changes nothing");
                None
            }
        }
    }

    /// A leader that was removed, by an entry of the leader before it, hands over to who has most of the log, and follows.
    fn leave_if_removed(&mut self) {
        if !self.leads() || self.members().voters.contains(&self.id) {
            return;
        }
        let heirs = self.members().voters.iter().filter_map(|id| {
            let progress = self.progress(*id)?;
            progress.active.then_some((progress.matched, *id))
        });
        if let Some((_, heir)) = heirs.max() {
            self.raw.raft.send_timeout_now(heir);
        }
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, INVALID_ID);
    }

    /// Begins to hand over to the voter with most of the log; raft drops proposals until that leads or the election
    /// time-out is over. None when no other voter is heard of, or this one does not lead.
    pub(crate) fn hand_over(&mut self) -> Option<u64> {
        if !self.leads() {
            return None;
        }
        let others = self.members().voters.iter().filter(|id| **id != self.id);
        let others = others.filter_map(|id| {
            let progress = self.progress(*id)?;
            progress.active.then_some((progress.matched, *id))
        });
        let (_, heir) = others.max()?;
        // One that was asked goes on: two would compete.
        let asked = self.raw.raft.lead_transferee;
        if asked.is_none() {
            self.raw.transfer_leader(heir);
        }
        Some(asked.unwrap_or(heir))
    }

    /// What this leader knows of a member; none when it does not lead or the member is none.
    pub(crate) fn progress(&self, id: u64) -> Option<Progress> {
        if !self.leads() {
            return None;
        }
        let raft = &self.raw.raft;
        let progress = raft.prs().get(id)?;
        Some(Progress {
            matched: progress.matched,
            active: id == self.id || self.hears(id),
        })
    }

    /// Whether a member was heard of within the election time-out.
    fn hears(&self, id: u64) -> bool {
        let heard = self.heard.get(&id);
        heard.is_some_and(|tick| tick + ELECTION_TICKS as u64 >= self.ticks)
    }

    /// The members, as of the last applied entry.
    pub(crate) fn members(&self) -> &Members {
        &self.raw.store().members().1
    }

    /// Current term.
    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
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
                StateRole::Follower if self.members().voters.contains(&self.id) => "follower",
                StateRole::Follower if self.members().contains(self.id) => "learner",
                StateRole::Follower => "outside",
                StateRole::Candidate | StateRole::PreCandidate => "candidate",
            },
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied,
            log_bytes,
            members: self.member_statuses(),
        }
    }

    fn member_statuses(&self) -> Vec<MemberStatus> {
        let members = self.members();
        let of = |id: &u64, voter| {
            let progress = self.progress(*id);
            MemberStatus {
                id: *id,
                voter,
                matched: progress.map(|progress| progress.matched),
                active: progress.map(|progress| progress.active),
            }
        };
        let voters = members.voters.iter().map(|id| of(id, true));
        let learners = members.learners.iter().map(|id| of(id, false));
        voters.chain(learners).collect()
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
    let content = |entry: Entry| match entry.get_entry_type() {
        EntryType::EntryNormal => Content::Data(entry.data),
        kind => {
            let change = (kind == EntryType::EntryConfChange)
                .then(|| ConfChange::decode(&entry.data[..]).ok())
                .flatten();
            let change = change.unwrap_or_else(|| {
                panic!(
                    "raft entry {} changes the members in an unknown way; run the version that wrote it",
                    entry.index
                )
            });
            Content::Change(match change.get_change_type() {
                ConfChangeType::AddNode => Change::Promote(change.node_id),
                ConfChangeType::RemoveNode => Change::Remove(change.node_id),
                ConfChangeType::AddLearnerNode => Change::AddLearner(change.node_id),
            })
        }
    };
    entries
        .into_iter()
        .map(|entry| CommittedEntry {
            index: entry.index,
            term: entry.term,
            content: content(entry),
        })
        .collect()
}

fn members_of(state: &ConfState) -> Members {
    let mut members = Members {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
    };
    members.voters.sort_unstable();
    members.learners.sort_unstable();
    members
}

fn conf_change(change: Change) -> ConfChange {
    let (kind, id) = match change {
        Change::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
        Change::Promote(id) => (ConfChangeType::AddNode, id),
        Change::Remove(id) => (ConfChangeType::RemoveNode, id),
    };
    let mut entry = ConfChange {
        node_id: id,
        ..ConfChange::default()
    };
    entry.set_change_type(kind);
    entry
}
