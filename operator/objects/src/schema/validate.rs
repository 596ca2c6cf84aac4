//! Structure: types, required fields, unknown fields, enums, patterns, bounds, unique items.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Violation;
use super::compile::Node;

/// Violations after which the rest is not looked at.
const VIOLATIONS_MAX: usize = 8;

impl Node {
    /// Checks a value; `field` is where it is.
    pub(super) fn validate(
        &self,
        value: &Value,
        field: &mut String,
        violations: &mut Vec<Violation>,
    ) {
        if violations.len() >= VIOLATIONS_MAX {
            return;
        }
        let mut fail = |message: String| {
            violations.push(Violation {
                field: field.clone(),
                message,
            });
        };
        if value.is_null() {
            if !self.nullable {
                fail("must not be null; leave the field out".into());
            }
            return;
        }
        if !self.has_type(value) {
            let wanted = if self.int_or_string {
                "integer or string"
            } else {
                self.kind.as_deref().unwrap_or("value")
            };
            fail(format!("must be of type {wanted}, is {}", kind_of(value)));
            return;
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            let allowed: Vec<String> = self.allowed.iter().map(plain).collect();
            fail(format!(
                "unsupported value {}; use {}",
                value,
                alternatives(&allowed)
            ));
            return;
        }
        match value {
            Value::String(text) => self.string(text, &mut fail),
            Value::Number(number) => self.number(number.as_f64().unwrap_or_default(), &mut fail),
            Value::Array(items) => self.array(items, field, violations),
            Value::Object(fields) => self.object(fields, field, violations),
            _ => {}
        }
        if let Some(message) = self.format.and_then(|format| format.refuses(value)) {
            violations.push(Violation {
                field: field.clone(),
                message,
            });
        }
        self.combined(value, field, violations);
    }

    fn has_type(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_i64() || value.is_u64() || value.is_string();
        }
        match self.kind.as_deref() {
            Some("string") => value.is_string(),
            Some("integer") => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => true,
        }
    }

    fn number(&self, number: f64, fail: &mut impl FnMut(String)) {
        let is_below = |least: f64| number < least || self.is_minimum_excluded && number == least;
        if let Some(least) = self.minimum.filter(|least| is_below(*least)) {
            fail(format!("{number} is below the least value {least}"));
        }
        let is_above = |most: f64| number > most || self.is_maximum_excluded && number == most;
        if let Some(most) = self.maximum.filter(|most| is_above(*most)) {
            fail(format!("{number} is above the greatest value {most}"));
        }
    }

    fn string(&self, text: &str, fail: &mut impl FnMut(String)) {
        let length = text.chars().count() as u64;
        if let Some(least) = self.min_length.filter(|least| length < *least) {
            fail(format!(
                "has {length} characters; at least {least} are needed"
            ));
        }
        if let Some(most) = self.max_length.filter(|most| length > *most) {
            fail(format!(
                "has {length} characters; at most {most} are allowed"
            ));
        }
        if let Some(pattern) = self
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.is_match(text))
        {
            fail(format!("{text:?} does not match {pattern}"));
        }
    }

    fn array(&self, items: &[Value], field: &mut String, violations: &mut Vec<Violation>) {
        let count = items.len() as u64;
        let mut fail = |message: String| {
            violations.push(Violation {
                field: field.clone(),
                message,
            });
        };
        if let Some(least) = self.min_items.filter(|least| count < *least) {
            fail(format!("has {count} items; at least {least} are needed"));
        }
        if let Some(most) = self.max_items.filter(|most| count > *most) {
            fail(format!("has {count} items; at most {most} are allowed"));
        }
        if self.is_set || !self.map_keys.is_empty() {
            let identity = |item: &Value| -> String {
                if self.is_set {
                    return item.to_string();
                }
                let parts: Vec<Value> = self
                    .map_keys
                    .iter()
                    .map(|key| item.get(key).cloned().unwrap_or(Value::Null))
                    .collect();
                Value::Array(parts).to_string()
            };
            let mut seen = std::collections::BTreeSet::new();
            for (position, item) in items.iter().enumerate() {
                if !seen.insert(identity(item)) {
                    let by = if self.is_set {
                        String::new()
                    } else {
                        format!(" by {}", self.map_keys.join(", "))
                    };
                    fail(format!("item {position} is a duplicate{by}"));
                }
            }
        }
        let Some(node) = &self.items else { return };
        let length = field.len();
        for (position, item) in items.iter().enumerate() {
            let _ = write!(field, "[{position}]"); // writing to a String cannot fail
            node.validate(item, field, violations);
            field.truncate(length);
        }
    }

    fn object(
        &self,
        fields: &Map<String, Value>,
        field: &mut String,
        violations: &mut Vec<Violation>,
    ) {
        let count = fields.len() as u64;
        let at = |field: &str, name: &str| {
            if field.is_empty() {
                name.to_owned()
            } else {
                format!("{field}.{name}")
            }
        };
        for name in self
            .required
            .iter()
            .filter(|name| !fields.contains_key(*name))
        {
            violations.push(Violation {
                field: at(field, name),
                message: "is required".into(),
            });
        }
        if let Some(least) = self.min_properties.filter(|least| count < *least) {
            violations.push(Violation {
                field: field.clone(),
                message: format!("needs at least {least} fields"),
            });
        }
        if let Some(most) = self.max_properties.filter(|most| count > *most) {
            violations.push(Violation {
                field: field.clone(),
                message: format!("has {count} fields; at most {most} are allowed"),
            });
        }
        // At the top, apiVersion, kind and metadata are the API server's own.
        let top = field.is_empty();
        let length = field.len();
        for (name, value) in fields {
            if top && name == "metadata" {
                continue;
            }
            let Some(node) = self.properties.get(name).or(self.additional.as_deref()) else {
                let says_nothing = self.properties.is_empty() && self.kind.is_none();
                if !(self.free_form || self.is_partial || says_nothing) {
                    violations.push(Violation {
                        field: at(field, name),
                        message: self.unknown(name),
                    });
                }
                continue;
            };
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(name);
            node.validate(value, field, violations);
            field.truncate(length);
        }
    }

    fn unknown(&self, name: &str) -> String {
        match hint(name, self.properties.keys().map(String::as_str)) {
            Some(known) => format!("unknown field; did you mean {known}?"),
            None => {
                let known: Vec<&str> = self.properties.keys().map(String::as_str).collect();
                format!("unknown field; there are {}", known.join(", "))
            }
        }
    }
}

/// `a`, `a or b`, `a, b or c`.
fn alternatives(names: &[String]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The nearest of `known`, if one is near enough to be what was meant.
pub(crate) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(known, name), known))
        .min()
        .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
        .map(|(_, known)| known)
}

/// Edits between two names, without regard to case (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (
        a.to_lowercase().chars().collect(),
        b.to_lowercase().chars().collect(),
    );
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
