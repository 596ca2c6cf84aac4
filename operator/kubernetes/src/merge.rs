//! Our part of a status beside that of others. [pure]

use api::condition::types;
use api::{ObjectKey, controller_name};
use serde_json::{Value, json};

/// Conditions that an object or a listener may have.
///
/// Source: gateway-api v1 `GatewayStatus.conditions`, `ListenerStatus.conditions`.
const CONDITIONS_MAX: usize = 8;

/// Condition types that are ours on GatewayClasses, Gateways and listeners, also when we have nothing to say of them.
const OURS: &[&str] = &[
    types::ACCEPTED,
    types::PROGRAMMED,
    types::RESOLVED_REFS,
    types::CONFLICTED,
    types::OVERLAPPING_TLS_CONFIG,
    types::SUPPORTED_VERSION,
    types::ADDRESSES_ASSIGNED,
];

/// Entries of `status.parents` that a route may have.
///
/// Source: gateway-api v1 `RouteStatus.parents`.
const PARENTS_MAX: usize = 32;

/// The status that an object is to have: ours in place of what we said before, everybody else's as it is. None when nothing
/// would change.
pub(crate) fn merged(object: &ObjectKey, current: &Value, ours: Option<&Value>) -> Option<Value> {
    let mut new = current.clone();
    if !new.is_object() {
        new = json!({});
    }
    if object.kind == "HTTPRoute" {
        let is_ours = |parent: &Value| parent["controllerName"] == controller_name();
        let mut parents = list(current, "parents");
        parents.retain(|parent| !is_ours(parent));
        parents.extend(ours.map(|ours| list(ours, "parents")).unwrap_or_default());
        // More would refuse them all; whose are the last are ours.
        parents.truncate(PARENTS_MAX);
        new["parents"] = parents.into();
    } else {
        let ours = ours?;
        for (field, value) in ours.as_object()? {
            if field != "conditions" {
                new[field] = value.clone();
            }
        }
        new["conditions"] = conditions(current, ours).into();
        let before = list(current, "listeners");
        let listeners = new.get_mut("listeners").and_then(Value::as_array_mut);
        for listener in listeners.into_iter().flatten() {
            let of_before = before.iter().find(|of| of["name"] == listener["name"]);
            if let Some(of_before) = of_before {
                listener["conditions"] = conditions(of_before, listener).into();
            }
        }
    }
    (!same(current, &new)).then_some(new)
}

/// Conditions of others as they are, then ours.
fn conditions(current: &Value, ours: &Value) -> Vec<Value> {
    let own = list(ours, "conditions");
    let is_ours = |condition: &Value| {
        let type_ = condition["type"].as_str().unwrap_or_default();
        OURS.contains(&type_) || own.iter().any(|own| own["type"] == type_)
    };
    let mut conditions = list(current, "conditions");
    conditions.retain(|condition| !is_ours(condition));
    // With more, the API server would refuse them all.
    conditions.truncate(CONDITIONS_MAX.saturating_sub(own.len()));
    conditions.extend(own);
    conditions
}

/// Whether our part of a status stands otherwise in the API server than we said.
pub fn differs(object: &ObjectKey, current: &Value, ours: &Value) -> bool {
    merged(object, current, Some(ours)).is_some()
}

/// The newest generation that a status speaks of.
pub(crate) fn observed_generation(status: &Value) -> Option<i64> {
    let own = list(status, "conditions");
    let of_parents = list(status, "parents");
    let of_parents = of_parents
        .iter()
        .flat_map(|parent| list(parent, "conditions"));
    own.into_iter()
        .chain(of_parents)
        .filter_map(|condition| condition["observedGeneration"].as_i64())
        .max()
}

/// Our part of a status as it stands in the API server, for the start; none when there is nothing of ours.
pub fn own(object: &ObjectKey, current: &Value) -> Option<Value> {
    if object.kind != "HTTPRoute" {
        return Some(current.clone());
    }
    let mut parents = list(current, "parents");
    parents.retain(|parent| parent["controllerName"] == controller_name());
    (!parents.is_empty()).then(|| json!({"parents": parents}))
}

fn list(value: &Value, field: &str) -> Vec<Value> {
    value[field].as_array().cloned().unwrap_or_default()
}

