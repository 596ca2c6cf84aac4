//! Objects for tests, built without manifests.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses some of it; a failed unwrap is a failed test

pub(crate) mod world;

use std::collections::BTreeMap;

use api::{CONTROLLER_NAME, GATEWAY_GROUP, ObjectKey, Timestamp};
use operator_objects::spec::*;

pub(crate) fn meta(namespace: &str, name: &str) -> Meta {
    Meta {
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("uid-{namespace}-{name}"),
        generation: 1,
        created_at: Timestamp(1_700_000_000),
        ..Meta::default()
    }
}

pub(crate) fn class(name: &str, ours: bool) -> GatewayClass {
    GatewayClass {
        meta: meta("", name),
        controller_name: if ours {
            CONTROLLER_NAME
        } else {
            "example.com/other"
        }
        .into(),
        parameters_ref: None,
    }
}

pub(crate) fn listener(name: &str, port: u16, hostname: Option<&str>) -> Listener {
    Listener {
        name: name.into(),
        hostname: hostname.map(Into::into),
        port,
        protocol: "HTTP".into(),
        tls: None,
        allowed_namespaces: AllowedNamespaces::Same,
        allowed_kinds: Vec::new(),
        unsupported: Vec::new(),
    }
}

pub(crate) fn https(name: &str, hostname: Option<&str>, secrets: &[(&str, &str)]) -> Listener {
    let refs = secrets.iter().map(|(namespace, name)| SecretRef {
        group: String::new(),
        kind: "Secret".into(),
        namespace: Some((*namespace).into()),
        name: (*name).into(),
    });
    Listener {
        protocol: "HTTPS".into(),
        tls: Some(ListenerTls {
            mode: "Terminate".into(),
            certificate_refs: refs.collect(),
            options: BTreeMap::new(),
        }),
        ..listener(name, 443, hostname)
    }
}

pub(crate) fn gateway(
    namespace: &str,
    name: &str,
    class: &str,
    listeners: Vec<Listener>,
) -> Gateway {
    Gateway {
        meta: meta(namespace, name),
        class_name: class.into(),
        listeners,
        addresses: Vec::new(),
        infrastructure_labels: BTreeMap::new(),
        infrastructure_annotations: BTreeMap::new(),
        parameters_ref: None,
        unsupported: Vec::new(),
    }
}

pub(crate) fn parent(namespace: &str, name: &str, section: Option<&str>) -> ParentRef {
    ParentRef {
        group: GATEWAY_GROUP.into(),
        kind: "Gateway".into(),
        namespace: Some(namespace.into()),
        name: name.into(),
        section_name: section.map(Into::into),
        port: None,
    }
}

pub(crate) fn path(kind: &str, value: &str) -> HttpMatch {
    HttpMatch {
        path: HttpPathMatch {
            kind: kind.into(),
            value: value.into(),
        },
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

pub(crate) fn to(namespace: Option<&str>, name: &str, port: u16) -> HttpBackendRef {
    HttpBackendRef {
        group: String::new(),
        kind: "Service".into(),
        namespace: namespace.map(Into::into),
        name: name.into(),
        port: Some(port),
        weight: 1,
        filters: Vec::new(),
    }
}

pub(crate) fn rule(prefix: &str, backend_refs: Vec<HttpBackendRef>) -> HttpRouteRule {
    HttpRouteRule {
        matches: vec![path("PathPrefix", prefix)],
        backend_refs,
        ..HttpRouteRule::default()
    }
}

pub(crate) fn route(
    namespace: &str,
    name: &str,
    parents: Vec<ParentRef>,
    rules: Vec<HttpRouteRule>,
) -> HttpRoute {
    HttpRoute {
        meta: meta(namespace, name),
        parent_refs: parents,
        hostnames: Vec::new(),
        rules,
        unsupported: Vec::new(),
    }
}

pub(crate) fn service(namespace: &str, name: &str, ports: &[u16]) -> Service {
    let ports = ports.iter().map(|port| ServicePort {
        name: format!("p{port}"),
        port: *port,
        protocol: "TCP".into(),
        app_protocol: None,
        target_port: Some(*port),
    });
    Service {
        meta: meta(namespace, name),
        external_name: None,
        ports: ports.collect(),
        static_endpoints: None,
        ip_families: Vec::new(),
        traffic_distribution: None,
    }
}

pub(crate) fn slice(
    namespace: &str,
    name: &str,
    service: &str,
    port: u16,
    addresses: &[&str],
) -> EndpointSlice {
    let endpoints = addresses.iter().map(|address| SliceEndpoint {
        addresses: vec![(*address).into()],
        ready: true,
        serving: true,
        terminating: false,
        zone: None,
        node: None,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
    });
    EndpointSlice {
        meta: meta(namespace, name),
        service: Some(service.into()),
        address_type: "IPv4".into(),
        ports: vec![SlicePort {
            name: format!("p{port}"),
            port: Some(port),
            protocol: "TCP".into(),
        }],
        endpoints: endpoints.collect(),
    }
}

pub(crate) fn grant(
    namespace: &str,
    name: &str,
    from: (&str, &str),
    to: (&str, Option<&str>),
) -> ReferenceGrant {
    ReferenceGrant {
        meta: meta(namespace, name),
        from: vec![GrantFrom {
            group: GATEWAY_GROUP.into(),
            kind: from.0.into(),
            namespace: from.1.into(),
        }],
        to: vec![GrantTo {
            group: String::new(),
            kind: to.0.into(),
            name: to.1.map(Into::into),
        }],
    }
}

/// A certificate for the names with its own key; for `swapped` with another's key.
pub(crate) fn secret(namespace: &str, name: &str, names: &[&str], swapped: bool) -> Secret {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let own = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let other = rcgen::generate_simple_self_signed(names).unwrap();
    let key = if swapped { &other } else { &own }
        .signing_key
        .serialize_pem();
    let data = [("tls.crt", own.cert.pem()), ("tls.key", key)];
    Secret {
        meta: meta(namespace, name),
        kind: "kubernetes.io/tls".into(),
        data: data
            .into_iter()
            .map(|(field, text)| (field.into(), text.into_bytes()))
            .collect(),
    }
}

pub(crate) fn key(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(GATEWAY_GROUP, kind, namespace, name)
}
