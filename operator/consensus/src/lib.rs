//! Replicated log and state machine: Raft, its log on disk, and the thread that drives both.
//!
//! ```text
//!   propose, step, change --bounded lanes--> node thread: Core (raft, no I/O) --entries--> Store (log, fsync, snapshots)
//!                                              |    `--committed entries--> StateMachine::apply --> observer, answers
//!                                              `--messages--> Outbox (the caller's transport)
//! ```
//! Outside in: `node` (handle), `node/mailbox` (what waits), `node/driver` (the thread), `core` (raft), `store` (what
//! outlives a crash), `members` (who belongs to a group), `chunk` (proposals as entries). `simulation` is a test: a group
//! of drivers from a seed, with a bad network, bad disks and crashes.
//!
//! **Invariants**
//! - A proposal is answered after its entry is on disk on a majority of the voters and applied here.
//! - The log is only appended to after everything before it was synced; a failed sync ends the node for good.
//! - Entries stay below 1 MiB: a larger proposal is cut into chunks and applied once, at the last one's index.
//! - A damaged log refuses to start; only a last record that was never acknowledged is cut off.
//! - Members come from the disk once there is anything on it; they change by one at a time.
//! - [`Leadership::leads`] is said only once everything that earlier leaders acknowledged is applied here.
//! - No type of the `raft` crate leaves this one.
//!
//! It deliberately does not know what the entries mean, how messages travel, nor where members live: the caller's
//! transport ([`Outbox`], [`Node::step`]) knows addresses and checks who sent what.
//!
//! **Who is a member.** `Config::initial_voters` found a group, each on an empty folder. Whoever comes later starts with
//! none, is added as a learner, gets a snapshot and the log, and is promoted ([`Node::change`]). An id belongs to a
//! folder: a voter that lost it has forgotten its votes, so it comes back under an id that was never used, and the old id
//! is removed. A node that the leader knows to have forgotten something panics instead of voting.
//!
//! **When the disk fails.** A full disk shows when the next log segment is to be made: proposals are refused with
//! [`ProposeError::NoRoom`] until there is room, a follower drops the leader's entries, and everything else goes on. A
//! failed write or sync ends the node ([`Node::stopped`]); the process must exit and start anew, since what the disk holds
//! is no longer known. So does a leader's snapshot that finds no room.

mod chunk;
mod core;
mod logger;
mod members;
mod metrics;
mod mutation;
mod node;
#[cfg(test)]
mod simulation;
mod store;
#[cfg(test)]
mod testing;

use std::path::PathBuf;
use std::time::Duration;

pub use members::{Change, ChangeError, Members};
pub use node::{Node, start, start_with_peers};
pub use store::disk::{Disk, RealDisk};
pub use store::{Batch, Identity, StoreError, Wal};

/// What entries are applied to. Applying must depend on the arguments alone.
pub trait StateMachine: Send + 'static {
    /// What the proposer and the observer get.
    type Output: Send + Clone + 'static;

    /// Applies the proposal that was committed at `index`. Indices grow and have holes.
    fn apply(&mut self, index: u64, data: &[u8]) -> Self::Output;

    /// The whole state as bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by an earlier [`StateMachine::snapshot`].
    ///
    /// # Errors
    /// A text that says what is wrong with the bytes.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;
}

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of log and snapshots; one process at a time.
    pub data_dir: PathBuf,
    /// This member, from 1. An id belongs to a folder: who lost the folder comes back with an id that was never used.
    pub id: u64,
    /// Voters of a group that is founded, the same on each of them; read when the folder is empty, later the folder
    /// knows. Empty for a node that joins a group: it waits for a leader to add it.
    pub initial_voters: Vec<u64>,
    /// Time of one tick; an election starts after 10 to 20 without a leader.
    pub tick: Duration,
    /// A snapshot is taken, and the log before it dropped, after so many entries.
    pub snapshot_after_entries: u64,
    /// ... or after so many bytes of log.
    pub snapshot_after_bytes: u64,
    /// Proposals that wait; one more is refused with [`ProposeError::QueueFull`].
    pub proposals_queue_max: usize,
    /// Bytes of all proposals that are not answered yet; one more is refused with [`ProposeError::QueueFull`], unless
    /// it is the only one.
    pub proposals_bytes_max: usize,
    /// Largest proposal, bytes, at most about 960 MiB; a larger one is refused with [`ProposeError::TooLarge`].
    pub proposal_bytes_max: usize,
    /// Messages of other members that wait; one more is dropped with [`StepError::QueueFull`], and raft sends anew.
    pub messages_queue_max: usize,
    /// ... or so many bytes of them, unless it is the only one.
    pub messages_bytes_max: usize,
    /// Entries that stay in memory behind a snapshot in a group of several, for followers that are a little behind.
    pub keep_entries_max: u64,
    /// ... at most so many bytes of them.
    pub keep_bytes_max: u64,
}

