#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use api_pool::{ShardPool, ShardPoolStatus};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::status::{Facts, status};
use super::*;
use crate::difference::differs;
use crate::tests::check;

fn pool(spec: Value) -> ShardPool {
    let pool = json!({
        "apiVersion": "shardway.dev/v1alpha1",
        "kind": "ShardPool",
        "metadata": {"name": "default", "namespace": "shardway-system", "uid": "0a1b", "generation": 3},
        "spec": spec,
    });
    serde_json::from_value(pool).unwrap()
}

fn settings() -> PodSettings {
    PodSettings {
        image: "shardway/shard-proxy:0.1.0".into(),
        pull_policy: None,
        service_account: "shardway-shard".into(),
        operator: "shardway-operator-peers.shardway-system.svc:7000".into(),
        trust: "shardway-trust".into(),
        audience: "shardway.dev".into(),
        log_format: "json".into(),
    }
}

#[test]
fn shards_run_restricted_and_end_slowly() {
    check(
        "stateful_set",
        &stateful_set(&pool(json!({})), &settings(), 2).unwrap(),
    );
}

#[test]
fn what_the_pool_says_of_pods_is_handed_on() {
    let pool = pool(json!({
        "shards": 3,
        "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "drain": {"waitSeconds": 30, "timeoutSeconds": 300},
        "nodeSelector": {"pool": "edge"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        "priorityClassName": "high",
    }));
    let settings = PodSettings {
        pull_policy: Some("Never".into()),
        ..settings()
    };
    let pod = stateful_set(&pool, &settings, 3)
        .unwrap()
        .spec
        .unwrap()
        .template
        .spec
        .unwrap();
    assert_eq!(pod.termination_grace_period_seconds, Some(345));
    assert_eq!(pod.node_selector.unwrap()["pool"], "edge");
    assert_eq!(pod.tolerations.unwrap()[0].key.as_deref(), Some("edge"));
    assert!(pod.affinity.unwrap().node_affinity.is_some());
    assert_eq!(pod.priority_class_name.as_deref(), Some("high"));
    let container = &pod.containers[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
    assert_eq!(
        container
            .resources
            .as_ref()
            .unwrap()
            .limits
            .as_ref()
            .unwrap()["memory"]
            .0,
        "1Gi"
    );
    let env = container.env.as_ref().unwrap();
    let wait = env
        .iter()
        .find(|of| of.name == "SHARDWAY_DRAIN_WAIT_MS")
        .unwrap();
    assert_eq!(wait.value.as_deref(), Some("30000"));
}

#[test]
fn what_no_pod_can_have_is_an_error() {
    let pool = pool(json!({"tolerations": [{"tolerationSeconds": "soon"}]}));
    let error = stateful_set(&pool, &settings(), 2).unwrap_err().to_string();
    assert!(error.contains("soon"), "{error}");
}

#[test]
fn a_headless_service_names_the_shards() {
    check(
        "headless_service",
        &headless_service(&pool(json!({}))).unwrap(),
    );
}

/// The API server writes quantities in its own way.
#[test]
fn a_quantity_that_is_written_otherwise_is_no_difference() {
    let desired = pool(json!({"resources": {"requests": {"cpu": "1000m"}}}));
    let desired = stateful_set(&desired, &settings(), 2).unwrap();
    let mut current = serde_json::to_value(&desired).unwrap();
    let cpu = "/spec/template/spec/containers/0/resources/requests/cpu";
    *current.pointer_mut(cpu).unwrap() = json!("1");
    let current: StatefulSet = serde_json::from_value(current).unwrap();
    assert!(!differs(&current, &desired));
    let more = stateful_set(&pool(json!({})), &settings(), 3).unwrap();
    assert!(differs(&current, &more));
}

#[test]
fn no_shard_goes_while_it_is_in_use() {
    for (wanted, in_use, current, expected) in [
        // Made anew, and scaled out.
        (2, None, None, 2),
        (4, Some(Some(1)), Some(2), 4),
        // Nobody knows yet what is in use.
        (2, None, Some(4), 4),
        // In use, then not.
        (2, Some(Some(3)), Some(4), 4),
        (2, Some(Some(2)), Some(4), 3),
        (2, Some(Some(1)), Some(3), 2),
        (2, Some(None), Some(4), 2),
        // A number that cannot be does not make the pool larger.
        (2, Some(Some(u32::MAX)), Some(4), 4),
        (2, Some(Some(9)), None, 2),
    ] {
        let case = format!("{wanted} {in_use:?} {current:?}");
        assert_eq!(replicas(wanted, in_use, current), expected, "{case}");
    }
}

#[test]
fn a_spec_is_within_bounds() {
    let spec = PoolSpec::of(&pool(json!({"shards": -1, "shardsPerGateway": 100_000})));
    assert_eq!((spec.shards, spec.shards_per_gateway), (1, 1000));
    let spec = PoolSpec::of(&pool(
        json!({"shards": 5, "service": {"type": "ClusterIP"}}),
    ));
    assert_eq!((spec.shards, spec.shards_per_gateway), (5, 2));
    assert_eq!(spec.service.service_type().as_str(), "ClusterIP");
}

fn set(asked: i32, there: i32, ready: i32, updated: i32) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"generation": 1},
        "spec": {"replicas": asked, "selector": {}, "serviceName": "", "template": {}},
        "status": {
            "observedGeneration": 1, "replicas": there, "readyReplicas": ready, "updatedReplicas": updated,
            "currentRevision": if updated < asked { "a" } else { "b" }, "updateRevision": "b",
        },
    }))
    .unwrap()
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn told(set: Option<&StatefulSet>) -> [String; 2] {
    let pool = pool(json!({"shards": 2}));
    let facts = Facts {
        pool: &pool,
        set,
        gateways: Some(7),
        error: None,
    };
    let status = status(facts, &at(0));
    let lines = status
        .conditions
        .iter()
        .map(|of| format!("{}={} {}: {}", of.type_, of.status, of.reason, of.message));
    lines.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn a_status_says_how_far_it_is() {
    for (set, ready, progress) in [
        (
            None,
            "Ready=False ShardsNotReady: 0 of 2",
            "Progressing=True Creating: ",
        ),
        (
            Some(set(2, 1, 0, 1)),
            "Ready=False ShardsNotReady: 0 of 2",
            "Progressing=True Scaling: from 1 shards to 2",
        ),
        (
            Some(set(2, 2, 2, 2)),
            "Ready=True ShardsReady: 2 of 2",
            "Progressing=False Complete: 2 ",
        ),
        (
            Some(set(2, 2, 1, 1)),
            "Ready=False ShardsNotReady: 1 of 2",
            "Progressing=True RollingOut: 1 of 2",
        ),
        (
            Some(set(4, 4, 4, 4)),
            "Ready=True ShardsReady: 4 of 2",
            "Progressing=True ScaleInWaits: 2 ",
        ),
    ] {
        let told = told(set.as_ref());
        assert!(told[0].starts_with(ready), "{told:?}");
        assert!(told[1].starts_with(progress), "{told:?}");
    }
}

#[test]
fn a_time_moves_with_the_status_alone() {
    let mut pool = pool(json!({"shards": 2}));
    let (before, after) = (set(2, 2, 2, 2), set(2, 2, 1, 2));
    let told = |pool: &ShardPool, set: &StatefulSet, second| -> ShardPoolStatus {
        let facts = Facts {
            pool,
            set: Some(set),
            gateways: None,
            error: None,
        };
        status(facts, &at(second))
    };
    pool.status = Some(told(&pool, &before, 1));
    assert_eq!(told(&pool, &before, 2), pool.status.clone().unwrap());
    let now = told(&pool, &after, 3);
    assert_eq!(now.conditions[0].last_transition_time, at(3));
    assert_eq!(now.conditions[1].last_transition_time, at(1));
}

#[test]
fn an_error_of_the_spec_is_told() {
    let pool = pool(json!({"tolerations": [{"tolerationSeconds": "soon"}]}));
    let error = stateful_set(&pool, &settings(), 2).unwrap_err();
    let facts = Facts {
        pool: &pool,
        set: None,
        gateways: None,
        error: Some(&error),
    };
    let status = status(facts, &at(0));
    assert_eq!(status.conditions[0].reason, "Invalid");
    assert!(status.conditions[0].message.contains("soon"));
}
