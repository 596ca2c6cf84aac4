//! What manifests cannot say: time, changes, and objects that a schema would have refused.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::collections::BTreeSet;

use api::condition::{reasons, types};
use api::{BackendKey, CertificateKey, ObjectKey, RouteKey, Timestamp};
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use common::world::*;
use common::*;
use operator_objects::spec::*;
use operator_translate::status::ConditionStatus;

#[test]
fn listeners_with_port_protocol_and_hostname_in_common_conflict_all_of_them() {
    let mut world = World::new();
    let host = Some("foo.example.com");
    let listeners = vec![
        listener("one", 80, host),
        listener("two", 80, host),
        listener("three", 80, None),
    ];
    world.apply(Object::Gateway(gateway("a", "web", "ours", listeners)));
    for name in ["one", "two"] {
        check(
            &world.listener(name, types::CONFLICTED).unwrap(),
            ConditionStatus::True,
            reasons::HOSTNAME_CONFLICT,
            1,
        );
        check(
            &world.listener(name, types::ACCEPTED).unwrap(),
            ConditionStatus::False,
            reasons::HOSTNAME_CONFLICT,
            1,
        );
    }
    check(
        &world.listener("three", types::CONFLICTED).unwrap(),
        ConditionStatus::False,
        reasons::NO_CONFLICTS,
        1,
    );
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::True,
        reasons::LISTENERS_NOT_VALID,
        1,
    );
    assert!(
        !world
            .entries()
            .contains(&GatewayEntryKey::Listener("one".into()))
    );
}

#[test]
fn tls_that_a_schema_would_refuse_refuses_the_listener() {
    let mut world = World::new();
    let mut clear = https("clear", None, &[]);
    clear.protocol = "HTTP".into();
    clear.port = 80;
    let mut passthrough = https("passthrough", Some("a.example.com"), &[]);
    passthrough.tls.as_mut().unwrap().mode = "Passthrough".into();
    let without = Listener {
        tls: None,
        ..https("without", Some("b.example.com"), &[])
    };
    world.apply(Object::Gateway(gateway(
        "a",
        "web",
        "ours",
        vec![clear, passthrough, without],
    )));
    for name in ["clear", "passthrough"] {
        check(
            &world.listener(name, types::ACCEPTED).unwrap(),
            ConditionStatus::False,
            reasons::UNSUPPORTED_VALUE,
            1,
        );
    }
    let resolved = world.listener("without", types::RESOLVED_REFS).unwrap();
    check(
        &resolved,
        ConditionStatus::False,
        reasons::INVALID_CERTIFICATE_REF,
        1,
    );
    assert_eq!(world.entries(), [GatewayEntryKey::Gateway]);
}

#[test]
fn listener_fields_that_are_not_served_refuse_the_listener() {
    let mut world = World::new();
    let filtered = Listener {
        unsupported: vec!["filters".into()],
        ..listener("http", 80, None)
    };
    world.apply(Object::Gateway(gateway("a", "web", "ours", vec![filtered])));
    check(
        &world.listener("http", types::ACCEPTED).unwrap(),
        ConditionStatus::False,
        reasons::UNSUPPORTED_VALUE,
        1,
    );
}

#[test]
fn an_expired_certificate_is_served_and_said_to_be_expired() {
    let mut world = World::new();
    world.apply(Object::Secret(secret(
        "a",
        "cert",
        &["foo.example.com"],
        false,
    )));
    world.apply(Object::Gateway(gateway(
        "a",
        "web",
        "ours",
        vec![https("tls", None, &[("a", "cert")])],
    )));
    let not_after = world.translation.certificates().next().unwrap().1.not_after;
    world.translation.set_now(Timestamp(not_after));
    assert!(
        world
            .translation
            .update(&world.index, Default::default())
            .is_empty(),
        "valid to its last second"
    );
    world.translation.set_now(Timestamp(not_after + 1));
    let changes = world.translation.update(&world.index, Default::default());
    assert!(
        changes.gateways.is_empty() && changes.certificates.is_empty(),
        "it is served on"
    );
    assert_eq!(
        changes.statuses,
        BTreeSet::from([key("Gateway", "a", "web")])
    );
    let resolved = world.listener("tls", types::RESOLVED_REFS).unwrap();
    check(&resolved, ConditionStatus::True, reasons::RESOLVED_REFS, 1);
    assert!(
        resolved.message.contains("certificate a/cert expired at"),
        "{}",
        resolved.message
    );
    assert!(
        world
            .translation
            .update(&world.index, Default::default())
            .is_empty(),
        "and it is said once"
    );
}

