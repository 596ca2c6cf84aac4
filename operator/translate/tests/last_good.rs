//! Objects whose newest form is refused, and objects that the translation itself fails on.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use api::condition::{reasons, types};
use api::{GatewayKey, ObjectKey, RouteKey};
use api_snapshot::GatewayEntryKey;
use common::world::*;
use common::*;
use operator_objects::spec::*;
use operator_translate::status::{ConditionStatus, condition};

#[test]
fn a_rejected_route_goes_on_in_its_last_good_form() {
    let mut world = World::new();
    let before = world.entries();
    let changes = world.reject("HTTPRoute", "app", vec![parent("a", "web", None)]);
    assert!(
        changes.gateways.is_empty() && changes.backends.is_empty(),
        "nothing that serves changes"
    );
    assert_eq!(world.entries(), before);
    let accepted = world.route("app", types::ACCEPTED).unwrap();
    check(
        &accepted,
        ConditionStatus::False,
        reasons::UNSUPPORTED_VALUE,
        7,
    );
    assert!(
        accepted.message.contains("the last valid form is served"),
        "{}",
        accepted.message
    );
    assert_eq!(world.attached(), 0, "only accepted routes count");

    world.apply(Object::HttpRoute(app(vec![rule(
        "/mended",
        vec![to(None, "app", 80)],
    )])));
    check(
        &world.route("app", types::ACCEPTED).unwrap(),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    assert_eq!(world.attached(), 1);
}

#[test]
fn a_route_that_was_never_good_has_a_status_at_its_parents_and_serves_nothing() {
    let mut world = World::new();
    let changes = world.reject(
        "HTTPRoute",
        "new",
        vec![parent("a", "web", None), parent("a", "other", None)],
    );
    assert!(changes.gateways.is_empty());
    check(
        &world.route("new", types::ACCEPTED).unwrap(),
        ConditionStatus::False,
        reasons::UNSUPPORTED_VALUE,
        7,
    );
    assert_eq!(
        world
            .translation
            .route_status(&RouteKey::http("a", "new"))
            .unwrap()
            .parents
            .len(),
        1
    );
    world.event(Event::Delete(key("HTTPRoute", "a", "new")));
    assert!(
        world
            .translation
            .route_status(&RouteKey::http("a", "new"))
            .is_none()
    );
}

#[test]
fn a_rejected_route_gets_its_status_when_its_gateway_appears_later() {
    let mut world = World::new();
    world.reject("HTTPRoute", "new", vec![parent("a", "later", None)]);
    assert!(
        world
            .translation
            .route_status(&RouteKey::http("a", "new"))
            .unwrap()
            .parents
            .is_empty()
    );
    world.apply(Object::Gateway(gateway(
        "a",
        "later",
        "ours",
        vec![listener("http", 80, None)],
    )));
    check(
        &world.route("new", types::ACCEPTED).unwrap(),
        ConditionStatus::False,
        reasons::UNSUPPORTED_VALUE,
        7,
    );
}

#[test]
fn a_rejected_gateway_goes_on_in_its_last_good_form() {
    let mut world = World::new();
    let changes = world.reject("Gateway", "web", Vec::new());
    assert!(changes.gateways.is_empty(), "nothing that serves changes");
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::False,
        reasons::INVALID,
        7,
    );
    check(
        &world.listener("http", types::ACCEPTED).unwrap(),
        ConditionStatus::True,
        reasons::ACCEPTED,
        7,
    );
    check(
        &world.route("app", types::ACCEPTED).unwrap(),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );

    world.event(Event::Delete(key("Gateway", "a", "web")));
    assert!(world.translation.gateway_status(&web()).is_none());
    world.reject("Gateway", "web", Vec::new());
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::False,
        reasons::INVALID,
        7,
    );
    assert!(world.entries().is_empty(), "it was never good in this life");
}

#[test]
fn a_rejected_certificate_goes_on_in_its_last_good_form() {
    let mut world = World::new();
    world.apply(Object::Gateway(gateway(
        "a",
        "web",
        "ours",
        vec![
            listener("http", 80, None),
            https("https", None, &[("a", "cert")]),
        ],
    )));
    world.apply(Object::Secret(secret("a", "cert", &["a.test"], false)));
    let before = world.entries();
    let resolved = |world: &World| world.listener("https", types::RESOLVED_REFS).unwrap();
    check(
        &resolved(&world),
        ConditionStatus::True,
        reasons::RESOLVED_REFS,
        1,
    );

    let key = ObjectKey::new("", "Secret", "a", "cert");
    let changes = world.event(Event::Reject(Rejected {
        key: key.clone(),
        generation: 2,
        message: "tls.key does not belong".into(),
        parents: Vec::new(),
    }));
    assert!(
        changes.gateways.is_empty() && changes.certificates.is_empty(),
        "nothing that serves changes"
    );
    assert_eq!(world.entries(), before);
    let told = resolved(&world);
    check(
        &told,
        ConditionStatus::False,
        reasons::INVALID_CERTIFICATE_REF,
        1,
    );
    assert_eq!(
        told.message,
        "tls.certificateRefs[0]: Secret a/cert is rejected: tls.key does not belong; the last valid one is served"
    );
    check(
        &world.gateway(types::RESOLVED_REFS),
        ConditionStatus::False,
        reasons::LISTENERS_NOT_RESOLVED,
        1,
    );

    world.apply(Object::Secret(secret("a", "cert", &["a.test"], false)));
    check(
        &resolved(&world),
        ConditionStatus::True,
        reasons::RESOLVED_REFS,
        1,
    );
    check(
        &world.gateway(types::RESOLVED_REFS),
        ConditionStatus::True,
        reasons::RESOLVED_REFS,
        1,
    );
}

