//! What is committed of objects that cannot be read since this process started: it serves on. [pure]

use std::collections::{BTreeMap, BTreeSet};

use api::{GatewayKey, ObjectKey};
use api_snapshot::{GatewayEntry, GatewayEntryKey, RoutingSnapshot, decode};
use operator_index::Index;
use operator_translate::Translation;
use operator_translate::status::gateway_object;

/// Committed entries without a readable object behind them.
///
/// While this process runs, the index keeps an object's last good form. After a restart Raft alone has it.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    gateways: BTreeSet<GatewayKey>,
    rules: BTreeMap<GatewayKey, BTreeMap<GatewayEntryKey, GatewayEntry>>,
}

impl Kept {
    /// What is committed and not translated, of objects that were rejected; with `unreadable`, of all that are not there:
    /// a file that cannot be read may have held them. Cost: O(committed entries).
    pub(crate) fn of(
        snapshot: &RoutingSnapshot,
        translation: &Translation,
        index: &Index,
        unreadable: bool,
    ) -> Self {
        let mut kept = Self::default();
        if !unreadable && index.rejections().len() == 0 {
            return kept;
        }
        let ours: BTreeSet<&GatewayKey> = translation.gateways().collect();
        for (gateway, chain) in snapshot.gateways() {
            if chain.removed_at_tip() {
                continue;
            }
            if !ours.contains(gateway) {
                let found = index.gateway(gateway);
                let class = found.map(|gateway| {
                    ObjectKey::new(api::GATEWAY_GROUP, "GatewayClass", "", &gateway.class_name)
                });
                let is_rejected = index.rejected(&gateway_object(gateway)).is_some()
                    || class.is_some_and(|class| {
                        index.class(&class.name).is_none()
                            && (unreadable || index.rejected(&class).is_some())
                    });
                if is_rejected || (unreadable && found.is_none()) {
                    kept.gateways.insert(gateway.clone());
                }
                continue;
            }
            for (key, value) in chain.tip_entries().iter() {
                let Ok(GatewayEntryKey::Rule(route, rule)) = decode("entry key", key) else {
                    continue;
                };
                let is_there = index.route(&route).is_some();
                let is_rejected = index.rejected(&route.object()).is_some();
                if is_there || !(is_rejected || unreadable) {
                    continue;
                }
                if let Ok(entry) = decode("entry", value) {
                    let rules = kept.rules.entry(gateway.clone()).or_default();
                    rules.insert(GatewayEntryKey::Rule(route, rule), entry);
                }
            }
        }
        kept
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.rules.is_empty()
    }

    /// Gateways that are kept whole.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = &GatewayKey> {
        self.gateways.iter()
    }

    /// Whether a Gateway is kept whole.
    pub(crate) fn has_gateway(&self, gateway: &GatewayKey) -> bool {
        self.gateways.contains(gateway)
    }

    /// Routes that are kept, count.
    pub(crate) fn routes(&self) -> usize {
        let rules = self.rules.values().flat_map(BTreeMap::keys);
        let routes: BTreeSet<_> = rules
            .filter_map(|key| match key {
                GatewayEntryKey::Rule(route, _) => Some(route),
                _ => None,
            })
            .collect();
        routes.len()
    }

    /// Adds a Gateway's kept rules to what is wanted of it.
    pub(crate) fn add_to(
        &self,
        gateway: &GatewayKey,
        entries: &mut BTreeMap<GatewayEntryKey, GatewayEntry>,
    ) {
        for (key, entry) in self.rules.get(gateway).into_iter().flatten() {
            entries.entry(key.clone()).or_insert_with(|| entry.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use api::Revision;
    use api_snapshot::{Command, Delta, GatewayDelta, Op};
    use operator_objects::spec::{Event, Rejected};

    use super::*;

    /// A state in which a Gateway is committed.
    fn committed(gateway: &GatewayKey) -> RoutingSnapshot {
        let mut snapshot = RoutingSnapshot::default();
        let op = Op {
            key: api_snapshot::encode(&GatewayEntryKey::Gateway),
            value: Some(vec![0]),
        };
        let ops = vec![op];
        let none = api_snapshot::GatewayChain::default();
        let delta = Delta {
            gateways: vec![GatewayDelta {
                gateway: gateway.clone(),
                base: none.tip(),
                hash: none.tip_hash_after(&ops),
                ops,
                removed: false,
            }],
            ..Delta::default()
        };
        snapshot.apply(Revision(1), Command::Commit(delta));
        assert!(snapshot.gateway(gateway).is_some());
        snapshot
    }

    #[test]
    fn what_is_committed_is_kept_while_its_object_cannot_be_read_and_no_longer() {
        let gateway = GatewayKey::new("team-a", "web");
        let snapshot = committed(&gateway);
        let (mut index, translation) = (Index::new(), Translation::new());
        assert!(Kept::of(&snapshot, &translation, &index, false).is_empty());
        // A file that nobody can read, or a kind that the API server does not know yet.
        assert!(Kept::of(&snapshot, &translation, &index, true).has_gateway(&gateway));
        index.apply(Event::Reject(Rejected {
            key: gateway_object(&gateway),
            generation: 2,
            message: "spec: no".into(),
            parents: Vec::new(),
        }));
        assert!(Kept::of(&snapshot, &translation, &index, false).has_gateway(&gateway));
        index.apply(Event::Delete(gateway_object(&gateway)));
        assert!(Kept::of(&snapshot, &translation, &index, false).is_empty());
    }
}
