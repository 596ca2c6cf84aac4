//! What crosses every boundary of Shardway: structural ids, revisions, condition and reason names, the form of a path.
//!
//! ```text
//!   api  <--  api/snapshot, api/wire, operator/*, shard-proxy/*      (it depends on nothing else of ours)
//! ```
//!
//! **Invariants**
//! - An id is a struct of its parts. Nothing in the project joins two parts into one string to compare or
//!   look up: `a-b`/`c` and `a`/`b-c` never meet.
//! - Ids order and encode in one canonical way, so that hashes over them agree on every replica.
//!
//! It deliberately does not know: manifests, Kubernetes clients, sockets, clocks.

pub mod condition;
pub mod id;
pub mod path;

pub use id::{
    BackendKey, CertificateKey, GatewayKey, ObjectKey, PoolKey, Revision, RouteKey, RouteKind,
    ShardId, TenantId, Timestamp,
};

/// The controller name that a GatewayClass names to be served by Shardway.
///
/// Source: gateway-api v1 `GatewayClass.spec.controllerName`.
pub const CONTROLLER_NAME: &str = "shardway.dev/gateway-controller";

/// API group of the Gateway API kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Annotation on a Service that lists its endpoints as `ip:port,ip:port` where no EndpointSlice exists.
pub const ENDPOINTS_ANNOTATION: &str = "shardway.dev/endpoints";
