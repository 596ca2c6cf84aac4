//! The compiled route table of one Gateway.
//!
//! ```text
//!   Ops (snapshot entries) --SubTable::apply--> next SubTable (shares what did not change)
//!
//!   SubTable: port -> listener by host -> host -> path -> candidates in order of precedence -> rule
//! ```
//!
//! **Invariants**
//! - A table is immutable; applying gives a new one. A request keeps the one it started with.
//! - A table's hash is the hash of the snapshot entries that it was built from, or it is not built.
//! - Applying costs O(changed entries x hosts x matches of theirs), not the size of the table.
//! - Routing allocates nothing.
//! - The answer is that of the specification's precedence over all matches (see [`order`]), never of insertion order.
//!
//! It deliberately does not know: sockets, clocks, endpoints. What a backend *is* comes in as a type parameter: cells
//! with endpoints in the proxy, plain keys in `shardway explain`.

mod apply;
mod explain;
mod host;
pub mod order;
mod path;
mod rule;
mod table;

pub use apply::ApplyError;
pub use explain::{Explanation, NearMiss};
pub use rule::{CompiledFilter, HeaderOps, Rule, RuleBackend};
pub use table::{Listener, Match, Outcome, RequestView, SubTable};

#[cfg(test)]
mod tests;
