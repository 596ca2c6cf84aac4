//! Core kinds that routes and Gateways refer to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Meta;

/// Namespace. One that is not declared exists with its `kubernetes.io/metadata.name` label alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// Metadata; the labels are what selectors see.
    pub meta: Meta,
}

/// Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Metadata; may carry [`api::ENDPOINTS_ANNOTATION`].
    pub meta: Meta,
    /// `spec.type` is `ExternalName`: the DNS name.
    pub external_name: Option<String>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `metadata.annotations["shardway.dev/endpoints"]`, parsed; an unreadable one rejects the object.
    pub static_endpoints: Option<Vec<(IpAddr, u16)>>,
    /// `spec.ipFamilies`, the primary one first; empty where nothing set it.
    pub ip_families: Vec<String>,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<String>,
}

/// One of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty for the only port.
    pub name: String,
    /// Port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
    /// Numeric `targetPort`; none when it is a name or absent.
    pub target_port: Option<u16>,
}

/// EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    /// Metadata.
    pub meta: Meta,
    /// Label `kubernetes.io/service-name`; slices without it are of no Service.
    pub service: Option<String>,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One of an EndpointSlice's ports, matched to the Service's by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Name, empty for the only port.
    pub name: String,
    /// Port on the endpoints.
    pub port: Option<u16>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// One of an EndpointSlice's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses`; all of them are taken.
    pub addresses: Vec<String>,
    /// `conditions.ready`, unset means ready.
    pub ready: bool,
    /// `conditions.serving`, unset means as ready.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `zone`.
    pub zone: Option<String>,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones`, by name.
    pub for_zones: Vec<String>,
    /// `hints.forNodes`, by name.
    pub for_nodes: Vec<String>,
}

/// Secret. `Debug` leaves the data out.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// Metadata.
    pub meta: Meta,
    /// `type`.
    pub kind: String,
    /// `data` decoded, with `stringData` merged over it.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("meta", &self.meta)
            .field("kind", &self.kind)
            .field("keys", &self.data.keys())
            .finish_non_exhaustive()
    }
}

/// ConfigMap.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigMap {
    /// Metadata.
    pub meta: Meta,
    /// `data`.
    pub data: BTreeMap<String, String>,
}
