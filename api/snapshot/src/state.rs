//! The state machine: what all replicas hold after the same entries.

use std::collections::BTreeMap;

use api::{GatewayKey, Revision};
use minicbor::{Decode, Encode};

use crate::chain::{GatewayChain, PendingDelta};
use crate::{Command, Delta, EntrySet, Epoch, FactsDelta, GatewayDelta, Op, Origin, SetHash};

/// What applying one entry did; identical on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A delta was committed.
    Committed {
        /// Facts that changed.
        facts: FactsDelta,
        /// The chains that grew.
        gateways: Vec<GatewayDelta>,
        /// Where the change came from.
        origin: Origin,
    },
    /// Chains moved on.
    Activated {
        /// Where to.
        gateways: Vec<Activation>,
    },
    /// The history of revisions has its epoch.
    Begun {
        /// The first one that was proposed, whatever this entry says.
        epoch: Epoch,
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

/// A chain that moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Whose chain.
    pub gateway: GatewayKey,
    /// Its active revision from now on.
    pub revision: Revision,
    /// Whether the Gateway is gone.
    pub gone: bool,
    /// W3C `traceparent` of the change that became active, or empty.
    pub traceparent: String,
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
    epoch: Epoch,
    revision: Revision,
    facts: EntrySet,
    gateways: BTreeMap<GatewayKey, GatewayChain>,
    active_root: SetHash,
}

impl RoutingSnapshot {
    /// The history that the revisions belong to; [`Epoch::NONE`] until one has begun.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

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
            Command::Begin(epoch) => {
                if self.epoch == Epoch::NONE {
                    self.epoch = epoch;
                }
                Applied::Begun { epoch: self.epoch }
            }
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
            chain.push(index, gateway, &delta.origin);
        }
        Applied::Committed {
            facts: delta.facts,
            gateways: delta.gateways,
            origin: delta.origin,
        }
    }

    fn activate(&mut self, gateways: Vec<(GatewayKey, Revision)>) -> Applied {
        let mut activated = Vec::with_capacity(gateways.len());
        for (key, revision) in gateways {
            // An activation of what is active already, or of what was never committed, changes nothing.
            let Some(chain) = self.gateways.get_mut(&key) else {
                continue;
            };
            if !chain.is_behind(revision) {
                continue;
            }
            root_remove(&mut self.active_root, &key, chain);
            let (gone, traceparent) = chain.advance(&key, revision);
            let active = chain.active();
            if gone {
                self.gateways.remove(&key);
            } else {
                root_insert(&mut self.active_root, &key, chain);
            }
            activated.push(Activation {
                gateway: key,
                revision: active,
                gone,
                traceparent,
            });
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
                    active: chain.active(),
                    entries: ops_of(chain.entries()),
                    pending: chain.pending().to_vec(),
                })
                .collect(),
            root: self.root_hash(),
            epoch: self.epoch,
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
            epoch: stored.epoch,
            revision: stored.revision,
            facts: stored.facts.iter().collect(),
            ..Self::default()
        };
        for chain in stored.gateways {
            let restored =
                GatewayChain::restore(chain.active, chain.entries.iter().collect(), chain.pending);
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
    if chain.active() != Revision(0) {
        let (key, value) = root_leaf(key, chain);
        root.insert(&key, &value);
    }
}

fn root_remove(root: &mut SetHash, key: &GatewayKey, chain: &GatewayChain) {
    if chain.active() != Revision(0) {
        let (key, value) = root_leaf(key, chain);
        root.remove(&key, &value);
    }
}

fn root_leaf(key: &GatewayKey, chain: &GatewayChain) -> (Vec<u8>, Vec<u8>) {
    (
        crate::encode(key),
        crate::encode(&(chain.active(), chain.entries().hash())),
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
    // States of before there were epochs have none.
    #[n(5)]
    #[cbor(default)]
    epoch: Epoch,
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
