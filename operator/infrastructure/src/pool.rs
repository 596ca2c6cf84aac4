//! The shards, made from the ShardPool of this installation.

mod controller;
mod shards;
mod status;

pub use controller::PoolController;
pub use shards::{PodSettings, PoolError, headless_service, pod_selector, stateful_set};
pub use status::{PoolSpec, replicas};

#[cfg(test)]
mod tests;
