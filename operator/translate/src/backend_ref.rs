//! One backendRef: where it leads, or why not.

use api::condition::reasons;
use api::{BackendKey, GATEWAY_GROUP, ObjectKey};
use api_snapshot::config::BackendTarget;
use api_snapshot::facts::BackendProtocol;
use operator_index::{Index, ServiceKey};
use operator_objects::spec::{HttpBackendRef, Service, ServicePort};

use crate::grants::{RefFrom, RefTo, resolve_ref};
use crate::problem::Problem;

/// Resolves a backendRef of an HTTPRoute in `namespace`. One that does not resolve leads to
/// [`BackendTarget::Invalid`]: its share of the requests gets 500.
///
/// Permission is checked before existence, so that nothing is learned about another namespace without a grant.
///
/// Source: gateway-api v1 `HTTPBackendRef`.
pub(crate) fn resolve(
    view: &Index,
    namespace: &str,
    backend: &HttpBackendRef,
) -> Result<BackendKey, Problem> {
    if !backend.group.is_empty() || backend.kind != "Service" {
        let message = format!(
            "kind {} of group {:?} is not supported; use a core Service",
            backend.kind, backend.group
        );
        return Err(Problem::new(reasons::INVALID_KIND, message));
    }
    let target = backend.namespace.as_deref().unwrap_or(namespace);
    let from = RefFrom {
        group: GATEWAY_GROUP,
        kind: "HTTPRoute",
        namespace,
    };
    let to = RefTo {
        group: "",
        kind: "Service",
        namespace: target,
        name: &backend.name,
    };
    resolve_ref(from, to, view.grants_in(target))
        .map_err(|refused| Problem::new(reasons::REF_NOT_PERMITTED, refused.to_string()))?;
    let missing = |message: String| Problem::new(reasons::BACKEND_NOT_FOUND, message);
    let key = ServiceKey::new(target, &backend.name);
    let service = view
        .service(&key)
        .ok_or_else(|| missing(absent(view, "Service", target, &backend.name)))?;
    let port = backend
        .port
        .ok_or_else(|| missing(format!("port of Service {key} is required")))?;
    match service_port(service, port) {
        Some(found) => {
            if protocol(found).is_none() {
                let message = format!(
                    "Service {key} port {port}: appProtocol {} is not served; use http or kubernetes.io/h2c",
                    found.app_protocol.as_deref().unwrap_or_default()
                );
                return Err(Problem::new(reasons::UNSUPPORTED_PROTOCOL, message));
            }
        }
        // An ExternalName Service need not list ports.
        None if service.external_name.is_some() && service.ports.is_empty() => {}
        None => {
            return Err(missing(format!(
                "Service {key} has no TCP port {port}; it has {}",
                ports(service)
            )));
        }
    }
    Ok(BackendKey::new(target, &backend.name, port))
}

/// Why a core object that is referred to is not there: nobody made it, or it is refused.
pub(crate) fn absent(view: &Index, kind: &str, namespace: &str, name: &str) -> String {
    match view.rejected(&ObjectKey::new("", kind, namespace, name)) {
        Some(rejected) => format!(
            "{kind} {namespace}/{name} is rejected: {}",
            rejected.message
        ),
        None => format!("{kind} {namespace}/{name} does not exist"),
    }
}

/// What a resolved or unresolved reference becomes.
pub(crate) fn target(
    resolved: Result<BackendKey, Problem>,
    unresolved: &mut Vec<Problem>,
) -> BackendTarget {
    match resolved {
        Ok(key) => BackendTarget::Backend(key),
        Err(problem) => {
            unresolved.push(problem);
            BackendTarget::Invalid
        }
    }
}

/// The Service's TCP port of that number.
pub(crate) fn service_port(service: &Service, port: u16) -> Option<&ServicePort> {
    service
        .ports
        .iter()
        .find(|candidate| candidate.port == port && is_tcp(&candidate.protocol))
}

/// Kubernetes takes an absent protocol as TCP.
pub(crate) fn is_tcp(protocol: &str) -> bool {
    protocol.is_empty() || protocol == "TCP"
}

/// Protocol that a port speaks; none when we cannot speak it (TLS and WebSocket to backends are not served yet).
///
/// Source: gateway-api v1 `BackendRef`; Kubernetes KEP-3726 for the prefixed names; IANA service names for the others.
pub(crate) fn protocol(port: &ServicePort) -> Option<BackendProtocol> {
    let Some(name) = &port.app_protocol else {
        return Some(BackendProtocol::Http1);
    };
    match name.to_ascii_lowercase().as_str() {
        "" | "http" | "http/1.1" => Some(BackendProtocol::Http1),
        "kubernetes.io/h2c" | "h2c" | "grpc" => Some(BackendProtocol::H2c),
        _ => None,
    }
}

fn ports(service: &Service) -> String {
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.port, port.protocol))
        .collect();
    if ports.is_empty() {
        "none".into()
    } else {
        ports.join(", ")
    }
}
