//! The routing snapshot: what all Gateways serve, as entries that mirror the user's API.
//!
//! ```text
//!   translate --entries--> diff --Delta--> Raft --Command--> RoutingSnapshot::apply (every replica)
//!                                                                 |
//!                                        shard table <--GatewayDelta, FactsDelta-- delta stream
//! ```
//!
//! Two lanes share one sequence of revisions. *Configuration* (Gateways, listeners, rules) belongs to one
//! Gateway, is committed, prepared by its shards and then activated. *Facts* (endpoints, certificates,
//! placement, bindings) count at once and are never rolled back.
//!
//! **Invariants**
//! - An entry is a pair of byte strings in canonical encoding (CBOR with numbered fields); replicas and
//!   shards hash and store these bytes as they came, so an older reader never changes a hash.
//! - `apply(old, diff(old, new)) == new`, and the hash after it depends on the entries alone, not on the path.
//! - A [`GatewayDelta`] names its base; one that does not fit is rejected, identically on every replica.
//! - Revisions compare only within one [`Epoch`].
//! - What waits for activation is bounded: deltas beyond [`PENDING_MAX`] become one, alike on every replica.
//! - Applying costs O(entries in the delta), whatever the snapshot holds.
//!
//! It deliberately does not know: manifests, Raft, sockets, clocks.

mod chain;
pub mod config;
pub mod delta;
mod diff;
mod entries;
pub mod facts;
mod hash;
mod state;
pub mod view;

pub use chain::{GatewayChain, PENDING_MAX, PendingDelta};
pub use config::{GatewayEntry, GatewayEntryKey};
pub use delta::{Command, Delta, Epoch, FactsDelta, GatewayDelta, Op, Origin};
pub use diff::{diff, diff_typed};
pub use entries::{DecodeError, EntrySet, decode, encode};
pub use facts::{Fact, FactKey};
pub use hash::SetHash;
pub use state::{Activation, Applied, RestoreError, RoutingSnapshot};
