//! What the node's thread does: connects core, store and state machine.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use api_telemetry::Chain;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::chunk::{Assembly, split};
use crate::core::{CommittedEntry, Core};
use crate::metrics::{Held, Metrics};
use crate::store::{SavedSnapshot, Store, StoreError};
use crate::{Applied, Committed, Config, ProposeError, StartError, StateMachine, Status};

/// Proposals and bytes taken into one group: one append and one sync for all of them. A single larger proposal is a
/// group of its own.
const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) struct Proposal<O> {
    pub(super) data: Vec<u8>,
    pub(super) called: Instant,
    pub(super) answer: oneshot::Sender<Result<Committed<O>, ProposeError>>,
    /// Counts its bytes until it is answered.
    pub(super) held: Held,
}

pub(super) enum Input<O> {
    Propose(Proposal<O>),
    Stop,
}

/// A proposal that is in the log and not applied yet.
struct Waiting<O> {
    index: u64,
    term: u64,
    called: Instant,
    answer: oneshot::Sender<Result<Committed<O>, ProposeError>>,
    held: Held,
}

pub(super) struct Driver<S: StateMachine, F> {
    config: Config,
    core: Core,
    store: Store,
    state: Arc<RwLock<S>>,
    observer: F,
    metrics: Arc<Metrics>,
    /// True until everything that was committed before the start is applied.
    replaying: bool,
    /// By index, ascending.
    waiting: VecDeque<Waiting<S::Output>>,
    next_id: u64,
    assembly: Assembly,
    /// Index and term of the last applied entry.
    applied: (u64, u64),
    snapshot_index: u64,
    log_bytes_at_snapshot: u64,
}

