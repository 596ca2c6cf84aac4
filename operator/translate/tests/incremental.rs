//! Incremental translation equals full translation, over random histories; and what an update tells is what changed.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use api::{BackendKey, CertificateKey, GatewayKey, ObjectKey, PoolKey};
use api_snapshot::facts::{Backend, Certificate};
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use common::*;
use operator_index::{Dirty, Index};
use operator_objects::spec::*;
use operator_translate::{Changes, GatewayInfrastructure, Settings, Translation};
use proptest::prelude::*;

const NAMESPACES: [&str; 2] = ["a", "b"];

/// Where each history begins: references across namespaces, permitted by grants, so that most events break or mend one.
fn beginning() -> Vec<Object> {
    let all = |listener| Listener {
        allowed_namespaces: AllowedNamespaces::All,
        ..listener
    };
    let red = |listener| Listener {
        allowed_namespaces: AllowedNamespaces::Selector(red()),
        ..listener
    };
    let listeners = || {
        vec![
            all(listener("one", 80, None)),
            all(https("two", None, &[("a", "s1"), ("b", "s1")])),
            red(listener("three", 81, None)),
        ]
    };
    let mut objects = vec![
        Object::GatewayClass(class("ours", true)),
        Object::GatewayClass(class("theirs", false)),
    ];
    for (here, there) in [("a", "b"), ("b", "a")] {
        objects.push(Object::Gateway(gateway(here, "g1", "ours", listeners())));
        let rules = vec![rule(
            "/x",
            vec![to(Some(there), "s1", 80), to(None, "s1", 81)],
        )];
        objects.push(Object::HttpRoute(route(
            here,
            "r1",
            vec![parent(here, "g1", None), parent(there, "g1", None)],
            rules,
        )));
        objects.push(Object::Service(service(here, "s1", &[80, 81])));
        objects.push(Object::EndpointSlice(slice(
            here,
            "e1",
            "s1",
            80,
            &["10.0.0.1"],
        )));
        objects.push(Object::Secret(Secret {
            meta: meta(here, "s1"),
            ..SECRETS[0].clone()
        }));
        let mut grant = grant(here, "grant", ("HTTPRoute", there), ("Service", None));
        grant.from.push(GrantFrom {
            kind: "Gateway".into(),
            ..grant.from[0].clone()
        });
        grant.to.push(GrantTo {
            kind: "Secret".into(),
            ..grant.to[0].clone()
        });
        objects.push(Object::ReferenceGrant(grant));
    }
    objects
}

/// Keys are costly to make: a few for all cases.
static SECRETS: LazyLock<Vec<Secret>> = LazyLock::new(|| {
    vec![
        secret("x", "x", &["*.example.com"], false),
        secret("x", "x", &["foo.example.com"], false),
        secret("x", "x", &["foo.example.com"], true),
        Secret {
            kind: "Opaque".into(),
            ..secret("x", "x", &["foo.example.com"], false)
        },
    ]
});

/// Selects namespaces of one team.
fn red() -> LabelSelector {
    LabelSelector {
        match_labels: [("team".to_owned(), "red".to_owned())].into(),
        match_expressions: Vec::new(),
    }
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMESPACES.to_vec())
}

fn hostname() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec![
        "*.example.com",
        "foo.example.com",
        "bar.example.org",
    ]))
}

fn a_listener() -> impl Strategy<Value = Listener> {
    let allowed = prop_oneof![
        Just(AllowedNamespaces::Same),
        Just(AllowedNamespaces::All),
        Just(AllowedNamespaces::Selector(red())),
    ];
    let secrets =
        prop::collection::vec((namespace(), prop::sample::select(vec!["s1", "s2"])), 0..3);
    let name = prop::sample::select(vec!["one", "two", "three"]);
    (name, hostname(), allowed, 0..4_u8, secrets).prop_map(
        |(name, hostname, allowed, form, secrets)| {
            let mut listener = match form {
                0 | 1 => listener(name, 80 + u16::from(form), hostname),
                2 => https(name, hostname, &secrets),
                _ => Listener {
                    protocol: "UDP".into(),
                    ..listener(name, 53, None)
                },
            };
            listener.allowed_namespaces = allowed;
            listener
        },
    )
}

