//! Counters of workers, and the source that adds them up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::GatewayKey;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::names;
use parking_lot::Mutex;

use crate::cause::{Cause, ConnectionCause};
use crate::gateway::Gateway;
use crate::upstream::EjectionCounts;

/// Counters of one worker. Relaxed: read for people only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerStats {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_closed: AtomicU64,
    requests: AtomicU64,
    requests_ended: AtomicU64,
    failures: [AtomicU64; Cause::ALL.len()],
    connection_failures: [AtomicU64; ConnectionCause::ALL.len()],
    pub(crate) upstream_opened: AtomicU64,
    pub(crate) upstream_closed: AtomicU64,
    pub(crate) upstream_failed: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_refused: AtomicU64,
}

impl WorkerStats {
    pub(crate) fn request_begun(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ended(&self, cause: Option<Cause>) {
        self.requests_ended.fetch_add(1, Ordering::Relaxed);
        if let Some(cause) = cause {
            self.failures[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request that was refused before it was one.
    pub(crate) fn refused(&self, cause: Cause) {
        self.failures[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that the proxy ended, or never served.
    pub(crate) fn connection_failed(&self, cause: ConnectionCause) {
        self.connection_failures[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn open(&self) -> u64 {
        let closed = self.connections_closed.load(Ordering::Relaxed);
        self.connections
            .load(Ordering::Relaxed)
            .saturating_sub(closed)
    }
}

/// What the proxy is doing now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Open client connections.
    pub connections: u64,
    /// Requests begun and not ended.
    pub requests_in_flight: u64,
    /// Requests begun since the start.
    pub requests_total: u64,
}

/// Everything that the data plane counts.
pub(crate) struct PlaneMetrics {
    pub(crate) workers: Vec<Arc<WorkerStats>>,
    pub(crate) gateways: Arc<Mutex<HashMap<GatewayKey, Arc<Gateway>>>>,
    /// Sockets that are wanted and not open.
    pub(crate) sockets_waiting: AtomicU64,
    pub(crate) ejections: Arc<EjectionCounts>,
}

impl PlaneMetrics {
    pub(crate) fn load(&self) -> Load {
        let mut load = Load::default();
        for worker in &self.workers {
            load.connections += worker.open();
            let ended = worker.requests_ended.load(Ordering::Relaxed);
            let begun = worker.requests.load(Ordering::Relaxed);
            load.requests_total += begun;
            load.requests_in_flight += begun.saturating_sub(ended);
        }
        load
    }
}

impl Source for PlaneMetrics {
    fn collect(&self, sink: &mut dyn Sink) {
        let sum = |of: &dyn Fn(&WorkerStats) -> &AtomicU64| -> u64 {
            self.workers
                .iter()
                .map(|worker| of(worker).load(Ordering::Relaxed))
                .sum()
        };
        sink.counter(names::CONNECTIONS, &[], sum(&|w| &w.connections));
        sink.gauge(
            names::CONNECTIONS_ACTIVE,
            &[],
            self.load().connections as f64,
        );
        let waiting = self.sockets_waiting.load(Ordering::Relaxed);
        sink.gauge(names::SOCKETS_WAITING, &[], waiting as f64);
        let (opened, closed) = (sum(&|w| &w.upstream_opened), sum(&|w| &w.upstream_closed));
        sink.counter(names::UPSTREAM_CONNECTS, &[("outcome", "ok")], opened);
        sink.counter(
            names::UPSTREAM_CONNECTS,
            &[("outcome", "failed")],
            sum(&|w| &w.upstream_failed),
        );
        sink.gauge(
            names::UPSTREAM_CONNECTIONS_ACTIVE,
            &[],
            opened.saturating_sub(closed) as f64,
        );
        sink.counter(names::UPSTREAM_RETRIES, &[], sum(&|w| &w.retries));
        let refused = sum(&|w| &w.retries_refused);
        sink.counter(names::UPSTREAM_RETRIES_REFUSED, &[], refused);
        let ejections = [
            ("connect", &self.ejections.by_connect),
            ("response", &self.ejections.by_response),
        ];
        for (cause, count) in ejections {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::UPSTREAM_EJECTIONS, &[("cause", cause)], count);
        }
        let ejected = self.ejections.now();
        sink.gauge(names::UPSTREAM_ENDPOINTS_EJECTED, &[], ejected as f64);
        for cause in Cause::ALL {
            let count = sum(&|w| &w.failures[*cause as usize]);
            if count > 0 {
                sink.counter(names::REQUEST_FAILURES, &[("cause", cause.flag())], count);
            }
        }
        for cause in ConnectionCause::ALL {
            let count = sum(&|w| &w.connection_failures[*cause as usize]);
            if count > 0 {
                sink.counter(
                    names::CONNECTION_FAILURES,
                    &[("cause", cause.flag())],
                    count,
                );
            }
        }
        let gateways: Vec<Arc<Gateway>> = self.gateways.lock().values().cloned().collect();
        for gateway in gateways {
            let totals = gateway.totals();
            if totals.duration.count() == 0 {
                continue; // an idle Gateway costs no series
            }
            let tenant = gateway.tenant();
            for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .into_iter()
                .zip(totals.by_class)
            {
                if count > 0 {
                    let labels = [
                        ("gateway", gateway.label.as_str()),
                        ("tenant", &tenant.0),
                        ("class", class),
                    ];
                    sink.counter(names::REQUESTS, &labels, count);
                }
            }
            let labels = [("gateway", gateway.label.as_str()), ("tenant", &tenant.0)];
            sink.histogram(names::REQUEST_DURATION, &labels, &totals.duration);
        }
    }
}
