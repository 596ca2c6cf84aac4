//! From documents to our own objects. The one place that sees generated types.

mod cluster;
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
use crate::spec::{ChangedBy, Meta, Object, POOL_GROUP, ParentRef, Rejected};

/// Largest object, bytes of its JSON form.
pub const OBJECT_BYTES_MAX: usize = 1024 * 1024;

/// Kinds that are taken, for messages.
const TAKEN: &str = "GatewayClass, Gateway, HTTPRoute, ReferenceGrant, Namespace, Service, EndpointSlice, Secret, ConfigMap";

/// Kinds of the Gateway API's group: those that are taken, then those that are not served yet.
const GATEWAY_KINDS: [&str; 10] = [
    "GatewayClass",
    "Gateway",
    "HTTPRoute",
    "ReferenceGrant",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "BackendTLSPolicy",
    "ListenerSet",
];

/// What a document is.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // moved once, into the index
pub enum Decoded {
    /// An object that is taken.
    Object(Object),
    /// An object of a taken kind that is refused.
    Rejected(Rejected),
    /// An object of a kind that Shardway does not look at.
    Ignored {
        /// A text that says so.
        message: String,
        /// Whether somebody expects it to be looked at: a kind of the Gateway API's group, or nearly one.
        is_error: bool,
    },
}

/// Validates, defaults and decodes a document. Never fails: what is wrong is [`Decoded::Rejected`].
pub fn decode(document: &Document, provenance: &Provenance) -> Decoded {
    let size = document.object.to_string().len();
    if size > OBJECT_BYTES_MAX {
        let message = format!("has {size} bytes; an object may have {OBJECT_BYTES_MAX}: split it");
        return finish(document, provenance, Err(message));
    }
    match (document.group.as_str(), document.kind.as_str()) {
        (GATEWAY_GROUP, "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant") => {}
        ("", "Namespace" | "Service" | "Secret" | "ConfigMap")
        | ("discovery.k8s.io", "EndpointSlice") => {
            let decoded = metadata::check(&document.object).and_then(|()| {
                core::decode(document, meta(document, provenance), Unknown::Refused)
            });
            return finish(document, provenance, decoded);
        }
        (group, kind) => return ignored(group, kind),
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
    let decoded = of_gateway_api(document, &object, meta(document, provenance));
    finish(document, provenance, decoded)
}

/// Decodes a document that an API server has validated and defaulted, by schemas that may be older or newer than those
/// here: fields that are not known are left out, as in any client. Never fails, as [`decode`].
pub fn decode_admitted(document: &Document, provenance: &Provenance) -> Decoded {
    let meta = meta(document, provenance);
    let decoded = match (document.group.as_str(), document.kind.as_str()) {
        (GATEWAY_GROUP, "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant") => {
            of_gateway_api(document, &document.object, meta)
        }
        ("", "Namespace" | "Service" | "Secret" | "ConfigMap")
        | ("discovery.k8s.io", "EndpointSlice") => core::decode(document, meta, Unknown::LeftOut),
        (POOL_GROUP, "ShardPool") => cluster::pool(document, meta),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => cluster::crd(document, meta),
        (group, kind) => return ignored(group, kind),
    };
    finish(document, provenance, decoded)
}

fn of_gateway_api(document: &Document, object: &Value, meta: Meta) -> Result<Object, String> {
    match document.kind.as_str() {
        "GatewayClass" => gateway::class(object, meta),
        "Gateway" => gateway::gateway(object, meta),
        "ReferenceGrant" => gateway::grant(object, meta),
        _ => route::http(object, meta),
    }
}

/// What becomes of fields that are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// They make the object a refused one.
    Refused,
    /// As if they were not there.
    LeftOut,
}

fn ignored(group: &str, kind: &str) -> Decoded {
    if group != GATEWAY_GROUP {
        let group = if group.is_empty() { "core" } else { group };
        return Decoded::Ignored {
            message: format!("kind {kind} ({group}) is not looked at; taken are {TAKEN}"),
            is_error: false,
        };
    }
    let message = if GATEWAY_KINDS.contains(&kind) {
        format!("kind {kind} is not served yet; taken are {TAKEN}")
    } else if let Some(meant) = schema::hint(kind, GATEWAY_KINDS.into_iter()) {
        format!("unknown kind {kind}; did you mean {meant}?")
    } else {
        format!("unknown kind {kind}; taken are {TAKEN}")
    };
    Decoded::Ignored {
        message,
        is_error: true,
    }
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
        changed_by: changed_by(&document.object),
    }
}

/// The newest entry of `managedFields` that is not of a status.
fn changed_by(object: &Value) -> Option<ChangedBy> {
    let entries = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)?;
    let entries = entries
        .iter()
        .filter(|entry| entry["subresource"].as_str().unwrap_or_default().is_empty());
    let known = entries.filter_map(|entry| {
        let at = entry["time"].as_str()?.parse::<jiff::Timestamp>().ok()?;
        Some(ChangedBy {
            manager: entry["manager"].as_str()?.to_owned(),
            at: Timestamp(at.as_second()),
        })
    });
    known.max_by_key(|entry| entry.at)
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

#[cfg(test)]
mod tests;
