//! The specification as slow as it is written: list all candidates, drop those that do not hold, sort, take the first.

use std::cmp::Reverse;

use api_snapshot::config::{ListenerSpec, PathMatch, RouteMatch};
use api_snapshot::{GatewayEntry, GatewayEntryKey};

use super::fixture::{Entries, Request};

/// gateway-api v1 `HTTPRouteSpec.hostnames`: a wildcard is a suffix match.
pub(super) fn host_holds(pattern: Option<&str>, host: &str) -> bool {
    match pattern {
        None => true,
        Some(pattern) => match pattern.strip_prefix("*.") {
            Some(parent) => host
                .strip_suffix(parent)
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            None => pattern == host,
        },
    }
}

/// Characters in a non-wildcard host name, then characters in a host name; more come first.
fn specificity(host: Option<&str>) -> Reverse<(usize, usize)> {
    let length = host.map_or(0, str::len);
    let plain = host.is_some_and(|host| !host.starts_with('*'));
    Reverse((if plain { length } else { 0 }, length))
}

/// gateway-api v1 `HTTPPathMatch`: prefixes element by element, a final slash of the request ignored.
fn path_holds(pattern: &PathMatch, path: &str) -> bool {
    match pattern {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            let elements = |text: &str| -> Vec<String> {
                let text = text.strip_prefix('/').unwrap_or(text);
                let text = text.strip_suffix('/').unwrap_or(text);
                text.split('/')
                    .filter(|_| !text.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            elements(path).starts_with(&elements(prefix))
        }
        _ => false,
    }
}

fn holds(m: &RouteMatch, request: &Request) -> bool {
    let header = |name: &str| -> Option<String> {
        let values: Vec<&str> = request
            .headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let query = |name: &str| -> Option<String> {
        let query = request.query.clone().unwrap_or_default();
        let pairs: Vec<(String, String)> = query
            .split('&')
            .map(|pair| {
                let mut parts = pair.splitn(2, '=');
                let name = parts.next().unwrap().to_owned();
                (name, parts.next().unwrap_or("").to_owned())
            })
            .collect();
        pairs
            .iter()
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.clone())
    };
    path_holds(&m.path, &request.path)
        && m.method
            .as_ref()
            .is_none_or(|method| method == request.method.as_str())
        && m.headers
            .iter()
            .all(|pair| header(&pair.name).as_deref() == Some(pair.value.as_str()))
        && m.query
            .iter()
            .all(|pair| query(&pair.name).as_deref() == Some(pair.value.as_str()))
}

/// Answers as [`super::fixture::routed`] does.
pub(super) fn routed(entries: &Entries, request: &Request) -> String {
    let mut listeners: Vec<(&String, &ListenerSpec)> = entries
        .iter()
        .filter_map(|(key, entry)| match (key, entry) {
            (GatewayEntryKey::Listener(name), GatewayEntry::Listener(spec)) => Some((name, spec)),
            _ => None,
        })
        .filter(|(_, spec)| spec.port == request.port)
        .filter(|(_, spec)| host_holds(spec.hostname.as_deref(), &request.host))
        .collect();
    listeners.sort_by_key(|(_, spec)| specificity(spec.hostname.as_deref()));
    let Some((listener, _)) = listeners.first() else {
        return "none".into();
    };
    let mut candidates = Vec::new();
    for (key, entry) in entries {
        let (GatewayEntryKey::Rule(route, index), GatewayEntry::Rule(rule)) = (key, entry) else {
            continue;
        };
        let attached = rule.attachments.iter().filter(|a| &a.listener == *listener);
        for host in attached.flat_map(|attachment| &attachment.hosts) {
            for (position, m) in rule.matches.iter().enumerate() {
                if !host_holds(host.host.as_deref(), &request.host) || !holds(m, request) {
                    continue;
                }
                let (exact, length) = match &m.path {
                    PathMatch::Exact(path) => (true, path.len()),
                    PathMatch::Prefix(path) => (false, path.len()),
                    _ => continue,
                };
                let precedence = (
                    specificity(host.host.as_deref()),
                    specificity(host.route_host.as_deref()),
                    Reverse((exact, length)),
                    Reverse((m.method.is_some(), m.headers.len(), m.query.len())),
                    rule.created_at,
                    format!("{}/{}", route.namespace, route.name),
                    (*index, position),
                );
                candidates.push((precedence, route, index, position));
            }
        }
    }
    candidates.sort_by(|a, b| a.0.cmp(&b.0));
    match candidates.first() {
        Some((_, route, index, position)) => {
            format!("{listener}: {route} rules[{index}].matches[{position}]")
        }
        None => (*listener).clone(),
    }
}
