//! Where a Gateway is served: on which shards of the pool, at which address, on which ports.
//!
//! ```text
//!   servable listeners of a Gateway --Allocator::plan--> Placement + one Binding for each port   (facts)
//!              committed facts --Allocator::restore--'
//! ```
//!
//! **Invariants**
//! - What is allocated stays: a plan for the same Gateway gives the same shards, address and ports, also after a
//!   restart from the committed facts and whatever came and went in between.
//! - No two Gateways hold one (address, public port), and none that share a shard hold one target port. An address given
//!   from the range is one Gateway's alone, also while none of its ports can be served.
//! - What is not wanted any more stays taken until no shard serves by it: no connection goes to another tenant's Gateway.
//! - In a cluster a Gateway's Service leads to its target ports, and there are no addresses to hold.
//! - A Gateway stays on its shards until it is moved, and is let go by one only when others serve it and clients are led
//!   there. Its target ports are the same on all shards that hold it, those that join and leave included.
//! - Rendezvous hashing: growing the pool by one shard moves about k/N of the Gateways.
//!
//! It deliberately does not know: sockets (whether a port is really free is what the shard's bind says), listeners'
//! protocols, load.

mod address;
mod allocator;
mod moves;
mod rendezvous;

pub use address::{AddressRange, ParseRangeError};
pub use allocator::{Allocator, Moved, Plan, PlanError, PortRules, Request, Rules, WantedAddress};
pub use moves::{MoveStep, Moves, Settings as MoveSettings};
pub use rendezvous::shards_of;
