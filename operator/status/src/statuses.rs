//! The current status of each object. [pure]

use std::collections::{BTreeMap, BTreeSet};

use api::ObjectKey;
use serde_json::Value;

use crate::programmed::keep_programmed;
use crate::times::keep_transition_times;

/// A status that is to be written or, without one, removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Whose.
    pub object: ObjectKey,
    /// The whole of it.
    pub status: Option<Value>,
}

/// The current status of each object, in memory. One writer.
///
/// What is to be written is taken by [`Statuses::take_unsaved`] and written elsewhere, so that several changes of one object
/// become one write of the newest. Bounded by the objects that there are.
#[derive(Debug, Default)]
pub struct Statuses {
    current: BTreeMap<ObjectKey, Value>,
    unsaved: BTreeSet<ObjectKey>,
    /// Gateways whose status is of this run: what was written before says nothing of what is served now.
    seen: BTreeSet<ObjectKey>,
}

impl Statuses {
    /// Statuses as they were written before.
    pub fn restored(written: impl IntoIterator<Item = (ObjectKey, Value)>) -> Self {
        Self {
            current: written.into_iter().collect(),
            unsaved: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Notes a status that somebody else has written; nothing is written for it.
    pub fn note(&mut self, key: &ObjectKey, status: Option<Value>) {
        match status {
            Some(status) => {
                self.current.insert(key.clone(), status);
            }
            None => {
                self.current.remove(key);
            }
        }
        self.unsaved.remove(key);
    }

    /// Status of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Value> {
        self.current.get(key)
    }

    /// All statuses, by object.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.current.iter()
    }

    /// Takes what has changed since the last time.
    pub fn take_unsaved(&mut self) -> Vec<Change> {
        let unsaved = std::mem::take(&mut self.unsaved).into_iter();
        unsaved
            .map(|object| Change {
                status: self.current.get(&object).cloned(),
                object,
            })
            .collect()
    }

    /// Takes back what could not be written.
    pub fn keep_unsaved(&mut self, objects: impl IntoIterator<Item = ObjectKey>) {
        self.unsaved.extend(objects);
    }

    /// Sets a status; transition times are kept where the status of a condition stays, and a Gateway that is programmed stays
    /// so while its routes change. Returns whether it changed.
    pub fn set(&mut self, key: &ObjectKey, mut status: Value, now: &str) -> bool {
        if let Some(old) = self.current.get(key).filter(|_| self.seen.contains(key)) {
            keep_programmed(old, &mut status);
        }
        if key.kind == "Gateway" {
            self.seen.insert(key.clone());
        }
        keep_transition_times(self.current.get(key), &mut status, now);
        if self.current.get(key) == Some(&status) {
            return false;
        }
        self.current.insert(key.clone(), status);
        self.unsaved.insert(key.clone());
        true
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.seen.remove(key);
        if self.current.remove(key).is_some() {
            self.unsaved.insert(key.clone());
        }
    }

    /// Forgets all objects that `keep` does not want; for the end of the first reading.
    pub fn retain(&mut self, keep: impl Fn(&ObjectKey) -> bool) {
        let all = self.current.keys();
        let gone: Vec<ObjectKey> = all.filter(|key| !keep(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn programmed(status: &str, reason: &str) -> Value {
        json!({"conditions": [{"type": "Programmed", "status": status, "reason": reason, "observedGeneration": 1}]})
    }

    #[test]
    fn a_gateway_stays_programmed_within_a_run_and_shows_it_anew_in_the_next() {
        let key = ObjectKey::new(api::GATEWAY_GROUP, "Gateway", "a", "web");
        let of = |statuses: &Statuses| statuses.get(&key).map(|of| of["conditions"][0].clone());
        let mut statuses = Statuses::restored([(key.clone(), programmed("True", "Programmed"))]);
        statuses.set(&key, programmed("False", "Pending"), "t1");
        assert_eq!(of(&statuses).map(|of| of["status"] == "False"), Some(true));
        statuses.set(&key, programmed("True", "Programmed"), "t2");
        assert!(!statuses.set(&key, programmed("False", "Pending"), "t3"));
        assert_eq!(
            of(&statuses).map(|of| of["lastTransitionTime"].clone()),
            Some(json!("t2"))
        );
        statuses.remove(&key);
        statuses.set(&key, programmed("False", "Pending"), "t4");
        assert_eq!(of(&statuses).map(|of| of["status"] == "False"), Some(true));
    }
}
