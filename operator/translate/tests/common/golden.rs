//! From manifests to what a golden file holds.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses some of it; a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use api::{ObjectKey, Timestamp};
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use operator_index::{Dirty, Index};
use operator_objects::manifest::{Document, Provenance, parse};
use operator_objects::spec::{Event, GroupKind};
use operator_objects::{Decoded, decode};
use operator_translate::Translation;
use operator_translate::status::{Condition, ObjectStatus};
use serde_json::{Map, Value, json};

/// What came of a case's manifests.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) index: Index,
    pub(crate) dirty: Dirty,
    /// Documents that are no objects or of kinds that are not taken.
    pub(crate) notes: Vec<String>,
}

impl Loaded {
    /// Applies all documents of a file.
    pub(crate) fn apply(&mut self, text: &str) {
        for document in parse(text) {
            let mut document = match document {
                Ok(document) => document,
                Err(error) => {
                    self.notes.push(error.to_string());
                    continue;
                }
            };
            certify(&mut document);
            let number = |pointer: &str| document.object.pointer(pointer).and_then(Value::as_i64);
            let provenance = Provenance {
                uid: format!("uid-of-{}", document.name),
                generation: number("/metadata/generation").unwrap_or(1),
                created_at: Timestamp(1_704_067_200),
            };
            let event = match decode(&document, &provenance) {
                Decoded::Object(object) => Event::Apply(object),
                Decoded::Rejected(rejected) => Event::Reject(rejected),
                Decoded::Ignored { message, .. } => {
                    self.notes.push(format!("{}: {message}", document.key()));
                    continue;
                }
            };
            if let Event::Reject(rejected) = &event {
                self.notes.push(format!(
                    "{} is rejected: {}",
                    rejected.key, rejected.message
                ));
            }
            self.dirty.merge(self.index.apply(event));
        }
    }
}

/// Keys do not belong in a repository: a Secret with the annotation `test/certificate: NAMES` gets a certificate for these
/// names, valid to the end of 2099 or of the year `test/until`. `test/swapped-key` gives it another's key, `test/without-key`
/// none.
fn certify(document: &mut Document) {
    let annotation = |name: &str| {
        let annotations = document.object.pointer("/metadata/annotations")?;
        annotations.get(name)?.as_str().map(str::to_owned)
    };
    let Some(names) = annotation("test/certificate").filter(|_| document.kind == "Secret") else {
        return;
    };
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    let year = annotation("test/until").map_or(2099, |year| year.parse().unwrap());
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(year, 12, 31);
    let (own, other) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let mut data = Map::new();
    data.insert(
        "tls.crt".into(),
        parameters.self_signed(&own).unwrap().pem().into(),
    );
    let key = if annotation("test/swapped-key").is_some() {
        other
    } else {
        own
    };
    if annotation("test/without-key").is_none() {
        data.insert("tls.key".into(), key.serialize_pem().into());
    }
    document.object["stringData"] = data.into();
}

/// The snapshot and all statuses, except those of `hidden` objects.
pub(crate) fn render(translation: &Translation, notes: &[String], hidden: &[ObjectKey]) -> String {
    let mut gateways = Map::new();
    for key in translation.gateways() {
        let entries = translation
            .entries(key)
            .into_iter()
            .map(|(key, entry)| (entry_name(&key), entry_value(&entry)));
        gateways.insert(key.to_string(), Value::Object(entries.collect()));
    }
    let backends = translation
        .backends()
        .map(|(key, backend)| (key.to_string(), backend_value(backend)));
    let certificates = translation.certificates().map(|(key, it)| {
        let value = json!({"dnsNames": it.dns_names, "notAfter": it.not_after, "certificates": it.chain.len()});
        (key.to_string(), value)
    });
    sections(&[
        ("notes", Value::from(notes.to_vec())),
        ("gateways", Value::Object(gateways)),
        ("backends", Value::Object(backends.collect())),
        ("certificates", Value::Object(certificates.collect())),
        ("statuses", statuses(translation, hidden)),
    ])
}

/// All statuses, except those of `hidden` objects.
pub(crate) fn render_statuses(
    translation: &Translation,
    notes: &[String],
    hidden: &[ObjectKey],
) -> String {
    sections(&[
        ("notes", Value::from(notes.to_vec())),
        ("statuses", statuses(translation, hidden)),
    ])
}

fn statuses(translation: &Translation, hidden: &[ObjectKey]) -> Value {
    let statuses = translation
        .statuses()
        .filter(|(key, _)| !hidden.contains(key));
    let statuses = statuses.map(|(key, status)| (key.to_string(), status_value(status)));
    Value::Object(statuses.collect())
}

fn sections(sections: &[(&str, Value)]) -> String {
    let mut out = String::new();
    for (name, value) in sections {
        let empty = value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        if !empty {
            let _ = write!(
                out,
                "{}",
                serde_saphyr::to_string(&json!({*name: value})).unwrap()
            );
        }
    }
    out
}

