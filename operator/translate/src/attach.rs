//! To which listeners of a Gateway a route attaches, and under which hosts.

use api::GatewayKey;
use api::condition::reasons;
use api_snapshot::config::{AttachedHost, Attachment};
use operator_index::Index;
use operator_objects::spec::{HttpRoute, ParentRef};

use crate::gateway::{Attachable, AttachableListener};
use crate::hostname::intersect_optional;
use crate::problem::Problem;
use crate::selector::allows_namespace;

/// Listeners that a parentRef attaches a route to, in the Gateway's order, served or not.
///
/// Each test is made on the listeners that passed the one before; the first that none passes gives the reason.
///
/// Source: gateway-api v1 `ParentReference`, `RouteConditionAccepted`, `HTTPRouteSpec.hostnames`.
///
/// # Errors
/// Why the parent does not accept the route.
pub(crate) fn attach<'g>(
    view: &Index,
    route: &HttpRoute,
    parent: &ParentRef,
    gateway: &GatewayKey,
    attachable: &'g Attachable,
) -> Result<Vec<(&'g AttachableListener, Attachment)>, Problem> {
    if attachable.quarantined {
        let message = format!("Gateway {gateway} is quarantined: translating it failed");
        return Err(Problem::new(reasons::QUARANTINED, message));
    }
    let named = |listener: &&AttachableListener| {
        parent
            .section_name
            .as_ref()
            .is_none_or(|name| *name == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
    };
    let mut left: Vec<&AttachableListener> = attachable.listeners.iter().filter(named).collect();
    if left.is_empty() {
        let section = parent
            .section_name
            .as_ref()
            .map(|name| format!(" named {name}"))
            .unwrap_or_default();
        let port = parent
            .port
            .map(|port| format!(" on port {port}"))
            .unwrap_or_default();
        let message = format!(
            "Gateway {gateway} has no listener{section}{port}; it has {}",
            names(attachable)
        );
        return Err(Problem::new(reasons::NO_MATCHING_PARENT, message));
    }
    left.retain(|listener| {
        listener.takes_http_routes
            && allows_namespace(
                &listener.namespaces,
                &gateway.namespace,
                &route.meta.namespace,
                view,
            )
    });
    if left.is_empty() {
        let message = format!(
            "no listener of Gateway {gateway} takes HTTPRoutes from namespace {}; see its allowedRoutes",
            route.meta.namespace
        );
        return Err(Problem::new(reasons::NOT_ALLOWED_BY_LISTENERS, message));
    }
    let attached: Vec<_> = left
        .into_iter()
        .filter_map(|listener| {
            let hosts = hosts(listener.hostname.as_deref(), &route.hostnames);
            let attachment = Attachment {
                listener: listener.name.clone(),
                hosts,
            };
            (!attachment.hosts.is_empty()).then_some((listener, attachment))
        })
        .collect();
    if attached.is_empty() {
        let message = format!(
            "no hostname of the route ({}) is one of the Gateway's listeners'; they have {}",
            route.hostnames.join(", "),
            names(attachable)
        );
        return Err(Problem::new(
            reasons::NO_MATCHING_LISTENER_HOSTNAME,
            message,
        ));
    }
    Ok(attached)
}

/// Hosts that listener and route share. Host names of the route that do not match the listener's are ignored.
fn hosts(listener: Option<&str>, route: &[String]) -> Vec<AttachedHost> {
    if route.is_empty() {
        return vec![AttachedHost {
            host: listener.map(str::to_owned),
            route_host: None,
        }];
    }
    let mut out = Vec::with_capacity(route.len());
    for name in route {
        let Some(host) = intersect_optional(listener, Some(name)) else {
            continue;
        };
        let attached = AttachedHost {
            host: host.map(str::to_owned),
            route_host: Some(name.clone()),
        };
        if !out.contains(&attached) {
            out.push(attached);
        }
    }
    out
}

/// Listeners for messages: `http (*.example.com:80), https (:443)`.
fn names(attachable: &Attachable) -> String {
    const LISTED_MAX: usize = 8;
    let listeners = attachable.listeners.iter().take(LISTED_MAX);
    let mut names: Vec<String> = listeners
        .map(|listener| {
            format!(
                "{} ({}:{})",
                listener.name,
                listener.hostname.as_deref().unwrap_or_default(),
                listener.port
            )
        })
        .collect();
    if attachable.listeners.len() > LISTED_MAX {
        names.push(format!("{} more", attachable.listeners.len() - LISTED_MAX));
    }
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}