impl<S: StateMachine, F: FnMut(Applied<S::Output>)> Driver<S, F> {
    pub(super) fn new(
        config: Config,
        core: Core,
        store: Store,
        state: Arc<RwLock<S>>,
        observer: F,
        applied: (u64, u64),
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            config,
            core,
            store,
            state,
            observer,
            metrics,
            replaying: true,
            waiting: VecDeque::new(),
            next_id: 1,
            assembly: Assembly::default(),
            applied,
            snapshot_index: applied.0,
            log_bytes_at_snapshot: 0,
        }
    }

    /// Makes a single voter the leader, which commits and applies its whole log without waiting for anyone.
    pub(super) fn lead(&mut self) -> Result<(), StartError> {
        let before = Instant::now();
        self.core.campaign()?;
        self.work().map_err(|source| StartError::Store {
            dir: self.config.data_dir.clone(),
            source,
        })?;
        self.replaying = false;
        tracing::info!(
            applied = self.applied.0,
            last = self.core.last_index(),
            snapshot = self.snapshot_index,
            took = ?before.elapsed(),
            "raft state recovered"
        );
        Ok(())
    }

    pub(super) fn run(mut self, inputs: &Receiver<Input<S::Output>>, status: &RwLock<Status>) {
        let mut next_tick = Instant::now() + self.config.tick;
        let result = loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let mut stop = false;
            match inputs.recv_timeout(wait) {
                Ok(first) => stop = self.take_group(first, inputs),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            if Instant::now() >= next_tick {
                self.core.tick();
                // After a pause (suspend, overload) ticks are not caught up with.
                next_tick = (next_tick + self.config.tick).max(Instant::now());
            }
            if let Err(error) = self.work() {
                break Err(error);
            }
            *status.write() = self.status();
            if stop {
                break Ok(());
            }
        };
        if let Err(error) = result {
            tracing::error!(error = %Chain(&error), "raft node stops; the log can no longer be trusted to grow");
        }
        self.give_up(&ProposeError::Stopped);
    }

    /// Takes `first` and what waits behind it, up to the bounds of a group. True when the node is to stop.
    fn take_group(&mut self, first: Input<S::Output>, inputs: &Receiver<Input<S::Output>>) -> bool {
        let mut bytes = 0;
        // An iterator that is asked for no more than is used: what it gives must not be lost.
        let mut group = std::iter::once(first)
            .chain(inputs.try_iter())
            .take(GROUP_MAX);
        while bytes < GROUP_BYTES_MAX
            && let Some(input) = group.next()
        {
            match input {
                Input::Propose(proposal) => {
                    bytes += proposal.data.len();
                    self.propose(proposal);
                }
                Input::Stop => return true,
            }
        }
        false
    }

    fn propose(&mut self, proposal: Proposal<S::Output>) {
        match self.try_propose(&proposal.data) {
            Ok((index, term)) => self.waiting.push_back(Waiting {
                index,
                term,
                called: proposal.called,
                answer: proposal.answer,
                held: proposal.held,
            }),
            Err(error) => reply(proposal.answer, proposal.held, Err(error)),
        }
    }

    /// Hands a proposal's entries to raft; gives index and term of the last.
    fn try_propose(&mut self, data: &[u8]) -> Result<(u64, u64), ProposeError> {
        let leader = self.core.leader();
        if !self.core.leads() {
            return Err(ProposeError::NotLeader { leader });
        }
        let entries = split(self.next_id, data);
        self.next_id += 1;
        let bytes = entries.iter().map(|entry| Store::cost(entry.len())).sum();
        self.store.reserve(bytes).map_err(|error| {
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            ProposeError::NoRoom(Chain(&error).to_string())
        })?;
        let mut position = Err(ProposeError::NotLeader { leader });
        for entry in entries {
            // Nothing makes raft refuse the second entry of a proposal after it took the first.
            position = self
                .core
                .propose(entry)
                .ok_or(ProposeError::NotLeader { leader });
        }
        position
    }

    /// Persists and applies until there is nothing left to do.
    fn work(&mut self) -> Result<(), StoreError> {
        while let Some(work) = self.core.ready() {
            if let Some(snapshot) = &work.install {
                self.install(snapshot)?;
            }
            self.store.append(&work.entries, work.vote)?;
            if work.must_sync() {
                let before = Instant::now();
                self.store.sync()?;
                self.metrics.fsync.record(before.elapsed());
            }
            let freed = self.core.persisted(&work);
            debug_assert!(
                work.messages.is_empty() && freed.messages.is_empty(),
                "one voter has nobody to talk to"
            );
            self.apply(work.committed);
            self.apply(freed.committed);
            self.core.applied();
        }
        self.store.release();
        if !self.core.leads() {
            self.give_up(&ProposeError::LeadershipLost);
        }
        self.compact();
        let log_bytes = self.store.log_bytes();
        self.metrics.log_bytes.store(log_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>) {
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            self.applied = (entry.index, entry.term);
            let Some(data) = self.assembly.push(&entry.data) else {
                continue;
            };
            let output = self.state.write().apply(entry.index, &data);
            if self.replaying {
                continue;
            }
            (self.observer)(Applied {
                index: entry.index,
                output: output.clone(),
            });
            self.answer(&entry, output);
        }
        let (applied, _) = self.applied;
        self.metrics.applied.store(applied, Ordering::Relaxed);
    }

    /// Answers the proposal that `entry` carries, if it was made here.
    fn answer(&mut self, entry: &CommittedEntry, output: S::Output) {
        while let Some(waiting) = self
            .waiting
            .pop_front_if(|waiting| waiting.index <= entry.index)
        {
            // Another leader's entry has taken the place of ours.
            if (waiting.index, waiting.term) != (entry.index, entry.term) {
                let lost = Err(ProposeError::LeadershipLost);
                reply(waiting.answer, waiting.held, lost);
                continue;
            }
            let took = waiting.called.elapsed();
            self.metrics.commit.record(took);
            let committed = Committed {
                index: entry.index,
                output,
                took,
            };
            reply(waiting.answer, waiting.held, Ok(committed));
            return;
        }
    }

    fn give_up(&mut self, error: &ProposeError) {
        for waiting in self.waiting.drain(..) {
            reply(waiting.answer, waiting.held, Err(error.clone()));
        }
    }

    /// Replaces state and log by a leader's snapshot.
    ///
    /// # Panics
    /// When the state machine refuses it: the leader runs a version that this node cannot follow.
    fn install(&mut self, snapshot: &SavedSnapshot) -> Result<(), StoreError> {
        self.store.install_snapshot(snapshot)?;
        if let Err(reason) = self.state.write().restore(&snapshot.state) {
            panic!(
                "the leader's snapshot at index {} cannot be restored: {reason}",
                snapshot.index
            );
        }
        self.assembly.clear();
        self.applied = (snapshot.index, snapshot.term);
        self.snapshot_index = snapshot.index;
        Ok(())
    }

    /// Takes a snapshot when the log has grown enough. A snapshot that cannot be written is tried again after as many
    /// entries; the log keeps everything until then.
    fn compact(&mut self) {
        let (index, term) = self.applied;
        let entries = index - self.snapshot_index;
        let log_bytes = self.store.log_bytes();
        let grown = log_bytes.saturating_sub(self.log_bytes_at_snapshot);
        let due = entries >= self.config.snapshot_after_entries
            || (entries > 0 && grown >= self.config.snapshot_after_bytes);
        if !due || !self.assembly.is_empty() {
            return;
        }
        let before = Instant::now();
        let snapshot = SavedSnapshot {
            index,
            term,
            voters: self.core.voters().to_vec(),
            state: self.state.read().snapshot(),
        };
        self.snapshot_index = index;
        match self.store.save_snapshot(&snapshot) {
            Ok(()) => {
                self.core.compact(index);
                self.metrics.snapshot.record(before.elapsed());
                let bytes = snapshot.state.len();
                tracing::info!(index, bytes, took = ?before.elapsed(), "raft snapshot taken");
            }
            Err(error) => {
                self.metrics
                    .snapshots_failed
                    .fetch_add(1, Ordering::Relaxed);
                tracing::error!(error = %Chain(&error), "no raft snapshot taken; the log grows on");
            }
        }
        self.log_bytes_at_snapshot = self.store.log_bytes();
    }

    pub(super) fn status(&self) -> Status {
        self.core.status(self.applied.0, self.store.log_bytes())
    }
}

/// Answers a proposal; its bytes no longer count when the proposer hears of it.
fn reply<O>(
    answer: oneshot::Sender<Result<Committed<O>, ProposeError>>,
    held: Held,
    result: Result<Committed<O>, ProposeError>,
) {
    drop(held);
    // The proposer may have gone away.
    let _ = answer.send(result);
}
