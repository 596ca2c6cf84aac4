//! Documents of a manifest file.

use std::collections::BTreeMap;

use api::{GATEWAY_GROUP, ObjectKey, Timestamp};
use serde_json::Value;

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Line of the file that it begins at, from 1.
    pub line: usize,
    /// API group.
    pub group: String,
    /// API version without group.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; `default` where a namespaced object gives none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

/// What the source knows of an object beside its manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Unique for this life of the object.
    pub uid: String,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// First sight; a creationTimestamp in the manifest wins.
    pub created_at: Timestamp,
}

/// A document cannot be told to be an object.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ManifestError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong, and the fix.
    pub message: String,
    /// What it says of itself; none where the syntax is broken, so that even where it ends is not sure.
    pub fragment: Option<Box<Fragment>>,
}

/// A document that is no object, as far as it says which one it is meant to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// Kind, or empty.
    pub kind: String,
    /// Namespace as it is written, or empty.
    pub namespace: String,
    /// Name, or empty; one that is not valid is no name.
    pub name: String,
    /// All of it.
    pub object: Value,
}

impl Fragment {
    fn of(object: Value) -> Self {
        let text = |pointer: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let named = |pointer: &str| Some(text(pointer)).filter(|name| is_dns_subdomain(name));
        Self {
            kind: text("/kind"),
            namespace: named("/metadata/namespace").unwrap_or_default(),
            name: named("/metadata/name").unwrap_or_default(),
            object,
        }
    }

    /// Whether it may be meant to be this object: what it says of itself does not speak against it.
    pub fn may_be(&self, key: &ObjectKey) -> bool {
        let agrees = |own: &str, of: &str| own.is_empty() || own == of;
        agrees(&self.kind, &key.kind)
            && agrees(&self.namespace, &key.namespace)
            && agrees(&self.name, &key.name)
    }
}

impl Document {
    /// Its id.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.group, &self.kind, &self.namespace, &self.name)
    }
}

/// Splits a file into objects: YAML with several documents, JSON, and Lists. A document that is broken is an error of its
/// own; YAML syntax errors end at the next `---`.
pub fn parse(text: &str) -> Vec<Result<Document, ManifestError>> {
    let mut found = Vec::new();
    for (line, part) in documents(text) {
        let value = match value(part) {
            Ok(value) => value,
            Err(error) => {
                found.push(Err(ManifestError {
                    line: line + error.line - 1,
                    ..error
                }));
                continue;
            }
        };
        // Where its first line of content is, behind comments and empty lines.
        let before = part.lines().position(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        let line = line + before.unwrap_or_default();
        match value {
            Value::Null => {} // comments only
            list if is_list(&list) => {
                let items = list
                    .get("items")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                found.extend(items.into_iter().enumerate().map(|(position, item)| {
                    document(line, item).map_err(|error| ManifestError {
                        message: format!("items[{position}]: {}", error.message),
                        ..error
                    })
                }));
            }
            object => found.push(document(line, object)),
        }
    }
    found
}

/// Nodes of one YAML document beyond which it is refused: aliases can make much of little. Enough for a List of 20,000 routes.
const NODES_MAX: usize = 2_000_000;

/// Reads one YAML or JSON document; the line of an error counts from 1.
fn value(text: &str) -> Result<Value, ManifestError> {
    let mut budget = serde_saphyr::budget::Budget::default();
    budget.max_nodes = NODES_MAX;
    budget.max_events = 2 * NODES_MAX;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default();
        let text = text.strip_prefix("error: ").unwrap_or(text);
        match error.location() {
            Some(at) => {
                // The library counts lines from the document's beginning; the caller knows where in the file that is.
                let own = format!("line {} column {}: ", at.line(), at.column());
                let text = text.strip_prefix(&own).unwrap_or(text);
                let text = text
                    .split(", set DuplicateKeyPolicy")
                    .next()
                    .unwrap_or(text);
                ManifestError {
                    line: at.line() as usize,
                    message: format!("column {}: {text}", at.column()),
                    fragment: None,
                }
            }
            None => ManifestError {
                line: 1,
                message: text.to_owned(),
                fragment: None,
            },
        }
    })
}

