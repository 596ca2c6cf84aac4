//! What goes between the parts: applied entries in, streams to rollout, rollout to the pipeline. Plain data.

use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{Applied, Fact, FactKey, GatewayEntryKey, Op, RoutingSnapshot, decode};

/// An entry was applied.
#[derive(Debug, Clone)]
pub struct AppliedEvent {
    /// Its index.
    pub index: Revision,
    /// What it did.
    pub applied: Applied,
}

/// What a replica's streams tell the rollout. A replica that follows has these relayed to the one that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All shards of this replica are unknown from here on; those that are connected follow.
    Restarted,
    /// A shard's stream is up. What it serves follows as [`Event::Acknowledged`].
    Connected(ShardId),
    /// A shard's stream is down.
    Disconnected(ShardId),
    /// A shard has built and bound a revision.
    Prepared(ShardId, GatewayKey, Revision),
    /// A shard serves a revision.
    Acknowledged(ShardId, GatewayKey, Revision),
    /// A shard needs longer for a revision.
    Busy(ShardId, GatewayKey, Revision, Duration),
    /// A shard cannot serve a revision.
    Refused(Refusal),
}

/// A shard cannot serve a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which shard.
    pub shard: ShardId,
    /// Which Gateway.
    pub gateway: GatewayKey,
    /// Which revision.
    pub revision: Revision,
    /// The listener at fault; none for the whole Gateway.
    pub listener: Option<String>,
    /// The entry that the shard does not understand, if it is one.
    pub entry: Option<GatewayEntryKey>,
    /// Whether a socket could not be bound.
    pub port_unavailable: bool,
    /// What the shard says.
    pub message: String,
}

/// What the rollout has to say, for statuses and the change log.
#[derive(Debug, Clone)]
pub enum RolloutReport {
    /// All live shards serve a revision; said again when more of them do.
    Propagated {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that acknowledged.
        acknowledged: usize,
        /// Shards of the Gateway; those that join or leave do not count.
        total: usize,
        /// Since its cause was seen, until all that were live then served it.
        took: Duration,
    },
    /// A shard cannot serve a revision.
    Refused {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Which shard.
        shard: ShardId,
        /// The listener at fault; none for the whole Gateway.
        listener: Option<String>,
        /// The entry that the shard does not understand, if it is one: without it the rest can be served.
        entry: Option<GatewayEntryKey>,
        /// Whether a socket could not be bound.
        port_unavailable: bool,
        /// What the shard says.
        message: String,
    },
    /// Too few shards answered.
    Waiting {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that are prepared.
        prepared: usize,
        /// Shards of the Gateway.
        total: usize,
    },
    /// Which shards serve what is active of a Gateway that moves; said at each change.
    Moving {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Where its placement, of which this is said, was committed or read.
        placed: Revision,
        /// The shards; all that hold it while nothing is active.
        serving: Vec<ShardId>,
    },
    /// A rollout went on without a shard.
    Fenced {
        /// Which shard.
        shard: ShardId,
        /// In the rollout of which Gateway.
        gateway: GatewayKey,
    },
}

/// Where a Gateway is from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// Shards that its clients are led to.
    pub shards: Vec<ShardId>,
    /// Those, and shards that join and leave: all hold it. Ascending.
    pub everywhere: Vec<ShardId>,
}

/// Changes of placement among operations on facts: the Gateway, and its shards from now on.
pub(crate) fn placements(ops: &[Op]) -> impl Iterator<Item = (GatewayKey, Placed)> {
    ops.iter()
        .filter_map(|op| Some((placed(&op.key)?, shards_in(op.value.as_deref()))))
}

/// All placements there are. Cost: O(facts).
pub(crate) fn all_placements(
    snapshot: &RoutingSnapshot,
) -> impl Iterator<Item = (GatewayKey, Placed)> {
    snapshot
        .facts()
        .iter()
        .filter_map(|(key, value)| Some((placed(key)?, shards_in(Some(value)))))
}

fn placed(key: &[u8]) -> Option<GatewayKey> {
    match decode("fact key", key) {
        Ok(FactKey::Placement(gateway)) => Some(gateway),
        _ => None,
    }
}

fn shards_in(value: Option<&[u8]>) -> Placed {
    match value.map(|value| decode("placement", value)) {
        Some(Ok(Fact::Placement(placement))) => Placed {
            everywhere: placement.everywhere(),
            shards: placement.shards,
        },
        _ => Placed::default(),
    }
}
