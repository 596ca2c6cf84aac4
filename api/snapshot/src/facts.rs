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
    /// Takes new requests. Without any ready endpoint, those that are `terminating` are used, for they still serve;
    /// without any of these, all.
    #[n(2)]
    pub ready: bool,
    /// Topology zone, if known.
    #[n(3)]
    pub zone: Option<String>,
    /// On its way out.
    #[cbor(n(4), skip_if = "is_false")]
    #[serde(skip_serializing_if = "is_false")]
    pub terminating: bool,
    /// Zones whose shards are to prefer it, when all endpoints that take requests name some (KEP-2433, KEP-4444).
    #[cbor(n(5), skip_if = "Vec::is_empty")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<String>,
    /// Nodes whose shards are to prefer it, before those of the zone; as `for_zones` (KEP-3015).
    #[cbor(n(6), skip_if = "Vec::is_empty")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<String>,
}

impl Endpoint {
    /// A ready endpoint, of no zone.
    pub fn new(address: EndpointAddress, port: u16) -> Self {
        Self {
            address,
            port,
            ready: true,
            zone: None,
            terminating: false,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as the derives call it
fn is_false(value: &bool) -> bool {
    !*value
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

/// The shards that serve a Gateway, each list in ascending order and none in two of them.
///
/// A move is three steps, each committed: those that are to come join and get everything; once they serve, they take the
/// place of those that leave; once nobody is led to these any more, they are let go.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Placement {
    /// Where its clients are led to. Never empty.
    #[n(0)]
    pub shards: Vec<ShardId>,
    /// Address that the Gateway was given from the operator's range. It stays the Gateway's while no port is bound.
    #[n(1)]
    pub address: Option<IpAddr>,
    /// They hold it as well, and clients are not led to them yet.
    #[cbor(n(2), skip_if = "Vec::is_empty")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub joining: Vec<ShardId>,
    /// They hold it still; clients are led to them no more.
    #[cbor(n(3), skip_if = "Vec::is_empty")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<ShardId>,
}

impl Placement {
    /// On these shards, with no move under way.
    pub fn new(shards: Vec<ShardId>, address: Option<IpAddr>) -> Self {
        Self {
            shards,
            address,
            joining: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// All shards that hold the Gateway, ascending.
    pub fn everywhere(&self) -> Vec<ShardId> {
        let all = self.shards.iter().chain(&self.joining).chain(&self.leaving);
        let mut all: Vec<ShardId> = all.copied().collect();
        all.sort_unstable();
        all
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    /// An endpoint as versions before the conditions and hints had it.
    #[derive(Debug, Clone, PartialEq, Encode, Decode)]
    struct Before {
        #[n(0)]
        address: EndpointAddress,
        #[n(1)]
        port: u16,
        #[n(2)]
        ready: bool,
        #[n(3)]
        zone: Option<String>,
    }

    /// A placement as versions before moves had it.
    #[derive(Debug, PartialEq, Encode, Decode)]
    struct PlacementBefore {
        #[n(0)]
        shards: Vec<ShardId>,
        #[n(1)]
        address: Option<IpAddr>,
    }

    #[test]
    fn old_and_new_versions_read_the_placements_of_each_other() {
        let shards = vec![ShardId(0), ShardId(2)];
        let before = PlacementBefore {
            shards: shards.clone(),
            address: None,
        };
        let plain = Placement::new(shards, None);
        let bytes = minicbor::to_vec(&plain).unwrap();
        assert_eq!(bytes, minicbor::to_vec(&before).unwrap());
        for (joining, leaving) in [(vec![1], vec![]), (vec![], vec![1, 3])] {
            let full = Placement {
                joining: joining.into_iter().map(ShardId).collect(),
                leaving: leaving.into_iter().map(ShardId).collect(),
                ..plain.clone()
            };
            let bytes = minicbor::to_vec(&full).unwrap();
            assert_eq!(minicbor::decode::<Placement>(&bytes).unwrap(), full);
            assert_eq!(minicbor::decode::<PlacementBefore>(&bytes).unwrap(), before);
        }
    }

    #[test]
    fn old_and_new_versions_read_the_endpoints_of_each_other() {
        let address = EndpointAddress::Ip("10.0.0.1".parse().unwrap());
        for zone in [None, Some("a".to_owned())] {
            let plain = Endpoint {
                zone: zone.clone(),
                ..Endpoint::new(address.clone(), 80)
            };
            let before = Before {
                address: address.clone(),
                port: 80,
                ready: true,
                zone,
            };
            // What an endpoint does not use costs no byte, and so changes no hash.
            let bytes = minicbor::to_vec(&plain).unwrap();
            assert_eq!(bytes, minicbor::to_vec(&before).unwrap());
            assert_eq!(minicbor::decode::<Endpoint>(&bytes).unwrap(), plain);
            for full in [
                Endpoint {
                    for_zones: vec!["a".into(), "b".into()],
                    ..plain.clone()
                },
                Endpoint {
                    terminating: true,
                    for_nodes: vec!["n".into()],
                    ..plain
                },
            ] {
                let bytes = minicbor::to_vec(&full).unwrap();
                assert_eq!(minicbor::decode::<Endpoint>(&bytes).unwrap(), full);
                assert_eq!(minicbor::decode::<Before>(&bytes).unwrap(), before);
            }
        }
    }
}
