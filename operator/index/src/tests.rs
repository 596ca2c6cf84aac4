#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;

use api::Timestamp;
use operator_objects::spec::{
    AllowedNamespaces, Event, GrantFrom, GrantTo, HttpBackendRef, HttpRouteRule, LabelSelector,
    Listener, ListenerTls, Meta, Object, ParametersRef, ParentRef, SecretRef, ServicePort,
};

use super::*;

fn meta(namespace: &str, name: &str) -> Meta {
    Meta {
        namespace: namespace.into(),
        name: name.into(),
        created_at: Timestamp(0),
        ..Meta::default()
    }
}

fn object(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    let group = match kind {
        "EndpointSlice" => "discovery.k8s.io",
        "Service" | "Secret" | "Namespace" | "ConfigMap" => "",
        _ => api::GATEWAY_GROUP,
    };
    ObjectKey::new(group, kind, namespace, name)
}

/// Gateway `a/web` of class `ours`, with a certificate in namespace `b`, selecting routes by label.
fn gateway() -> Gateway {
    let listener = Listener {
        name: "https".into(),
        hostname: None,
        port: 443,
        protocol: "HTTPS".into(),
        tls: Some(ListenerTls {
            mode: "Terminate".into(),
            certificate_refs: vec![SecretRef {
                group: String::new(),
                kind: "Secret".into(),
                namespace: Some("b".into()),
                name: "cert".into(),
            }],
            options: BTreeMap::new(),
        }),
        allowed_namespaces: AllowedNamespaces::Selector(LabelSelector::default()),
        allowed_kinds: Vec::new(),
        unsupported: Vec::new(),
    };
    Gateway {
        meta: meta("a", "web"),
        class_name: "ours".into(),
        listeners: vec![listener],
        addresses: Vec::new(),
        infrastructure_labels: BTreeMap::new(),
        infrastructure_annotations: BTreeMap::new(),
        parameters_ref: None,
        unsupported: Vec::new(),
    }
}

fn parent(name: &str) -> ParentRef {
    ParentRef {
        group: api::GATEWAY_GROUP.into(),
        kind: "Gateway".into(),
        namespace: Some("a".into()),
        name: name.into(),
        section_name: None,
        port: None,
    }
}

/// A route in `namespace` to Gateway `a/web` and Service `b/app`.
fn route(namespace: &str, name: &str) -> HttpRoute {
    let backend = HttpBackendRef {
        group: String::new(),
        kind: "Service".into(),
        namespace: Some("b".into()),
        name: "app".into(),
        port: Some(80),
        weight: 1,
        filters: Vec::new(),
    };
    HttpRoute {
        meta: meta(namespace, name),
        parent_refs: vec![parent("web")],
        hostnames: Vec::new(),
        rules: vec![HttpRouteRule {
            backend_refs: vec![backend],
            ..HttpRouteRule::default()
        }],
        unsupported: Vec::new(),
    }
}

fn service(port: u16) -> Service {
    let port = ServicePort {
        name: String::new(),
        port,
        protocol: "TCP".into(),
        app_protocol: None,
        target_port: None,
    };
    Service {
        meta: meta("b", "app"),
        external_name: None,
        ports: vec![port],
        static_endpoints: None,
        ip_families: Vec::new(),
        traffic_distribution: None,
    }
}

fn grant(from: &[&str]) -> ReferenceGrant {
    let from = from.iter().map(|namespace| GrantFrom {
        group: api::GATEWAY_GROUP.into(),
        kind: "HTTPRoute".into(),
        namespace: (*namespace).into(),
    });
    let to = GrantTo {
        group: String::new(),
        kind: "Service".into(),
        name: None,
    };
    ReferenceGrant {
        meta: meta("b", "grant"),
        from: from.collect(),
        to: vec![to],
    }
}

fn slice(service: &str) -> EndpointSlice {
    EndpointSlice {
        meta: meta("b", "slice"),
        service: Some(service.into()),
        address_type: "IPv4".into(),
        ports: Vec::new(),
        endpoints: Vec::new(),
    }
}

fn secret(value: &str) -> Secret {
    let data = [("tls.key".to_owned(), value.as_bytes().to_vec())].into();
    Secret {
        meta: meta("b", "cert"),
        kind: "kubernetes.io/tls".into(),
        data,
    }
}

