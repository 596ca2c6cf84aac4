//! Filters and endpoints for people.

use api_snapshot::config::PathChange;
use api_snapshot::facts::{Backend, Endpoint, EndpointAddress};
use http::{HeaderName, HeaderValue};
use shard_proxy_table::{CompiledFilter, HeaderOps};

/// Endpoints that are listed; a Service may have thousands.
const ENDPOINTS_MAX: usize = 8;

/// `set x-env: canary; remove x-debug`.
fn header_text(ops: &HeaderOps) -> String {
    let pairs = |verb: &'static str, pairs: &[(HeaderName, HeaderValue)]| {
        let text = |(name, value): &(HeaderName, HeaderValue)| {
            format!(
                "{verb} {name}: {}",
                String::from_utf8_lossy(value.as_bytes())
            )
        };
        pairs.iter().map(text).collect::<Vec<_>>()
    };
    let mut parts = pairs("set", &ops.set);
    parts.extend(pairs("add", &ops.add));
    parts.extend(ops.remove.iter().map(|name| format!("remove {name}")));
    parts.join("; ")
}

fn path_text(change: &PathChange) -> String {
    match change {
        PathChange::Full(path) => format!("path {path}"),
        PathChange::Prefix(prefix) => format!("prefix {prefix:?} in place of the one that matched"),
        other => format!("{other:?}"),
    }
}

/// One filter.
pub(super) fn filter_text(filter: &CompiledFilter) -> String {
    match filter {
        CompiledFilter::RequestHeaders(ops) => format!("request headers: {}", header_text(ops)),
        CompiledFilter::ResponseHeaders(ops) => format!("response headers: {}", header_text(ops)),
        CompiledFilter::Redirect(to) => {
            let parts = [
                to.scheme.as_ref().map(|scheme| format!("scheme {scheme}")),
                to.hostname.as_ref().map(|host| format!("host {host}")),
                to.port.map(|port| format!("port {port}")),
                to.path.as_ref().map(path_text),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            format!("redirect {} to {}", to.status, parts.join(", "))
        }
        CompiledFilter::Rewrite(to) => {
            let parts = [
                to.hostname.as_ref().map(|host| format!("host {host}")),
                to.path.as_ref().map(path_text),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            format!("rewrite to {}", parts.join(", "))
        }
        CompiledFilter::Fail(status) => format!("cannot be served: {status}"),
    }
}

/// Endpoints of a backend.
pub(super) fn backend_text(backend: &Backend) -> String {
    if backend.endpoints.is_empty() {
        return "no endpoints: 503".to_owned();
    }
    let mut parts: Vec<String> = backend
        .endpoints
        .iter()
        .take(ENDPOINTS_MAX)
        .map(endpoint_text)
        .collect();
    if backend.endpoints.len() > ENDPOINTS_MAX {
        parts.push(format!(
            "and {} more",
            backend.endpoints.len() - ENDPOINTS_MAX
        ));
    }
    parts.join(", ")
}

fn endpoint_text(endpoint: &Endpoint) -> String {
    let port = endpoint.port;
    let address = match &endpoint.address {
        EndpointAddress::Ip(ip) => std::net::SocketAddr::new(*ip, port).to_string(),
        EndpointAddress::Host(host) => format!("{host}:{port}"),
        other => format!("{other:?}:{port}"),
    };
    match endpoint.ready {
        true => address,
        false => format!("{address} (not ready)"),
    }
}