impl Config {
    /// Defaults for one voter on a folder.
    pub fn single(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            id: 1,
            initial_voters: vec![1],
            tick: Duration::from_millis(100),
            snapshot_after_entries: 10_000,
            snapshot_after_bytes: 64 * 1024 * 1024,
            proposals_queue_max: 1024,
            proposals_bytes_max: 256 * 1024 * 1024,
            proposal_bytes_max: 256 * 1024 * 1024,
            messages_queue_max: 1024,
            messages_bytes_max: 64 * 1024 * 1024,
            keep_entries_max: store::KEPT_ENTRIES,
            keep_bytes_max: store::KEPT_BYTES,
        }
    }

    /// Defaults for one member of a group.
    pub fn member(data_dir: PathBuf, id: u64, initial_voters: Vec<u64>) -> Self {
        Self {
            id,
            initial_voters,
            ..Self::single(data_dir)
        }
    }
}

/// Takes messages to other members. Raft sends anew what is lost.
pub trait Outbox: Send + 'static {
    /// Sends a message, or drops it when its queue is full. Must not block: the log waits for it.
    fn send(&mut self, to: u64, message: Vec<u8>);

    /// Sends a message that holds the whole state; what became of it is to be told by [`Node::snapshot_sent`].
    fn send_snapshot(&mut self, to: u64, message: Vec<u8>) {
        self.send(to, message);
    }
}

/// What the observer hears, in order.
#[derive(Debug, Clone)]
pub enum Observed<O> {
    /// A proposal was applied.
    Applied(Applied<O>),
    /// A leader's snapshot replaced the state: proposals through `index` were not seen one by one.
    Restored {
        /// Last index that is in the state.
        index: u64,
    },
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Current term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<u64>,
    /// This node leads, and everything that an earlier leader acknowledged is applied here.
    pub leads: bool,
}

/// Why a message of another member was not taken. Raft sends anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Too many wait already.
    #[error("the queue of raft messages is full")]
    QueueFull,
    /// Not one of raft's.
    #[error("the bytes are no raft message")]
    Malformed,
    /// The node has ended.
    #[error("the raft node has stopped")]
    Stopped,
}

/// An applied proposal, in log order.
#[derive(Debug, Clone)]
pub struct Applied<O> {
    /// Its index.
    pub index: u64,
    /// What the state machine gave.
    pub output: O,
}

/// Answer to a proposal.
#[derive(Debug, Clone)]
pub struct Committed<O> {
    /// Its index.
    pub index: u64,
    /// What the state machine gave.
    pub output: O,
    /// Time from the call to the applied entry.
    pub took: Duration,
}

/// Why a proposal was not committed, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another voter leads, or none does.
    #[error("this node does not lead; node {leader:?} does")]
    NotLeader {
        /// The leader, if known.
        leader: Option<u64>,
    },
    /// Too many wait already.
    #[error("the queue of proposals is full")]
    QueueFull,
    /// The proposal is over the limit.
    #[error("a proposal of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// No room for the log. Nothing was written; try again when there is.
    #[error("the raft log cannot grow: {0}; free space in the data folder")]
    NoRoom(String),
    /// This node led when it took the proposal and does not any more; the entry may or may not survive.
    #[error(
        "this node lost the lead before the entry was committed; ask the next leader whether it was"
    )]
    LeadershipLost,
    /// The node has ended; the entry may or may not survive.
    #[error("the raft node has stopped")]
    Stopped,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The log or its snapshots.
    #[error("open raft state in {}", dir.display())]
    Store {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        source: StoreError,
    },
    /// The state machine refuses its snapshot.
    #[error(
        "restore the state at index {index}: {reason}; move the data folder aside to start from the source alone"
    )]
    Restore {
        /// Index of the snapshot.
        index: u64,
        /// Why.
        reason: String,
    },
    /// Raft itself refuses.
    #[error("start raft: {0}")]
    Raft(String),
    /// The thread cannot be started.
    #[error("start the raft thread")]
    Thread(#[source] std::io::Error),
}

/// Where a node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// `leader`, `follower`, `candidate`, `learner`, `outside` (not added yet, or removed) or `stopped`.
    pub role: &'static str,
    /// Current term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<u64>,
    /// Last committed index.
    pub commit: u64,
    /// Last applied index.
    pub applied: u64,
    /// Bytes of log segments on disk.
    pub log_bytes: u64,
    /// Voters, then learners.
    pub members: Vec<MemberStatus>,
}

/// Where a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Voter or learner.
    pub voter: bool,
    /// Last index that it has; known to a leader alone.
    pub matched: Option<u64>,
    /// Whether it was heard of within the election time-out; known to a leader alone.
    pub active: Option<bool>,
}
