//! The endpoints of one port of a Service: a fact, translated on its own, so that an endpoint that comes or goes touches no
//! route.

use std::collections::BTreeMap;

use api::BackendKey;
use api_snapshot::facts::{Backend, BackendProtocol, Endpoint, EndpointAddress};
use operator_index::{Index, ServiceKey};
use operator_objects::spec::{EndpointSlice, Service};

use crate::backend_ref::{is_tcp, protocol, service_port};

/// Endpoints of a backend, in canonical order: those of the Service's EndpointSlices; without any slice, those of its
/// annotation; of an ExternalName Service its DNS name. A Service that does not exist has none.
///
/// Endpoints that are neither ready nor serving are left out. Cost: O(endpoints of the Service).
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
        endpoints.add(
            EndpointAddress::Host(name.to_ascii_lowercase()),
            target,
            true,
            None,
        );
    } else {
        let mut slices = view.slices_of(&of).peekable();
        if slices.peek().is_none() {
            for (ip, port) in service.static_endpoints.iter().flatten() {
                endpoints.add(EndpointAddress::Ip(*ip), *port, true, None);
            }
        }
        for slice in slices {
            endpoints.add_slice(service, key.port, slice);
        }
    }
    Backend {
        protocol: speaks,
        endpoints: endpoints.into_sorted(),
    }
}

/// Endpoints without duplicates: one that two slices list, as happens while slices are reshaped, is ready when either
/// says so.
#[derive(Default)]
struct Endpoints(BTreeMap<(EndpointAddress, u16), (bool, Option<String>)>);

impl Endpoints {
    fn add(&mut self, address: EndpointAddress, port: u16, ready: bool, zone: Option<&str>) {
        let (was_ready, was_zone) = self.0.entry((address, port)).or_default();
        *was_ready |= ready;
        if was_zone.is_none() {
            *was_zone = zone.map(str::to_owned);
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
            .filter(|endpoint| endpoint.ready || endpoint.serving)
        {
            for address in &endpoint.addresses {
                let address = match (slice.address_type.as_str(), address.parse()) {
                    ("FQDN", _) => EndpointAddress::Host(address.to_ascii_lowercase()),
                    (_, Ok(ip)) => EndpointAddress::Ip(ip),
                    // The schema lets any text pass; one that is no address cannot be served.
                    (_, Err(_)) => continue,
                };
                self.add(address, target, endpoint.ready, endpoint.zone.as_deref());
            }
        }
    }

    fn into_sorted(self) -> Vec<Endpoint> {
        let endpoints = self.0.into_iter();
        endpoints
            .map(|((address, port), (ready, zone))| Endpoint {
                address,
                port,
                ready,
                zone,
            })
            .collect()
    }
}
