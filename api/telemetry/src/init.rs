//! Start-up: logs to standard error, traces and metrics to a collector when the OTEL_* variables name one.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Arc;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::metrics::Source;
use crate::otlp::{self, Signal};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As settings spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("unknown log format {other:?}; use text or json")),
        }
    }
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// `SHARDWAY_LOG` or `RUST_LOG` is no filter.
    #[error("read log filter from SHARDWAY_LOG or RUST_LOG; use for example info,operator=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The runtime for exporting could not be started.
    #[error("start the runtime that exports telemetry")]
    Runtime(#[from] std::io::Error),
    /// The OTLP exporter could not be built.
    #[error("build the OTLP exporter; check OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Keeps exporting until dropped; dropping flushes within a second.
pub struct TelemetryGuard {
    service: String,
    runtime: Option<tokio::runtime::Runtime>,
    tracer: Option<SdkTracerProvider>,
    dropped: Arc<otlp::Dropped>,
}

/// Sets up logs and, when wanted, traces.
///
/// Logs: filter from `SHARDWAY_LOG`, else `RUST_LOG`, else `info`. Traces: exported by OTLP over gRPC when
/// `OTEL_EXPORTER_OTLP_ENDPOINT` (or the traces one) is set or `OTEL_TRACES_EXPORTER=otlp`, unless
/// `OTEL_SDK_DISABLED=true`; the sampler, queue and batch sizes follow the standard OTEL_* variables. The queue is
/// bounded and drops.
///
/// # Errors
/// [`InitError`] when a filter or an endpoint cannot be read.
pub fn init(service: &str, format: LogFormat) -> Result<TelemetryGuard, InitError> {
    let filter = match std::env::var("SHARDWAY_LOG").or_else(|_| std::env::var("RUST_LOG")) {
        Ok(directives) => EnvFilter::try_new(directives)?,
        Err(_) => EnvFilter::new("info"),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let wants_traces = otlp::wanted(Signal::Traces);
    let runtime = if wants_traces || otlp::wanted(Signal::Metrics) {
        Some(
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("telemetry")
                .enable_all()
                .build()?,
        )
    } else {
        None
    };
    let tracer = match &runtime {
        Some(runtime) if wants_traces => {
            let _inside = runtime.enter();
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .build()?;
            Some(
                SdkTracerProvider::builder()
                    .with_batch_exporter(exporter)
                    .with_resource(
                        opentelemetry_sdk::Resource::builder()
                            .with_service_name(otlp::service_name(service))
                            .build(),
                    )
                    .build(),
            )
        }
        _ => None,
    };
    let spans = tracer
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("shardway")));
    // A second initialisation in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init();
    Ok(TelemetryGuard {
        service: service.to_owned(),
        runtime,
        tracer,
        dropped: Arc::default(),
    })
}

impl TelemetryGuard {
    /// Starts exporting the metrics of `sources` by OTLP, every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds
    /// (default 60,000), when `OTEL_EXPORTER_OTLP_ENDPOINT` (or the metrics one) is set or
    /// `OTEL_METRICS_EXPORTER=otlp`. A failed export is counted and the next one carries the totals.
    pub fn export_metrics(&self, sources: Vec<Arc<dyn Source>>) {
        if let Some(runtime) = &self.runtime
            && otlp::wanted(Signal::Metrics)
        {
            let service = otlp::service_name(&self.service);
            let dropped = Arc::clone(&self.dropped);
            #[allow(clippy::disallowed_methods)] // on the telemetry runtime, ends with it
            runtime.spawn(otlp::export_metrics(service, sources, dropped));
        }
    }

    /// Exports that failed.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.dropped) as Arc<dyn Source>
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.shutdown();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        }
    }
}