fn class(controller: &str) -> GatewayClass {
    GatewayClass {
        meta: meta("", "ours"),
        controller_name: controller.into(),
        parameters_ref: None,
    }
}

/// The Gateway and routes `a/one`, `c/two` to it.
fn filled() -> Index {
    let mut index = Index::new();
    for object in [
        Object::Gateway(gateway()),
        Object::HttpRoute(route("a", "one")),
        Object::HttpRoute(route("c", "two")),
    ] {
        index.apply(Event::Apply(object));
    }
    index
}

/// `class x`, `gateway a/x`, `route a/x`, `backend a/x`, in that order.
fn marks(dirty: &Dirty) -> Vec<String> {
    let classes = dirty.classes.iter().map(|name| format!("class {name}"));
    let gateways = dirty.gateways.iter().map(|key| format!("gateway {key}"));
    let routes = dirty
        .routes
        .iter()
        .map(|key| format!("route {}/{}", key.namespace, key.name));
    let backends = dirty.backends.iter().map(|key| format!("backend {key}"));
    classes
        .chain(gateways)
        .chain(routes)
        .chain(backends)
        .collect()
}

fn check(index: &mut Index, event: Event, expected: &[&str]) {
    assert_eq!(marks(&index.apply(event.clone())), expected);
    assert!(
        index.apply(event).is_empty(),
        "the same again marks nothing"
    );
}

#[test]
fn a_class_marks_its_gateways_when_its_controller_changes() {
    let mut index = filled();
    check(
        &mut index,
        Event::Apply(Object::GatewayClass(class("x"))),
        &["class ours", "gateway a/web"],
    );
    let mut labelled = class("x");
    labelled.meta.labels.insert("a".into(), "b".into());
    check(
        &mut index,
        Event::Apply(Object::GatewayClass(labelled)),
        &["class ours"],
    );
    check(
        &mut index,
        Event::Apply(Object::GatewayClass(class("y"))),
        &["class ours", "gateway a/web"],
    );
    check(
        &mut index,
        Event::Delete(object("GatewayClass", "", "ours")),
        &["class ours", "gateway a/web"],
    );
}

#[test]
fn a_gateway_and_a_route_mark_themselves() {
    let mut index = filled();
    let mut changed = gateway();
    changed.meta.generation = 2;
    check(
        &mut index,
        Event::Apply(Object::Gateway(changed)),
        &["gateway a/web"],
    );
    let mut changed = route("a", "one");
    changed.rules.clear();
    check(
        &mut index,
        Event::Apply(Object::HttpRoute(changed)),
        &["route a/one"],
    );
    check(
        &mut index,
        Event::Delete(object("HTTPRoute", "a", "one")),
        &["route a/one"],
    );
    let left: Vec<_> = index
        .routes_of_gateway(&GatewayKey::new("a", "web"))
        .map(ToString::to_string)
        .collect();
    assert_eq!(left, ["HTTPRoute c/two"]);
    check(
        &mut index,
        Event::Delete(object("Gateway", "a", "web")),
        &["gateway a/web"],
    );
}

#[test]
fn a_grant_marks_those_that_it_names_before_or_after() {
    let mut index = filled();
    check(
        &mut index,
        Event::Apply(Object::ReferenceGrant(grant(&["c"]))),
        &["route c/two"],
    );
    let both = ["gateway a/web", "route a/one", "route c/two"];
    check(
        &mut index,
        Event::Apply(Object::ReferenceGrant(grant(&["a"]))),
        &both,
    );
    check(
        &mut index,
        Event::Delete(object("ReferenceGrant", "b", "grant")),
        &both[..2],
    );
    assert_eq!(index.grants_in("b").count(), 0);
}

#[test]
fn labels_of_a_namespace_mark_its_routes_to_gateways_that_select() {
    let mut index = filled();
    let namespace = |team: Option<&str>| {
        let mut meta = meta("", "c");
        meta.labels
            .extend(team.map(|team| ("team".to_owned(), team.to_owned())));
        Event::Apply(Object::Namespace(Namespace { meta }))
    };
    check(&mut index, namespace(None), &[]);
    check(&mut index, namespace(Some("red")), &["route c/two"]);
    check(
        &mut index,
        Event::Delete(object("Namespace", "", "c")),
        &["route c/two"],
    );
    let mut same = gateway();
    same.listeners[0].allowed_namespaces = AllowedNamespaces::All;
    index.apply(Event::Apply(Object::Gateway(same)));
    check(&mut index, namespace(Some("blue")), &[]);
}