fn entry_name(key: &GatewayEntryKey) -> String {
    match key {
        GatewayEntryKey::Gateway => "gateway".into(),
        GatewayEntryKey::Listener(name) => format!("listener {name}"),
        GatewayEntryKey::Rule(route, rule) => format!("{route} rule {rule}"),
        other => format!("{other:?}"),
    }
}

fn entry_value(entry: &GatewayEntry) -> Value {
    let tagged = serde_json::to_value(entry).unwrap();
    let inner = tagged
        .as_object()
        .and_then(|map| map.values().next().cloned());
    compact(inner.unwrap_or_default())
}

/// `10.0.0.1:80`, with what is unusual of it.
fn backend_value(backend: &api_snapshot::facts::Backend) -> Value {
    use api_snapshot::facts::EndpointAddress::{Host, Ip};
    let endpoints = backend.endpoints.iter().map(|endpoint| {
        let mut text = match &endpoint.address {
            Ip(ip) => std::net::SocketAddr::new(*ip, endpoint.port).to_string(),
            Host(host) => format!("{host}:{} (DNS)", endpoint.port),
            other => format!("{other:?}"),
        };
        if let Some(zone) = &endpoint.zone {
            let _ = write!(text, " in {zone}");
        }
        if !endpoint.for_zones.is_empty() {
            let _ = write!(text, " for {}", endpoint.for_zones.join(" "));
        }
        if !endpoint.for_nodes.is_empty() {
            let _ = write!(text, " for node {}", endpoint.for_nodes.join(" "));
        }
        if !endpoint.ready {
            text.push_str(" not ready");
        }
        if endpoint.terminating {
            text.push_str(" terminating");
        }
        text
    });
    json!({"protocol": format!("{:?}", backend.protocol), "endpoints": endpoints.collect::<Vec<_>>()})
}

/// Leaves out what is not set.
fn compact(value: Value) -> Value {
    let is_unset = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            let kept = map
                .into_iter()
                .map(|(name, value)| (name, compact(value)))
                .filter(|(_, value)| !is_unset(value));
            Value::Object(kept.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(compact).collect()),
        other => other,
    }
}

fn status_value(status: ObjectStatus<'_>) -> Value {
    match status {
        ObjectStatus::Class(status) => {
            json!({"conditions": conditions(&status.conditions), "supportedFeatures": status.supported_features.join(" ")})
        }
        ObjectStatus::Gateway(status) => {
            let listeners = status.listeners.iter().map(|listener| {
                let value = json!({
                    "supportedKinds": kinds(&listener.supported_kinds),
                    "attachedRoutes": listener.attached_routes,
                    "servable": listener.servable,
                    "conditions": conditions(&listener.conditions),
                });
                (format!("listener {}", listener.name), value)
            });
            let mut value: BTreeMap<String, Value> = listeners.collect();
            value.insert("conditions".into(), conditions(&status.conditions));
            json!(value)
        }
        ObjectStatus::Route(status) => {
            let parents = status.parents.iter().map(|parent| {
                let mut name = format!("Gateway {}", parent.gateway);
                if let Some(section) = &parent.parent_ref.section_name {
                    let _ = write!(name, " section {section}");
                }
                if let Some(port) = parent.parent_ref.port {
                    let _ = write!(name, " port {port}");
                }
                json!({"parent": name, "served": parent.served, "conditions": conditions(&parent.conditions)})
            });
            Value::Array(parents.collect())
        }
    }
}

fn kinds(kinds: &[GroupKind]) -> Vec<String> {
    let name = |kind: &GroupKind| match kind.group.as_str() {
        api::GATEWAY_GROUP => kind.kind.clone(),
        group => format!("{group}/{}", kind.kind),
    };
    kinds.iter().map(name).collect()
}

/// `Accepted=True Accepted @1: message`, where 1 is the observed generation.
fn conditions(list: &[Condition]) -> Value {
    let line = |it: &Condition| {
        format!(
            "{}={:?} {} @{}: {}",
            it.type_, it.status, it.reason, it.observed_generation, it.message
        )
    };
    Value::Array(list.iter().map(|it| line(it).into()).collect())
}

/// Compares with a file; with `REWRITE=1` in the environment, writes it.
pub(crate) fn check(file: &Path, actual: &str) -> Result<(), String> {
    if std::env::var_os("REWRITE").is_some_and(|value| value == "1") {
        std::fs::write(file, actual)
            .map_err(|error| format!("write {}: {error}", file.display()))?;
        return Ok(());
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    if expected == actual {
        return Ok(());
    }
    let differs = expected
        .lines()
        .zip(actual.lines())
        .position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
    Err(format!(
        "{}:{}: expected {:?}, got {:?}; REWRITE=1 writes it anew, then review the difference",
        file.display(),
        line + 1,
        at(&expected),
        at(actual)
    ))
}
