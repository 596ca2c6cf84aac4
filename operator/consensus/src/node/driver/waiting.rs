//! Who waits for an entry to be applied.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::members::ChangeError;
use crate::metrics::{Held, Metrics};
use crate::{Committed, ProposeError};

/// How to answer.
pub(super) enum Answer<O> {
    Proposal {
        called: Instant,
        answer: oneshot::Sender<Result<Committed<O>, ProposeError>>,
        held: Held,
    },
    Barrier(oneshot::Sender<Result<(), ProposeError>>),
    /// Waits for the entry that changes the members ...
    Change(oneshot::Sender<Result<(), ChangeError>>),
    /// ... and for the one behind it.
    Changed(oneshot::Sender<Result<(), ChangeError>>),
}

struct Waiting<O> {
    index: u64,
    answer: Answer<O>,
}

/// Those whose entries are in the log of one term and not applied yet, by index, ascending. Bounded by the bytes of
/// proposals that the node holds.
pub(super) struct WaitingList<O> {
    term: u64,
    list: VecDeque<Waiting<O>>,
    /// Changes of the members that were applied. They are answered once everyone can see them.
    made: Vec<oneshot::Sender<Result<(), ChangeError>>>,
}

impl<O> Default for WaitingList<O> {
    fn default() -> Self {
        Self {
            term: 0,
            list: VecDeque::new(),
            made: Vec::new(),
        }
    }
}

impl<O> WaitingList<O> {
    /// Waits for the entry of `index` and `term`. Who waits for one of an earlier term is told that the lead was lost:
    /// this node may have lost and won it since, and the order of indices with it.
    pub(super) fn push(&mut self, (index, term): (u64, u64), answer: Answer<O>) {
        self.keep(Some(term));
        self.term = term;
        self.list.push_back(Waiting { index, answer });
    }

    /// Gives up all that was not proposed by the leader of `term`, or all if this node leads in none.
    pub(super) fn keep(&mut self, term: Option<u64>) {
        if term != Some(self.term) {
            self.give_up(&ProposeError::LeadershipLost);
        }
    }

    /// Answers who waits for the applied entry of `index` and `term`. `output` is what the state machine gave, if the
    /// entry was (the end of) a proposal; `changed` says whether it changed the members: who asked for that is given
    /// back, and not answered yet.
    pub(super) fn settle(
        &mut self,
        (index, term): (u64, u64),
        output: Option<&O>,
        changed: bool,
        metrics: &Metrics,
    ) -> Option<oneshot::Sender<Result<(), ChangeError>>>
    where
        O: Clone,
    {
        while let Some(waiting) = self.list.pop_front_if(|waiting| waiting.index <= index) {
            // Another leader's entry has taken the place of ours.
            if (waiting.index, self.term) != (index, term) {
                waiting.answer.refuse(&ProposeError::LeadershipLost);
                continue;
            }
            match waiting.answer {
                Answer::Change(answer) if changed => return Some(answer),
                Answer::Changed(answer) => self.made.push(answer),
                answer => answer.settle(index, output, metrics),
            }
            break;
        }
        None
    }

    /// Answers the changes of members that were made.
    pub(super) fn answer_changes(&mut self) {
        for answer in self.made.drain(..) {
            // Whoever asked may have gone away.
            let _ = answer.send(Ok(()));
        }
    }

    pub(super) fn give_up(&mut self, error: &ProposeError) {
        for waiting in self.list.drain(..) {
            waiting.answer.refuse(error);
        }
    }
}

impl<O: Clone> Answer<O> {
    // Whoever asked may have gone away; then nobody hears the answer.
    fn settle(self, index: u64, output: Option<&O>, metrics: &Metrics) {
        match self {
            Self::Proposal {
                called,
                answer,
                held,
            } => {
                let took = called.elapsed();
                metrics.commit.record(took);
                // Its bytes no longer count when the proposer hears of it.
                drop(held);
                // The last entry of a whole proposal always gives an output.
                let committed = output.map(|output| Committed {
                    index,
                    output: output.clone(),
                    took,
                });
                let _ = answer.send(committed.ok_or(ProposeError::LeadershipLost));
            }
            Self::Barrier(answer) => {
                let _ = answer.send(Ok(()));
            }
            // Raft made nothing of it: another one was under way.
            Self::Change(answer) | Self::Changed(answer) => {
                let _ = answer.send(Err(ChangeError::Busy));
            }
        }
    }
}

impl<O> Answer<O> {
    pub(super) fn refuse(self, error: &ProposeError) {
        match self {
            Self::Proposal { answer, held, .. } => {
                drop(held);
                let _ = answer.send(Err(error.clone()));
            }
            Self::Barrier(answer) => {
                let _ = answer.send(Err(error.clone()));
            }
            Self::Change(answer) | Self::Changed(answer) => {
                let error = match error {
                    ProposeError::NotLeader { leader } => {
                        ChangeError::NotLeader { leader: *leader }
                    }
                    ProposeError::Stopped => ChangeError::Stopped,
                    ProposeError::NoRoom(why) => ChangeError::NotReady(why.clone()),
                    _ => ChangeError::LeadershipLost,
                };
                let _ = answer.send(Err(error));
            }
        }
    }
}
