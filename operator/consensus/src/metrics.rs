//! What the node counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use api_telemetry::metrics::{DurationHistogram, HistogramValue, Sink, Source};
use api_telemetry::names;

/// Counters of one node.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) commit: DurationHistogram,
    pub(crate) fsync: DurationHistogram,
    pub(crate) applied: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) snapshot: DurationHistogram,
    pub(crate) snapshots_failed: AtomicU64,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    /// Came in while the queue was full.
    pub(crate) messages_dropped: AtomicU64,
    /// Bytes of proposals that are not answered yet.
    held_bytes: AtomicUsize,
}

/// Bytes that count as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    metrics: Arc<Metrics>,
    bytes: usize,
}

impl Metrics {
    /// Counts `bytes` until the result is dropped; none when the sum would pass `max`. A first one always passes.
    pub(crate) fn hold(this: &Arc<Self>, bytes: usize, max: usize) -> Option<Held> {
        let before = this.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = Held {
            metrics: Arc::clone(this),
            bytes,
        };
        (before == 0 || before.saturating_add(bytes) <= max).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.bytes;
        self.metrics.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Source for Metrics {
    fn collect(&self, sink: &mut dyn Sink) {
        for (desc, histogram) in [
            (names::RAFT_COMMIT_DURATION, &self.commit),
            (names::RAFT_FSYNC_DURATION, &self.fsync),
            (names::RAFT_SNAPSHOT_DURATION, &self.snapshot),
        ] {
            let mut value = HistogramValue::default();
            histogram.add_to(&mut value);
            sink.histogram(desc, &[], &value);
        }
        for (desc, gauge) in [
            (names::RAFT_APPLIED, &self.applied),
            (names::RAFT_LOG_BYTES, &self.log_bytes),
        ] {
            sink.gauge(desc, &[], gauge.load(Ordering::Relaxed) as f64);
        }
        for (desc, counter) in [
            (names::RAFT_PROPOSALS_REFUSED, &self.refused),
            (names::RAFT_SNAPSHOTS_FAILED, &self.snapshots_failed),
            (names::RAFT_SNAPSHOTS_SENT, &self.snapshots_sent),
            (names::RAFT_LEADER_CHANGES, &self.leader_changes),
        ] {
            sink.counter(desc, &[], counter.load(Ordering::Relaxed));
        }
        for (what, counter) in [
            ("in", &self.messages_in),
            ("out", &self.messages_out),
            ("dropped", &self.messages_dropped),
        ] {
            let labels = [("direction", what)];
            sink.counter(
                names::RAFT_MESSAGES,
                &labels,
                counter.load(Ordering::Relaxed),
            );
        }
    }
}
