//! Prometheus exposition of what the sources hand out.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::gather::{Gathered, Value, gather};
use crate::metrics::{DURATION_BOUNDS, Source};

/// Value of the `Content-Type` header for [`encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type NoLabels = [(&'static str, &'static str); 0];

/// The current values of all sources as OpenMetrics text. Cost: O(series).
pub fn encode(sources: &[Arc<dyn Source>]) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(gather(sources))));
    let mut text = String::new();
    // Writing to a String cannot fail; a formatting error would only cut the text short.
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        tracing::warn!("metrics text is incomplete");
    }
    text
}

#[derive(Debug)]
struct Snapshot(Vec<Gathered>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in &self.0 {
            let kind = match metric.series.values().next() {
                Some(Value::Counter(_)) => MetricType::Counter,
                Some(Value::Gauge(_)) => MetricType::Gauge,
                Some(Value::Histogram(_)) => MetricType::Histogram,
                None => continue,
            };
            let mut family =
                encoder.encode_descriptor(metric.desc.name, metric.desc.help, None, kind)?;
            for (labels, value) in &metric.series {
                let labels: Vec<(&str, &str)> = labels
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                // An empty label set would print `{}` of its own; leave it out.
                if labels.is_empty() {
                    encode_value(&mut family, value)?;
                } else {
                    encode_value(&mut family.encode_family(&labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(v) => encoder.encode_counter::<NoLabels, _, u64>(v, None),
        Value::Gauge(v) => encoder.encode_gauge(v),
        Value::Histogram(v) => {
            let buckets: Vec<(f64, u64)> = DURATION_BOUNDS
                .iter()
                .copied()
                .chain([f64::INFINITY])
                .zip(v.buckets.iter().copied())
                .collect();
            encoder.encode_histogram::<NoLabels>(v.sum, v.count(), &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{DurationHistogram, HistogramValue, Sink};
    use crate::names;

    struct Two(DurationHistogram);

    impl Source for Two {
        fn collect(&self, sink: &mut dyn Sink) {
            sink.counter(names::REQUESTS, &[("gateway", "a/b")], 3);
            sink.counter(names::REQUESTS, &[("gateway", "a/c")], 4);
            sink.gauge(names::STREAM_CONNECTED, &[], 1.0);
            let mut value = HistogramValue::default();
            self.0.add_to(&mut value);
            sink.histogram(names::RAFT_FSYNC_DURATION, &[], &value);
        }
    }

    #[test]
    fn counters_of_two_sources_add_up_and_buckets_are_cumulative() {
        let one = Two(DurationHistogram::default());
        one.0.record(Duration::from_micros(400));
        one.0.record(Duration::from_millis(3));
        one.0.record(Duration::from_secs(100));
        let text = encode(&[Arc::new(one), Arc::new(Two(DurationHistogram::default()))]);
        for line in [
            "shardway_proxy_requests_total{gateway=\"a/b\"} 6",
            "shardway_proxy_requests_total{gateway=\"a/c\"} 8",
            "shardway_proxy_stream_connected 1.0",
            "shardway_raft_fsync_duration_seconds_bucket{le=\"0.0005\"} 1",
            "shardway_raft_fsync_duration_seconds_bucket{le=\"0.005\"} 2",
            "shardway_raft_fsync_duration_seconds_bucket{le=\"+Inf\"} 3",
            "shardway_raft_fsync_duration_seconds_count 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn every_name_is_unique_and_ends_in_its_unit() {
        let mut seen = std::collections::BTreeSet::new();
        for desc in names::ALL {
            assert!(seen.insert(desc.name), "{} twice", desc.name);
            assert!(seen.insert(desc.otel), "{} twice", desc.otel);
            match desc.unit {
                "s" => assert!(desc.name.ends_with("_seconds"), "{}", desc.name),
                "By" => assert!(desc.name.ends_with("_bytes"), "{}", desc.name),
                _ => {}
            }
        }
    }
}
