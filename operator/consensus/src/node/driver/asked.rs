//! What the node is asked to do: proposals, barriers, changes of the members, handing over.

use std::sync::atomic::Ordering;

use api_telemetry::Chain;
use tokio::sync::oneshot;

use super::waiting::Answer;
use super::{Driver, HAND_OVER_TICKS};
use crate::chunk::split;
use crate::members::{Change, ChangeError, MEMBERS_MAX, Members};
use crate::mutation::{self, Mutation};
use crate::node::mailbox::{Proposal, Request};
use crate::store::Store;
use crate::{Observed, ProposeError, StateMachine};

/// Entries that a learner may lack when it becomes a voter: what is on its way while a busy log grows.
const CAUGHT_UP_ENTRIES: u64 = 100;

impl<S: StateMachine, F: FnMut(Observed<S::Output>)> Driver<S, F> {
    pub(crate) fn propose(&mut self, proposal: Proposal<S::Output>) {
        let Proposal {
            data,
            called,
            answer,
            held,
        } = proposal;
        let answer = Answer::Proposal {
            called,
            answer,
            held,
        };
        let entries = split(self.next_id, &data);
        self.next_id += 1;
        match self.hand_in(entries) {
            Ok(position) => self.waiting.push(position, answer),
            Err(error) => answer.refuse(&error),
        }
    }

    pub(crate) fn request(&mut self, request: Request) {
        match request {
            Request::Barrier(answer) => {
                if mutation::on(Mutation::SkipBarrier) && self.core.leads() {
                    let _ = answer.send(Ok(()));
                    return;
                }
                let answer = Answer::Barrier(answer);
                // Empty, as a new leader's first entry: nothing is applied.
                match self.hand_in(vec![Vec::new()]) {
                    Ok(position) => self.waiting.push(position, answer),
                    Err(error) => answer.refuse(&error),
                }
            }
            Request::Change(change, answer) => match self.try_change(change) {
                Ok(Some(position)) => self.waiting.push(position, Answer::Change(answer)),
                Ok(None) => self.confirm_change(answer),
                Err(error) => {
                    let _ = answer.send(Err(error));
                }
            },
            Request::Unreachable(id) => self.core.unreachable(id),
            Request::SnapshotSent(to, arrived) => self.snapshot_sent(to, arrived),
        }
    }

    /// Hands entries to raft; gives index and term of the last.
    fn hand_in(&mut self, entries: Vec<Vec<u8>>) -> Result<(u64, u64), ProposeError> {
        let leader = self.core.leader();
        if !self.core.leads() {
            return Err(ProposeError::NotLeader { leader });
        }
        let bytes = entries.iter().map(|entry| Store::cost(entry.len())).sum();
        self.store.reserve(bytes).map_err(|error| {
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            ProposeError::NoRoom(Chain(&error).to_string())
        })?;
        // Raft refuses while this leader hands over to another.
        let refused = ProposeError::NotLeader { leader: None };
        let mut position = Err(refused.clone());
        for entry in entries {
            // Nothing makes raft refuse the second entry of a proposal after it took the first.
            position = self.core.propose(entry).ok_or_else(|| refused.clone());
        }
        position
    }

    /// Hands in a change of the members; gives its position, or none when they are so already.
    fn try_change(&mut self, change: Change) -> Result<Option<(u64, u64)>, ChangeError> {
        if !self.core.leads() {
            let leader = self.core.leader();
            return Err(ChangeError::NotLeader { leader });
        }
        // A new leader may hold an unapplied change of an earlier one.
        if !self.leadership().leads || self.core.is_changing() {
            return Err(ChangeError::Busy);
        }
        let members = self.core.members();
        match change {
            Change::AddLearner(id) if members.contains(id) => return Ok(None),
            Change::AddLearner(_) => {
                if members.count() >= MEMBERS_MAX {
                    return Err(ChangeError::TooMany(members.count()));
                }
                if self.core.compacted() == 0 {
                    return Err(ChangeError::NotReady(
                        "no snapshot was taken yet".to_owned(),
                    ));
                }
            }
            Change::Promote(id) if members.voters.contains(&id) => return Ok(None),
            Change::Promote(id) if !members.contains(id) => return Err(ChangeError::NoLearner(id)),
            Change::Promote(id) => self.check_caught_up(id)?,
            Change::Remove(id) if !members.contains(id) => return Ok(None),
            Change::Remove(id) => self.check_quorum_without(members, id)?,
        }
        if change == Change::Remove(self.config.id) {
            // Gone at once, it could not see to it that the others know. Its heir can.
            let leader = self.core.hand_over();
            return Err(ChangeError::NotLeader { leader });
        }
        let reserved = self.store.reserve(Store::cost(64));
        reserved.map_err(|error| ChangeError::NotReady(Chain(&error).to_string()))?;
        let position = self.core.propose_change(change);
        position.map(Some).ok_or(ChangeError::Busy)
    }

    /// Answers a change that was applied here once an entry behind it is committed: then a majority of the new members
    /// holds that entry, and with it knows on disk that the change is committed. Without this, a member that is lost
    /// now could be missed by those who still count by the old members.
    pub(super) fn confirm_change(&mut self, answer: oneshot::Sender<Result<(), ChangeError>>) {
        match self.hand_in(vec![Vec::new()]) {
            Ok(position) => self.waiting.push(position, Answer::Changed(answer)),
            Err(error) => Answer::<S::Output>::Changed(answer).refuse(&error),
        }
    }

    fn check_caught_up(&self, id: u64) -> Result<(), ChangeError> {
        let last = self.core.last_index();
        let progress = self.core.progress(id);
        let matched = progress.map_or(0, |progress| progress.matched);
        let active = progress.is_some_and(|progress| progress.active);
        // One that needs a snapshot has nothing, however short the log is.
        let begun = matched > 0 && matched >= self.core.compacted();
        if active && begun && matched + CAUGHT_UP_ENTRIES >= last {
            return Ok(());
        }
        Err(ChangeError::NotCaughtUp { id, matched, last })
    }

    /// Whether the voters that are heard of, `id` aside, are a majority of those that stay.
    fn check_quorum_without(&self, members: &Members, id: u64) -> Result<(), ChangeError> {
        let staying = members.voters.iter().filter(|voter| **voter != id);
        let (mut staying_count, mut active_count) = (0, 0);
        for voter in staying {
            staying_count += 1;
            let progress = self.core.progress(*voter);
            active_count += usize::from(progress.is_some_and(|progress| progress.active));
        }
        if 2 * active_count > staying_count {
            Ok(())
        } else {
            Err(ChangeError::NoQuorum(id))
        }
    }

    /// Hands over to another voter, if this one leads and others are heard of. True when the node may stop: it does not
    /// lead any more, nobody can, or it has taken too long.
    pub(crate) fn has_handed_over(&mut self) -> bool {
        let since = *self.handing_over_since.get_or_insert(self.ticks);
        if self.ticks - since >= HAND_OVER_TICKS {
            return true;
        }
        self.core.hand_over().is_none()
    }
}
