//! What the node's thread shows to everyone.

use std::sync::atomic::Ordering;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::{Leadership, Status};

pub(super) struct Shared {
    pub(super) status: RwLock<Status>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) stopped: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(status: Status, leadership: Leadership) -> Self {
        Self {
            status: RwLock::new(status),
            leadership: watch::Sender::new(leadership),
            stopped: watch::Sender::new(false),
        }
    }

    /// Shows the result of a round. The status goes first: who is woken by a change of leaders reads it.
    pub(super) fn publish(&self, status: Status, leadership: Leadership, metrics: &Metrics) {
        *self.status.write() = status;
        self.leadership.send_if_modified(|known| {
            let changed = *known != leadership;
            if known.leader != leadership.leader && leadership.leader.is_some() {
                metrics.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            *known = leadership;
            changed
        });
    }

    /// The thread has ended: it neither leads nor follows.
    pub(super) fn end(&self) {
        self.status.write().role = "stopped";
        self.leadership.send_modify(|known| {
            known.leads = false;
            known.leader = None;
        });
        self.stopped.send_replace(true);
    }
}
