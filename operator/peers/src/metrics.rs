//! What the transport counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api_telemetry::metrics::{Sink, Source};
use api_telemetry::names;
use parking_lot::RwLock;

use crate::link::Link;

/// Links by the raft id of the replica at their other end.
pub(crate) type Links = RwLock<BTreeMap<u64, Arc<Link>>>;

/// Counters of one transport.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) links: Links,
    /// Messages dropped: no room.
    pub(crate) full: AtomicU64,
    /// ... the replica could not be reached.
    pub(crate) down: AtomicU64,
    /// ... nothing is known of the replica.
    pub(crate) unknown: AtomicU64,
    /// ... over the limit.
    pub(crate) large: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) connects_failed: AtomicU64,
    /// Connections and calls of others that were refused.
    pub(crate) refused: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) not_sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) not_received: AtomicU64,
    /// Events of the present call to the leader, and those of them that it has taken.
    pub(crate) relay_told: AtomicU64,
    pub(crate) relay_taken: AtomicU64,
    /// Calls to the leader that ended.
    pub(crate) relay_ends: AtomicU64,
    /// Events of followers.
    pub(crate) relay_received: AtomicU64,
}

impl Source for Metrics {
    fn collect(&self, sink: &mut dyn Sink) {
        for (id, link) in self.links.read().iter() {
            let id = id.to_string();
            let labels = [("peer", id.as_str())];
            let (messages, bytes) = link.queue.size();
            let connected = f64::from(u8::from(link.connected.load(Ordering::Relaxed)));
            sink.gauge(names::PEER_CONNECTED, &labels, connected);
            sink.gauge(names::PEER_QUEUE_MESSAGES, &labels, messages as f64);
            sink.gauge(names::PEER_QUEUE_BYTES, &labels, bytes as f64);
        }
        for (desc, label, counts) in [
            (
                names::PEER_MESSAGES_DROPPED,
                "cause",
                &[
                    ("full", &self.full),
                    ("down", &self.down),
                    ("unknown", &self.unknown),
                    ("large", &self.large),
                ][..],
            ),
            (
                names::PEER_CONNECTS,
                "outcome",
                &[
                    ("opened", &self.connects),
                    ("failed", &self.connects_failed),
                ][..],
            ),
            (
                names::PEER_SNAPSHOTS,
                "outcome",
                &[
                    ("sent", &self.sent),
                    ("not_sent", &self.not_sent),
                    ("received", &self.received),
                    ("not_received", &self.not_received),
                ][..],
            ),
        ] {
            for (value, count) in counts {
                sink.counter(desc, &[(label, value)], count.load(Ordering::Relaxed));
            }
        }
        for (desc, count) in [
            (names::PEER_REFUSED, &self.refused),
            (names::RELAY_ENDS, &self.relay_ends),
            (names::RELAY_RECEIVED, &self.relay_received),
        ] {
            sink.counter(desc, &[], count.load(Ordering::Relaxed));
        }
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let waiting = now(&self.relay_told).saturating_sub(now(&self.relay_taken));
        sink.gauge(names::RELAY_WAITING, &[], waiting as f64);
    }
}