#[test]
fn a_rejected_class_keeps_its_gateways() {
    let mut world = World::new();
    let changes = world.reject("GatewayClass", "ours", Vec::new());
    assert!(changes.gateways.is_empty());
    let status = world.translation.class_status("ours").unwrap();
    check(
        condition(&status.conditions, types::ACCEPTED).unwrap(),
        ConditionStatus::False,
        reasons::INVALID,
        7,
    );
}

#[test]
fn a_panic_quarantines_one_route_until_it_changes() {
    let mut world = World::new();
    let other = route(
        "a",
        "other",
        vec![parent("a", "web", None)],
        vec![rule("/other", vec![to(None, "app", 80)])],
    );
    world.apply(Object::HttpRoute(other));
    world
        .translation
        .panic_on(Some(key("HTTPRoute", "a", "app")));
    let mut changed = app(vec![rule("/changed", vec![to(None, "app", 80)])]);
    changed.meta.generation = 2;
    let changes = world.apply(Object::HttpRoute(changed.clone()));
    assert_eq!(
        changes.gateways[&web()].ops,
        [(GatewayEntryKey::Rule(RouteKey::http("a", "app"), 0), None)]
    );
    check(
        &world.route("app", types::ACCEPTED).unwrap(),
        ConditionStatus::False,
        reasons::QUARANTINED,
        2,
    );
    check(
        &world.route("other", types::ACCEPTED).unwrap(),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    assert_eq!(world.attached(), 1);

    world.translation.panic_on(None);
    changed.meta.generation = 3;
    world.apply(Object::HttpRoute(changed));
    check(
        &world.route("app", types::ACCEPTED).unwrap(),
        ConditionStatus::True,
        reasons::ACCEPTED,
        3,
    );
    assert_eq!(world.attached(), 2);
}

#[test]
fn a_panic_quarantines_one_gateway_until_it_changes() {
    let mut world = World::new();
    world.apply(Object::Gateway(gateway(
        "a",
        "other",
        "ours",
        vec![listener("http", 81, None)],
    )));
    world.translation.panic_on(Some(key("Gateway", "a", "web")));
    let mut changed = gateway("a", "web", "ours", vec![listener("http", 8080, None)]);
    changed.meta.generation = 2;
    world.apply(Object::Gateway(changed.clone()));
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::False,
        reasons::QUARANTINED,
        2,
    );
    check(
        &world.route("app", types::ACCEPTED).unwrap(),
        ConditionStatus::False,
        reasons::QUARANTINED,
        1,
    );
    assert_eq!(world.entries(), [GatewayEntryKey::Gateway]);
    assert_eq!(
        world
            .translation
            .entries(&GatewayKey::new("a", "other"))
            .len(),
        2,
        "the other one serves"
    );

    world.translation.panic_on(None);
    changed.meta.generation = 3;
    world.apply(Object::Gateway(changed));
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::True,
        reasons::ACCEPTED,
        3,
    );
    assert_eq!(world.entries().len(), 3);
}

#[test]
fn who_refers_to_a_rejected_service_is_told_why_it_is_missing() {
    let mut world = World::new();
    world.event(Event::Delete(ObjectKey::new("", "Service", "a", "app")));
    let rejected = Rejected {
        key: ObjectKey::new("", "Service", "a", "app"),
        generation: 1,
        message: "spec.ports[0].port: 0 is no port".into(),
        parents: Vec::new(),
    };
    world.event(Event::Reject(rejected));
    let resolved = world.route("app", types::RESOLVED_REFS).unwrap();
    check(
        &resolved,
        ConditionStatus::False,
        reasons::BACKEND_NOT_FOUND,
        1,
    );
    let text =
        "spec.rules[0].backendRefs[0]: Service a/app is rejected: spec.ports[0].port: 0 is no port";
    assert_eq!(resolved.message, text);
}
