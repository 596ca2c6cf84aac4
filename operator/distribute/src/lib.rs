//! Delta streams to the shards, and the rollout of each Gateway's revisions.
//!
//! ```text
//!   applied entries --bounded--> distributor task --bounded queue for each shard--> delta stream
//!                                    |   ^
//!                            Rollout (pure)  <-- prepared, refused, busy, acknowledged
//!                                    |
//!                          Activate --> raft      reports --> status
//! ```
//!
//! **Invariants**
//! - A shard gets contiguous deltas of a Gateway, or the Gateway whole; facts that a revision needs come before it.
//! - A shard gets what is placed on it, and the facts that this refers to, and nothing else.
//! - `Activate` is proposed only for a revision that every live, unfenced shard of the Gateway has prepared.
//! - A shard that cannot keep up is sent its state anew instead of being queued for without bound.
//!
//! It deliberately does not know: manifests, conditions, how shards serve.

mod distributor;
mod interest;
mod metrics;
pub mod rollout;
mod service;
pub mod tls;

pub use distributor::{AppliedEvent, Config, Distributor, RolloutReport, ShardView, start};
pub use service::{ServeError, ServerTls, serve};
