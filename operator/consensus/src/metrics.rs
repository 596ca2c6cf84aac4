//! What the node counts.

use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl Source for Metrics {
    fn collect(&self, sink: &mut dyn Sink) {
        for (desc, histogram) in [
            (names::RAFT_COMMIT_DURATION, &self.commit),
            (names::RAFT_FSYNC_DURATION, &self.fsync),
        ] {
            let mut value = HistogramValue::default();
            histogram.add_to(&mut value);
            sink.histogram(desc, &[], &value);
        }
        sink.gauge(
            names::RAFT_APPLIED,
            &[],
            self.applied.load(Ordering::Relaxed) as f64,
        );
        sink.gauge(
            names::RAFT_LOG_BYTES,
            &[],
            self.log_bytes.load(Ordering::Relaxed) as f64,
        );
        sink.counter(
            names::RAFT_PROPOSALS_REFUSED,
            &[],
            self.refused.load(Ordering::Relaxed),
        );
    }
}