#[test]
fn a_service_marks_routes_for_its_ports_and_backends_for_all() {
    let mut index = filled();
    let all = ["route a/one", "route c/two", "backend b/app"];
    check(&mut index, Event::Apply(Object::Service(service(80))), &all);
    check(&mut index, Event::Apply(Object::Service(service(81))), &all);
    let mut annotated = service(81);
    annotated.static_endpoints = Some(vec![("127.0.0.1".parse().unwrap(), 9001)]);
    check(
        &mut index,
        Event::Apply(Object::Service(annotated)),
        &["backend b/app"],
    );
    check(
        &mut index,
        Event::Delete(object("Service", "b", "app")),
        &all,
    );
}

#[test]
fn a_slice_marks_the_service_that_it_leaves_and_the_one_that_it_joins() {
    let mut index = filled();
    check(
        &mut index,
        Event::Apply(Object::EndpointSlice(slice("app"))),
        &["backend b/app"],
    );
    let both = ["backend b/app", "backend b/other"];
    check(
        &mut index,
        Event::Apply(Object::EndpointSlice(slice("other"))),
        &both,
    );
    assert_eq!(index.slices_of(&ServiceKey::new("b", "app")).count(), 0);
    assert_eq!(index.slices_of(&ServiceKey::new("b", "other")).count(), 1);
    check(
        &mut index,
        Event::Delete(object("EndpointSlice", "b", "slice")),
        &["backend b/other"],
    );
}

#[test]
fn a_secret_marks_gateways_when_its_data_changes() {
    let mut index = filled();
    check(
        &mut index,
        Event::Apply(Object::Secret(secret("one"))),
        &["gateway a/web"],
    );
    check(
        &mut index,
        Event::Apply(Object::Secret(secret("two"))),
        &["gateway a/web"],
    );
    let mut labelled = secret("two");
    labelled.meta.labels.insert("a".into(), "b".into());
    check(&mut index, Event::Apply(Object::Secret(labelled)), &[]);
    check(
        &mut index,
        Event::Delete(object("Secret", "b", "cert")),
        &["gateway a/web"],
    );
}

#[test]
fn a_config_map_marks_the_gateways_that_take_parameters_from_it() {
    let mut index = filled();
    let parameters = |value: &str| ConfigMap {
        meta: meta("a", "parameters"),
        data: [("service".to_owned(), value.to_owned())].into(),
    };
    let config_map = |value| Event::Apply(Object::ConfigMap(parameters(value)));
    check(&mut index, config_map("one"), &[]);
    let mut gateway = gateway();
    gateway.parameters_ref = Some(ParametersRef {
        group: String::new(),
        kind: "ConfigMap".into(),
        namespace: None,
        name: "parameters".into(),
    });
    index.apply(Event::Apply(Object::Gateway(gateway)));
    check(&mut index, config_map("one"), &[]);
    check(&mut index, config_map("two"), &["gateway a/web"]);
    let key = object("ConfigMap", "a", "parameters");
    let rejected = Rejected {
        key: key.clone(),
        generation: 0,
        message: "data: wrong".into(),
        parents: Vec::new(),
    };
    check(&mut index, Event::Reject(rejected), &["gateway a/web"]);
    check(&mut index, Event::Delete(key), &["gateway a/web"]);
}

#[test]
fn a_crd_marks_all_classes_those_that_were_never_read_too() {
    let mut index = filled();
    index.apply(Event::Apply(Object::GatewayClass(class("x"))));
    let rejected = Rejected {
        key: ObjectKey::new(api::GATEWAY_GROUP, "GatewayClass", "", "unread"),
        generation: 1,
        message: "spec: wrong".into(),
        parents: Vec::new(),
    };
    check(&mut index, Event::Reject(rejected), &["class unread"]);
    let crd = Crd {
        meta: meta("", "gateways.gateway.networking.k8s.io"),
        kind: "Gateway".into(),
        bundle_version: Some("v1.6.3".into()),
        channel: None,
        versions: BTreeMap::new(),
    };
    check(
        &mut index,
        Event::Apply(Object::Crd(crd)),
        &["class ours", "class unread"],
    );
}

