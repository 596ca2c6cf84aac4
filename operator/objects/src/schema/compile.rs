//! Schemas in a form that is quick to check.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::cel::Rule;
use super::format::Format;

/// What a schema may say that is read here or says nothing of validity.
const KEYWORDS: &[&str] = &[
    "additionalProperties",
    "allOf",
    "anyOf",
    "default",
    "description",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "not",
    "nullable",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// A schema node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(super) kind: Option<String>,
    pub(super) nullable: bool,
    pub(super) properties: BTreeMap<String, Node>,
    pub(super) required: Vec<String>,
    pub(super) additional: Option<Box<Node>>,
    pub(super) items: Option<Box<Node>>,
    pub(super) allowed: Vec<Value>,
    pub(super) all_of: Vec<Node>,
    pub(super) any_of: Vec<Node>,
    pub(super) one_of: Vec<Node>,
    pub(super) not: Option<Box<Node>>,
    /// Below one of these four: it adds demands to a node that knows all fields.
    pub(super) is_partial: bool,
    pub(super) format: Option<Format>,
    pub(super) pattern: Option<Regex>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) is_minimum_excluded: bool,
    pub(super) is_maximum_excluded: bool,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) default: Option<Value>,
    pub(super) free_form: bool,
    pub(super) int_or_string: bool,
    pub(super) is_set: bool,
    pub(super) map_keys: Vec<String>,
    pub(super) rules: Vec<Rule>,
    /// Demands that are not read.
    unread: Vec<String>,
}

impl Node {
    /// Compiles a node of `openAPIV3Schema`; `place` names it for rules that cannot be evaluated.
    pub(super) fn compile(schema: &Value, place: &str) -> Self {
        Self::compiled(schema, place, false)
    }

    fn compiled(schema: &Value, place: &str, is_partial: bool) -> Self {
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| schema.get(name).and_then(Value::as_str);
        let strings = |name: &str| -> Vec<String> {
            schema
                .get(name)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect()
        };
        let child = |name: &str, part: &str| {
            schema
                .get(name)
                .filter(|value| value.is_object())
                .map(|value| Box::new(Self::compiled(value, &format!("{place}{part}"), is_partial)))
        };
        let parts = |name: &str| -> Vec<Self> {
            let parts = schema.get(name).and_then(Value::as_array);
            let parts = parts.into_iter().flatten();
            parts
                .map(|part| Self::compiled(part, place, true))
                .collect()
        };
        let keywords = schema.as_object().into_iter().flatten();
        let mut unread: Vec<String> = keywords
            .map(|(name, _)| name.clone())
            .filter(|name| !KEYWORDS.contains(&name.as_str()))
            .collect();
        // RE2 syntax, which the regex crate shares but for look-around, which neither has.
        let pattern = text("pattern").and_then(|pattern| {
            let compiled = Regex::new(pattern);
            unread.extend(compiled.is_err().then(|| format!("pattern {pattern}")));
            compiled.ok()
        });
        let format = text("format").and_then(|name| {
            let format = Format::of(name);
            unread.extend(format.is_none().then(|| format!("format {name}")));
            format
        });
        let list_type = text("x-kubernetes-list-type");
        Self {
            kind: text("type").map(str::to_owned),
            nullable: flag("nullable"),
            properties: schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    (
                        name.clone(),
                        Self::compiled(value, &format!("{place}.{name}"), is_partial),
                    )
                })
                .collect(),
            required: strings("required"),
            additional: child("additionalProperties", "{}"),
            items: child("items", "[]"),
            allowed: schema
                .get("enum")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            all_of: parts("allOf"),
            any_of: parts("anyOf"),
            one_of: parts("oneOf"),
            not: schema
                .get("not")
                .map(|part| Box::new(Self::compiled(part, place, true))),
            is_partial,
            format,
            pattern,
            minimum: number("minimum"),
            maximum: number("maximum"),
            is_minimum_excluded: flag("exclusiveMinimum"),
            is_maximum_excluded: flag("exclusiveMaximum"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            default: schema.get("default").cloned(),
            free_form: flag("x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            is_set: list_type == Some("set"),
            map_keys: if list_type == Some("map") {
                strings("x-kubernetes-list-map-keys")
            } else {
                Vec::new()
            },
            rules: schema
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Rule::compile)
                .collect(),
            unread,
        }
    }

    /// Writes defaults of absent fields, from the outside in.
    pub(super) fn default(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, node) in &self.properties {
                    if let Some(default) = &node.default
                        && fields
                            .get(name)
                            .is_none_or(|value| value.is_null() && !node.nullable)
                    {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = fields.get_mut(name) {
                        node.default(value);
                    }
                }
                if let Some(node) = &self.additional {
                    for (name, value) in fields.iter_mut() {
                        if !self.properties.contains_key(name) {
                            node.default(value);
                        }
                    }
                }
                // A null in place of an absent field is dropped, as an API server prunes it.
                fields.retain(|name, value| {
                    !value.is_null() || self.properties.get(name).is_none_or(|node| node.nullable)
                });
            }
            Value::Array(items) => {
                if let Some(node) = &self.items {
                    items.iter_mut().for_each(|item| node.default(item));
                }
            }
            _ => {}
        }
    }

    /// Names rules and other demands that cannot be evaluated.
    pub(super) fn not_evaluated(&self, place: &str, found: &mut Vec<String>) {
        found.extend(
            self.rules
                .iter()
                .filter(|rule| !rule.is_evaluated())
                .map(|rule| format!("{place}: {}", rule.text())),
        );
        found.extend(self.unread.iter().map(|what| format!("{place}: {what}")));
        let parts = [&self.all_of, &self.any_of, &self.one_of];
        for node in parts.into_iter().flatten().chain(self.not.as_deref()) {
            node.not_evaluated(place, found);
        }
        for (name, node) in &self.properties {
            node.not_evaluated(&format!("{place}.{name}"), found);
        }
        for node in [&self.items, &self.additional].into_iter().flatten() {
            node.not_evaluated(&format!("{place}[]"), found);
        }
    }
}
