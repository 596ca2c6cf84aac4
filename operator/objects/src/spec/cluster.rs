//! What an installation is made of: the pool that serves it, and the CRDs that the API server holds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Meta;

/// ShardPool (`shardway.dev/v1alpha1`).
#[derive(Debug, Clone, PartialEq)]
pub struct ShardPool {
    /// Metadata.
    pub meta: Meta,
    /// `spec` as it is written; its type is `api-pool`'s, which routes and Gateways need not know.
    pub spec: Value,
}

/// CustomResourceDefinition of a kind of the Gateway API: what its objects may say here.
#[derive(Debug, Clone, PartialEq)]
pub struct Crd {
    /// Metadata; its name is `PLURAL.GROUP`.
    pub meta: Meta,
    /// The kind that it defines.
    pub kind: String,
    /// Annotation `gateway.networking.k8s.io/bundle-version`, `v1.6.3`.
    pub bundle_version: Option<String>,
    /// Annotation `gateway.networking.k8s.io/channel`, `standard` or `experimental`.
    pub channel: Option<String>,
    /// Fields of each version that is served, by its name.
    pub versions: BTreeMap<String, Fields>,
}

/// The fields that a structural schema knows, without what it demands of their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fields {
    /// A plain value, or one whose fields are all kept.
    Any,
    /// These fields alone.
    Object(BTreeMap<String, Fields>),
    /// A list of these.
    List(Box<Fields>),
}

impl Fields {
    /// The fields below a schema.
    ///
    /// Source: Kubernetes, structural schemas, "Field pruning".
    pub fn of(schema: &Value) -> Self {
        if schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true) {
            return Self::Any;
        }
        if let Some(items) = schema.get("items") {
            return Self::List(Box::new(Self::of(items)));
        }
        match schema.get("properties").and_then(Value::as_object) {
            Some(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(name, schema)| (name.clone(), Self::of(schema)))
                    .collect(),
            ),
            None => Self::Any,
        }
    }

    /// Whether a field is known, `["spec", "rules", "name"]`; lists are looked into.
    pub fn has(&self, path: &[&str]) -> bool {
        match (self, path) {
            (_, []) | (Self::Any, _) => true,
            (Self::List(items), path) => items.has(path),
            (Self::Object(fields), [first, rest @ ..]) => {
                fields.get(*first).is_some_and(|field| field.has(rest))
            }
        }
    }

    /// The fields of one field; none when it is not known.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) => fields.get(name),
            _ => None,
        }
    }

    /// Takes what is not known out of a value, as the API server does when it is written. Cost: O(size of the value).
    pub fn cut(&self, value: &mut Value) {
        match (self, value) {
            (Self::Object(known), Value::Object(fields)) => {
                fields.retain(|name, _| known.contains_key(name));
                for (name, value) in fields {
                    if let Some(known) = known.get(name) {
                        known.cut(value);
                    }
                }
            }
            (Self::List(items), Value::Array(values)) => {
                for value in values {
                    items.cut(value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_schema_does_not_know_is_cut() {
        let fields = Fields::of(&json!({"properties": {
            "conditions": {"items": {"properties": {"type": {"type": "string"}}}},
            "labels": {"additionalProperties": {"type": "string"}},
            "free": {"properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": true},
        }}));
        let mut status = json!({
            "conditions": [{"type": "Accepted", "new": 1}, {"type": "Programmed"}],
            "labels": {"a": "b"},
            "free": {"b": 1},
            "later": [],
        });
        fields.cut(&mut status);
        assert_eq!(
            status,
            json!({
                "conditions": [{"type": "Accepted"}, {"type": "Programmed"}],
                "labels": {"a": "b"},
                "free": {"b": 1},
            })
        );
        assert!(fields.has(&["conditions", "type"]) && !fields.has(&["conditions", "new"]));
        assert!(fields.has(&[]) && !fields.has(&["later"]));
    }
}
