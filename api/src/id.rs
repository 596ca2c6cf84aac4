//! Structural ids. Each derives its order and its canonical encoding from its fields, in the order written here.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::Serialize;

/// Any object, as error messages and statuses name it.
///
/// `group` is empty for the core group, `namespace` for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct ObjectKey {
    /// API group without version, `gateway.networking.k8s.io`.
    #[n(0)]
    pub group: String,
    /// Kind, `HTTPRoute`.
    #[n(1)]
    pub kind: String,
    /// Namespace, or empty.
    #[n(2)]
    pub namespace: String,
    /// Name.
    #[n(3)]
    pub name: String,
}

impl ObjectKey {
    /// Builds a key from its parts.
    pub fn new(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

macro_rules! namespaced_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
        pub struct $name {
            /// Namespace of the object.
            #[n(0)]
            pub namespace: String,
            /// Name of the object.
            #[n(1)]
            pub name: String,
        }

        impl $name {
            /// Builds a key from its parts.
            pub fn new(namespace: &str, name: &str) -> Self {
                Self { namespace: namespace.into(), name: name.into() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }
    };
}

namespaced_key!(
    /// A Gateway: the unit of change, placement and rollout.
    GatewayKey
);
namespaced_key!(
    /// A Secret of type `kubernetes.io/tls` that a listener refers to.
    CertificateKey
);

namespaced_key!(
    /// A ShardPool.
    PoolKey
);

/// The kinds of routes. New kinds are added at the end: the number is part of the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum RouteKind {
    /// `gateway.networking.k8s.io` HTTPRoute.
    #[n(0)]
    HttpRoute,
}

impl RouteKind {
    /// The Kubernetes kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
        }
    }
}

/// A route of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct RouteKey {
    /// Which kind of route.
    #[n(0)]
    pub kind: RouteKind,
    /// Namespace of the route.
    #[n(1)]
    pub namespace: String,
    /// Name of the route.
    #[n(2)]
    pub name: String,
}

impl RouteKey {
    /// The key of an HTTPRoute.
    pub fn http(namespace: &str, name: &str) -> Self {
        Self {
            kind: RouteKind::HttpRoute,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The same object as a general key.
    pub fn object(&self) -> ObjectKey {
        ObjectKey::new(
            crate::GATEWAY_GROUP,
            self.kind.kind(),
            &self.namespace,
            &self.name,
        )
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.kind(), self.namespace, self.name)
    }
}

/// One port of a Service: what a backendRef names. Shared by all Gateways that refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct BackendKey {
    /// Namespace of the Service.
    #[n(0)]
    pub namespace: String,
    /// Name of the Service.
    #[n(1)]
    pub name: String,
    /// Port of the Service (not the target port).
    #[n(2)]
    pub port: u16,
}

impl BackendKey {
    /// Builds a key from its parts.
    pub fn new(namespace: &str, name: &str, port: u16) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            port,
        }
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// Who owns objects, budgets and metrics. For now: a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[cbor(transparent)]
pub struct TenantId(#[n(0)] pub String);

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One proxy of the pool, numbered from 0 as the pods of a StatefulSet are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[cbor(transparent)]
pub struct ShardId(#[n(0)] pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard-{}", self.0)
    }
}

/// Index of the Raft entry that carried a change. Numbers grow and have holes; 0 is "none yet".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize,
)]
#[cbor(transparent)]
pub struct Revision(#[n(0)] pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Seconds since the Unix epoch, the precision of `metadata.creationTimestamp`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize,
)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] pub i64);
