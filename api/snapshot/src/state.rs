//! The state machine: what all replicas hold after the same entries.

use std::collections::BTreeMap;

use api::{GatewayKey, Revision};
use minicbor::{Decode, Encode};

use crate::{Command, Delta, EntrySet, FactsDelta, GatewayDelta, Op, SetHash};

/// A delta that is committed and not yet activated.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PendingDelta {
    /// Its revision.
    #[n(0)]
    pub revision: Revision,
    /// What it changes.
    #[n(1)]
    pub delta: GatewayDelta,
}

/// The chain of one Gateway: entries that serve, and deltas that wait for activation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayChain {
    active: Revision,
    entries: EntrySet,
    pending: Vec<PendingDelta>,
}

impl GatewayChain {
    /// Revision that serves; 0 when none was activated yet.
    pub fn active(&self) -> Revision {
        self.active
    }

    /// Newest committed revision.
    pub fn tip(&self) -> Revision {
        self.pending.last().map_or(self.active, |p| p.revision)
    }

    /// Whether the newest committed revision removes the Gateway.
    pub fn removed_at_tip(&self) -> bool {
        self.pending.last().is_some_and(|p| p.delta.removed)
    }

    /// Entries that serve.
    pub fn entries(&self) -> &EntrySet {
        &self.entries
    }

    /// Deltas after the active revision, oldest first.
    pub fn pending(&self) -> &[PendingDelta] {
        &self.pending
    }

    /// Hash of the entries at the newest committed revision.
    pub fn tip_hash(&self) -> SetHash {
        self.pending
            .last()
            .map_or(self.entries.hash(), |p| p.delta.hash)
    }

    /// Value of a key at the newest committed revision. Cost: O(operations pending).
    pub fn tip_value(&self, key: &[u8]) -> Option<&[u8]> {
        for pending in self.pending.iter().rev() {
            if pending.delta.removed {
                return None;
            }
            if let Some(op) = pending.delta.ops.iter().find(|op| op.key == key) {
                return op.value.as_deref();
            }
        }
        self.entries.value(key).map(|v| &**v)
    }

    /// All entries at the newest committed revision. Cost: O(entries).
    pub fn tip_entries(&self) -> EntrySet {
        let mut entries = self.entries.clone();
        for pending in &self.pending {
            if pending.delta.removed {
                entries = EntrySet::default();
            }
            for op in &pending.delta.ops {
                entries.apply(op);
            }
        }
        entries
    }

    /// The hash that a delta with `ops` on top of the tip must name.
    pub fn tip_hash_after(&self, ops: &[Op]) -> SetHash {
        let mut hash = self.tip_hash();
        for op in ops {
            if let Some(old) = self.tip_value(&op.key) {
                hash.remove(&op.key, old);
            }
            if let Some(value) = &op.value {
                hash.insert(&op.key, value);
            }
        }
        hash
    }
}

/// What applying one entry did; identical on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A delta was committed.
    Committed {
        /// Facts that changed.
        facts: FactsDelta,
        /// The chains that grew.
        gateways: Vec<GatewayDelta>,
    },
    /// Chains moved on.
    Activated {
        /// Gateway, its active revision from now on, and whether it is gone.
        gateways: Vec<(GatewayKey, Revision, bool)>,
    },
    /// Nothing changed: the entry was proposed against a state that is no longer the newest.
    Rejected {
        /// Whose chain did not fit.
        gateway: GatewayKey,
        /// What the delta named as its base.
        base: Revision,
        /// The chain's newest revision.
        tip: Revision,
    },
}

/// A stored state could not be restored.
#[derive(Debug, thiserror::Error)]
#[error("restore routing snapshot: {0}")]
pub struct RestoreError(String);

/// The whole state: all facts, the chain of each Gateway.
///
/// Applying is deterministic; a replica that applied the same entries has the same [`RoutingSnapshot::root_hash`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutingSnapshot {
    revision: Revision,
    facts: EntrySet,
    gateways: BTreeMap<GatewayKey, GatewayChain>,
    active_root: SetHash,
}

impl RoutingSnapshot {
    /// Index of the last applied entry.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Facts that count.
    pub fn facts(&self) -> &EntrySet {
        &self.facts
    }

    /// Chain of one Gateway.
    pub fn gateway(&self, key: &GatewayKey) -> Option<&GatewayChain> {
        self.gateways.get(key)
    }

    /// All chains in canonical order.
    pub fn gateways(&self) -> impl Iterator<Item = (&GatewayKey, &GatewayChain)> {
        self.gateways.iter()
    }

    /// Hash over the facts and, for each Gateway, its key, active revision and hash. O(1).
    pub fn root_hash(&self) -> SetHash {
        let mut root = self.active_root;
        root.insert(b"facts", &self.facts.hash().to_bytes());
        root
    }

    /// Applies the entry at `index`.
    ///
    /// Cost: O(operations in the entry); for an activation, those of the deltas that it activates.
    ///
    /// # Panics
    /// When a delta's hash is not the hash of the entries that it leads to: replicas have diverged, and serving
    /// a wrong route is worse than stopping.
    pub fn apply(&mut self, index: Revision, command: Command) -> Applied {
        self.revision = index;
        match command {
            Command::Commit(delta) => self.commit(index, delta),
            Command::Activate(gateways) => self.activate(gateways),
        }
    }

