//! Which facts each shard needs: those that the entries of its Gateways refer to, pending ones included. [pure]
//!
//! Cost follows the entries that change. A fact is gained when a delta that refers to it is committed, and lost when
//! the activation that stopped referring to it has happened (make before break).

use std::collections::{BTreeMap, HashMap};

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::config::{BackendTarget, GatewayEntry};
use api_snapshot::{
    FactKey, GatewayChain, GatewayDelta, Op, PENDING_MAX, RoutingSnapshot, decode, encode,
};

use crate::event::all_placements;

/// An encoded fact key.
pub(crate) type FactBytes = Vec<u8>;
/// A fact that a shard needs from now on, or no longer.
pub(crate) type Change = (ShardId, FactBytes);

/// References of all Gateways.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    gateways: BTreeMap<GatewayKey, GatewayInterest>,
    /// How many Gateways on a shard refer to a fact.
    shards: HashMap<ShardId, HashMap<FactBytes, u32>>,
}

#[derive(Debug, Default)]
struct GatewayInterest {
    shards: Vec<ShardId>,
    /// How many entries, active or pending, refer to a fact.
    counts: HashMap<FactBytes, u32>,
    /// References of the active entries, by entry key.
    active: HashMap<Vec<u8>, Vec<FactBytes>>,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    revision: Revision,
    removed: bool,
    entries: Vec<(Vec<u8>, Vec<FactBytes>)>,
}

impl Interest {
    /// Takes over a snapshot. A placement outlives its Gateway until it is retired: a Gateway that is created anew
    /// meanwhile comes to the same shards without another placement.
    pub(crate) fn of(snapshot: &RoutingSnapshot) -> Self {
        let mut interest = Self::default();
        for (gateway, chain) in snapshot.gateways() {
            interest.restore(gateway, chain);
        }
        for (gateway, placed) in all_placements(snapshot) {
            interest.placed(&gateway, placed.everywhere);
        }
        interest
    }

    /// Whether it knows of nothing.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.shards.values().all(HashMap::is_empty)
    }

    fn restore(&mut self, gateway: &GatewayKey, chain: &GatewayChain) {
        let active: Vec<Op> = chain
            .entries()
            .iter()
            .map(|(key, value)| Op {
                key: key.to_vec(),
                value: Some(value.to_vec()),
            })
            .collect();
        self.take(gateway, chain.active(), &active, false);
        self.activated(gateway, chain.active());
        for pending in chain.pending() {
            self.take(
                gateway,
                pending.revision,
                &pending.delta.ops,
                pending.delta.removed,
            );
        }
    }

    /// Shards that hold a Gateway; those that join and leave are among them.
    pub(crate) fn shards_of(&self, gateway: &GatewayKey) -> &[ShardId] {
        self.gateways
            .get(gateway)
            .map_or(&[], |interest| &interest.shards)
    }

    /// Gateways placed on a shard.
    pub(crate) fn gateways_of(&self, shard: ShardId) -> impl Iterator<Item = &GatewayKey> {
        self.gateways
            .iter()
            .filter(move |(_, of)| of.shards.contains(&shard))
            .map(|(key, _)| key)
    }

    /// Facts that a shard needs.
    pub(crate) fn facts_of(&self, shard: ShardId) -> impl Iterator<Item = &FactBytes> {
        self.shards.get(&shard).into_iter().flat_map(HashMap::keys)
    }

    /// Whether a shard needs a fact.
    pub(crate) fn wants(&self, shard: ShardId, fact: &[u8]) -> bool {
        self.shards
            .get(&shard)
            .is_some_and(|facts| facts.contains_key(fact))
    }

    /// A delta was committed; gives what its Gateway's shards need beyond what they did, and what they need no longer
    /// because too many deltas waited and have become one.
    pub(crate) fn committed(
        &mut self,
        delta: &GatewayDelta,
        revision: Revision,
    ) -> (Vec<Change>, Vec<Change>) {
        let gained = self.take(&delta.gateway, revision, &delta.ops, delta.removed);
        let lost = match self.gateways.get_mut(&delta.gateway) {
            Some(gateway) if gateway.pending.len() > PENDING_MAX => {
                let lost = gateway.squash();
                self.lose(&delta.gateway, &lost)
            }
            _ => Vec::new(),
        };
        (gained, lost)
    }

    fn take(
        &mut self,
        key: &GatewayKey,
        revision: Revision,
        ops: &[Op],
        removed: bool,
    ) -> Vec<Change> {
        let gateway = self.gateways.entry(key.clone()).or_default();
        let entries: Vec<(Vec<u8>, Vec<FactBytes>)> = ops
            .iter()
            .map(|op| (op.key.clone(), references(key, op)))
            .collect();
        let mut gained = Vec::new();
        for fact in entries.iter().flat_map(|(_, facts)| facts) {
            let count = gateway.counts.entry(fact.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                gained.push(fact.clone());
            }
        }
        gateway.pending.push(Pending {
            revision,
            removed,
            entries,
        });
        let shards = gateway.shards.clone();
        shards
            .iter()
            .flat_map(|shard| gain(&mut self.shards, *shard, &gained))
            .collect()
    }

    /// Deltas up to a revision were activated; gives what the shards need no longer. A Gateway that is gone keeps its
    /// shards while its placement stands.
    pub(crate) fn activated(&mut self, key: &GatewayKey, revision: Revision) -> Vec<Change> {
        let Some(gateway) = self.gateways.get_mut(key) else {
            return Vec::new();
        };
        let mut released: Vec<FactBytes> = Vec::new();
        let count = gateway
            .pending
            .iter()
            .take_while(|pending| pending.revision <= revision)
            .count();
        for pending in gateway.pending.drain(..count) {
            if pending.removed {
                released.extend(gateway.active.drain().flat_map(|(_, facts)| facts));
            }
            for (entry, facts) in pending.entries {
                let old = if facts.is_empty() {
                    gateway.active.remove(&entry)
                } else {
                    gateway.active.insert(entry, facts)
                };
                released.extend(old.into_iter().flatten());
            }
        }
        let lost = gateway.release(released);
        let lost = self.lose(key, &lost);
        self.forget_if_empty(key);
        lost
    }

    /// What the shards of a Gateway need no longer when it no longer refers to these facts.
    fn lose(&mut self, key: &GatewayKey, facts: &[FactBytes]) -> Vec<Change> {
        let shards = self.shards_of(key).to_vec();
        shards
            .iter()
            .flat_map(|shard| lose(&mut self.shards, *shard, facts))
            .collect()
    }

    fn forget_if_empty(&mut self, key: &GatewayKey) {
        if self
            .gateways
            .get(key)
            .is_some_and(GatewayInterest::is_empty)
        {
            self.gateways.remove(key);
        }
    }

    /// A Gateway is placed on these shards from now on; gives what joining shards need and leaving ones do not.
    pub(crate) fn placed(
        &mut self,
        key: &GatewayKey,
        shards: Vec<ShardId>,
    ) -> (Vec<Change>, Vec<Change>) {
        let gateway = self.gateways.entry(key.clone()).or_default();
        let facts: Vec<FactBytes> = gateway.counts.keys().cloned().collect();
        let old = std::mem::replace(&mut gateway.shards, shards.clone());
        let gained = shards
            .iter()
            .filter(|shard| !old.contains(shard))
            .flat_map(|shard| gain(&mut self.shards, *shard, &facts))
            .collect();
        let lost = old
            .iter()
            .filter(|shard| !shards.contains(shard))
            .flat_map(|shard| lose(&mut self.shards, *shard, &facts))
            .collect();
        self.forget_if_empty(key);
        (gained, lost)
    }
}

