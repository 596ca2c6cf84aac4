//! Metrics as values that sources hand out when asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a metric is called, and in which unit it counts.
#[derive(Debug, PartialEq, Eq)]
pub struct Desc {
    /// Prometheus name without `_total`, base unit last: `shardway_proxy_request_duration_seconds`.
    pub name: &'static str,
    /// OpenTelemetry name: `http.server.request.duration`.
    pub otel: &'static str,
    /// UCUM unit: `s`, `By`, `{request}`.
    pub unit: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// Label names and values, names in a fixed order.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Something that has metrics. Register one for each stage.
pub trait Source: Send + Sync {
    /// Hands out the current values. Cost: O(series).
    fn collect(&self, sink: &mut dyn Sink);
}

/// Takes values from a [`Source`].
pub trait Sink {
    /// A count that only grows.
    fn counter(&mut self, desc: &'static Desc, labels: Labels<'_>, value: u64);
    /// A value that goes up and down.
    fn gauge(&mut self, desc: &'static Desc, labels: Labels<'_>, value: f64);
    /// A distribution.
    fn histogram(&mut self, desc: &'static Desc, labels: Labels<'_>, value: &HistogramValue);
}

/// Upper bounds of duration buckets, seconds: from 0.5 ms, what a routed request costs, to a minute.
pub const DURATION_BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0,
];

/// A duration histogram with [`DURATION_BOUNDS`]. Recording is one relaxed addition to each of two atomics.
#[derive(Debug, Default)]
pub struct DurationHistogram {
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl DurationHistogram {
    /// Records one duration.
    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Adds the current values to `value`, so that several workers sum up.
    pub fn add_to(&self, value: &mut HistogramValue) {
        for (sum, bucket) in value.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        value.sum += self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
    }
}

/// A distribution at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramValue {
    /// Count for each bound of [`DURATION_BOUNDS`], and one above the last; not cumulative.
    pub buckets: [u64; DURATION_BOUNDS.len() + 1],
    /// Sum of all values, seconds.
    pub sum: f64,
}

impl HistogramValue {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
