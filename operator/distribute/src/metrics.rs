//! What the distributor counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api_telemetry::metrics::{DurationHistogram, HistogramValue, Sink, Source};
use api_telemetry::names;
use operator_identity::Refusals;

/// Counters of the distributor.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) streams: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) fenced: AtomicU64,
    pub(crate) lagging: AtomicU64,
    pub(crate) left_to_others: AtomicU64,
    pub(crate) relays_lagging: AtomicU64,
    pub(crate) resyncs: AtomicU64,
    pub(crate) resyncs_delayed: AtomicU64,
    pub(crate) propagation: DurationHistogram,
    pub(crate) refusals: Arc<Refusals>,
}

impl Source for Metrics {
    fn collect(&self, sink: &mut dyn Sink) {
        let now = |of: &AtomicU64| of.load(Ordering::Relaxed);
        sink.gauge(names::STREAMS_CONNECTED, &[], now(&self.streams) as f64);
        sink.gauge(names::ROLLOUTS_WAITING, &[], now(&self.waiting) as f64);
        sink.gauge(names::SHARDS_FENCED, &[], now(&self.fenced) as f64);
        sink.counter(names::STREAMS_LAGGING, &[], now(&self.lagging));
        let left = now(&self.left_to_others);
        sink.counter(names::STREAMS_LEFT_TO_OTHERS, &[], left);
        let lagging = now(&self.relays_lagging);
        sink.counter(names::RELAYS_LAGGING, &[], lagging);
        sink.counter(names::RESYNCS_ASKED, &[], now(&self.resyncs));
        sink.counter(names::RESYNCS_DELAYED, &[], now(&self.resyncs_delayed));
        self.refusals.collect(sink);
        let mut value = HistogramValue::default();
        self.propagation.add_to(&mut value);
        sink.histogram(names::PROPAGATION_DURATION, &[], &value);
    }
}
