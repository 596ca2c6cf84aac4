//! GatewayClasses in a cluster: their parameters, and what follows from the installed CRDs.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::path::Path;

use api::condition::{reasons, types};
use api::{ObjectKey, PoolKey};
use common::world::{World, check, web};
use common::{class, meta};
use operator_objects::manifest::{Document, Provenance};
use operator_objects::spec::*;
use operator_objects::{Decoded, decode_admitted};
use operator_translate::status::{Condition, ConditionStatus, condition};
use operator_translate::{Settings, Translation};
use serde_json::{Value, json};

/// The CRDs of a release and channel, `v1.6.3-standard`.
fn crds(set: &str) -> Vec<Crd> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../objects/testdata/crds/{set}.json"));
    let list: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    list.into_iter().map(crd).collect()
}

fn crd(object: Value) -> Crd {
    let document = Document {
        line: 0,
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        kind: "CustomResourceDefinition".into(),
        namespace: String::new(),
        name: object["metadata"]["name"].as_str().unwrap().into(),
        object,
    };
    let provenance = Provenance {
        uid: String::new(),
        generation: 1,
        created_at: api::Timestamp(0),
    };
    match decode_admitted(&document, &provenance) {
        Decoded::Object(Object::Crd(crd)) => crd,
        other => panic!("no CRD: {other:?}"),
    }
}

/// [`World::new`] in a cluster whose installation serves `system/default`.
fn cluster() -> World {
    let mut world = World::new();
    let settings = Settings {
        pool: Some(PoolKey::new("system", "default")),
    };
    world.translation = Translation::full_with(&world.index, settings);
    world
}

fn pool(namespace: &str, name: &str) -> ShardPool {
    ShardPool {
        meta: meta(namespace, name),
        spec: json!({"shards": 2}),
    }
}

fn with_parameters(group: &str, kind: &str, namespace: &str, name: &str) -> Object {
    Object::GatewayClass(GatewayClass {
        parameters_ref: Some(ParametersRef {
            group: group.into(),
            kind: kind.into(),
            namespace: Some(namespace.into()),
            name: name.into(),
        }),
        ..class("ours", true)
    })
}

fn of_class(world: &World, type_: &str) -> Condition {
    let status = world.translation.class_status("ours").unwrap();
    condition(&status.conditions, type_).unwrap().clone()
}

fn features(world: &World) -> Vec<&'static str> {
    let status = world.translation.class_status("ours").unwrap();
    status.supported_features.clone()
}

