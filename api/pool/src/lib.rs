//! The ShardPool (`shardway.dev/v1alpha1`): how many shards there are, what they are given, and how Gateways' Services look.
//!
//! ```text
//!   ShardPool ---CRD---> helm/shardway/crds/shardpools.yaml      (a test compares, REWRITE=1 writes)
//!      spec.service <--overridden by-- a ConfigMap that a Gateway's infrastructure.parametersRef names
//! ```
//!
//! **Invariants**
//! - What the CRD lets through can be read by these types: a field is never stricter here than in the schema.
//! - A ConfigMap's unknown field is an error that names it; nothing is ignored in silence.
//!
//! It deliberately does not know how a Service, or a StatefulSet, is made of it.

#![allow(unreachable_pub)] // what kube derives for a schema is `pub` and reachable by nobody

mod pool;
mod service;

pub use pool::{
    Drain, SHARDS_MAX, ShardPool, ShardPoolSpec, ShardPoolStatus, crd_yaml, shard_name, shards_name,
};
pub use service::{
    Family, FamilyPolicy, PARAMETERS_KEY, ParametersError, ServiceSettings, ServiceType,
    TrafficDistribution, TrafficPolicy,
};
