//! What a Gateway needs of the cluster: a Service with an address of its own, and EndpointSlices that list just its shards.
//! And the shards themselves, made from the ShardPool.
//!
//! ```text
//!   needs of Gateways ---+
//!   pods of the pool ----+--> service, endpoint_slices (pure) --what differs--> API server
//!   Services and slices -+                                  `--addresses, problems--> Observed
//!
//!   ShardPool, shards in use --> stateful_set (pure) --what differs--> API server
//! ```
//!
//! **Invariants**
//! - The leader alone writes; every replica watches, so that a new leader knows what is there.
//! - Nothing is written before everything has been listed: a replica that has just started takes nobody's endpoints away.
//! - A Service or slice that is not ours stays as it is, whatever its name.
//! - A shard that is in use is not taken away.
//!
//! It deliberately does not know: which shards serve which Gateway and why, routes, Raft.

mod address;
mod difference;
mod follow;
mod infrastructure;
mod known;
mod labels;
mod metrics;
mod name;
mod needs;
mod perform;
mod pool;
mod queue;
mod service;
mod slices;
mod world;

pub use address::{assigned, wanted};
pub use api_pool::ServiceSettings;
pub use infrastructure::{Infrastructure, Settings};
pub use name::{label_value, service_name};
pub use needs::{
    AddressKind, GatewayNeeds, Observed, Problem, ShardPod, StatusAddress, WantedAddress,
};
pub use pool::{
    PodSettings, PoolController, PoolError, PoolSpec, headless_service, pod_selector, replicas,
    stateful_set,
};
pub use service::{immutable, service};
pub use slices::endpoint_slices;

#[cfg(test)]
mod tests;
