//! Our own form of the objects that translate reads. Decoding fills it from generated types after the schema has
//! been checked and defaults are written in, so nothing here is optional that the API defaults.

mod cluster;
mod core;
mod gateway;
mod route;

pub use self::cluster::*;
pub use self::core::*;
pub use gateway::*;
pub use route::*;

use std::collections::BTreeMap;

use api::{GATEWAY_GROUP, ObjectKey, Timestamp};

/// API group of our own kinds.
pub const POOL_GROUP: &str = "shardway.dev";

/// Who changed an object last, by `metadata.managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedBy {
    /// `manager`: `kubectl-client-side-apply`, `argocd-controller`.
    pub manager: String,
    /// When.
    pub at: Timestamp,
}

/// The part of `metadata` that is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique for this life of the object.
    pub uid: String,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// Age, by which conflicts are decided.
    pub created_at: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Who changed it last; none where nobody keeps count.
    pub changed_by: Option<ChangedBy>,
}

/// Any object that the index holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// gateway.networking.k8s.io GatewayClass.
    GatewayClass(GatewayClass),
    /// gateway.networking.k8s.io Gateway.
    Gateway(Gateway),
    /// gateway.networking.k8s.io HTTPRoute.
    HttpRoute(HttpRoute),
    /// gateway.networking.k8s.io ReferenceGrant.
    ReferenceGrant(ReferenceGrant),
    /// core Namespace.
    Namespace(Namespace),
    /// core Service.
    Service(Service),
    /// discovery.k8s.io EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// core Secret.
    Secret(Secret),
    /// core ConfigMap.
    ConfigMap(ConfigMap),
    /// shardway.dev ShardPool.
    ShardPool(ShardPool),
    /// apiextensions.k8s.io CustomResourceDefinition.
    Crd(Crd),
}

impl Object {
    /// The object's metadata.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::GatewayClass(o) => &o.meta,
            Self::Gateway(o) => &o.meta,
            Self::HttpRoute(o) => &o.meta,
            Self::ReferenceGrant(o) => &o.meta,
            Self::Namespace(o) => &o.meta,
            Self::Service(o) => &o.meta,
            Self::EndpointSlice(o) => &o.meta,
            Self::Secret(o) => &o.meta,
            Self::ConfigMap(o) => &o.meta,
            Self::ShardPool(o) => &o.meta,
            Self::Crd(o) => &o.meta,
        }
    }

    /// The object's id.
    pub fn key(&self) -> ObjectKey {
        let (group, kind) = match self {
            Self::GatewayClass(_) => (GATEWAY_GROUP, "GatewayClass"),
            Self::Gateway(_) => (GATEWAY_GROUP, "Gateway"),
            Self::HttpRoute(_) => (GATEWAY_GROUP, "HTTPRoute"),
            Self::ReferenceGrant(_) => (GATEWAY_GROUP, "ReferenceGrant"),
            Self::Namespace(_) => ("", "Namespace"),
            Self::Service(_) => ("", "Service"),
            Self::EndpointSlice(_) => ("discovery.k8s.io", "EndpointSlice"),
            Self::Secret(_) => ("", "Secret"),
            Self::ConfigMap(_) => ("", "ConfigMap"),
            Self::ShardPool(_) => (POOL_GROUP, "ShardPool"),
            Self::Crd(_) => ("apiextensions.k8s.io", "CustomResourceDefinition"),
        };
        let meta = self.meta();
        ObjectKey::new(group, kind, &meta.namespace, &meta.name)
    }
}

/// What a source says. The index applies events one by one.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // moved once, into the index
pub enum Event {
    /// The object exists in this form.
    Apply(Object),
    /// The object exists but its form is refused; its last good form is forgotten unless the spec says otherwise.
    Reject(Rejected),
    /// The object is gone.
    Delete(ObjectKey),
}

/// An object that cannot be taken: what the user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which object.
    pub key: ObjectKey,
    /// `metadata.generation`, for observedGeneration.
    pub generation: i64,
    /// Field and fix, `spec.rules[0].matches[0].path.type: unknown value "Pre"; use Exact, PathPrefix or RegularExpression`.
    pub message: String,
    /// parentRefs of a route, as far as they could be read, so that its status can name them.
    pub parents: Vec<ParentRef>,
}