fn a_gateway() -> impl Strategy<Value = Object> {
    let class = prop::sample::select(vec!["ours", "ours", "ours", "ours", "theirs", "none"]);
    let name = prop::sample::select(vec!["g1", "g2"]);
    (
        namespace(),
        name,
        class,
        prop::collection::vec(a_listener(), 0..4),
        1..4_i64,
        prop::option::weighted(0.2, parameters_of_a_gateway()),
    )
        .prop_map(
            |(namespace, name, class, mut listeners, generation, parameters)| {
                let mut seen = BTreeSet::new();
                listeners.retain(|listener| seen.insert(listener.name.clone()));
                let mut gateway = gateway(namespace, name, class, listeners);
                gateway.meta.generation = generation;
                gateway.parameters_ref = parameters;
                Object::Gateway(gateway)
            },
        )
}

fn parameters_of_a_gateway() -> impl Strategy<Value = ParametersRef> {
    let kind = prop::sample::select(vec!["ConfigMap", "ConfigMap", "ConfigMap", "Other"]);
    kind.prop_map(|kind| ParametersRef {
        group: String::new(),
        kind: kind.into(),
        namespace: None,
        name: "x".into(),
    })
}

/// What a Gateway's parameters are: a ConfigMap, and the pool whose settings they are put over.
fn a_parameters_object() -> impl Strategy<Value = Object> {
    let text = prop::sample::select(vec![
        "type: ClusterIP",
        "ipFamilyPolicy: SingleStack",
        "sort: x",
        "",
    ]);
    let map = (namespace(), text).prop_map(|(namespace, text)| {
        Object::ConfigMap(ConfigMap {
            meta: meta(namespace, "x"),
            data: [("service".to_owned(), text.to_owned())].into(),
        })
    });
    let pool = any::<bool>().prop_map(|class| {
        let service = match class {
            true => serde_json::json!({"loadBalancerClass": "x", "ipFamilies": ["IPv4", "IPv6"]}),
            false => serde_json::json!({}),
        };
        Object::ShardPool(ShardPool {
            meta: meta("a", "pool"),
            spec: serde_json::json!({"service": service}),
        })
    });
    let crd = prop::sample::select(vec!["v1.6.3", "v1.4.0"]).prop_map(|version| {
        Object::Crd(Crd {
            meta: meta("", "gateways.gateway.networking.k8s.io"),
            kind: "Gateway".into(),
            bundle_version: Some(version.into()),
            channel: None,
            versions: [("v1".to_owned(), Fields::Any)].into(),
        })
    });
    prop_oneof![2 => map, 1 => pool, 1 => crd]
}

fn settings() -> Settings {
    Settings {
        pool: Some(PoolKey::new("a", "pool")),
    }
}

fn parents() -> impl Strategy<Value = Vec<ParentRef>> {
    let section = prop::option::of(prop::sample::select(vec!["one", "two"]));
    let one = (namespace(), prop::sample::select(vec!["g1", "g2"]), section);
    prop::collection::vec(
        one.prop_map(|(namespace, name, section)| parent(namespace, name, section)),
        0..3,
    )
}

fn a_rule() -> impl Strategy<Value = HttpRouteRule> {
    let service = prop::sample::select(vec!["s1", "s2"]);
    let port = prop::sample::select(vec![80_u16, 81]);
    let backend = (prop::option::of(namespace()), service, port)
        .prop_map(|(ns, name, port)| to(ns, name, port));
    let filter = prop::option::of(prop_oneof![
        Just(HttpFilter::NotYet("RequestMirror".into())),
        Just(HttpFilter::ExtensionRef {
            group: "x.io".into(),
            kind: "X".into(),
            name: "x".into()
        }),
    ]);
    let kind = prop::sample::select(vec!["PathPrefix", "Exact", "RegularExpression"]);
    (prop::collection::vec(backend, 0..3), filter, kind).prop_map(|(backends, filter, kind)| {
        HttpRouteRule {
            matches: vec![path(kind, "/x")],
            filters: filter.into_iter().collect(),
            ..rule("/x", backends)
        }
    })
}

fn a_route() -> impl Strategy<Value = Object> {
    let name = prop::sample::select(vec!["r1", "r2"]);
    let hostnames = prop::collection::vec(hostname(), 0..3);
    (
        namespace(),
        name,
        parents(),
        hostnames,
        prop::collection::vec(a_rule(), 0..3),
    )
        .prop_map(|(namespace, name, parents, hostnames, rules)| {
            let mut route = route(namespace, name, parents, rules);
            route.hostnames = hostnames.into_iter().flatten().map(Into::into).collect();
            Object::HttpRoute(route)
        })
}

fn a_service() -> impl Strategy<Value = Object> {
    let name = prop::sample::select(vec!["s1", "s2"]);
    (namespace(), name, 0..5_u8).prop_map(|(namespace, name, form)| {
        let mut service = service(namespace, name, &[80, 81]);
        match form {
            0 => service.ports.truncate(1),
            1 => service.ports[0].app_protocol = Some("kubernetes.io/h2c".into()),
            2 => service.ports[1].app_protocol = Some("kubernetes.io/wss".into()),
            3 => service.external_name = Some("Elsewhere.example.net".into()),
            _ => service.static_endpoints = Some(vec![("127.0.0.1".parse().unwrap(), 9001)]),
        }
        Object::Service(service)
    })
}

