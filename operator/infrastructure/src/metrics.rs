//! What has been written.

use std::sync::atomic::{AtomicU64, Ordering};

use api_telemetry::metrics::{Sink, Source};
use api_telemetry::names;

/// Counts of writes, and how much waits.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) written: AtomicU64,
    pub(crate) deleted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) waiting: AtomicU64,
}

impl Source for Counts {
    fn collect(&self, sink: &mut dyn Sink) {
        for (result, count) in [
            ("written", &self.written),
            ("deleted", &self.deleted),
            ("refused", &self.refused),
            ("failed", &self.failed),
        ] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::INFRASTRUCTURE_WRITES, &[("result", result)], count);
        }
        let waiting = self.waiting.load(Ordering::Relaxed);
        sink.gauge(names::INFRASTRUCTURE_WAITING, &[], waiting as f64);
    }
}