#[test]
fn filters_that_exclude_each_other_drop_the_rule() {
    let redirect = || RequestRedirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status_code: 302,
    };
    let rewrite = || UrlRewrite {
        hostname: Some("x.example.com".into()),
        path: None,
    };
    let modifier = || HttpFilter::RequestHeaderModifier(HeaderModifier::default());
    let cases = [
        (
            vec![
                HttpFilter::RequestRedirect(redirect()),
                HttpFilter::UrlRewrite(rewrite()),
            ],
            reasons::INCOMPATIBLE_FILTERS,
        ),
        (vec![modifier(), modifier()], reasons::INCOMPATIBLE_FILTERS),
        (
            vec![HttpFilter::RequestRedirect(RequestRedirect {
                status_code: 300,
                ..redirect()
            })],
            reasons::UNSUPPORTED_VALUE,
        ),
        (
            vec![HttpFilter::RequestRedirect(RequestRedirect {
                scheme: Some("ftp".into()),
                ..redirect()
            })],
            reasons::UNSUPPORTED_VALUE,
        ),
    ];
    for (filters, reason) in cases {
        let mut world = World::new();
        world.apply(Object::HttpRoute(app(vec![HttpRouteRule {
            filters,
            ..rule("/", Vec::new())
        }])));
        check(
            &world.route("app", types::ACCEPTED).unwrap(),
            ConditionStatus::False,
            reason,
            1,
        );
    }
}

#[test]
fn a_prefix_is_replaced_only_beside_exactly_one_prefix_match() {
    let filter = || {
        HttpFilter::UrlRewrite(UrlRewrite {
            hostname: None,
            path: Some(PathModifier::Prefix("/new".into())),
        })
    };
    let cases = [
        (vec![path("PathPrefix", "/old")], true),
        (Vec::new(), true),
        (vec![path("Exact", "/old")], false),
        (
            vec![path("PathPrefix", "/old"), path("PathPrefix", "/older")],
            false,
        ),
    ];
    for (matches, valid) in cases {
        let mut world = World::new();
        let one = HttpRouteRule {
            matches,
            filters: vec![filter()],
            ..rule("/", vec![to(None, "app", 80)])
        };
        world.apply(Object::HttpRoute(app(vec![one])));
        let accepted = world.route("app", types::ACCEPTED).unwrap();
        assert_eq!(
            accepted.status == ConditionStatus::True,
            valid,
            "{}",
            accepted.message
        );
    }
}

#[test]
fn rules_that_a_schema_would_refuse_are_dropped() {
    let backends = || vec![to(None, "app", 80)];
    let redirect = RequestRedirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status_code: 302,
    };
    let cases = [
        HttpRouteRule {
            matches: vec![path("PathPrefix", "no-slash")],
            ..rule("/", backends())
        },
        HttpRouteRule {
            matches: vec![path("Exact", "/a//b")],
            ..rule("/", backends())
        },
        HttpRouteRule {
            matches: vec![path("Future", "/a")],
            ..rule("/", backends())
        },
        HttpRouteRule {
            filters: vec![HttpFilter::RequestRedirect(redirect)],
            ..rule("/", backends())
        },
        HttpRouteRule {
            request_timeout_ms: Some(10),
            backend_request_timeout_ms: Some(11),
            ..rule("/", backends())
        },
        HttpRouteRule {
            unsupported: vec!["sessionPersistence".into()],
            ..rule("/", backends())
        },
    ];
    for broken in cases {
        let mut world = World::new();
        world.apply(Object::HttpRoute(app(vec![
            broken,
            rule("/good", backends()),
        ])));
        check(
            &world.route("app", types::ACCEPTED).unwrap(),
            ConditionStatus::True,
            reasons::ACCEPTED,
            1,
        );
        let partially = world.route("app", types::PARTIALLY_INVALID).unwrap();
        check(
            &partially,
            ConditionStatus::True,
            reasons::UNSUPPORTED_VALUE,
            1,
        );
        assert!(
            partially.message.starts_with("Dropped Rule 0"),
            "{}",
            partially.message
        );
        let rules = [
            GatewayEntryKey::Gateway,
            GatewayEntryKey::Listener("http".into()),
        ];
        assert_eq!(world.entries()[..2], rules);
        assert_eq!(
            world.entries()[2..],
            [GatewayEntryKey::Rule(RouteKey::http("a", "app"), 1)]
        );
    }
}

