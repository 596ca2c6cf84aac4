//! Objects of the source, a folder or a cluster, with what the operator knows of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use api::{GATEWAY_GROUP, ObjectKey};
use operator_source::Document;
use serde_json::{Value, json};

use crate::client::Client;

/// Kind, namespace, name: of the kinds that are looked at, no two groups have one in common.
pub(crate) type Id = (String, String, String);

/// Kinds by the names that kubectl takes.
pub(crate) fn kind(name: &str) -> anyhow::Result<&'static str> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "gatewayclass" | "gatewayclasses" | "gc" => "GatewayClass",
        "gateway" | "gateways" | "gtw" => "Gateway",
        "httproute" | "httproutes" => "HTTPRoute",
        "referencegrant" | "referencegrants" | "refgrant" => "ReferenceGrant",
        "service" | "services" | "svc" => "Service",
        "endpointslice" | "endpointslices" => "EndpointSlice",
        "namespace" | "namespaces" | "ns" => "Namespace",
        "secret" | "secrets" => "Secret",
        "configmap" | "configmaps" | "cm" => "ConfigMap",
        _ => bail!(
            "unknown kind {name:?}; there are gatewayclass, gateway, httproute, referencegrant, service, endpointslice, namespace, secret, configmap"
        ),
    })
}

/// The key of an object of a [`kind`].
pub(crate) fn key(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    let group = match kind {
        "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant" => GATEWAY_GROUP,
        "EndpointSlice" => "discovery.k8s.io",
        _ => "",
    };
    ObjectKey::new(group, kind, namespace, name)
}

/// Where the operator tells of one object.
pub(crate) fn path(key: &ObjectKey) -> String {
    let or = |part: &str, other: &str| if part.is_empty() { other } else { part }.to_owned();
    format!(
        "/api/v1/objects/{}/{}/{}/{}",
        or(&key.group, "core"),
        key.kind,
        or(&key.namespace, "-"),
        key.name
    )
}

/// Documents of the operator's folder; none in a cluster.
pub(crate) async fn documents(client: &Client) -> anyhow::Result<Vec<Document>> {
    if client.cluster().is_some() {
        return Ok(Vec::new());
    }
    let info: Value = client.json("/api/v1/info").await?;
    let folder = info["source"]
        .as_str()
        .context("the operator has no folder as its source")?;
    Ok(operator_source::documents(Path::new(folder))?)
}

/// Objects of these kinds with their statuses, and, for those who want all of them, with the metadata that a cluster would
/// add. Keys of Secrets are left out.
pub(crate) async fn objects(
    client: &Client,
    kinds: &[&'static str],
    is_whole: bool,
) -> anyhow::Result<BTreeMap<Id, Value>> {
    if let Some(cluster) = client.cluster() {
        let mut objects = BTreeMap::new();
        for kind in kinds {
            for object in cluster.list(kind).await? {
                let part = |name: &str| text(&object["metadata"][name]);
                let id = ((*kind).to_owned(), part("namespace"), part("name"));
                objects.insert(id, object);
            }
        }
        return Ok(objects);
    }
    let documents = documents(client).await?;
    let mut statuses = statuses(client).await?;
    let seen = if is_whole {
        seen(client).await?
    } else {
        BTreeMap::new()
    };
    let mut objects = BTreeMap::new();
    for document in documents {
        let key = document.key();
        let mut object = document.object;
        let id = (document.kind, document.namespace, document.name);
        if let Some(fields) = object.as_object_mut() {
            for secret in ["data", "stringData"] {
                if id.0 == "Secret" {
                    fields.remove(secret);
                }
            }
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                if !id.1.is_empty() {
                    metadata.insert("namespace".into(), json!(id.1));
                }
                if let Some(seen) = seen.get(&key) {
                    add_metadata(metadata, seen);
                }
            }
            if let Some(status) = statuses.remove(&id) {
                fields.insert("status".into(), status);
            }
        }
        objects.entry(id).or_insert(object);
    }
    Ok(objects)
}

/// What an API server would write into metadata. Uid and creationTimestamp of the manifest stay, as the operator takes them too;
/// the generation is the operator's own.
fn add_metadata(metadata: &mut serde_json::Map<String, Value>, seen: &Value) {
    metadata.insert("generation".into(), seen["generation"].clone());
    let created = seen["created"].as_i64();
    let created = created.and_then(|at| jiff::Timestamp::from_second(at).ok());
    let created = created.map(|at| json!(at.to_string()));
    for (name, value) in [
        ("uid", Some(seen["uid"].clone())),
        ("creationTimestamp", created),
    ] {
        let is_given = metadata.get(name).is_some_and(|given| !given.is_null());
        if let (false, Some(value)) = (is_given, value) {
            metadata.insert(name.into(), value);
        }
    }
}

async fn seen(client: &Client) -> anyhow::Result<BTreeMap<ObjectKey, Value>> {
    let all: Vec<Value> = client.json("/api/v1/objects").await?;
    let pairs = all.into_iter().map(|mut item| {
        let of = &item["object"];
        let part = |name: &str| of[name].as_str().unwrap_or_default();
        let key = ObjectKey::new(part("group"), part("kind"), part("namespace"), part("name"));
        (key, item["seen"].take())
    });
    Ok(pairs.collect())
}

async fn statuses(client: &Client) -> anyhow::Result<BTreeMap<Id, Value>> {
    let list: Vec<Value> = client.json("/api/v1/statuses").await?;
    let pairs = list.into_iter().map(|mut item| {
        let status = item["status"].take();
        let part = |name: &str| text(&item[name]);
        ((part("kind"), part("namespace"), part("name")), status)
    });
    Ok(pairs.collect())
}

pub(crate) fn conditions(status: &Value) -> impl Iterator<Item = &Value> {
    list(&status["conditions"])
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[test]
    fn metadata_of_the_manifest_stays_and_the_rest_is_added() {
        let seen = json!({"uid": "u-1", "generation": 3, "created": 1_700_000_000});
        let mut metadata = json!({"name": "a", "generation": 9, "creationTimestamp": null});
        add_metadata(metadata.as_object_mut().unwrap(), &seen);
        assert_eq!(
            metadata,
            json!({"name": "a", "generation": 3, "uid": "u-1", "creationTimestamp": "2023-11-14T22:13:20Z"})
        );
        let mut given = json!({"uid": "mine", "creationTimestamp": "2020-01-01T00:00:00Z"});
        add_metadata(given.as_object_mut().unwrap(), &seen);
        assert_eq!(
            given,
            json!({"uid": "mine", "generation": 3, "creationTimestamp": "2020-01-01T00:00:00Z"})
        );
    }

    #[test]
    fn an_object_is_asked_for_by_all_parts_of_its_key() {
        let of = |kind: &str, namespace: &str| path(&key(kind, namespace, "a"));
        assert_eq!(
            of("GatewayClass", ""),
            "/api/v1/objects/gateway.networking.k8s.io/GatewayClass/-/a"
        );
        assert_eq!(of("Service", "team"), "/api/v1/objects/core/Service/team/a");
    }
}