#[test]
fn parameters_name_the_pool_that_is_served() {
    let mut world = cluster();
    check(
        &of_class(&world, types::ACCEPTED),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    for (parameters, says) in [
        (
            ("", "ConfigMap", "system", "default"),
            "ConfigMap system/default of group \"\" is not supported; name ShardPool system/default of group shardway.dev or remove it",
        ),
        (
            ("shardway.dev", "ShardPool", "system", "other"),
            "ShardPool system/other is not served by this installation; name ShardPool system/default",
        ),
        (
            ("shardway.dev", "ShardPool", "system", "default"),
            "ShardPool system/default does not exist; create it",
        ),
    ] {
        let (group, kind, namespace, name) = parameters;
        world.apply(with_parameters(group, kind, namespace, name));
        let accepted = of_class(&world, types::ACCEPTED);
        check(
            &accepted,
            ConditionStatus::False,
            reasons::INVALID_PARAMETERS,
            1,
        );
        assert!(accepted.message.contains(says), "{}", accepted.message);
        // Its Gateways go on.
        let accepted = world.gateway(types::ACCEPTED);
        assert_eq!(accepted.status, ConditionStatus::True);
        assert!(accepted.message.contains("defaults are used"));
    }
}

#[test]
fn a_pool_that_comes_makes_its_class_valid_and_one_that_goes_does_not() {
    let mut world = cluster();
    world.apply(with_parameters(
        "shardway.dev",
        "ShardPool",
        "system",
        "default",
    ));
    let changes = world.apply(Object::ShardPool(pool("system", "default")));
    check(
        &of_class(&world, types::ACCEPTED),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    assert!(!world.gateway(types::ACCEPTED).message.contains("defaults"));
    assert_eq!(changes.statuses.len(), 2, "{:?}", changes.statuses);
    let key = ObjectKey::new("shardway.dev", "ShardPool", "system", "default");
    let changes = world.event(Event::Delete(key));
    check(
        &of_class(&world, types::ACCEPTED),
        ConditionStatus::False,
        reasons::INVALID_PARAMETERS,
        1,
    );
    assert!(changes.gateways.is_empty(), "what is served stays");
    assert!(!world.translation.entries(&web()).is_empty());
}

#[test]
fn features_follow_the_installed_crds() {
    let newer = [
        "GatewayRouteHostnameIntersectionPrecedence",
        "HTTPRouteBackendURLRewrite",
    ];
    for (set, is_new) in [
        ("v1.6.3-standard", false),
        ("v1.6.3-experimental", false),
        ("v1.7.0-standard", true),
        ("v1.7.0-experimental", true),
    ] {
        let mut world = cluster();
        for crd in crds(set) {
            world.apply(Object::Crd(crd));
        }
        let found = features(&world);
        assert!(found.is_sorted());
        for name in newer {
            assert_eq!(found.contains(&name), is_new, "{set}: {name}");
        }
        for name in [
            "Gateway",
            "GatewayInfrastructure",
            "HTTPRoute",
            "HTTPRouteNamedRouteRule",
            "HTTPRouteParentRefPort",
            "ReferenceGrant",
        ] {
            assert!(found.contains(&name), "{set}: {name}");
        }
        let version = of_class(&world, types::SUPPORTED_VERSION);
        check(
            &version,
            ConditionStatus::True,
            reasons::SUPPORTED_VERSION,
            1,
        );
        let (release, channel) = set.split_once('-').unwrap();
        assert_eq!(version.message, format!("CRDs have {release} ({channel})"));
    }
}

#[test]
fn what_a_crd_does_not_have_is_not_claimed() {
    let mut world = cluster();
    let mut all = crds("v1.6.3-standard");
    for crd in &mut all {
        crd.versions.retain(|_, _| crd.kind != "HTTPRoute");
        if crd.kind == "HTTPRoute" {
            let fields = Fields::of(&json!({"properties": {"spec": {"properties": {
                "rules": {"items": {"properties": {"matches": {"items": {"properties": {"method": {}}}}}}}
            }}}}));
            crd.versions.insert("v1".into(), fields);
        }
    }
    for crd in all.into_iter().filter(|crd| crd.kind != "ReferenceGrant") {
        world.apply(Object::Crd(crd));
    }
    let found = features(&world);
    for (name, is_there) in [
        ("HTTPRoute", true),
        ("HTTPRouteMethodMatching", true),
        ("HTTPRouteQueryParamMatching", false),
        ("HTTPRouteNamedRouteRule", false),
        ("ReferenceGrant", false),
    ] {
        assert_eq!(found.contains(&name), is_there, "{name}");
    }
    let version = of_class(&world, types::SUPPORTED_VERSION);
    assert!(
        version.message.ends_with("; not installed: ReferenceGrant"),
        "{}",
        version.message
    );
}

#[test]
fn crds_of_another_version_are_told_and_what_they_have_is_served() {
    let mut world = cluster();
    for mut crd in crds("v1.6.3-standard") {
        if crd.kind == "Gateway" {
            crd.bundle_version = Some("v1.4.0".into());
        }
        world.apply(Object::Crd(crd));
    }
    let version = of_class(&world, types::SUPPORTED_VERSION);
    check(
        &version,
        ConditionStatus::False,
        reasons::UNSUPPORTED_VERSION,
        1,
    );
    assert!(
        version.message.contains("Gateway v1.4.0 (standard)"),
        "{}",
        version.message
    );
    check(
        &of_class(&world, types::ACCEPTED),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    let upgraded = crds("v1.6.3-standard")
        .into_iter()
        .find(|crd| crd.kind == "Gateway");
    let changes = world.apply(Object::Crd(upgraded.unwrap()));
    assert_eq!(changes.statuses.len(), 1);
    check(
        &of_class(&world, types::SUPPORTED_VERSION),
        ConditionStatus::True,
        reasons::SUPPORTED_VERSION,
        1,
    );
}

#[test]
fn without_a_cluster_no_parameters_are_taken_and_our_own_schemas_count() {
    let mut world = World::new();
    assert!(!features(&world).contains(&"GatewayInfrastructure"));
    assert!(features(&world).contains(&"HTTPRouteBackendURLRewrite"));
    world.apply(with_parameters(
        "shardway.dev",
        "ShardPool",
        "system",
        "default",
    ));
    let accepted = of_class(&world, types::ACCEPTED);
    check(
        &accepted,
        ConditionStatus::False,
        reasons::INVALID_PARAMETERS,
        1,
    );
    assert!(accepted.message.contains("; remove it"));
}
