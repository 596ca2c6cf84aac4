//! A shard as people see it.

use api::ShardId;
use api_wire::delivery;
use serde::Serialize;

/// A shard that was seen since the start.
#[derive(Debug, Clone, Serialize)]
pub struct ShardView {
    /// Which.
    pub shard: ShardId,
    /// Whether its stream is up.
    pub connected: bool,
    /// Its version.
    pub version: String,
    /// Its admin endpoint.
    pub admin: String,
    /// Gateways placed on it.
    pub gateways: usize,
    /// Open client connections.
    pub connections: u64,
    /// Requests in flight.
    pub requests_in_flight: u64,
    /// Requests since its start.
    pub requests_total: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

impl ShardView {
    pub(crate) fn connected(shard: ShardId, hello: &delivery::Hello, gateways: usize) -> Self {
        Self {
            shard,
            connected: true,
            version: hello.version.clone(),
            admin: hello.admin.clone(),
            gateways,
            connections: 0,
            requests_in_flight: 0,
            requests_total: 0,
            rss_bytes: 0,
        }
    }

    /// Connected to another replica.
    pub(crate) fn elsewhere(shard: ShardId) -> Self {
        Self::connected(shard, &delivery::Hello::default(), 0)
    }

    pub(crate) fn loaded(&mut self, load: &delivery::Load, gateways: usize) {
        self.connections = load.connections;
        self.requests_in_flight = load.requests_in_flight;
        self.requests_total = load.requests_total;
        self.rss_bytes = load.rss_bytes;
        self.gateways = gateways;
    }
}
