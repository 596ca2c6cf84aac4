//! Facts lane: what is true of the world now, shared by all Gateways that refer to it.

use std::net::IpAddr;

use api::{BackendKey, CertificateKey, GatewayKey, ShardId};
use minicbor::{Decode, Encode};
use serde::Serialize;

/// Names one fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum FactKey {
    /// Endpoints of a Service's port.
    #[n(0)]
    Backend(#[n(0)] BackendKey),
    /// A certificate with its key.
    #[n(1)]
    Certificate(#[n(0)] CertificateKey),
    /// The shards of a Gateway.
    #[n(2)]
    Placement(#[n(0)] GatewayKey),
    /// Where a (Gateway, port) is bound.
    #[n(3)]
    Binding(#[n(0)] GatewayKey, #[n(1)] u16),
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum Fact {
    /// See [`Backend`].
    #[n(0)]
    Backend(#[n(0)] Backend),
    /// See [`Certificate`].
    #[n(1)]
    Certificate(#[n(0)] Certificate),
    /// See [`Placement`].
    #[n(2)]
    Placement(#[n(0)] Placement),
    /// See [`Binding`].
    #[n(3)]
    Binding(#[n(0)] Binding),
}

/// Protocol spoken to the endpoints of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[n(0)]
    Http1,
    /// HTTP/2 in clear text by prior knowledge (`appProtocol: kubernetes.io/h2c`).
    #[n(1)]
    H2c,
}

/// Endpoints of one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Backend {
    /// Protocol spoken to all of them.
    #[n(0)]
    pub protocol: BackendProtocol,
    /// In canonical order, without duplicates. Empty: requests get 503.
    #[n(1)]
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    #[n(0)]
    pub address: EndpointAddress,
    /// Target port.
    #[n(1)]
    pub port: u16,
    /// Takes new requests. Without any ready endpoint, serving ones (terminating pods) are used.
    #[n(2)]
    pub ready: bool,
    /// Topology zone, if known.
    #[n(3)]
    pub zone: Option<String>,
}

/// Address of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize)]
#[non_exhaustive]
pub enum EndpointAddress {
    /// An IP address.
    #[n(0)]
    Ip(#[n(0)] IpAddr),
    /// A DNS name (ExternalName Service); the proxy resolves it.
    #[n(1)]
    Host(#[n(0)] String),
}

/// A certificate chain and its private key. `Debug` and `Serialize` leave the key out.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Certificate {
    /// DER, leaf first.
    #[n(0)]
    #[serde(skip)]
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8, PKCS#1 or SEC1 DER.
    #[cbor(n(1), with = "minicbor::bytes")]
    #[serde(skip)]
    pub key: Vec<u8>,
    /// DNS names of the leaf, lower-case, for SNI selection and explanations.
    #[n(2)]
    pub dns_names: Vec<String>,
    /// `notAfter` of the leaf, seconds since the epoch.
    #[n(3)]
    pub not_after: i64,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("dns_names", &self.dns_names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The shards that serve a Gateway, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Placement {
    /// Never empty.
    #[n(0)]
    pub shards: Vec<ShardId>,
    /// Address that the Gateway was given from the operator's range. It stays the Gateway's while no port is bound.
    #[n(1)]
    pub address: Option<IpAddr>,
}

/// Where one port of a Gateway is bound on its shards.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Binding {
    /// Addresses of the Gateway that shards bind themselves with SO_REUSEPORT. Empty in a cluster, where the
    /// Gateway's Service leads to the target port.
    #[n(0)]
    pub addresses: Vec<IpAddr>,
    /// Port bound on `addresses`, and the one that clients see in redirects; the listener's own unless that one is
    /// privileged and may not be bound.
    #[n(1)]
    pub public_port: u16,
    /// Port bound on the shard's own address; the same number on all shards of the Gateway.
    #[n(2)]
    pub target_port: u16,
}
