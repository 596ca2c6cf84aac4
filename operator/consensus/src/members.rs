//! Who belongs to a group, and how that changes: one member at a time (Raft dissertation, section 4.1).

/// Most members of a group; one more is refused with [`ChangeError::TooMany`].
pub(crate) const MEMBERS_MAX: usize = 16;

/// The members of a group, each list ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// They elect a leader and decide what is committed.
    pub voters: Vec<u64>,
    /// They get the log and decide nothing.
    pub learners: Vec<u64>,
}

impl Members {
    /// Voters alone.
    pub fn of(mut voters: Vec<u64>) -> Self {
        voters.sort_unstable();
        voters.dedup();
        Self {
            voters,
            learners: Vec::new(),
        }
    }

    /// Whether `id` belongs to the group, in whatever part.
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.voters.len() + self.learners.len()
    }

    /// `voters u32, u64 each | learners u32, u64 each`, little-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ids in [&self.voters, &self.learners] {
            bytes.extend_from_slice(&(ids.len() as u32).to_le_bytes()); // a handful
            for id in ids {
                bytes.extend_from_slice(&id.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads what [`Members::encode`] wrote; gives what follows it as well.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (voters, rest) = ids(bytes)?;
        let (learners, rest) = ids(rest)?;
        Some((Self { voters, learners }, rest))
    }
}

/// Reads `count u32, u64 each`; gives what follows as well.
pub(crate) fn ids(bytes: &[u8]) -> Option<(Vec<u64>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    let (ids, rest) = rest.split_at_checked(u32::from_le_bytes(*count) as usize * 8)?;
    let ids = ids.as_chunks::<8>().0.iter();
    Some((ids.map(|id| u64::from_le_bytes(*id)).collect(), rest))
}

/// A change of the members, by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new member gets the log. Its id was never used before: a voter that comes back without its volume has
    /// forgotten its votes and must come as another one.
    AddLearner(u64),
    /// A learner that has caught up becomes a voter.
    Promote(u64),
    /// A member leaves. A leader that is to remove itself hands over and says [`ChangeError::NotLeader`]: its heir does it.
    Remove(u64),
}

/// Why a change was not made, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another voter leads, or none does.
    #[error("this node does not lead; node {leader:?} does")]
    NotLeader {
        /// The leader, if known.
        leader: Option<u64>,
    },
    /// An earlier change is under way, or this leader is too new to know; try again.
    #[error("another change of the members is under way")]
    Busy,
    /// Only a learner can be promoted.
    #[error("node {0} is no learner; add it first")]
    NoLearner(u64),
    /// The learner does not have the log yet; try again.
    #[error(
        "learner {id} has the log through {matched} of {last}, or is not heard of; wait for it"
    )]
    NotCaughtUp {
        /// The learner.
        id: u64,
        /// Last index that it has.
        matched: u64,
        /// Last index of the log.
        last: u64,
    },
    /// Without the member, the voters that are heard of are no majority, or nobody is left.
    #[error("without node {0} no majority of voters is heard of; bring others back first")]
    NoQuorum(u64),
    /// There are as many as can be.
    #[error("there are {0} members already; remove one first")]
    TooMany(usize),
    /// No snapshot exists that a new member could start from, or the log has no room.
    #[error("the log cannot take the change now: {0}")]
    NotReady(String),
    /// This node led when it took the change and does not any more; look at the members of the next leader.
    #[error("this node lost the lead before the change was committed")]
    LeadershipLost,
    /// The node has ended; the change may or may not survive.
    #[error("the raft node has stopped")]
    Stopped,
}
