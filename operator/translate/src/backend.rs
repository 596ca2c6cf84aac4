//! The endpoints of one port of a Service: a fact, translated on its own, so that an endpoint that comes or goes touches no
//! route.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use api::BackendKey;
use api_snapshot::facts::{Backend, BackendProtocol, Endpoint, EndpointAddress};
use operator_index::{Index, ServiceKey};
use operator_objects::spec::{EndpointSlice, Service, SliceEndpoint};

use crate::backend_ref::{is_tcp, protocol, service_port};

/// Endpoints of a backend, in canonical order: those of the Service's EndpointSlices; without any slice, those of its
/// annotation; of an ExternalName Service its DNS name. A Service that does not exist has none.
///
/// Conditions are read as kube-proxy reads them: `ready` alone tells who takes new requests, so that
/// `publishNotReadyAddresses`, which the slices' author writes into it, holds here too. Endpoints that terminate and do not
/// serve are left out. Those that are not ready are kept, for when no other is there: after an outage of the API server,
/// Kubernetes calls every pod not ready until its node is heard of again, while all of them answer. Of a Service with several IP families, one family's endpoints are taken: the other's are the same
/// pods once more. Cost: O(endpoints of the Service).
pub fn backend(view: &Index, key: &BackendKey) -> Backend {
    let of = ServiceKey::new(&key.namespace, &key.name);
    let Some(service) = view.service(&of) else {
        return Backend {
            protocol: BackendProtocol::Http1,
            endpoints: Vec::new(),
        };
    };
    let port = service_port(service, key.port);
    let speaks = port.and_then(protocol).unwrap_or(BackendProtocol::Http1);
    let mut endpoints = Endpoints::default();
    if let Some(name) = &service.external_name {
        let target = port.and_then(|port| port.target_port).unwrap_or(key.port);
        let address = EndpointAddress::Host(name.to_ascii_lowercase());
        endpoints.add(Endpoint::new(address, target));
    } else {
        let mut families: BTreeMap<usize, Endpoints> = BTreeMap::new();
        for slice in view.slices_of(&of) {
            families
                .entry(family(service, slice))
                .or_default()
                .add_slice(service, key.port, slice);
        }
        if families.is_empty() {
            for (ip, port) in service.static_endpoints.iter().flatten() {
                endpoints.add(Endpoint::new(EndpointAddress::Ip(*ip), *port));
            }
        } else {
            endpoints = of_one_family(families);
        }
    }
    Backend {
        protocol: speaks,
        endpoints: endpoints.into_sorted(),
    }
}

/// Position of a slice's family among those of its Service, the primary one first. Where the Service names none, all of
/// them are as good.
fn family(service: &Service, slice: &EndpointSlice) -> usize {
    let families = &service.ip_families;
    families
        .iter()
        .position(|family| *family == slice.address_type)
        .unwrap_or(families.len())
}

/// The first family that has a ready endpoint; without any, the first that has one at all.
fn of_one_family(families: BTreeMap<usize, Endpoints>) -> Endpoints {
    let mut any = None;
    for endpoints in families.into_values() {
        if endpoints.0.values().any(|endpoint| endpoint.ready) {
            return endpoints;
        }
        if any.is_none() && !endpoints.0.is_empty() {
            any = Some(endpoints);
        }
    }
    any.unwrap_or_default()
}

/// Endpoints without duplicates: one that two slices list, as happens while slices are reshaped, is what the one that calls
/// it ready says.
#[derive(Default)]
struct Endpoints(BTreeMap<(EndpointAddress, u16), Endpoint>);

impl Endpoints {
    fn add(&mut self, endpoint: Endpoint) {
        let key = (endpoint.address.clone(), endpoint.port);
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(endpoint);
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                let better =
                    (endpoint.ready, !endpoint.terminating) > (known.ready, !known.terminating);
                let zone = known.zone.take().or_else(|| endpoint.zone.clone());
                if better {
                    *known = endpoint;
                }
                if known.zone.is_none() {
                    known.zone = zone;
                }
            }
        }
    }

    /// Source: Kubernetes discovery.k8s.io/v1 `EndpointSlice`: its ports are the Service's by name.
    fn add_slice(&mut self, service: &Service, port: u16, slice: &EndpointSlice) {
        let Some(name) = service_port(service, port).map(|port| port.name.as_str()) else {
            return;
        };
        let target = slice
            .ports
            .iter()
            .find(|port| port.name == name && is_tcp(&port.protocol));
        let Some(target) = target.and_then(|port| port.port) else {
            return;
        };
        for endpoint in slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready || endpoint.serving || !endpoint.terminating)
        {
            let (for_zones, for_nodes) = hints(service, endpoint);
            for address in &endpoint.addresses {
                let address = match (slice.address_type.as_str(), address.parse()) {
                    ("FQDN", _) => EndpointAddress::Host(address.to_ascii_lowercase()),
                    (_, Ok(ip)) => EndpointAddress::Ip(ip),
                    // The schema lets any text pass; one that is no address cannot be served.
                    (_, Err(_)) => continue,
                };
                self.add(Endpoint {
                    ready: endpoint.ready,
                    zone: endpoint.zone.clone(),
                    terminating: endpoint.terminating,
                    for_zones: for_zones.clone(),
                    for_nodes: for_nodes.clone(),
                    ..Endpoint::new(address, target)
                });
            }
        }
    }

    fn into_sorted(self) -> Vec<Endpoint> {
        self.0.into_values().collect()
    }
}

/// Zones and nodes that are to prefer an endpoint: those of the slice's hints. Where the Service asks for a distribution and
/// its slices have no hints, as those that no controller of Kubernetes wrote, the endpoint's own.
///
/// Source: Kubernetes `ServiceSpec.trafficDistribution`, KEP-4444 and KEP-3015.
fn hints(service: &Service, endpoint: &SliceEndpoint) -> (Vec<String>, Vec<String>) {
    let own = |hints: &[String], of: &Option<String>, asked: bool| {
        if hints.is_empty() && asked {
            of.iter().cloned().collect()
        } else {
            let mut hints = hints.to_vec();
            hints.sort_unstable();
            hints.dedup();
            hints
        }
    };
    let asked = service.traffic_distribution.as_deref();
    let node = asked == Some("PreferSameNode");
    let zone = node || matches!(asked, Some("PreferClose" | "PreferSameZone"));
    (
        own(&endpoint.for_zones, &endpoint.zone, zone),
        own(&endpoint.for_nodes, &endpoint.node, node),
    )
}
