//! `metadata`, which a CRD's schema leaves to the API server: its fields, their types, labels and annotations.
//!
//! Source: Kubernetes, `ObjectMeta`; "Labels and Selectors", syntax and character set; "Annotations".

use serde_json::{Map, Value};

use crate::schema::hint;

/// Fields of `ObjectMeta`.
const FIELDS: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// All annotations of an object together, bytes.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Checks `metadata`: the first thing that an API server would refuse.
pub(super) fn check(object: &Value) -> Result<(), String> {
    let Some(metadata) = object.get("metadata").and_then(Value::as_object) else {
        return Err("metadata: must be of type object".into());
    };
    for name in metadata.keys() {
        if !FIELDS.contains(&name.as_str()) {
            return Err(match hint(name, FIELDS.iter().copied()) {
                Some(known) => format!("metadata.{name}: unknown field; did you mean {known}?"),
                None => format!("metadata.{name}: unknown field"),
            });
        }
    }
    for (name, value) in strings(metadata, "labels")? {
        let field = format!("metadata.labels[{name}]");
        if !is_qualified(name) {
            return Err(format!(
                "{field}: is no label name; use [prefix/]name of letters, digits, '-', '_' and '.'"
            ));
        }
        if !(value.is_empty() || is_word(value)) {
            return Err(format!(
                "{field}: {value:?} is no label value; use at most 63 letters, digits, '-', '_' and '.', letter or digit first and last"
            ));
        }
    }
    let mut bytes = 0;
    for (name, value) in strings(metadata, "annotations")? {
        // An API server compares their names in lower case.
        if !is_qualified(&name.to_ascii_lowercase()) {
            return Err(format!(
                "metadata.annotations[{name}]: is no annotation name; use [prefix/]name of letters, digits, '-', '_' and '.'"
            ));
        }
        bytes += name.len() + value.len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        return Err(format!(
            "metadata.annotations: have {bytes} bytes; at most {ANNOTATIONS_BYTES_MAX} are allowed"
        ));
    }
    match metadata.get("creationTimestamp") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) if text.parse::<jiff::Timestamp>().is_ok() => Ok(()),
        Some(other) => Err(format!(
            "metadata.creationTimestamp: {other} is no time; use for example \"2026-01-31T12:00:00Z\""
        )),
    }
}

/// A map whose values have to be strings. Values are not shown: they may be meant to be secret.
fn strings<'a>(
    metadata: &'a Map<String, Value>,
    name: &str,
) -> Result<Vec<(&'a str, &'a str)>, String> {
    let fields = match metadata.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(format!("metadata.{name}: must be of type object")),
    };
    fields
        .iter()
        .map(|(key, value)| match value {
            Value::String(text) => Ok((key.as_str(), text.as_str())),
            Value::Null => Ok((key.as_str(), "")),
            _ => Err(format!(
                "metadata.{name}[{key}]: must be of type string; put it in quotes"
            )),
        })
        .collect()
}

/// `[prefix/]name`, the prefix a DNS subdomain.
fn is_qualified(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, name)) => crate::manifest::is_dns_subdomain(prefix) && is_word(name),
        None => is_word(name),
    }
}

fn is_word(text: &str) -> bool {
    let is_outer = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && is_outer(text.bytes().next())
        && is_outer(text.bytes().last())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
