//! What a Gateway asks for outside of the snapshot: addresses, labels, parameters of its Service.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use api::condition::{reasons, types};
use api::{ObjectKey, PoolKey};
use common::world::{World, check, web};
use common::{class, gateway, listener, meta};
use operator_objects::spec::*;
use operator_translate::status::ConditionStatus;
use operator_translate::{Settings, Translation};
use serde_json::json;

/// [`World::new`] in a cluster whose installation serves `system/default`.
fn cluster() -> World {
    let mut world = World::new();
    let settings = Settings {
        pool: Some(PoolKey::new("system", "default")),
    };
    world.translation = Translation::full_with(&world.index, settings);
    world
}

fn with_parameters(group: &str, kind: &str) -> Gateway {
    Gateway {
        parameters_ref: Some(ParametersRef {
            group: group.into(),
            kind: kind.into(),
            namespace: None,
            name: "parameters".into(),
        }),
        infrastructure_labels: [("team".to_owned(), "a".to_owned())].into(),
        ..gateway("a", "web", "ours", vec![listener("http", 80, None)])
    }
}

fn parameters(data: &[(&str, &str)]) -> Object {
    Object::ConfigMap(ConfigMap {
        meta: meta("a", "parameters"),
        data: data
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect(),
    })
}

/// That the Gateway is refused for this reason, with these words in the message.
fn refused(world: &World, reason: &str, says: &str) {
    let accepted = world.gateway(types::ACCEPTED);
    check(&accepted, ConditionStatus::False, reason, 1);
    assert!(accepted.message.contains(says), "{}", accepted.message);
    assert_eq!(world.translation.infrastructure(&web()), None);
}

#[test]
fn parameters_are_a_config_map_that_can_be_read() {
    let mut world = cluster();
    world.apply(Object::Gateway(with_parameters("invalid.io", "Invalid")));
    refused(
        &world,
        reasons::INVALID_PARAMETERS,
        "kind Invalid of group \"invalid.io\" is not supported; name a core ConfigMap",
    );
    assert!(world.translation.config_maps().is_empty());
    world.apply(Object::Gateway(with_parameters("", "ConfigMap")));
    refused(
        &world,
        reasons::INVALID_PARAMETERS,
        "ConfigMap a/parameters does not exist; create it",
    );
    let wanted = ObjectKey::new("", "ConfigMap", "a", "parameters");
    assert!(world.translation.config_maps().contains(&wanted));
    for (data, says) in [
        (&[][..], "key \"service\" is missing"),
        (
            &[("service", ""), ("proxy", "")],
            "key \"proxy\" is not known",
        ),
        (&[("service", "kind: ClusterIP")], "unknown field"),
        (
            &[("service", "{type: ClusterIP, loadBalancerClass: x}")],
            "loadBalancerClass needs type LoadBalancer",
        ),
    ] {
        world.apply(parameters(data));
        refused(&world, reasons::INVALID_PARAMETERS, says);
    }
    let changes = world.apply(parameters(&[("service", "type: ClusterIP")]));
    assert!(changes.infrastructure.contains(&web()));
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    let asked = world.translation.infrastructure(&web()).unwrap();
    assert_eq!(asked.uid, "uid-a-web");
    assert_eq!(asked.labels["team"], "a");
    assert_eq!(
        asked.parameters.as_ref().unwrap()["service"],
        "type: ClusterIP"
    );
}

#[test]
fn parameters_are_put_over_those_of_the_pool() {
    let mut world = cluster();
    world.apply(Object::Gateway(with_parameters("", "ConfigMap")));
    world.apply(parameters(&[("service", "ipFamilyPolicy: SingleStack")]));
    assert!(world.translation.infrastructure(&web()).is_some());
    let pool = |service| {
        Object::ShardPool(ShardPool {
            meta: meta("system", "default"),
            spec: json!({"service": service}),
        })
    };
    let changes = world.apply(pool(json!({"externalTrafficPolicy": "Local"})));
    assert!(changes.infrastructure.is_empty());
    world.apply(parameters(&[("service", "loadBalancerClass: x")]));
    assert!(world.translation.infrastructure(&web()).is_some());
    world.apply(pool(json!({"type": "ClusterIP"})));
    refused(
        &world,
        reasons::INVALID_PARAMETERS,
        "loadBalancerClass needs type LoadBalancer",
    );
}

#[test]
fn what_cannot_be_had_refuses_a_gateway_of_a_cluster_and_takes_nothing_away() {
    let mut world = cluster();
    let served = world.entries();
    let address = |kind: &str, value: Option<&str>| GatewayAddress {
        kind: kind.into(),
        value: value.map(Into::into),
    };
    let with = |addresses: Vec<GatewayAddress>| {
        Object::Gateway(Gateway {
            addresses,
            ..gateway("a", "web", "ours", vec![listener("http", 80, None)])
        })
    };
    let fake = address("test/fake-invalid-type", Some("x"));
    let usable = address("IPAddress", Some("10.1.0.1"));
    world.apply(with(vec![fake, usable.clone()]));
    refused(
        &world,
        reasons::UNSUPPORTED_ADDRESS,
        "type test/fake-invalid-type is not supported; use IPAddress",
    );
    assert_eq!(world.entries(), served);
    world.apply(with(vec![address("IPAddress", None), usable.clone()]));
    check(
        &world.gateway(types::ACCEPTED),
        ConditionStatus::True,
        reasons::ACCEPTED,
        1,
    );
    let asked = world.translation.infrastructure(&web()).unwrap();
    assert_eq!(asked.addresses, [address("IPAddress", None), usable]);
}

#[test]
fn a_gateway_that_is_not_ours_any_more_asks_for_nothing() {
    let mut world = cluster();
    assert!(world.translation.infrastructure(&web()).is_some());
    let changes = world.apply(Object::GatewayClass(class("ours", false)));
    assert!(changes.infrastructure.contains(&web()));
    assert_eq!(world.translation.infrastructure(&web()), None);
}