#[test]
fn a_route_without_rules_is_accepted_and_serves_nothing() {
    let mut world = World::new();
    world.apply(Object::HttpRoute(app(Vec::new())));
    check(
        &world.route("app", types::ACCEPTED).unwrap(),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    assert_eq!(world.entries().len(), 2);
}

#[test]
fn a_changed_rule_is_one_operation_and_a_changed_endpoint_touches_no_gateway() {
    let mut world = World::new();
    let rules = |first: &str| {
        vec![
            rule(first, vec![to(None, "app", 80)]),
            rule("/second", vec![to(None, "app", 80)]),
        ]
    };
    world.apply(Object::HttpRoute(app(rules("/first"))));
    let changes = world.apply(Object::HttpRoute(app(rules("/changed"))));
    let ops = &changes.gateways[&web()].ops;
    assert!(
        matches!(
            ops[..],
            [(GatewayEntryKey::Rule(_, 0), Some(GatewayEntry::Rule(_)))]
        ),
        "{ops:?}"
    );
    assert!(changes.backends.is_empty() && changes.statuses.is_empty());

    let changes = world.apply(Object::EndpointSlice(slice(
        "a",
        "app-1",
        "app",
        80,
        &["10.0.0.1"],
    )));
    assert!(changes.gateways.is_empty() && changes.statuses.is_empty());
    assert_eq!(changes.backends.len(), 1);
    let changes = world.apply(Object::HttpRoute(app(rules("/changed"))));
    assert!(changes.is_empty(), "the same again");
}

#[test]
fn facts_go_when_nothing_refers_to_them_and_grants_are_revoked() {
    let mut world = World::new();
    world.apply(Object::Service(service("b", "app", &[80])));
    let allowed = grant("b", "grant", ("HTTPRoute", "a"), ("Service", None));
    world.apply(Object::ReferenceGrant(allowed));
    world.apply(Object::HttpRoute(app(vec![rule(
        "/",
        vec![to(Some("b"), "app", 80)],
    )])));
    let backend = BackendKey::new("b", "app", 80);
    assert!(world.translation.backends().any(|(key, _)| *key == backend));
    let changes = world.event(Event::Delete(key("ReferenceGrant", "b", "grant")));
    assert_eq!(changes.backends.get(&backend), Some(&None));
    assert_eq!(changes.gateways[&web()].ops.len(), 1);
    check(
        &world.route("app", types::RESOLVED_REFS).unwrap(),
        ConditionStatus::False,
        reasons::REF_NOT_PERMITTED,
        1,
    );
}

#[test]
fn a_certificate_that_is_replaced_is_a_fact_and_no_configuration() {
    let mut world = World::new();
    world.apply(Object::Secret(secret(
        "a",
        "cert",
        &["foo.example.com"],
        false,
    )));
    world.apply(Object::Gateway(gateway(
        "a",
        "web",
        "ours",
        vec![https("tls", None, &[("a", "cert")])],
    )));
    let changes = world.apply(Object::Secret(secret(
        "a",
        "cert",
        &["foo.example.com"],
        false,
    )));
    assert!(changes.gateways.is_empty() && changes.statuses.is_empty());
    let certificate = CertificateKey::new("a", "cert");
    assert!(changes.certificates[&certificate].is_some());
    let changes = world.event(Event::Delete(ObjectKey::new("", "Secret", "a", "cert")));
    assert_eq!(changes.certificates[&certificate], None);
    assert_eq!(
        changes.gateways[&web()].ops,
        [
            (GatewayEntryKey::Listener("tls".into()), None),
            (GatewayEntryKey::Rule(RouteKey::http("a", "app"), 0), None)
        ]
    );
}

#[test]
fn a_gateway_that_is_handed_to_another_class_is_removed() {
    let mut world = World::new();
    world.apply(Object::GatewayClass(class("theirs", false)));
    let changes = world.apply(Object::Gateway(gateway(
        "a",
        "web",
        "theirs",
        vec![listener("http", 80, None)],
    )));
    assert!(changes.gateways[&web()].removed && changes.gateways[&web()].ops.is_empty());
    assert_eq!(
        changes.backends.get(&BackendKey::new("a", "app", 80)),
        Some(&None)
    );
    assert!(world.translation.gateway_status(&web()).is_none());
    assert!(
        world
            .translation
            .route_status(&RouteKey::http("a", "app"))
            .unwrap()
            .parents
            .is_empty()
    );
    let changes = world.apply(Object::Gateway(gateway(
        "a",
        "web",
        "ours",
        vec![listener("http", 80, None)],
    )));
    assert_eq!(
        changes.gateways[&web()].ops.len(),
        3,
        "and comes back whole"
    );
}

#[test]
fn messages_are_bounded() {
    let mut world = World::new();
    let long = "x".repeat(5000);
    world.apply(Object::HttpRoute(route(
        "a",
        "app",
        vec![parent("a", "web", Some(&long))],
        Vec::new(),
    )));
    let accepted = world.route("app", types::ACCEPTED).unwrap();
    assert_eq!(
        accepted.message.chars().count(),
        operator_translate::status::MESSAGE_CHARS_MAX
    );
}
