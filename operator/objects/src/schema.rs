//! Validation and defaulting by the CRDs' structural schemas (OpenAPI v3), as an API server does it.
//!
//! Source: Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions", structural schemas.

mod cel;
mod combine;
mod compile;
mod format;
mod validate;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

pub(crate) use self::compile::Node;
pub(crate) use self::validate::hint;

/// Schemas by kind and version: the served versions of each CRD.
static SCHEMAS: LazyLock<BTreeMap<(String, String), Node>> = LazyLock::new(|| {
    let mut schemas = BTreeMap::new();
    for (plural, text) in api_gateway_types::CRDS {
        // The CRDs are part of this program; a test reads each of them.
        let Ok(crd) = serde_saphyr::from_str::<Value>(text) else {
            panic!("the embedded CRD of {plural} is not readable");
        };
        let kind = crd
            .pointer("/spec/names/kind")
            .and_then(Value::as_str)
            .unwrap_or_default();
        for version in crd
            .pointer("/spec/versions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = version
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
                schemas.insert(
                    (kind.to_owned(), name.to_owned()),
                    Node::compile(schema, kind),
                );
            }
        }
    }
    schemas
});

/// Why an object is refused: one field at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `spec.rules[0].matches[1].path.type`; empty for the whole object.
    pub field: String,
    /// What is wrong with it, and the fix.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Versions of a kind of the Gateway API that are taken; empty for a kind that is not.
pub fn versions(kind: &str) -> Vec<&'static str> {
    SCHEMAS
        .keys()
        .filter(|(k, _)| k == kind)
        .map(|(_, version)| version.as_str())
        .collect()
}

/// Writes defaults into an object and checks it. `status` is not looked at.
///
/// # Errors
/// All violations, at most 8. None of a version that is not taken is checked; ask [`versions`] first.
pub fn admit(kind: &str, version: &str, object: &mut Value) -> Result<(), Vec<Violation>> {
    let Some(schema) = SCHEMAS.get(&(kind.to_owned(), version.to_owned())) else {
        return Ok(());
    };
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    schema.default(object);
    let mut violations = Vec::new();
    schema.validate(object, &mut String::new(), &mut violations);
    // Rules presume a valid structure.
    if violations.is_empty() {
        schema.evaluate(object, &mut String::new(), &mut violations);
    }
    violations.truncate(8);
    if violations.is_empty() {
        Ok(())
    } else {
        Err(violations)
    }
}

/// What a CRD has against a status: an API server would refuse to write it. Empty for a kind that is not taken.
pub fn check_status(kind: &str, version: &str, status: &Value) -> Vec<Violation> {
    let Some(schema) = SCHEMAS.get(&(kind.to_owned(), version.to_owned())) else {
        return Vec::new();
    };
    let object = serde_json::json!({"status": status});
    let mut violations = Vec::new();
    schema.validate(&object, &mut String::new(), &mut violations);
    // A status is written without the rest.
    violations.retain(|of| of.field.starts_with("status"));
    violations
}

/// What the CRDs demand and is not checked here: `kind.field: rule` for CEL rules that the CEL library cannot compile, and for
/// other words of their schemas that are not known, the rule alone for those whose evaluation failed for an object so far.
pub fn not_evaluated() -> Vec<String> {
    let mut rules = Vec::new();
    for ((kind, _), schema) in SCHEMAS.iter() {
        schema.not_evaluated(kind, &mut rules);
    }
    rules.extend(cel::failed());
    rules.sort();
    rules.dedup();
    rules
}

#[cfg(test)]
mod tests;
