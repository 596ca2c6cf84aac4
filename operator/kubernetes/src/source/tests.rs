#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use serde_json::json;

use super::*;
use crate::fake::{Answer, Asked, client, refusal};

/// Kinds of the Gateway API, and no other group's resources.
fn resources(names: &[&str]) -> Answer {
    let list: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "singularName": "", "namespaced": true, "kind": "X", "verbs": ["list"]}))
        .collect();
    Some((
        200,
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "x", "resources": list}),
    ))
}

/// An empty list; watches say nothing.
fn empty(path: &str) -> Answer {
    // Streamed lists are not known here.
    if path.contains("sendInitialEvents") {
        return refusal(400, "BadRequest");
    }
    if path.contains("watch=true") {
        return Some((200, Value::Null));
    }
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": []});
    Some((200, list))
}

fn served(path: &str) -> Option<Answer> {
    let all = [
        "gatewayclasses",
        "gateways",
        "httproutes",
        "referencegrants",
    ];
    match path.split('?').next()? {
        "/apis/gateway.networking.k8s.io/v1" => Some(resources(&all)),
        "/apis/shardway.dev/v1alpha1" => Some(refusal(404, "NotFound")),
        _ => None,
    }
}

fn settings() -> Settings {
    Settings {
        namespaces: vec!["team-a".into(), "team-b".into()],
        pool: Some(PoolKey::new("system", "default")),
    }
}

#[tokio::test]
async fn kinds_that_may_not_be_read_are_told_and_hold_nobody_back() {
    let forbidden = |path: &str| {
        ["gatewayclasses", "namespaces?", "customresourcedefinitions"]
            .iter()
            .any(|kind| path.contains(kind))
    };
    let client = client(move |(_, path, _): &Asked| {
        served(path).unwrap_or_else(|| match forbidden(path) {
            true => refusal(403, "Forbidden"),
            false => empty(path),
        })
    });
    let mut source = KubeSource::start(client, &settings());
    let batch = source.initial().await.batch;
    assert!(batch.events.is_empty());
    let of = |text: &str| {
        let found = batch.problems.iter().find(|of| of.message.contains(text));
        found.unwrap_or_else(|| panic!("{text} in {:?}", batch.problems))
    };
    // Nobody can tell whether there are classes: what is committed stays.
    assert!(of("kind GatewayClass cannot be watched").is_error);
    for kind in ["Namespace", "CustomResourceDefinition"] {
        assert!(!of(&format!("kind {kind} cannot be watched")).is_error);
    }
    assert!(
        !of("kind ShardPool (shardway.dev) is not in this cluster in version v1alpha1").is_error
    );
    let told = batch.problems.len();
    assert_eq!(told, 4, "{:?}", batch.problems);
}

#[tokio::test]
async fn an_api_server_that_refuses_at_first_is_waited_for() {
    let mut refused = BTreeMap::<String, u32>::new();
    let client = client(move |(_, path, _): &Asked| {
        let path = path.as_str();
        if let Some(answer) = served(path) {
            return answer;
        }
        let kind = path.split('?').next().unwrap_or_default().to_owned();
        let times = refused.entry(kind).or_default();
        *times += 1;
        match *times {
            1..=3 => refusal(403, "Forbidden"),
            _ => empty(path),
        }
    });
    let settings = Settings {
        pool: None,
        ..settings()
    };
    let mut source = KubeSource::start(client, &settings);
    let batch = source.initial().await.batch;
    assert!(batch.problems.is_empty(), "{:?}", batch.problems);
}

#[tokio::test]
async fn namespaces_and_the_pool_are_read_by_name_in_a_namespaced_installation() {
    let asked = std::sync::Arc::new(parking_lot::Mutex::new(BTreeSet::<String>::new()));
    let of_client = std::sync::Arc::clone(&asked);
    let client = client(move |(_, path, _): &Asked| {
        let path = path.as_str();
        of_client.lock().insert(path.replace("%3D", "="));
        served(path).unwrap_or_else(|| empty(path))
    });
    let mut source = KubeSource::start(client, &settings());
    source.initial().await;
    let wanted = BTreeSet::from([ObjectKey::new("", "ConfigMap", "team-a", "parameters")]);
    source.want_config_maps(&wanted);
    source.settle(Duration::from_secs(5)).await;
    let asked = asked.lock().clone();
    let lists = |kind: &str| {
        let of_kind = asked.iter().filter(move |path| path.contains(kind));
        of_kind.cloned().collect::<Vec<_>>()
    };
    for path in lists("/api/v1/namespaces?") {
        assert!(path.contains("metadata.name=team-"), "{path}");
    }
    for path in lists("/customresourcedefinitions") {
        assert!(
            path.contains(".gateway.networking.k8s.io"),
            "{path} reads all CRDs"
        );
    }
    for path in lists("/configmaps") {
        assert!(path.contains("metadata.name=parameters"), "{path}");
    }
    assert!(lists("/secrets").is_empty());
    for namespace in ["team-a", "team-b"] {
        let path = format!("/namespaces/{namespace}/gateways?");
        assert!(!lists(&path).is_empty(), "{path}");
    }
    source.want_config_maps(&BTreeSet::new());
    let batch = source.next().await.batch;
    let key = ObjectKey::new("", "ConfigMap", "team-a", "parameters");
    assert_eq!(batch.events, [Event::Delete(key)]);
}
