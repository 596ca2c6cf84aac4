//! The chain of one Gateway: what serves, and what waits for activation.

use std::collections::BTreeMap;

use api::{GatewayKey, Revision};
use minicbor::{Decode, Encode};

use crate::{EntrySet, GatewayDelta, Op, Origin, SetHash, diff};

/// Deltas that wait for activation; with one more, all of them become one. Shards that prepared each of them are not
/// affected, and one that comes anew gets less.
pub const PENDING_MAX: usize = 64;

/// A delta that is committed and not yet activated.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PendingDelta {
    /// Its revision.
    #[n(0)]
    pub revision: Revision,
    /// What it changes.
    #[n(1)]
    pub delta: GatewayDelta,
    /// When its cause was seen, microseconds since the epoch; of several deltas made one, the oldest.
    #[n(2)]
    #[cbor(default)]
    pub seen_at_us: u64,
    /// W3C `traceparent` of its cause, or empty; of several deltas made one, the newest.
    #[n(3)]
    #[cbor(default)]
    pub traceparent: String,
}

/// The chain of one Gateway: entries that serve, and deltas that wait for activation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayChain {
    active: Revision,
    entries: EntrySet,
    pending: Vec<PendingDelta>,
    /// Where the newest pending operation of a key is: its revision, and its place in that delta.
    newest: BTreeMap<Vec<u8>, (Revision, usize)>,
}

impl GatewayChain {
    /// A chain as it was stored.
    pub(crate) fn restore(active: Revision, entries: EntrySet, pending: Vec<PendingDelta>) -> Self {
        let mut chain = Self {
            active,
            entries,
            pending,
            newest: BTreeMap::new(),
        };
        chain.index();
        chain
    }

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

    /// Deltas after the active revision, oldest first; at most [`PENDING_MAX`].
    pub fn pending(&self) -> &[PendingDelta] {
        &self.pending
    }

    /// Hash of the entries at the newest committed revision.
    pub fn tip_hash(&self) -> SetHash {
        self.pending
            .last()
            .map_or(self.entries.hash(), |p| p.delta.hash)
    }

    /// Value of a key at the newest committed revision. Cost: two look-ups.
    pub fn tip_value(&self, key: &[u8]) -> Option<&[u8]> {
        if let Some((revision, at)) = self.newest.get(key) {
            let delta = self
                .pending
                .binary_search_by_key(revision, |pending| pending.revision)
                .ok()?;
            return self.pending[delta].delta.ops.get(*at)?.value.as_deref();
        }
        if self.pending.iter().any(|pending| pending.delta.removed) {
            return None;
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

    /// Appends a delta that builds on the tip. Cost: O(operations in it), and O(entries) once in [`PENDING_MAX`].
    ///
    /// # Panics
    /// When the delta's hash is not the hash of the entries that it leads to.
    pub(crate) fn push(&mut self, revision: Revision, delta: &GatewayDelta, origin: &Origin) {
        let expected = if delta.removed {
            SetHash::default()
        } else {
            self.tip_hash_after(&delta.ops)
        };
        assert_eq!(
            expected, delta.hash,
            "delta of gateway {} leads to another hash",
            delta.gateway
        );
        if delta.removed {
            self.newest.clear();
        }
        for (at, op) in delta.ops.iter().enumerate() {
            self.newest.insert(op.key.clone(), (revision, at));
        }
        self.pending.push(PendingDelta {
            revision,
            delta: delta.clone(),
            seen_at_us: origin.seen_at_us,
            traceparent: origin.traceparent.clone(),
        });
        if self.pending.len() > PENDING_MAX {
            self.squash();
        }
    }

    /// Whether activating `revision` would change something.
    pub(crate) fn is_behind(&self, revision: Revision) -> bool {
        self.pending.first().is_some_and(|p| p.revision <= revision)
    }

    /// Activates everything up to `revision`. Says whether the Gateway is gone, and the trace of what became active.
    pub(crate) fn advance(&mut self, key: &GatewayKey, revision: Revision) -> (bool, String) {
        let count = self
            .pending
            .iter()
            .take_while(|p| p.revision <= revision)
            .count();
        let (mut removed, mut traceparent) = (false, String::new());
        for pending in self.pending.drain(..count) {
            removed = pending.delta.removed;
            if removed {
                self.entries = EntrySet::default();
            }
            for op in &pending.delta.ops {
                self.entries.apply(op);
            }
            assert_eq!(
                self.entries.hash(),
                pending.delta.hash,
                "gateway {key} diverged"
            );
            self.active = pending.revision;
            traceparent = pending.traceparent;
        }
        let active = self.active;
        self.newest.retain(|_, (revision, _)| *revision > active);
        (removed && self.pending.is_empty(), traceparent)
    }

    /// Makes one delta, on top of what is active, of all that wait. Every replica does it at the same entry.
    fn squash(&mut self) {
        let Some(last) = self.pending.last() else {
            return;
        };
        let (revision, hash, removed) = (last.revision, last.delta.hash, last.delta.removed);
        let (gateway, traceparent) = (last.delta.gateway.clone(), last.traceparent.clone());
        let seen = self.pending.iter().map(|pending| pending.seen_at_us).min();
        let ops = if removed {
            Vec::new()
        } else {
            diff(&self.entries, &self.tip_entries())
        };
        self.pending = vec![PendingDelta {
            revision,
            delta: GatewayDelta {
                gateway,
                base: self.active,
                ops,
                hash,
                removed,
            },
            seen_at_us: seen.unwrap_or_default(),
            traceparent,
        }];
        self.index();
    }

    fn index(&mut self) {
        self.newest.clear();
        for pending in &self.pending {
            if pending.delta.removed {
                self.newest.clear();
            }
            for (at, op) in pending.delta.ops.iter().enumerate() {
                self.newest.insert(op.key.clone(), (pending.revision, at));
            }
        }
    }
}