/// Parts between `---`, each with its first line. What stands behind the marker on its line belongs to the part that it opens;
/// directives (`%YAML`) before it say nothing that is needed.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let behind = line.strip_prefix("---");
        if behind.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            parts.push((start_line, &text[start..offset]));
            start = offset + 3;
            start_line = number + 1;
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts.retain(|(_, part)| {
        let mut lines = part.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.any(|line| !line.starts_with(['#', '%']))
    });
    parts
}

fn is_list(value: &Value) -> bool {
    value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"))
        && value.get("items").is_some_and(Value::is_array)
}

fn document(line: usize, object: Value) -> Result<Document, ManifestError> {
    match identify(&object) {
        Ok((group, version, kind, namespace, name)) => Ok(Document {
            line,
            group,
            version,
            kind,
            namespace,
            name,
            object,
        }),
        Err(message) => Err(ManifestError {
            line,
            message,
            fragment: Some(Box::new(Fragment::of(object))),
        }),
    }
}

/// Group, version, kind, namespace and name of an object, or why one of them cannot be told.
fn identify(object: &Value) -> Result<(String, String, String, String, String), String> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    if api_version.is_empty() || kind.is_empty() {
        return Err("apiVersion and kind are required".into());
    }
    for field in ["name", "namespace"] {
        let given = object
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        if let Some(value) = given.filter(|value| !value.is_string() && !value.is_null()) {
            return Err(format!(
                "{kind}: metadata.{field} must be a string, is {value}; put it in quotes"
            ));
        }
    }
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err(format!("{kind}: metadata.name is required"));
    }
    let (group, version) = match api_version.split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), api_version),
    };
    let namespace = if is_cluster_scoped(&group, &kind) {
        String::new()
    } else {
        let given = text("/metadata/namespace");
        if given.is_empty() {
            "default".to_owned()
        } else {
            given
        }
    };
    if namespace.contains('.') || namespace.len() > 63 {
        return Err(format!(
            "{kind} {name}: metadata.namespace {namespace:?} is no namespace; use at most 63 lower-case letters, digits and '-'"
        ));
    }
    for (field, value) in [("name", &name), ("namespace", &namespace)] {
        if !value.is_empty() && !is_dns_subdomain(value) {
            return Err(format!(
                "{kind} {name}: metadata.{field} {value:?} is no DNS-1123 name; use lower-case letters, digits, '-' and '.', at most 253"
            ));
        }
    }
    Ok((group, version, kind, namespace, name))
}

fn is_cluster_scoped(group: &str, kind: &str) -> bool {
    matches!(
        (group, kind),
        (GATEWAY_GROUP, "GatewayClass") | ("", "Namespace" | "Node" | "PersistentVolume")
    ) || group == "apiextensions.k8s.io"
        || group == "admissionregistration.k8s.io"
        || kind.starts_with("Cluster")
}

pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Labels or annotations of an object.
pub(crate) fn string_map(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    object
        .pointer(pointer)
        .and_then(Value::as_object)
        .map(|map| {
            map.iter()
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[test]
    fn a_broken_document_does_not_hide_its_neighbours() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n# nothing\n---\nfoo: [\n---\n{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"b\"}}\n---\nkind: Service\n";
        let found = parse(text);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].as_ref().unwrap().namespace, "default");
        assert!(found[1].as_ref().unwrap_err().line >= 7);
        assert_eq!(found[2].as_ref().unwrap().namespace, "");
        assert_eq!(
            found[3].as_ref().unwrap_err().to_string(),
            "line 11: apiVersion and kind are required"
        );
    }

    #[test]
    fn a_list_is_its_items() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: x, namespace: ns}}\n- {apiVersion: v1, kind: Secret, metadata: {name: Upper}}\n";
        let found = parse(text);
        assert_eq!(found[0].as_ref().unwrap().key().to_string(), "Secret ns/x");
        assert!(
            found[1]
                .as_ref()
                .unwrap_err()
                .message
                .contains("metadata.name \"Upper\" is no DNS-1123 name")
        );
    }
}
