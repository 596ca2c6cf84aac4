//! Who should be a member: three grow to five, go back to three, and lose volumes.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;

use crate::members::{Change, Members};

/// What is to be done about the members, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Add(u64),
    Remove(u64),
    /// The volume is gone at once; its id never comes back.
    Lose(u64),
}

#[derive(Debug)]
pub(super) struct Roster {
    tasks: VecDeque<Task>,
    /// Voters when all is done.
    voters: Vec<u64>,
    next: u64,
}

impl Roster {
    pub(super) fn new(founders: &[u64]) -> Self {
        Self {
            tasks: VecDeque::new(),
            voters: founders.to_vec(),
            next: founders.iter().max().map_or(1, |id| id + 1),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn current(&self) -> Option<Task> {
        self.tasks.front().copied()
    }

    /// Thinks of something to do.
    pub(super) fn plan(&mut self, random: &mut StdRng) {
        let at = random.random_range(0..self.voters.len());
        match (self.voters.len(), random.random_range(0..3)) {
            (_, 0) => {
                let lost = self.voters.remove(at);
                let new = self.join();
                self.tasks
                    .extend([Task::Lose(lost), Task::Add(new), Task::Remove(lost)]);
            }
            (..=3, _) => {
                for _ in 0..2 {
                    let new = self.join();
                    self.tasks.push_back(Task::Add(new));
                }
            }
            _ => {
                for _ in 0..2 {
                    let at = random.random_range(0..self.voters.len());
                    let left = self.voters.remove(at);
                    self.tasks.push_back(Task::Remove(left));
                }
            }
        }
    }

    fn join(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        self.voters.push(id);
        id
    }

    /// The change that a leader with these members is to make next for the current task.
    pub(super) fn change(&self, members: &Members) -> Option<Change> {
        match self.current()? {
            Task::Add(id) if members.contains(id) => Some(Change::Promote(id)),
            Task::Add(id) => Some(Change::AddLearner(id)),
            Task::Remove(id) => Some(Change::Remove(id)),
            Task::Lose(_) => None,
        }
    }

    /// A change was made; gives the task that is done with it.
    pub(super) fn made(&mut self, change: Change) -> Option<Task> {
        let task = self.current()?;
        let done = match task {
            Task::Add(id) => change == Change::Promote(id),
            Task::Remove(id) => change == Change::Remove(id),
            Task::Lose(_) => false,
        };
        if done {
            self.done();
        }
        done.then_some(task)
    }

    pub(super) fn done(&mut self) {
        self.tasks.pop_front();
    }
}