#[test]
fn a_rejection_keeps_the_last_good_form_until_the_object_changes() {
    let mut index = filled();
    let key = object("HTTPRoute", "a", "one");
    let rejected = Rejected {
        key: key.clone(),
        generation: 2,
        message: "spec.rules: unknown".into(),
        parents: vec![parent("elsewhere")],
    };
    check(
        &mut index,
        Event::Reject(rejected.clone()),
        &["route a/one"],
    );
    assert!(index.route(&RouteKey::http("a", "one")).is_some());
    assert_eq!(index.rejected(&key), Some(&rejected));
    let to_elsewhere = |index: &Index| {
        index
            .routes_of_gateway(&GatewayKey::new("a", "elsewhere"))
            .count()
    };
    assert_eq!(to_elsewhere(&index), 1, "its new parents are told as well");
    check(
        &mut index,
        Event::Apply(Object::HttpRoute(route("a", "one"))),
        &["route a/one"],
    );
    assert_eq!((index.rejected(&key), to_elsewhere(&index)), (None, 0));

    index.apply(Event::Reject(rejected));
    check(&mut index, Event::Delete(key.clone()), &["route a/one"]);
    assert_eq!((index.rejected(&key), to_elsewhere(&index)), (None, 0));
    assert!(index.route(&RouteKey::http("a", "one")).is_none());
}

#[test]
fn a_rejected_service_or_secret_that_was_never_good_marks_those_who_refer_to_it() {
    let mut index = filled();
    let reject = |key: ObjectKey| {
        Event::Reject(Rejected {
            key,
            generation: 1,
            message: "spec.x: unknown".into(),
            parents: Vec::new(),
        })
    };
    let (service_key, secret_key) = (object("Service", "b", "app"), object("Secret", "b", "cert"));
    check(
        &mut index,
        reject(service_key.clone()),
        &["route a/one", "route c/two"],
    );
    check(
        &mut index,
        Event::Delete(service_key.clone()),
        &["route a/one", "route c/two"],
    );
    check(&mut index, reject(secret_key.clone()), &["gateway a/web"]);
    check(
        &mut index,
        Event::Delete(secret_key.clone()),
        &["gateway a/web"],
    );
    index.apply(Event::Apply(Object::Secret(secret("one"))));
    check(&mut index, reject(secret_key), &["gateway a/web"]);
    check(
        &mut index,
        Event::Apply(Object::Secret(secret("one"))),
        &["gateway a/web"],
    );
    index.apply(Event::Apply(Object::Service(service(80))));
    check(&mut index, reject(service_key), &[]);
}

#[test]
fn everything_is_marked_for_a_first_translation() {
    let mut index = filled();
    index.apply(Event::Apply(Object::GatewayClass(class("x"))));
    index.apply(Event::Apply(Object::Service(service(80))));
    index.apply(Event::Reject(Rejected {
        key: object("HTTPRoute", "d", "never-good"),
        generation: 1,
        message: String::new(),
        parents: Vec::new(),
    }));
    let all = [
        "class ours",
        "gateway a/web",
        "route a/one",
        "route c/two",
        "route d/never-good",
        "backend b/app",
    ];
    assert_eq!(marks(&Dirty::all(&index)), all);
}

#[test]
fn many_references_to_one_object_come_and_go() {
    let mut index = filled();
    for number in 0..100 {
        index.apply(Event::Apply(Object::HttpRoute(route(
            "c",
            &format!("route-{number:03}"),
        ))));
    }
    let web = GatewayKey::new("a", "web");
    assert_eq!(index.routes_of_gateway(&web).count(), 102);
    assert!(index.routes_of_gateway(&web).is_sorted());
    for number in 0..100 {
        index.apply(Event::Delete(object(
            "HTTPRoute",
            "c",
            &format!("route-{number:03}"),
        )));
    }
    assert_eq!(index.routes_of_gateway(&web).count(), 2);
}
