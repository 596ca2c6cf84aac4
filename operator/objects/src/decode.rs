//! From documents to our own objects. The one place that sees generated types.

mod core;
mod duration;
mod gateway;
mod metadata;
mod route;

use api::{GATEWAY_GROUP, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::manifest::{Document, Provenance, string_map};
use crate::schema;
use crate::spec::{Meta, Object, ParentRef, Rejected};

/// Kinds that are taken, for messages.
const TAKEN: &str = "GatewayClass, Gateway, HTTPRoute, ReferenceGrant, Namespace, Service, EndpointSlice, Secret, ConfigMap";

/// What a document is.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // moved once, into the index
pub enum Decoded {
    /// An object that is taken.
    Object(Object),
    /// An object of a taken kind that is refused.
    Rejected(Rejected),
    /// An object of a kind that Shardway does not look at: a text that says so.
    Ignored(String),
}

/// Validates, defaults and decodes a document. Never fails: what is wrong is [`Decoded::Rejected`].
pub fn decode(document: &Document, provenance: &Provenance) -> Decoded {
    match (document.group.as_str(), document.kind.as_str()) {
        (GATEWAY_GROUP, "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant") => {}
        ("", "Namespace" | "Service" | "Secret" | "ConfigMap")
        | ("discovery.k8s.io", "EndpointSlice") => {
            let decoded = metadata::check(&document.object)
                .and_then(|()| core::decode(document, meta(document, provenance)));
            return finish(document, provenance, decoded);
        }
        (group, kind) => {
            let group = if group.is_empty() { "core" } else { group };
            return Decoded::Ignored(format!(
                "kind {kind} ({group}) is not looked at; taken are {TAKEN}"
            ));
        }
    }
    let versions = schema::versions(&document.kind);
    if !versions.contains(&document.version.as_str()) {
        let message = format!(
            "apiVersion: version {} is not served; use {}",
            document.version,
            versions.join(" or ")
        );
        return finish(document, provenance, Err(message));
    }
    if let Err(message) = metadata::check(&document.object) {
        return finish(document, provenance, Err(message));
    }
    let mut object = document.object.clone();
    if let Err(violations) = schema::admit(&document.kind, &document.version, &mut object) {
        let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
        return finish(document, provenance, Err(texts.join("; ")));
    }
    let meta = meta(document, provenance);
    let decoded = match document.kind.as_str() {
        "GatewayClass" => gateway::class(&object, meta),
        "Gateway" => gateway::gateway(&object, meta),
        "ReferenceGrant" => gateway::grant(&object, meta),
        _ => route::http(&object, meta),
    };
    finish(document, provenance, decoded)
}

fn finish(
    document: &Document,
    provenance: &Provenance,
    decoded: Result<Object, String>,
) -> Decoded {
    match decoded {
        Ok(object) => Decoded::Object(object),
        Err(message) => Decoded::Rejected(Rejected {
            key: document.key(),
            generation: provenance.generation,
            message,
            parents: parents(&document.object),
        }),
    }
}

/// The `spec` of an object as a generated type.
fn spec<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    let spec = object.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).map_err(|error| format!("spec: {error}"))
}

fn meta(document: &Document, provenance: &Provenance) -> Meta {
    let given = document
        .object
        .pointer("/metadata/creationTimestamp")
        .and_then(Value::as_str);
    let created = given
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map(|at| Timestamp(at.as_second()));
    let text = |pointer: &str| document.object.pointer(pointer).and_then(Value::as_str);
    Meta {
        namespace: document.namespace.clone(),
        name: document.name.clone(),
        uid: text("/metadata/uid").map_or_else(|| provenance.uid.clone(), str::to_owned),
        generation: provenance.generation,
        created_at: created.unwrap_or(provenance.created_at),
        labels: string_map(&document.object, "/metadata/labels"),
        annotations: string_map(&document.object, "/metadata/annotations"),
    }
}

/// parentRefs of a route that could not be decoded, as far as they can be read.
fn parents(object: &Value) -> Vec<ParentRef> {
    let refs = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    refs.into_iter()
        .flatten()
        .filter_map(|parent| {
            let text = |name: &str| parent.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(ParentRef {
                group: text("group").unwrap_or_else(|| GATEWAY_GROUP.into()),
                kind: text("kind").unwrap_or_else(|| "Gateway".into()),
                namespace: text("namespace"),
                name: text("name")?,
                section_name: text("sectionName"),
                port: parent
                    .get("port")
                    .and_then(Value::as_u64)
                    .and_then(|port| u16::try_from(port).ok()),
            })
        })
        .collect()
}

/// A port that the schema has bounded to 1..=65535.
fn port(value: i32) -> u16 {
    u16::try_from(value).unwrap_or_default()
}