fn object() -> impl Strategy<Value = Object> {
    let class = (prop::sample::select(vec!["ours", "theirs"]), 0..3_u8).prop_map(|(name, form)| {
        let mut class = class(name, name == "ours");
        let parameters = || ParametersRef {
            group: "shardway.dev".into(),
            kind: "ShardPool".into(),
            namespace: Some("a".into()),
            name: if form == 1 { "pool" } else { "other" }.into(),
        };
        class.parameters_ref = (form > 0).then(parameters);
        Object::GatewayClass(class)
    });
    let grant = (
        namespace(),
        namespace(),
        any::<bool>(),
        prop::option::of(Just("s1")),
    )
        .prop_map(|(namespace, from, route, name)| {
            let (from_kind, to_kind) = if route {
                ("HTTPRoute", "Service")
            } else {
                ("Gateway", "Secret")
            };
            Object::ReferenceGrant(grant(
                namespace,
                "grant",
                (from_kind, from),
                (to_kind, name),
            ))
        });
    let labelled = (
        namespace(),
        prop::option::of(prop::sample::select(vec!["red", "blue"])),
    )
        .prop_map(|(name, team)| {
            let mut meta = meta("", name);
            meta.labels
                .extend(team.map(|team| ("team".to_owned(), team.to_owned())));
            Object::Namespace(Namespace { meta })
        });
    let slice = (
        namespace(),
        prop::sample::select(vec!["e1", "e2"]),
        prop::sample::select(vec!["s1", "s2"]),
        0..3_usize,
    )
        .prop_map(|(namespace, name, service, count)| {
            let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
            Object::EndpointSlice(slice(namespace, name, service, 80, &addresses[..count]))
        });
    let secret = (
        namespace(),
        prop::sample::select(vec!["s1", "s2"]),
        0..4_usize,
    )
        .prop_map(|(namespace, name, which)| {
            Object::Secret(Secret {
                meta: meta(namespace, name),
                ..SECRETS[which].clone()
            })
        });
    prop_oneof![
        1 => class,
        3 => a_gateway(),
        4 => a_route(),
        2 => grant,
        1 => labelled,
        2 => a_service(),
        1 => slice,
        2 => secret,
        2 => a_parameters_object(),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => object().prop_map(Event::Apply),
        2 => object().prop_map(|object| Event::Delete(object.key())),
        1 => (object(), parents()).prop_map(|(object, parents)| {
            Event::Reject(Rejected { key: object.key(), generation: 7, message: "spec.x: unknown".into(), parents })
        }),
    ]
}

/// One step: an event, whether to translate after it, and which object panics then.
fn step() -> impl Strategy<Value = (Event, bool, Option<ObjectKey>)> {
    let panics = prop_oneof![
        20 => Just(None),
        1 => Just(Some(key("HTTPRoute", "a", "r1"))),
        1 => Just(Some(key("Gateway", "a", "g1"))),
    ];
    (event(), prop::bool::weighted(0.8), panics)
}

/// What someone holds who follows the changes.
#[derive(Default)]
struct Follower {
    gateways: BTreeMap<GatewayKey, BTreeMap<GatewayEntryKey, GatewayEntry>>,
    backends: BTreeMap<BackendKey, Backend>,
    certificates: BTreeMap<CertificateKey, Certificate>,
    statuses: BTreeMap<ObjectKey, String>,
    infrastructure: BTreeMap<GatewayKey, GatewayInfrastructure>,
}

impl Follower {
    fn follow(&mut self, translation: &Translation, changes: Changes) {
        for (key, change) in changes.gateways {
            assert!(
                change.removed || !change.ops.is_empty(),
                "an empty change of {key}"
            );
            if change.removed {
                assert!(
                    self.gateways.remove(&key).is_some(),
                    "{key} was not there to be removed"
                );
                continue;
            }
            let entries = self.gateways.entry(key).or_default();
            for (key, entry) in change.ops {
                match entry {
                    Some(entry) => {
                        assert_ne!(
                            entries.insert(key, entry.clone()),
                            Some(entry),
                            "an operation without effect"
                        );
                    }
                    None => assert!(
                        entries.remove(&key).is_some(),
                        "removed what was not there: {key:?}"
                    ),
                }
            }
        }
        follow(&mut self.backends, changes.backends);
        follow(&mut self.certificates, changes.certificates);
        for key in changes.infrastructure {
            match translation.infrastructure(&key) {
                Some(asked) => self.infrastructure.insert(key, asked.clone()),
                None => self.infrastructure.remove(&key),
            };
        }
        for object in changes.statuses {
            let status = translation
                .status(&object)
                .map(|status| serde_json::to_string(&status).unwrap());
            match status {
                Some(status) => self.statuses.insert(object, status),
                None => self.statuses.remove(&object),
            };
        }
    }
}