    fn commit(&mut self, index: Revision, delta: Delta) -> Applied {
        for gateway in &delta.gateways {
            let tip = self
                .gateways
                .get(&gateway.gateway)
                .map_or(Revision(0), GatewayChain::tip);
            if tip != gateway.base {
                return Applied::Rejected {
                    gateway: gateway.gateway.clone(),
                    base: gateway.base,
                    tip,
                };
            }
        }
        for op in &delta.facts.ops {
            self.facts.apply(op);
        }
        for gateway in &delta.gateways {
            let chain = self.gateways.entry(gateway.gateway.clone()).or_default();
            let expected = if gateway.removed {
                SetHash::default()
            } else {
                chain.tip_hash_after(&gateway.ops)
            };
            assert_eq!(
                expected, gateway.hash,
                "delta of gateway {} leads to another hash",
                gateway.gateway
            );
            chain.pending.push(PendingDelta {
                revision: index,
                delta: gateway.clone(),
            });
        }
        Applied::Committed {
            facts: delta.facts,
            gateways: delta.gateways,
        }
    }

    fn activate(&mut self, gateways: Vec<(GatewayKey, Revision)>) -> Applied {
        let mut activated = Vec::with_capacity(gateways.len());
        for (key, revision) in gateways {
            // An activation of what is active already, or of what was never committed, changes nothing.
            let Some(chain) = self.gateways.get_mut(&key) else {
                continue;
            };
            let count = chain
                .pending
                .iter()
                .take_while(|p| p.revision <= revision)
                .count();
            if count == 0 {
                continue;
            }
            root_remove(&mut self.active_root, &key, chain);
            let mut gone = false;
            for pending in chain.pending.drain(..count) {
                gone = pending.delta.removed;
                if gone {
                    chain.entries = EntrySet::default();
                }
                for op in &pending.delta.ops {
                    chain.entries.apply(op);
                }
                assert_eq!(
                    chain.entries.hash(),
                    pending.delta.hash,
                    "gateway {key} diverged"
                );
                chain.active = pending.revision;
            }
            let active = chain.active;
            if gone && chain.pending.is_empty() {
                self.gateways.remove(&key);
            } else {
                root_insert(&mut self.active_root, &key, chain);
            }
            activated.push((key, active, gone));
        }
        Applied::Activated {
            gateways: activated,
        }
    }

    /// Bytes from which [`RoutingSnapshot::restore`] builds the same state. Cost: O(state).
    pub fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored {
            version: Stored::VERSION,
            revision: self.revision,
            facts: ops_of(&self.facts),
            gateways: self
                .gateways
                .iter()
                .map(|(key, chain)| StoredChain {
                    gateway: key.clone(),
                    active: chain.active,
                    entries: ops_of(&chain.entries),
                    pending: chain.pending.clone(),
                })
                .collect(),
            root: self.root_hash(),
        };
        crate::encode(&stored)
    }

    /// Inverse of [`RoutingSnapshot::to_bytes`].
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are damaged, of a newer format, or do not have the hash that they name.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let stored: Stored =
            crate::decode("state", bytes).map_err(|e| RestoreError(format!("{e:?}")))?;
        if stored.version != Stored::VERSION {
            return Err(RestoreError(format!(
                "format {} is not the one this version reads ({})",
                stored.version,
                Stored::VERSION
            )));
        }
        let mut state = Self {
            revision: stored.revision,
            facts: stored.facts.iter().collect(),
            ..Self::default()
        };
        for chain in stored.gateways {
            let restored = GatewayChain {
                active: chain.active,
                entries: chain.entries.iter().collect(),
                pending: chain.pending,
            };
            root_insert(&mut state.active_root, &chain.gateway, &restored);
            state.gateways.insert(chain.gateway, restored);
        }
        if state.root_hash() != stored.root {
            return Err(RestoreError(
                "hash of the entries is not the stored one".into(),
            ));
        }
        Ok(state)
    }
}

fn root_insert(root: &mut SetHash, key: &GatewayKey, chain: &GatewayChain) {
    if chain.active != Revision(0) {
        let (key, value) = root_leaf(key, chain);
        root.insert(&key, &value);
    }
}

fn root_remove(root: &mut SetHash, key: &GatewayKey, chain: &GatewayChain) {
    if chain.active != Revision(0) {
        let (key, value) = root_leaf(key, chain);
        root.remove(&key, &value);
    }
}

fn root_leaf(key: &GatewayKey, chain: &GatewayChain) -> (Vec<u8>, Vec<u8>) {
    (
        crate::encode(key),
        crate::encode(&(chain.active, chain.entries.hash())),
    )
}

fn ops_of(entries: &EntrySet) -> Vec<Op> {
    entries
        .iter()
        .map(|(key, value)| Op {
            key: key.to_vec(),
            value: Some(value.to_vec()),
        })
        .collect()
}

#[derive(Encode, Decode)]
struct Stored {
    #[n(0)]
    version: u32,
    #[n(1)]
    revision: Revision,
    #[n(2)]
    facts: Vec<Op>,
    #[n(3)]
    gateways: Vec<StoredChain>,
    #[n(4)]
    root: SetHash,
}

impl Stored {
    const VERSION: u32 = 1;
}

#[derive(Encode, Decode)]
struct StoredChain {
    #[n(0)]
    gateway: GatewayKey,
    #[n(1)]
    active: Revision,
    #[n(2)]
    entries: Vec<Op>,
    #[n(3)]
    pending: Vec<PendingDelta>,
}

#[cfg(test)]
mod tests;
