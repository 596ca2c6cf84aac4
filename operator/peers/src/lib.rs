//! What replicas of the operator say to each other, and who they are.
//!
//! ```text
//!   raft --PeerOutbox--> Queue --one call for each replica, mutual TLS--> Inbox --> raft of the other
//!                  `--> snapshot --frames on a connection of its own-------^
//!   Distributor of a follower --Relaying, a connection of its own--> Distributor of the leader
//!   Directory: raft id --> ordinal, address  <-- members::keep <-- table of members (a file, a ConfigMap)
//! ```
//!
//! **Invariants**
//! - Raft's thread never waits for the network: what does not fit is dropped and counted, raft sends again what still counts.
//! - A message waits behind messages to the same replica alone, never behind a snapshot.
//! - A snapshot is reported as arrived once the other replica's raft has taken all of its bytes.
//! - A message is taken from a replica's certificate alone, and only by the raft id and the cluster that it is meant for.
//! - A raft id belongs to one disk for ever; see [`members`].
//! - Names are resolved, and TLS settings asked for, anew for each connection; a replica that has called is tried where it
//!   called from first.
//!
//! It deliberately does not know: what raft's messages say.

mod accept;
mod dial;
mod directory;
mod link;
pub mod members;
mod metrics;
mod parts;
mod pause;
mod queue;
mod raft;
mod relay;
mod seen;
mod service;
mod stream;
mod tls;
mod transport;

pub use directory::{Directory, Peer};
pub use relay::{Relaying, Shards};
pub use tls::PeerTls;
pub use transport::{Config, Inbox, PeerOutbox, StartError, Transport};