fn follow<K: Ord + std::fmt::Debug, V: PartialEq + Clone + std::fmt::Debug>(
    held: &mut BTreeMap<K, V>,
    changes: BTreeMap<K, Option<V>>,
) {
    for (key, value) in changes {
        match value {
            Some(value) => {
                assert_ne!(
                    held.insert(key, value.clone()),
                    Some(value),
                    "a change without effect"
                );
            }
            None => assert!(
                held.remove(&key).is_some(),
                "removed what was not there: {key:?}"
            ),
        }
    }
}

fn of(translation: &Translation) -> Follower {
    Follower {
        gateways: translation
            .gateways()
            .map(|key| (key.clone(), translation.entries(key)))
            .collect(),
        backends: translation
            .backends()
            .map(|(key, it)| (key.clone(), it.clone()))
            .collect(),
        certificates: translation
            .certificates()
            .map(|(key, it)| (key.clone(), it.clone()))
            .collect(),
        statuses: translation
            .statuses()
            .map(|(key, it)| (key, serde_json::to_string(&it).unwrap()))
            .collect(),
        infrastructure: translation
            .gateways()
            .filter_map(|key| Some((key.clone(), translation.infrastructure(key)?.clone())))
            .collect(),
    }
}

fn assert_same(what: &str, got: &Follower, expected: &Follower) {
    assert_eq!(got.gateways, expected.gateways, "{what}: entries");
    assert_eq!(got.backends, expected.backends, "{what}: backends");
    assert_eq!(
        got.certificates, expected.certificates,
        "{what}: certificates"
    );
    assert_eq!(got.statuses, expected.statuses, "{what}: statuses");
    assert_eq!(
        got.infrastructure, expected.infrastructure,
        "{what}: infrastructure"
    );
}

/// Every entry leads to facts that are there, and every fact is led to.
fn assert_closed(held: &Follower) {
    let (mut backends, mut certificates) = (BTreeSet::new(), BTreeSet::new());
    for entry in held.gateways.values().flat_map(BTreeMap::values) {
        match entry {
            GatewayEntry::Listener(listener) => {
                certificates.extend(listener.certificates.iter().cloned());
            }
            GatewayEntry::Rule(rule) => backends.extend(rule.backends.iter().filter_map(
                |backend| match &backend.target {
                    api_snapshot::config::BackendTarget::Backend(key) => Some(key.clone()),
                    _ => None,
                },
            )),
            _ => {}
        }
    }
    assert_eq!(
        backends,
        held.backends.keys().cloned().collect(),
        "backends referred to"
    );
    assert_eq!(
        certificates,
        held.certificates.keys().cloned().collect(),
        "certificates referred to"
    );
}

fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"injected by a test") {
                hook(info);
            }
        }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_full(steps in prop::collection::vec(step(), 1..30)) {
        quiet_panics();
        let (mut index, mut translation, mut follower) = (Index::new(), Translation::with(settings()), Follower::default());
        let mut dirty = Dirty::default();
        for object in beginning() {
            dirty.merge(index.apply(Event::Apply(object)));
        }
        for (event, now, panics) in steps {
            dirty.merge(index.apply(event));
            if now {
                translation.panic_on(panics.clone());
                let changes = translation.update(&index, std::mem::take(&mut dirty));
                follower.follow(&translation, changes);
                if let Some(object) = panics {
                    // The object changes: what it was quarantined for is gone.
                    translation.panic_on(None);
                    match object.kind.as_str() {
                        "Gateway" => dirty.gateways.insert(GatewayKey::new(&object.namespace, &object.name)),
                        _ => dirty.routes.insert(api::RouteKey::http(&object.namespace, &object.name)),
                    };
                }
            }
        }
        let changes = translation.update(&index, dirty);
        follower.follow(&translation, changes);
        let full = of(&Translation::full_with(&index, settings()));
        assert_same("incremental", &of(&translation), &full);
        assert_same("followed", &follower, &full);
        assert_closed(&full);
        prop_assert!(translation.update(&index, Dirty::all(&index)).is_empty(), "translating again changes nothing");
    }
}
