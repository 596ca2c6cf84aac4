//! Which statuses can wait: a Gateway with a thousand routes is not written a thousand times. [pure]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use api::ObjectKey;
use api::condition::reasons;
use operator_status::Change;
use serde_json::Value;
use tokio::time::Instant;

use crate::merge::observed_generation;

/// Statuses that are due at once at most. The others wait for the next look, so that what comes meanwhile and matters more is
/// not behind ten thousand of them.
const DUE_MAX: usize = 200;
/// How long words and counts wait after an object was written.
const WAIT: Duration = Duration::from_secs(2);
/// How long a status that says that something is on its way waits for the end of it.
const PENDING_WAIT: Duration = Duration::from_millis(500);

/// When each object was written last, and what it said that matters. Bounded by the objects that have a status: those that are
/// removed are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Urgency {
    written: HashMap<ObjectKey, Written>,
    /// Since when an object's status is not an end.
    pending: HashMap<ObjectKey, Instant>,
}

#[derive(Debug)]
struct Written {
    at: Instant,
    said: u64,
    generation: Option<i64>,
}

impl Urgency {
    /// Splits changes into those to be written now, and those that wait. First come those that speak of a new generation, of
    /// classes and Gateways before routes: somebody waits for them.
    pub(crate) fn split(
        &mut self,
        changes: Vec<Change>,
        now: Instant,
    ) -> (Vec<Change>, Vec<ObjectKey>) {
        let (mut due, mut waiting) = (Vec::new(), Vec::new());
        for change in changes {
            let Some(status) = &change.status else {
                self.pending.remove(&change.object);
                due.push((true, change, None));
                continue;
            };
            if is_pending(status) {
                let since = *self.pending.entry(change.object.clone()).or_insert(now);
                if now < since + PENDING_WAIT {
                    waiting.push(change.object);
                    continue;
                }
            } else {
                self.pending.remove(&change.object);
            }
            let says = what_matters(status);
            let generation = observed_generation(status);
            let old = self.written.get(&change.object);
            if old.is_some_and(|old| old.said == says && now < old.at + WAIT) {
                waiting.push(change.object);
                continue;
            }
            let is_new = old.is_none_or(|old| old.generation != generation);
            let written = Written {
                at: now,
                said: says,
                generation,
            };
            due.push((is_new, change, Some(written)));
        }
        due.sort_by_key(|(is_new, change, _)| (!is_new, change.object.kind == "HTTPRoute"));
        let later = due.split_off(due.len().min(DUE_MAX));
        waiting.extend(later.into_iter().map(|(_, change, _)| change.object));
        let due = due.into_iter().map(|(_, change, written)| {
            match written {
                Some(written) => self.written.insert(change.object.clone(), written),
                None => self.written.remove(&change.object),
            };
            change
        });
        (due.collect(), waiting)
    }

    /// Forgets that these were written: they were not.
    pub(crate) fn forget<'o>(&mut self, objects: impl Iterator<Item = &'o ObjectKey>) {
        for object in objects {
            self.written.remove(object);
        }
    }
}

/// Whether a condition says that something is on its way.
fn is_pending(status: &Value) -> bool {
    match status {
        Value::Object(fields) => {
            let reason = fields.get("reason").and_then(Value::as_str);
            let on_its_way = [reasons::WAITING, reasons::PENDING];
            reason.is_some_and(|reason| on_its_way.contains(&reason))
                || fields.values().any(is_pending)
        }
        Value::Array(items) => items.iter().any(is_pending),
        _ => false,
    }
}

/// Hash of everything that somebody waits for: what holds, of which generation, and where. Words and counts are not.
fn what_matters(status: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    matters(status, &mut hasher);
    hasher.finish()
}

fn matters(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if !["message", "attachedRoutes", "lastTransitionTime"].contains(&name.as_str()) {
                    name.hash(hasher);
                    matters(value, hasher);
                }
            }
        }
        Value::Array(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| matters(item, hasher));
        }
        other => other.hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(programmed: &str, attached: u32) -> Change {
        Change {
            object: ObjectKey::new(api::GATEWAY_GROUP, "Gateway", "team-a", "web"),
            status: Some(json!({
                "conditions": [{"type": "Programmed", "status": programmed, "message": attached.to_string()}],
                "listeners": [{"name": "http", "attachedRoutes": attached}],
            })),
        }
    }

    #[test]
    fn what_is_on_its_way_waits_for_its_end_but_not_for_ever() {
        let mut urgency = Urgency::default();
        let began = Instant::now();
        let mut due = |reason: &str, ms| {
            let now = began + Duration::from_millis(ms);
            let mut change = change("False", 0);
            change.status = Some(json!({"conditions": [{"type": "Programmed", "reason": reason}]}));
            urgency.split(vec![change], now).0.len()
        };
        assert_eq!(due(reasons::PENDING, 0), 0);
        assert_eq!(due(reasons::PROGRAMMED, 20), 1, "one write tells all");
        assert_eq!(due(reasons::PENDING, 1000), 0);
        assert_eq!(due(reasons::PENDING, 1600), 1);
    }

    #[test]
    fn new_generations_and_gateways_come_first_and_the_rest_in_turns() {
        let of = |kind: &str, name: usize, generation: i64| Change {
            object: ObjectKey::new(api::GATEWAY_GROUP, kind, "team-a", &name.to_string()),
            status: Some(
                json!({"conditions": [{"type": "Accepted", "observedGeneration": generation}]}),
            ),
        };
        let mut urgency = Urgency::default();
        let now = Instant::now();
        let mut left: Vec<Change> = (0..500).map(|name| of("HTTPRoute", name, 1)).collect();
        let mut turns = Vec::new();
        while !left.is_empty() {
            let (due, waiting) = urgency.split(std::mem::take(&mut left), now);
            turns.push(due.len());
            left.extend(waiting.into_iter().map(|object| Change {
                status: of("HTTPRoute", 0, 1).status,
                object,
            }));
        }
        assert_eq!(turns, [200, 200, 100]);
        let mut again = vec![of("HTTPRoute", 0, 1), of("HTTPRoute", 1, 2)];
        again.push(of("Gateway", 0, 1));
        let (due, waiting) = urgency.split(again, now);
        let names: Vec<String> = due.iter().map(|of| of.object.to_string()).collect();
        assert_eq!(names, ["Gateway team-a/0", "HTTPRoute team-a/1"]);
        assert_eq!(waiting.len(), 1, "it says the same");
    }

    #[test]
    fn counts_wait_and_conditions_do_not() {
        let mut urgency = Urgency::default();
        let began = Instant::now();
        let mut due = |programmed, attached, ms| {
            let now = began + Duration::from_millis(ms);
            urgency
                .split(vec![change(programmed, attached)], now)
                .0
                .len()
        };
        assert_eq!(due("False", 0, 0), 1);
        assert_eq!(due("True", 0, 10), 1, "somebody waits for it");
        assert_eq!(due("True", 1, 20), 0);
        assert_eq!(due("True", 500, 1900), 0);
        assert_eq!(due("True", 501, 2100), 1);
        assert_eq!(due("True", 502, 2200), 0);
    }
}
