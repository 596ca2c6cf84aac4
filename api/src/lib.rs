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

use std::sync::OnceLock;

pub mod condition;
pub mod id;
pub mod path;

pub use id::{
    BackendKey, CertificateKey, GatewayKey, ObjectKey, PoolKey, Revision, RouteKey, RouteKind,
    ShardId, TenantId, Timestamp,
};

/// The controller name that a GatewayClass names to be served by Shardway, unless an installation has one of its own.
///
/// Source: gateway-api v1 `GatewayClass.spec.controllerName`.
pub const CONTROLLER_NAME: &str = "shardway.dev/gateway-controller";

static OWN_CONTROLLER_NAME: OnceLock<String> = OnceLock::new();

/// The controller name of this installation: [`CONTROLLER_NAME`], unless the process was started with another. As constant as
/// that one for all who ask.
pub fn controller_name() -> &'static str {
    OWN_CONTROLLER_NAME
        .get()
        .map_or(CONTROLLER_NAME, String::as_str)
}

/// Gives this process a controller name of its own, so that several installations serve side by side. Once, before anything
/// is translated.
///
/// # Errors
/// The name that it has already.
pub fn set_controller_name(name: String) -> Result<(), &'static str> {
    OWN_CONTROLLER_NAME.set(name).map_err(|_| controller_name())
}

/// API group of the Gateway API kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Annotation on a Service that lists its endpoints as `ip:port,ip:port` where no EndpointSlice exists.
pub const ENDPOINTS_ANNOTATION: &str = "shardway.dev/endpoints";