impl GatewayInterest {
    fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.pending.is_empty() && self.counts.is_empty()
    }

    /// Takes references away; gives the facts that nothing refers to any more.
    fn release(&mut self, facts: Vec<FactBytes>) -> Vec<FactBytes> {
        let mut lost = Vec::new();
        for fact in facts {
            if let Some(count) = self.counts.get_mut(&fact) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&fact);
                    lost.push(fact);
                }
            }
        }
        lost
    }

    /// Makes one of all deltas that wait, as the snapshot does; gives the facts that nothing refers to any more.
    fn squash(&mut self) -> Vec<FactBytes> {
        let mut entries: BTreeMap<Vec<u8>, Vec<FactBytes>> = BTreeMap::new();
        let (mut revision, mut removed, mut released) = (Revision(0), false, Vec::new());
        for pending in std::mem::take(&mut self.pending) {
            revision = pending.revision;
            if pending.removed {
                removed = true;
                released.extend(std::mem::take(&mut entries).into_values().flatten());
            }
            for (entry, facts) in pending.entries {
                released.extend(entries.insert(entry, facts).into_iter().flatten());
            }
        }
        self.pending.push(Pending {
            revision,
            removed,
            entries: entries.into_iter().collect(),
        });
        self.release(released)
    }
}

fn gain(
    shards: &mut HashMap<ShardId, HashMap<FactBytes, u32>>,
    shard: ShardId,
    facts: &[FactBytes],
) -> Vec<Change> {
    let counts = shards.entry(shard).or_default();
    let mut gained = Vec::new();
    for fact in facts {
        let count = counts.entry(fact.clone()).or_insert(0);
        *count += 1;
        if *count == 1 {
            gained.push((shard, fact.clone()));
        }
    }
    gained
}

fn lose(
    shards: &mut HashMap<ShardId, HashMap<FactBytes, u32>>,
    shard: ShardId,
    facts: &[FactBytes],
) -> Vec<Change> {
    let Some(counts) = shards.get_mut(&shard) else {
        return Vec::new();
    };
    let mut lost = Vec::new();
    for fact in facts {
        if let Some(count) = counts.get_mut(fact) {
            *count -= 1;
            if *count == 0 {
                counts.remove(fact);
                lost.push((shard, fact.clone()));
            }
        }
    }
    lost
}

/// Facts that an entry refers to. An entry of a newer version refers to none that this version knows.
pub(crate) fn references(gateway: &GatewayKey, op: &Op) -> Vec<FactBytes> {
    let Some(Ok(entry)) = op
        .value
        .as_deref()
        .map(|value| decode::<GatewayEntry>("entry", value))
    else {
        return Vec::new();
    };
    let mut facts: Vec<FactBytes> = match entry {
        GatewayEntry::Listener(listener) => listener
            .certificates
            .into_iter()
            .map(FactKey::Certificate)
            .chain([FactKey::Binding(gateway.clone(), listener.port)])
            .map(|key| encode(&key))
            .collect(),
        GatewayEntry::Rule(rule) => rule
            .backends
            .into_iter()
            .filter_map(|backend| match backend.target {
                BackendTarget::Backend(key) => Some(encode(&FactKey::Backend(key))),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    facts.sort();
    facts.dedup();
    facts
}
