//! The admin endpoint of the shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api_telemetry::admin::Reply;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::{names, prometheus};
use serde_json::json;
use shard_proxy_subscribe::{ServedGateways, ShardStatus};
use tokio::sync::watch;

use crate::plane::Served;

/// What the endpoint shows.
pub(crate) struct View {
    pub(crate) shard: u32,
    pub(crate) plane: Arc<Served>,
    pub(crate) status: watch::Receiver<ShardStatus>,
    pub(crate) served: ServedGateways,
    pub(crate) connected: watch::Receiver<bool>,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) sources: Vec<Arc<dyn Source>>,
}

impl View {
    /// Answers one path.
    pub(crate) fn answer(&self, path: &str) -> Reply {
        match path {
            "/healthz" => Reply::text(http::StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => Reply {
                status: http::StatusCode::OK,
                content_type: prometheus::CONTENT_TYPE,
                body: prometheus::encode(&self.sources).into_bytes(),
            },
            "/dump" => Reply::json(self.dump().to_string().into_bytes()),
            _ => Reply::not_found(&["/healthz", "/readyz", "/metrics", "/dump"]),
        }
    }

    fn ready(&self) -> Reply {
        if self.draining.load(Ordering::Relaxed) {
            Reply::text(http::StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else if self.status.borrow().ready {
            Reply::text(http::StatusCode::OK, "ready\n")
        } else {
            Reply::text(
                http::StatusCode::SERVICE_UNAVAILABLE,
                "no table loaded yet\n",
            )
        }
    }

    /// Live state without secrets.
    fn dump(&self) -> serde_json::Value {
        let status = *self.status.borrow();
        let gateways: Vec<_> = self
            .served
            .list()
            .iter()
            .map(|(key, (revision, rules))| {
                let table = self.plane.0.table(key);
                let mut listeners: Vec<_> = table
                    .iter()
                    .flat_map(|table| table.listeners())
                    .map(|listener| json!({"name": listener.name, "port": listener.spec.port, "hostname": listener.spec.hostname, "tls": listener.is_tls()}))
                    .collect();
                listeners.sort_by_key(|listener| listener["name"].to_string());
                let hash = table.as_ref().map(|table| table.hash());
                json!({"gateway": key, "revision": revision, "rules": rules, "hash": hash, "listeners": listeners})
            })
            .collect();
        let sockets: Vec<_> = self
            .plane
            .0
            .sockets()
            .into_iter()
            .map(|(gateway, address, port)| json!({"gateway": gateway, "address": address.to_string(), "listenerPort": port}))
            .collect();
        let load = self.plane.0.load();
        json!({
            "shard": self.shard,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": status.ready,
            "connected": *self.connected.borrow(),
            "draining": self.draining.load(Ordering::Relaxed),
            "facts": status.facts,
            "resyncs": status.resyncs,
            "connections": load.connections,
            "requestsInFlight": load.requests_in_flight,
            "gateways": gateways,
            "sockets": sockets,
        })
    }
}

/// Metrics of the table.
pub(crate) struct TableMetrics {
    pub(crate) status: watch::Receiver<ShardStatus>,
    pub(crate) served: ServedGateways,
    pub(crate) connected: watch::Receiver<bool>,
}

impl Source for TableMetrics {
    fn collect(&self, sink: &mut dyn Sink) {
        let status = *self.status.borrow();
        let (gateways, newest) = self.served.count();
        sink.gauge(names::TABLE_REVISION, &[], newest.0 as f64);
        sink.gauge(names::TABLE_GATEWAYS, &[], gateways as f64);
        sink.counter(names::STREAM_RESYNCS, &[], status.resyncs);
        sink.gauge(
            names::STREAM_CONNECTED,
            &[],
            if *self.connected.borrow() { 1.0 } else { 0.0 },
        );
    }
}
