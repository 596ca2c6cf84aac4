//! `lastTransitionTime`: kept while a condition's status stays the same.

use serde_json::{Map, Value};

/// Writes `lastTransitionTime` into every condition of `new`: the old one where the same condition (same place, same
/// type) had the same status, else `now` (RFC 3339). Cost: O(conditions).
///
/// Source: Kubernetes API conventions, "Typical status properties".
pub fn keep_transition_times(old: Option<&Value>, new: &mut Value, now: &str) {
    match new {
        Value::Object(fields) => {
            for (name, value) in fields {
                let old = old.and_then(|old| old.get(name));
                if name == "conditions" {
                    stamp(old, value, now);
                } else {
                    keep_transition_times(old, value, now);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let old = old
                    .and_then(Value::as_array)
                    .and_then(|old| old.iter().find(|old| same_place(old, item)));
                keep_transition_times(old, item, now);
            }
        }
        _ => {}
    }
}

/// Listeners are told apart by name, parents by parentRef and controller.
fn same_place(old: &Value, new: &Value) -> bool {
    ["name", "parentRef", "controllerName"]
        .iter()
        .all(|key| old.get(key) == new.get(key))
}

fn stamp(old: Option<&Value>, conditions: &mut Value, now: &str) {
    let Value::Array(conditions) = conditions else {
        return;
    };
    for condition in conditions {
        let Value::Object(condition) = condition else {
            continue;
        };
        let kept = old.and_then(|old| transition_time(old, condition));
        let time = kept.unwrap_or_else(|| Value::String(now.to_owned()));
        condition.insert("lastTransitionTime".to_owned(), time);
    }
}

fn transition_time(old: &Value, condition: &Map<String, Value>) -> Option<Value> {
    let old = old
        .as_array()?
        .iter()
        .find(|old| old.get("type") == condition.get("type"))?;
    (old.get("status") == condition.get("status"))
        .then(|| old.get("lastTransitionTime").cloned())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_stays_with_the_status_and_moves_with_it() {
        let old = json!({
            "conditions": [{"type": "Accepted", "status": "True", "lastTransitionTime": "old"}],
            "listeners": [
                {"name": "b", "conditions": [{"type": "Programmed", "status": "False", "lastTransitionTime": "old-b"}]},
                {"name": "a", "conditions": [{"type": "Programmed", "status": "True", "lastTransitionTime": "old-a"}]},
            ],
        });
        let mut new = json!({
            "conditions": [{"type": "Accepted", "status": "True"}, {"type": "Programmed", "status": "True"}],
            "listeners": [
                {"name": "a", "conditions": [{"type": "Programmed", "status": "True"}]},
                {"name": "b", "conditions": [{"type": "Programmed", "status": "True"}]},
            ],
        });
        keep_transition_times(Some(&old), &mut new, "now");
        let times: Vec<&str> = [
            "/conditions/0",
            "/conditions/1",
            "/listeners/0/conditions/0",
            "/listeners/1/conditions/0",
        ]
        .iter()
        .filter_map(|at| new.pointer(at)?.get("lastTransitionTime")?.as_str())
        .collect();
        assert_eq!(times, ["old", "now", "old-a", "now"]);
    }
}
