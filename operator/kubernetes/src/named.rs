//! Which objects are watched by name: those of a kind that are referred to.

use std::collections::{BTreeMap, BTreeSet};

use api::ObjectKey;

use crate::watch::WatchId;

/// Watches of the objects of one kind. Bounded by the references that there are.
#[derive(Debug, Default)]
pub(crate) struct Named {
    watched: BTreeMap<ObjectKey, WatchId>,
}

/// What a change of the references leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: Vec<ObjectKey>,
    pub(crate) stop: Vec<(ObjectKey, WatchId)>,
}

impl Named {
    /// What has to be started and stopped so that just these are watched.
    pub(crate) fn plan(&self, wanted: &BTreeSet<ObjectKey>) -> Plan {
        let new = wanted.iter().filter(|key| !self.watched.contains_key(*key));
        let gone = self
            .watched
            .iter()
            .filter(|(key, _)| !wanted.contains(*key));
        Plan {
            start: new.cloned().collect(),
            stop: gone.map(|(key, id)| (key.clone(), *id)).collect(),
        }
    }

    pub(crate) fn started(&mut self, key: ObjectKey, id: WatchId) {
        self.watched.insert(key, id);
    }

    pub(crate) fn stopped(&mut self, key: &ObjectKey) {
        self.watched.remove(key);
    }
}
