//! Whether an object says what we want it to say, whatever others have added.

use serde::Serialize;
use serde_json::Value;

use crate::known::Object;
use crate::labels::sealed;

/// Whether `desired` is to be written over `current`.
///
/// It is when we wrote something else last, so that something may have to be taken away; or when somebody changed what is
/// ours. What others added, and what the API server fills in, stays.
pub(crate) fn differs<K: Object + Serialize>(current: &K, desired: &K) -> bool {
    if sealed(current.meta()) != sealed(desired.meta()) {
        return true;
    }
    // Both are plain data, which always has a JSON form.
    let (Ok(current), Ok(desired)) = (serde_json::to_value(current), serde_json::to_value(desired))
    else {
        return true;
    };
    !holds(&current, &desired)
}

fn holds(current: &Value, desired: &Value) -> bool {
    match (current, desired) {
        (Value::Object(current), Value::Object(desired)) => desired.iter().all(|(name, value)| {
            current.get(name).is_some_and(|of| {
                match name.as_str() {
                    "ownerReferences" => holds_each(of, value),
                    // The API server writes quantities in its own way.
                    "resources" => true,
                    _ => holds(of, value),
                }
            })
        }),
        (Value::Array(current), Value::Array(desired)) => {
            // The API server adds the second family to the first one.
            let grows = desired.iter().all(Value::is_string);
            let same_length = current.len() == desired.len();
            (same_length || grows && current.len() > desired.len())
                && current
                    .iter()
                    .zip(desired)
                    .all(|(now, then)| holds(now, then))
        }
        (current, desired) => current == desired,
    }
}

/// Others may own it as well.
fn holds_each(current: &Value, desired: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let current = list(current);
    list(desired)
        .iter()
        .all(|then| current.iter().any(|now| holds(now, then)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_no_difference() {
        let desired = json!({
            "metadata": {"labels": {"a": "1"}, "ownerReferences": [{"uid": "u"}]},
            "spec": {"ports": [{"port": 80}], "ipFamilies": ["IPv4"]},
        });
        let current = json!({
            "metadata": {"labels": {"a": "1", "b": "2"}, "ownerReferences": [{"uid": "t"}, {"uid": "u"}]},
            "spec": {"ports": [{"port": 80, "nodePort": 30001}], "ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.96.0.1"},
            "status": {},
        });
        assert!(holds(&current, &desired));
        for (path, value) in [
            ("/metadata/labels/a", json!("2")),
            ("/metadata/ownerReferences", json!([{"uid": "t"}])),
            ("/spec/ports/0/port", json!(81)),
            ("/spec/ports", json!([{"port": 80}, {"port": 81}])),
            ("/spec/ports", json!([])),
            ("/spec/ipFamilies", json!(["IPv6", "IPv4"])),
        ] {
            let mut changed = current.clone();
            if let Some(place) = changed.pointer_mut(path) {
                *place = value;
            }
            assert!(!holds(&changed, &desired), "{path}");
        }
    }
}
