//! Snapshots: taken when the log has grown, sent to followers that are too far behind, installed by these.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use api_telemetry::Chain;

use super::Driver;
use crate::mutation::{self, Mutation};
use crate::store::{SavedSnapshot, StoreError};
use crate::{Observed, StateMachine};

/// Ticks after which a snapshot of which nothing was heard counts as lost: 30 s by default.
const LOST_TICKS: u64 = 300;
/// Ticks for which a snapshot is held for a follower that asked for one: it asks again with each heartbeat.
const OFFER_TICKS: u64 = 10;

/// Snapshots for followers.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// Tick at which a snapshot left, by follower.
    sent: BTreeMap<u64, u64>,
    /// Tick at which one was made that raft may send.
    offered: Option<u64>,
}

impl<S: StateMachine, F: FnMut(Observed<S::Output>)> Driver<S, F> {
    /// Takes a snapshot when the log has grown enough. A snapshot that cannot be written is tried again after as many
    /// entries; the log keeps everything until then.
    pub(super) fn compact(&mut self) {
        let (index, _) = self.whole();
        let entries = index - self.snapshot_index;
        let log_bytes = self.store.log_bytes();
        let grown = log_bytes.saturating_sub(self.log_bytes_at_snapshot);
        let due = entries >= self.config.snapshot_after_entries
            || (entries > 0 && grown >= self.config.snapshot_after_bytes)
            // A log of format 1 may begin at its first entry, and nobody could join.
            || (entries > 0 && self.core.compacted() == 0);
        if !due {
            return;
        }
        let before = Instant::now();
        let snapshot = self.current();
        self.snapshot_index = index;
        match self.store.save_snapshot(&snapshot) {
            Ok(()) => {
                let keep = if snapshot.members.count() < 2 {
                    (0, 0)
                } else {
                    (self.config.keep_entries_max, self.config.keep_bytes_max)
                };
                self.core.compact(index, keep);
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

    /// The state as it is, at the last index that left no proposal unfinished. Behind that index nothing was applied but
    /// chunks, which whoever starts from the snapshot gets from the log; the members are the same, too. Waiting for the
    /// end of the proposal instead could take forever: the follower that needs the snapshot may be needed to commit it.
    fn current(&self) -> SavedSnapshot {
        let (index, term) = self.whole();
        SavedSnapshot {
            index,
            term,
            members: self.core.members().clone(),
            state: self.state.read().snapshot(),
        }
    }

    fn whole(&self) -> (u64, u64) {
        if mutation::on(Mutation::SnapshotInside) {
            return self.applied;
        }
        self.whole
    }

    /// Replaces state and log by a leader's snapshot.
    ///
    /// # Panics
    /// When the state machine refuses it: the leader runs a version that this node cannot follow.
    pub(super) fn install(&mut self, snapshot: &SavedSnapshot) -> Result<(), StoreError> {
        self.store.install_snapshot(snapshot)?;
        let index = snapshot.index;
        if let Err(reason) = self.state.write().restore(&snapshot.state) {
            panic!("the leader's snapshot at index {index} cannot be restored: {reason}");
        }
        self.assembly.clear();
        self.applied = (index, snapshot.term);
        self.whole = self.applied;
        self.snapshot_index = index;
        self.metrics.applied.store(index, Ordering::Relaxed);
        tracing::info!(index, members = ?snapshot.members, "state replaced by the leader's snapshot");
        (self.observer)(Observed::Restored { index });
        Ok(())
    }

    /// Makes a snapshot when a follower needs one; raft sends it when that is heard of next.
    pub(super) fn offer_snapshot(&mut self) {
        if self.core.wants_snapshot() && self.transfers.offered.is_none() {
            let snapshot = self.current();
            self.core.offer_snapshot(snapshot);
            self.transfers.offered = Some(self.ticks);
        }
    }

    /// A snapshot leaves: it need not be held any longer. The next follower asks anew.
    pub(super) fn sends_snapshot(&mut self, to: u64, bytes: usize) {
        tracing::info!(peer = to, bytes, "a snapshot is sent to a follower");
        self.metrics.snapshots_sent.fetch_add(1, Ordering::Relaxed);
        self.transfers.sent.insert(to, self.ticks);
        self.transfers.offered = None;
        self.core.withdraw_snapshot();
    }

    pub(super) fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        if self.transfers.sent.remove(&to).is_some() {
            self.core.report_snapshot(to, arrived);
        }
    }

    /// Gives up snapshots of which nothing was heard, and one that nobody fetched.
    pub(super) fn give_up_snapshots(&mut self) {
        let (ticks, core) = (self.ticks, &mut self.core);
        self.transfers.sent.retain(|to, since| {
            if !core.sends_snapshot(*to) {
                return false;
            }
            let lost = ticks - *since >= LOST_TICKS;
            if lost {
                tracing::warn!(
                    peer = *to,
                    "nothing was heard of a snapshot; it is sent anew"
                );
                core.report_snapshot(*to, false);
            }
            !lost
        });
        if (self.transfers.offered).is_some_and(|since| ticks - since >= OFFER_TICKS) {
            self.transfers.offered = None;
            self.core.withdraw_snapshot();
        }
    }
}
