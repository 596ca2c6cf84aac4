//! What an object refers to, and how general keys become structural ones.

use std::collections::BTreeSet;

use api::{CertificateKey, GATEWAY_GROUP, GatewayKey, ObjectKey, RouteKey};
use operator_objects::spec::{AllowedNamespaces, Gateway, HttpRoute, ParentRef, Rejected};

use crate::ServiceKey;

/// What a Gateway refers to.
#[derive(Debug, Default)]
pub(crate) struct GatewayRefs {
    pub(crate) class: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<CertificateKey>,
    pub(crate) config_maps: BTreeSet<ObjectKey>,
    pub(crate) into: BTreeSet<String>,
    pub(crate) selects: bool,
}

impl GatewayRefs {
    pub(crate) fn of(gateway: Option<&Gateway>) -> Self {
        let mut refs = Self::default();
        let Some(gateway) = gateway else { return refs };
        refs.class.insert(gateway.class_name.clone());
        if let Some(of) = &gateway.parameters_ref {
            // Of any kind: one that is no ConfigMap leads to none, which costs nothing.
            let key = ObjectKey::new("", "ConfigMap", &gateway.meta.namespace, &of.name);
            refs.config_maps.insert(key);
        }
        for listener in &gateway.listeners {
            refs.selects |= matches!(listener.allowed_namespaces, AllowedNamespaces::Selector(_));
            for secret in listener.tls.iter().flat_map(|tls| &tls.certificate_refs) {
                let namespace = secret
                    .namespace
                    .as_deref()
                    .unwrap_or(&gateway.meta.namespace);
                refs.secrets
                    .insert(CertificateKey::new(namespace, &secret.name));
                if namespace != gateway.meta.namespace {
                    refs.into.insert(namespace.into());
                }
            }
        }
        refs
    }
}

/// What a route refers to.
#[derive(Debug, Default)]
pub(crate) struct RouteRefs {
    pub(crate) parents: BTreeSet<GatewayKey>,
    pub(crate) services: BTreeSet<ServiceKey>,
    pub(crate) into: BTreeSet<String>,
}

impl RouteRefs {
    /// References of the last good form, and the parents of a rejected one: both have a status there.
    pub(crate) fn of(
        key: &RouteKey,
        route: Option<&HttpRoute>,
        rejected: Option<&Rejected>,
    ) -> Self {
        let mut refs = Self::default();
        let parents = route
            .map(|route| &route.parent_refs)
            .into_iter()
            .chain(rejected.map(|r| &r.parents))
            .flatten();
        refs.parents
            .extend(parents.filter_map(|parent| parent_gateway(parent, &key.namespace)));
        for backend in route
            .iter()
            .flat_map(|route| &route.rules)
            .flat_map(|rule| &rule.backend_refs)
        {
            let namespace = backend.namespace.as_deref().unwrap_or(&key.namespace);
            // Of any kind: one that is not a Service leads to no Service either, which costs nothing.
            refs.services
                .insert(ServiceKey::new(namespace, &backend.name));
            if namespace != key.namespace {
                refs.into.insert(namespace.into());
            }
        }
        refs
    }
}

/// The Gateway that a parentRef names; none for other kinds.
fn parent_gateway(parent: &ParentRef, local: &str) -> Option<GatewayKey> {
    (parent.group == GATEWAY_GROUP && parent.kind == "Gateway")
        .then(|| GatewayKey::new(parent.namespace.as_deref().unwrap_or(local), &parent.name))
}

fn is(key: &ObjectKey, kind: &str) -> bool {
    key.group == GATEWAY_GROUP && key.kind == kind
}

pub(crate) fn class_name(key: &ObjectKey) -> Option<String> {
    is(key, "GatewayClass").then(|| key.name.clone())
}

pub(crate) fn gateway_key(key: &ObjectKey) -> Option<GatewayKey> {
    is(key, "Gateway").then(|| GatewayKey::new(&key.namespace, &key.name))
}

pub(crate) fn route_key(key: &ObjectKey) -> Option<RouteKey> {
    is(key, "HTTPRoute").then(|| RouteKey::http(&key.namespace, &key.name))
}
