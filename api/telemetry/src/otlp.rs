//! Metrics by OTLP over gRPC: the same values as on `/metrics`, as cumulative sums, gauges and histograms.
//!
//! The SDK's instruments keep state of their own and lock on recording; here the stages keep plain atomics and the
//! export reads them, so one number feeds both exporters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::gather::{Gathered, OwnedLabels, Value, gather};
use crate::metrics::{DURATION_BOUNDS, Sink, Source};
use crate::names;

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Traces,
    Metrics,
}

/// Whether the OTEL_* variables ask for a signal.
pub(crate) fn wanted(signal: Signal) -> bool {
    let (exporter, endpoint) = match signal {
        Signal::Traces => ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        Signal::Metrics => (
            "OTEL_METRICS_EXPORTER",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        ),
    };
    let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if var("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return false;
    }
    match var(exporter).as_deref() {
        Some("otlp") => true,
        Some(_) => false,
        None => var("OTEL_EXPORTER_OTLP_ENDPOINT")
            .or_else(|| var(endpoint))
            .is_some(),
    }
}

/// `OTEL_SERVICE_NAME`, else the program's own name.
pub(crate) fn service_name(default: &str) -> String {
    std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| default.to_owned())
}

/// Exports that failed.
#[derive(Debug, Default)]
pub(crate) struct Dropped(AtomicU64);

impl Source for Dropped {
    fn collect(&self, sink: &mut dyn Sink) {
        sink.counter(
            names::TELEMETRY_DROPPED,
            &[],
            self.0.load(Ordering::Relaxed),
        );
    }
}

/// Exports for ever. One attempt for each interval, bounded by the interval; nothing is queued.
pub(crate) async fn export_metrics(
    service: String,
    sources: Vec<Arc<dyn Source>>,
    dropped: Arc<Dropped>,
) {
    let interval = std::env::var("OTEL_METRIC_EXPORT_INTERVAL")
        .ok()
        .and_then(|ms| ms.parse().ok())
        .filter(|ms| *ms > 0)
        .map_or(Duration::from_secs(60), Duration::from_millis);
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
        .or_else(|_| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT"))
        .unwrap_or_else(|_| "http://localhost:4317".to_owned());
    let channel = match tonic::transport::Endpoint::from_shared(endpoint.clone()) {
        Ok(channel) => channel
            .timeout(interval.min(Duration::from_secs(10)))
            .connect_lazy(),
        Err(error) => {
            tracing::error!(endpoint, %error, "metrics are not exported; fix OTEL_EXPORTER_OTLP_ENDPOINT");
            return;
        }
    };
    let mut client = MetricsServiceClient::new(channel);
    let started = unix_nanos();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let request = request(&service, started, unix_nanos(), &gather(&sources));
        if let Err(status) = client.export(request).await
            && dropped.0.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(endpoint, error = %status, "export of metrics failed; it is tried again at each interval");
        }
    }
}

fn unix_nanos() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn request(
    service: &str,
    start: u64,
    now: u64,
    metrics: &[Gathered],
) -> ExportMetricsServiceRequest {
    let mut attributes = vec![attribute("service.name", service)];
    if let Ok(pairs) = std::env::var("OTEL_RESOURCE_ATTRIBUTES") {
        attributes.extend(
            pairs
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| attribute(name.trim(), value.trim())),
        );
    }
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "shardway".into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    ..InstrumentationScope::default()
                }),
                metrics: metrics
                    .iter()
                    .filter_map(|metric| to_metric(metric, start, now))
                    .collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

fn to_metric(gathered: &Gathered, start: u64, now: u64) -> Option<Metric> {
    let number = |labels: &OwnedLabels, value| NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let mut numbers = Vec::new();
    let mut histograms = Vec::new();
    for (labels, value) in &gathered.series {
        match value {
            Value::Counter(v) => {
                let v = i64::try_from(*v).unwrap_or(i64::MAX);
                numbers.push(number(labels, number_data_point::Value::AsInt(v)));
            }
            Value::Gauge(v) => numbers.push(number(labels, number_data_point::Value::AsDouble(*v))),
            Value::Histogram(v) => histograms.push(HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: start,
                time_unix_nano: now,
                count: v.count(),
                sum: Some(v.sum),
                bucket_counts: v.buckets.to_vec(),
                explicit_bounds: DURATION_BOUNDS.to_vec(),
                ..HistogramDataPoint::default()
            }),
        }
    }
    let cumulative = AggregationTemporality::Cumulative as i32;
    let data = match gathered.series.values().next()? {
        Value::Counter(_) => metric::Data::Sum(Sum {
            data_points: numbers,
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Value::Gauge(_) => metric::Data::Gauge(Gauge {
            data_points: numbers,
        }),
        Value::Histogram(_) => metric::Data::Histogram(Histogram {
            data_points: histograms,
            aggregation_temporality: cumulative,
        }),
    };
    Some(Metric {
        name: gathered.desc.otel.into(),
        description: gathered.desc.help.into(),
        unit: gathered.desc.unit.into(),
        data: Some(data),
        ..Metric::default()
    })
}

fn attributes(labels: &OwnedLabels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(name, value)| attribute(name, value))
        .collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    KeyValue {
        key: name.into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}
