//! What workers share of one Gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::{GatewayKey, TenantId};
use api_telemetry::metrics::{DurationHistogram, HistogramValue};
use arc_swap::ArcSwap;
use http::StatusCode;
use shard_proxy_table::SubTable;

use crate::GatewayTable;

/// One Gateway: its table, swapped whole, and its counters.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) key: GatewayKey,
    /// `namespace/name`, for labels.
    pub(crate) label: String,
    pub(crate) table: ArcSwap<GatewayTable>,
    removed: AtomicBool,
    /// Listener ports that clients reach by another port, and that port.
    public_ports: ArcSwap<BTreeMap<u16, u16>>,
    /// One for each worker, so that counting shares no cache line.
    stats: Box<[GatewayStats]>,
}

/// Counters of one worker for one Gateway.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct GatewayStats {
    /// By first digit of the status, 1 to 5.
    by_class: [AtomicU64; 5],
    duration: DurationHistogram,
}

/// Sums over workers.
#[derive(Debug, Default)]
pub(crate) struct GatewayTotals {
    pub(crate) by_class: [u64; 5],
    pub(crate) duration: HistogramValue,
}

impl Gateway {
    pub(crate) fn new(key: GatewayKey, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            label: key.to_string(),
            table: ArcSwap::from_pointee(SubTable::empty(key.clone())),
            removed: AtomicBool::new(false),
            public_ports: ArcSwap::default(),
            stats: (0..workers).map(|_| GatewayStats::default()).collect(),
            key,
        })
    }

    /// Whether it is served no more: its connections are to end.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Relaxed);
    }

    /// Port by which clients reach the listener of a port that takes a host; the port itself when there is none here.
    pub(crate) fn public_port(&self, port: u16, host: &str) -> u16 {
        let ports = self.public_ports.load();
        match ports.get(&port) {
            Some(public) if self.table.load().listener_for(port, host).is_some() => *public,
            _ => port,
        }
    }

    /// Takes the public port of each listener port.
    pub(crate) fn set_public_ports(&self, ports: impl Iterator<Item = (u16, u16)>) {
        let different = ports.filter(|(port, public)| port != public).collect();
        self.public_ports.store(Arc::new(different));
    }

    pub(crate) fn tenant(&self) -> TenantId {
        let table = self.table.load();
        table.spec().map_or_else(
            || TenantId(self.key.namespace.clone()),
            |spec| spec.tenant.clone(),
        )
    }

    /// Counts one answered request.
    pub(crate) fn record(&self, worker: usize, status: StatusCode, took: Duration) {
        let stats = &self.stats[worker];
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        stats.by_class[class].fetch_add(1, Ordering::Relaxed);
        stats.duration.record(took);
    }

    pub(crate) fn totals(&self) -> GatewayTotals {
        let mut totals = GatewayTotals::default();
        for stats in &self.stats {
            for (sum, count) in totals.by_class.iter_mut().zip(&stats.by_class) {
                *sum += count.load(Ordering::Relaxed);
            }
            stats.duration.add_to(&mut totals.duration);
        }
        totals
    }
}