/// Whether two statuses say the same: the order of conditions and parents is no matter.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let empty = |value: Option<&Value>| {
                value.is_none_or(|value| {
                    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
                })
            };
            let names = a.keys().chain(b.keys());
            names
                .map(|name| (a.get(name), b.get(name)))
                .all(|(a, b)| match (a, b) {
                    (Some(a), Some(b)) => same(a, b),
                    (a, b) => empty(a) && empty(b),
                })
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use api::CONTROLLER_NAME;

    use super::*;

    fn key(kind: &str) -> ObjectKey {
        ObjectKey::new(api::GATEWAY_GROUP, kind, "team-a", "x")
    }

    #[test]
    fn parents_of_other_controllers_stay_and_ours_are_replaced() {
        let theirs = json!({"controllerName": "other.test/c", "parentRef": {"name": "a"}});
        let old = json!({"controllerName": CONTROLLER_NAME, "parentRef": {"name": "old"}});
        let new = json!({"controllerName": CONTROLLER_NAME, "parentRef": {"name": "new"}});
        let current = json!({"parents": [old, theirs]});
        let ours = json!({"parents": [new]});
        let status = merged(&key("HTTPRoute"), &current, Some(&ours)).unwrap();
        assert_eq!(status, json!({"parents": [theirs, new]}));
        assert_eq!(merged(&key("HTTPRoute"), &status, Some(&ours)), None);
        let without = merged(&key("HTTPRoute"), &status, None).unwrap();
        assert_eq!(without, json!({"parents": [theirs]}));
        assert_eq!(own(&key("HTTPRoute"), &status), Some(ours));
        assert_eq!(own(&key("HTTPRoute"), &without), None);
    }

    #[test]
    fn a_route_has_no_more_parents_than_it_may_and_foreign_ones_stay() {
        let parent = |controller: &str, name: usize| json!({"controllerName": controller, "parentRef": {"name": name}});
        let theirs: Vec<Value> = (0..5).map(|name| parent("other.test/c", name)).collect();
        let ours: Vec<Value> = (0..30).map(|name| parent(CONTROLLER_NAME, name)).collect();
        let (current, ours) = (json!({"parents": theirs}), json!({"parents": ours}));
        let status = merged(&key("HTTPRoute"), &current, Some(&ours)).unwrap();
        let parents = status["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 32);
        assert_eq!(parents[..5], theirs);
    }

    #[test]
    fn foreign_conditions_stay_and_what_we_no_longer_say_goes() {
        let current = json!({"conditions": [
            {"type": "Accepted", "status": "Unknown"},
            {"type": "AddressesAssigned", "status": "True"},
            {"type": "other.test/Checked", "status": "True"},
        ], "addresses": [], "listeners": [
            {"name": "http", "conditions": [{"type": "OverlappingTLSConfig"}, {"type": "other.test/Seen"}]},
            {"name": "gone", "conditions": [{"type": "other.test/Seen"}]},
        ]});
        let ours = json!({"conditions": [{"type": "Accepted", "status": "True"}], "listeners": [
            {"name": "http", "conditions": [{"type": "Accepted"}]},
            {"name": "new", "conditions": [{"type": "Accepted"}]},
        ]});
        let status = merged(&key("Gateway"), &current, Some(&ours)).unwrap();
        assert_eq!(
            status["conditions"],
            json!([{"type": "other.test/Checked", "status": "True"}, {"type": "Accepted", "status": "True"}])
        );
        assert_eq!(
            status["listeners"],
            json!([
                {"name": "http", "conditions": [{"type": "other.test/Seen"}, {"type": "Accepted"}]},
                {"name": "new", "conditions": [{"type": "Accepted"}]},
            ])
        );
        assert_eq!(merged(&key("Gateway"), &status, Some(&ours)), None);
    }

    #[test]
    fn order_and_empty_lists_are_no_change() {
        let current = json!({"conditions": [{"type": "Programmed"}, {"type": "Accepted"}]});
        let ours =
            json!({"conditions": [{"type": "Accepted"}, {"type": "Programmed"}], "addresses": []});
        assert_eq!(merged(&key("Gateway"), &current, Some(&ours)), None);
    }
}
