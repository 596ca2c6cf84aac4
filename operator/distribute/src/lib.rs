//! Delta streams to the shards, and the rollout of each Gateway's revisions.
//!
//! ```text
//!   applied entries --bounded--> Streams (any replica) --bounded queue for each shard--> delta stream
//!                      |            |   ^
//!                      |          Event  `-- prepared, refused, busy, acknowledged, resync
//!                      |            v
//!                      |         Sources <--Event-- relays of other replicas
//!                      v            |    `--Event--> relay to the replica that leads
//!                     Lead: Rollout (pure)        (only while this replica leads)
//!                      |               |
//!                  Activate --> raft   reports --> status, moves
//! ```
//!
//! **Invariants**
//! - A shard gets contiguous deltas of a Gateway, or the Gateway whole; facts that a revision needs come before it.
//! - A shard gets what is placed on it, and the facts that this refers to, and nothing else.
//! - `Activate` is proposed only for a revision that every live, unfenced shard of the Gateway has prepared.
//! - A stream begins, and a Gateway is sent whole, from a snapshot of which every entry was taken: nothing is skipped.
//! - A shard that asks for the same again and again waits longer each time.
//! - Of a shard that is connected to two replicas, what it says where it came last counts.
//! - A replica that follows answers a shard only once it has applied all that the shard was told of.
//! - While a Gateway moves, shards that join and leave get everything that the others get.
//! - A shard that cannot keep up is sent its state anew instead of being queued for without bound.
//!
//! It deliberately does not know: manifests, conditions, how shards serve.

mod distributor;
mod event;
mod interest;
mod lead;
mod metrics;
mod relay;
pub mod rollout;
mod service;
mod sources;
mod streams;
pub mod tls;
mod view;

pub use distributor::{Config, Distributor, start};
pub use event::{AppliedEvent, Event, Refusal, RolloutReport};
pub use service::{ServeError, ServeTls, ServerTls, serve};
pub use view::ShardView;
