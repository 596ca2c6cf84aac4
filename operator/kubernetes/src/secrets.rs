//! Which Secrets are watched: those that are referred to, each by its name.

use std::collections::{BTreeMap, BTreeSet};

use api::CertificateKey;

use crate::watch::WatchId;

/// Watches of Secrets. Bounded by the references that there are.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    watched: BTreeMap<CertificateKey, WatchId>,
}

/// What a change of the references leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: Vec<CertificateKey>,
    pub(crate) stop: Vec<(CertificateKey, WatchId)>,
}

impl Secrets {
    /// What has to be started and stopped so that just these are watched.
    pub(crate) fn plan(&self, wanted: &BTreeSet<CertificateKey>) -> Plan {
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

    pub(crate) fn started(&mut self, key: CertificateKey, id: WatchId) {
        self.watched.insert(key, id);
    }

    pub(crate) fn stopped(&mut self, key: &CertificateKey) {
        self.watched.remove(key);
    }
}
