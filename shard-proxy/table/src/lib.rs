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
//! - A table's hash is the hash of the snapshot entries that it was built from, or it is not built. Of an entry's bytes
//!   only their hash is kept.
//! - Applying costs O(changed entries x hosts x matches of theirs), not the size of the table, whether the others have
//!   hosts of their own or share one host, or even one path. Untouched hosts are shared with the table before.
//! - Routing allocates nothing and takes two look-ups by host, one for each label that a wildcard could stand before,
//!   then at most 16 comparisons or one look-up for each length of prefix. Matches of *one* path of one host are tried
//!   one after the other.
//! - The answer is that of the specification's precedence over all matches (see [`order`]), never of insertion order;
//!   a property test holds it against an oracle written from the specification's text.
//! - A route costs less than 1,400 bytes (`tests/cost.rs` measures it; `examples/cost.rs` prints it).
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
