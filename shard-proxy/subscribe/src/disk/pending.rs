//! What waits to be written: many changes as one. Bounded by what there is to write, not by how long the disk takes. [pure]

use std::collections::BTreeMap;

use api::{GatewayKey, Revision};
use api_snapshot::{Epoch, Op, SetHash};

/// Something that became active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Revisions from here on are of this history; those before it compare with none.
    Epoch(Epoch),
    /// Facts.
    Facts {
        /// The revision that they change; none when the operations are all facts there are.
        base: Option<Revision>,
        revision: Revision,
        /// Hash of all facts after the step.
        hash: SetHash,
        ops: Vec<Op>,
    },
    /// One step of a Gateway.
    Gateway {
        gateway: GatewayKey,
        /// The revision that it changes; none when the operations are all entries there are.
        base: Option<Revision>,
        revision: Revision,
        /// Hash of all entries after the step.
        hash: SetHash,
        /// It is gone.
        removed: bool,
        ops: Vec<Op>,
    },
}

impl Change {
    /// A Gateway is no longer here.
    pub(crate) fn dropped(gateway: GatewayKey) -> Self {
        Self::Gateway {
            gateway,
            base: None,
            revision: Revision(0),
            hash: SetHash::default(),
            removed: true,
            ops: Vec::new(),
        }
    }
}

/// Changes of one set of entries, as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    /// The revision that is changed; none when the operations are all there is.
    pub(super) base: Option<Revision>,
    pub(super) revision: Revision,
    pub(super) hash: SetHash,
    pub(super) removed: bool,
    pub(super) ops: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// What waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Rows that are stored are of another history: they get revision 0 first.
    pub(super) epoch: Option<Epoch>,
    pub(super) facts: Option<Set>,
    pub(super) gateways: BTreeMap<GatewayKey, Set>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.epoch.is_none() && self.facts.is_none() && self.gateways.is_empty()
    }

    /// Operations that wait.
    pub(super) fn len(&self) -> usize {
        let gateways = self.gateways.values().map(|set| set.ops.len().max(1));
        gateways.sum::<usize>() + self.facts.as_ref().map_or(0, |set| set.ops.len())
    }

    pub(super) fn add(&mut self, change: Change) {
        let set = |base, revision, hash, removed, ops: Vec<Op>| Set {
            base,
            revision,
            hash,
            removed,
            ops: ops.into_iter().map(|op| (op.key, op.value)).collect(),
        };
        let newer = match change {
            Change::Epoch(epoch) => Self {
                epoch: Some(epoch),
                ..Self::default()
            },
            Change::Facts {
                base,
                revision,
                hash,
                ops,
            } => Self {
                facts: Some(set(base, revision, hash, false, ops)),
                ..Self::default()
            },
            Change::Gateway {
                gateway,
                base,
                revision,
                hash,
                removed,
                ops,
            } => Self {
                gateways: [(gateway, set(base, revision, hash, removed, ops))].into(),
                ..Self::default()
            },
        };
        self.absorb(newer);
    }

    /// Takes what came later.
    pub(super) fn absorb(&mut self, newer: Self) {
        if let Some(epoch) = newer.epoch {
            self.epoch = Some(epoch);
            for set in self.gateways.values_mut() {
                set.base = set.base.map(|_| Revision(0));
                set.revision = Revision(0);
            }
        }
        if let Some(facts) = newer.facts {
            match &mut self.facts {
                Some(set) => set.absorb(facts),
                none => *none = Some(facts),
            }
        }
        for (gateway, set) in newer.gateways {
            match self.gateways.get_mut(&gateway) {
                Some(known) => known.absorb(set),
                None => {
                    self.gateways.insert(gateway, set);
                }
            }
        }
    }
}

impl Set {
    fn absorb(&mut self, newer: Self) {
        if newer.base.is_none() || newer.removed {
            *self = newer;
            return;
        }
        if self.removed {
            // What comes after the end begins from nothing.
            self.base = None;
            self.removed = false;
        }
        self.revision = newer.revision;
        self.hash = newer.hash;
        self.ops.extend(newer.ops);
    }
}
