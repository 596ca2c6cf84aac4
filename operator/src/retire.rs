//! Facts that nothing refers to any more leave once no entry that serves does either (make before break).

use std::collections::{BTreeMap, BTreeSet};

use api::{GatewayKey, Revision};
use api_snapshot::FactKey;

/// Facts that wait to be removed.
#[derive(Debug, Default)]
pub(crate) struct Retiring {
    waiting: Vec<(BTreeSet<FactKey>, BTreeMap<GatewayKey, Revision>)>,
}

impl Retiring {
    /// Lets facts wait until each of these Gateways has reached its revision.
    pub(crate) fn add(&mut self, facts: BTreeSet<FactKey>, until: BTreeMap<GatewayKey, Revision>) {
        if !facts.is_empty() {
            self.waiting.push((facts, until));
        }
    }

    /// A Gateway has reached a revision.
    pub(crate) fn reached(&mut self, gateway: &GatewayKey, revision: Revision) {
        for (_, until) in &mut self.waiting {
            if until.get(gateway).is_some_and(|wanted| *wanted <= revision) {
                until.remove(gateway);
            }
        }
    }

    /// Facts that wait for nothing any more.
    pub(crate) fn due(&mut self) -> BTreeSet<FactKey> {
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, until)| until.is_empty());
        self.waiting = waiting;
        due.into_iter().flat_map(|(facts, _)| facts).collect()
    }
}
