//! A Gateway that is programmed stays so while something else of it is rolled out.

use api::condition::{reasons, types};
use serde_json::Value;

/// Keeps `Programmed` of a Gateway and its listeners where it was True for the same generation and a newer revision is merely
/// on its way: routes come and go all the time, and what they change is told on them. Cost: O(conditions).
///
/// Source: gateway-api v1 `GatewayConditionProgrammed`, which is about the generation of the Gateway.
pub(crate) fn keep_programmed(old: &Value, new: &mut Value) {
    keep(old, new);
    let Some(listeners) = new.get_mut("listeners").and_then(Value::as_array_mut) else {
        return;
    };
    for listener in listeners {
        let before = list(old, "listeners")
            .iter()
            .find(|before| before["name"] == listener["name"]);
        if let Some(before) = before {
            keep(before, listener);
        }
    }
}

fn keep(old: &Value, new: &mut Value) {
    let programmed = |condition: &&Value| condition["type"] == types::PROGRAMMED;
    let old = list(old, "conditions").iter().find(programmed);
    let Some(old) = old.filter(|old| old["status"] == "True") else {
        return;
    };
    let conditions = new.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if condition["type"] == types::PROGRAMMED
            && condition["reason"] == reasons::PENDING
            && condition["observedGeneration"] == old["observedGeneration"]
        {
            *condition = old.clone();
        }
    }
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gateway(status: &str, reason: &str, generation: i64) -> Value {
        let conditions = json!([
            {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": generation},
            {"type": "Programmed", "status": status, "reason": reason, "observedGeneration": generation},
        ]);
        json!({"conditions": conditions, "listeners": [{"name": "http", "conditions": conditions}]})
    }

    #[test]
    fn a_newer_revision_of_the_same_generation_takes_nothing_back() {
        let old = gateway("True", "Programmed", 2);
        for (new, expected) in [
            (gateway("False", "Pending", 2), old.clone()),
            (
                gateway("False", "Pending", 3),
                gateway("False", "Pending", 3),
            ),
            (
                gateway("False", "AddressNotUsable", 2),
                gateway("False", "AddressNotUsable", 2),
            ),
        ] {
            let mut kept = new;
            keep_programmed(&old, &mut kept);
            assert_eq!(kept, expected);
        }
        let mut never = gateway("False", "Pending", 2);
        keep_programmed(&gateway("False", "Pending", 2), &mut never);
        assert_eq!(never, gateway("False", "Pending", 2));
    }
}
