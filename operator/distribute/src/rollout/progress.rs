//! How far one Gateway is. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};

use super::Action;
use crate::event::Placed;

/// Changes remembered until they are served; of more, the oldest is not measured.
const CHANGES_MAX: usize = 128;

/// What is behind a revision.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) seen_at: Duration,
    pub(super) traceparent: String,
    /// Whether the time it takes says anything; not for what was active before the start.
    pub(super) measured: bool,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// All that hold the Gateway.
    pub(super) shards: BTreeSet<ShardId>,
    /// Those of them that clients are led to.
    pub(super) led_to: BTreeSet<ShardId>,
    /// Where that was committed or read.
    placed: Revision,
    /// Who served, as was said last; while it moves.
    said: Option<Vec<ShardId>>,
    /// Newest committed revision.
    pub(super) target: Revision,
    /// Revision that was proposed for activation.
    proposed: Revision,
    pub(super) active: Revision,
    /// Newest revision that all who were waited for serve.
    pub(super) propagated: Revision,
    /// Shards that served it when that was last said; none when nothing more is to be said of it.
    reported: Option<BTreeSet<ShardId>>,
    /// What it took.
    took: Duration,
    /// Newest revision of each shard.
    pub(super) prepared: BTreeMap<ShardId, Revision>,
    pub(super) refused: BTreeMap<ShardId, Revision>,
    pub(super) acknowledged: BTreeMap<ShardId, Revision>,
    /// Not yet propagated.
    pub(super) changes: BTreeMap<Revision, Change>,
    /// While something is to be prepared.
    pub(super) prepare_by: Option<Duration>,
    /// While something is to be acknowledged.
    pub(super) acknowledge_by: Option<Duration>,
    pub(super) extensions: u32,
    pub(super) waiting_reported: bool,
    gone: bool,
}

impl Progress {
    pub(super) fn is_settled(&self) -> bool {
        self.target <= self.active && self.active <= self.propagated
    }

    /// Whether nothing is to be known of it.
    pub(super) fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.is_settled() && (self.gone || self.active == Revision(0))
    }

    pub(super) fn placed(&mut self, placed: &Placed, at: Revision) {
        let shards: BTreeSet<ShardId> = placed.everywhere.iter().copied().collect();
        for of in [
            &mut self.prepared,
            &mut self.refused,
            &mut self.acknowledged,
        ] {
            of.retain(|shard, _| shards.contains(shard));
        }
        if let Some(reported) = &mut self.reported {
            reported.retain(|shard| shards.contains(shard));
        }
        self.led_to = placed.shards.iter().copied().collect();
        self.shards = shards;
        self.placed = at;
        self.said = None;
    }

    /// Says who serves what is active, if the Gateway moves and that has changed.
    pub(super) fn moving(&mut self, gateway: &GatewayKey) -> Option<Action> {
        if self.led_to.len() == self.shards.len() {
            return None;
        }
        let at_least = if self.propagated > Revision(0) {
            self.propagated
        } else {
            self.active
        };
        let serves = |shard: &&ShardId| {
            let acknowledged = self.acknowledged.get(shard);
            self.gone || acknowledged.copied().unwrap_or_default() >= at_least
        };
        let serving: Vec<ShardId> = self.shards.iter().filter(serves).copied().collect();
        if self.said.as_ref() == Some(&serving) {
            return None;
        }
        self.said = Some(serving.clone());
        Some(Action::Moving {
            gateway: gateway.clone(),
            placed: self.placed,
            serving,
        })
    }

    pub(super) fn restore(&mut self, active: Revision, now: Duration, deadline: Duration) {
        self.active = active;
        self.target = self.target.max(active);
        if active > self.propagated {
            self.acknowledge_by = Some(now + deadline);
        }
        let change = Change {
            seen_at: now,
            traceparent: String::new(),
            measured: false,
        };
        self.changes.insert(active, change);
    }

    pub(super) fn commit(&mut self, revision: Revision, change: Change, deadline: Duration) {
        self.gone = false;
        self.target = self.target.max(revision);
        self.changes.insert(revision, change);
        if self.changes.len() > CHANGES_MAX {
            self.changes.pop_first();
        }
        // A deadline that runs already is not pushed: commits without end would never let it pass.
        if self.prepare_by.is_none() {
            self.prepare_by = Some(deadline);
            self.extensions = 0;
            self.waiting_reported = false;
        }
    }

    pub(super) fn activate(&mut self, revision: Revision, deadline: Duration) {
        self.active = self.active.max(revision);
        self.prepare_by = (self.target > self.active).then_some(deadline);
        self.extensions = 0;
        self.waiting_reported = false;
        if self.active > self.propagated {
            self.acknowledge_by.get_or_insert(deadline);
        }
    }

    /// The Gateway is gone: what its shards said of it means nothing any more.
    pub(super) fn end(&mut self) {
        self.gone = true;
        self.reported = None;
        self.prepared.clear();
        self.refused.clear();
        self.acknowledged.clear();
        (self.prepare_by, self.acknowledge_by) = (None, None);
    }

    /// Whether a shard that joins or leaves cannot serve the newest that it was asked for: clients are not led there, and nobody
    /// waits for it.
    pub(super) fn is_hindered(&self, shard: ShardId) -> bool {
        let prepared = self.prepared.get(&shard).copied().unwrap_or_default();
        !self.led_to.contains(&shard) && self.refused.get(&shard).is_some_and(|at| *at > prepared)
    }

    /// What a shard said on a stream that is no more.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.prepared.remove(&shard);
        self.refused.remove(&shard);
        self.acknowledged.remove(&shard);
    }

    /// Gives time until `deadline` at least.
    pub(super) fn extend(&mut self, deadline: Duration) {
        for by in [&mut self.prepare_by, &mut self.acknowledge_by] {
            *by = by.map(|by| by.max(deadline));
        }
    }

    /// Whether an answer is of a revision that there is, from a shard that is asked.
    fn is_known(&self, shard: ShardId, revision: Revision) -> bool {
        !self.gone && revision <= self.target && self.shards.contains(&shard)
    }

    pub(super) fn prepared(&mut self, shard: ShardId, revision: Revision) -> bool {
        if !self.is_known(shard, revision) {
            return false;
        }
        raise(&mut self.prepared, shard, revision);
        if self.refused.get(&shard).is_some_and(|at| *at == revision) {
            self.refused.remove(&shard);
        }
        true
    }

    pub(super) fn refused(&mut self, shard: ShardId, revision: Revision) {
        if self.is_known(shard, revision) {
            raise(&mut self.refused, shard, revision);
        }
    }

    pub(super) fn acknowledged(&mut self, shard: ShardId, revision: Revision) -> bool {
        if !self.is_known(shard, revision) || revision > self.active {
            return false;
        }
        raise(&mut self.prepared, shard, revision);
        raise(&mut self.acknowledged, shard, revision);
        true
    }

    /// The newest revision that all have prepared, if it is to be proposed now.
    pub(super) fn next_to_activate(&mut self, waited_for: &[ShardId]) -> Option<Revision> {
        let ready = least(&self.prepared, waited_for);
        let refused = |shard| self.refused.get(shard).is_some_and(|at| *at == ready);
        if ready <= self.active || ready <= self.proposed || waited_for.iter().any(refused) {
            return None;
        }
        self.proposed = ready;
        Some(ready)
    }

    /// Says what all serve when that has grown.
    pub(super) fn propagate(
        &mut self,
        gateway: &GatewayKey,
        waited_for: &[ShardId],
        now: Duration,
        deadline: Duration,
    ) -> Option<Action> {
        if self.gone {
            return None;
        }
        let served = least(&self.acknowledged, waited_for);
        let more = served > self.propagated;
        let revision = served.max(self.propagated);
        let all = self.acknowledged.iter().filter(|(_, at)| **at >= revision);
        let all: BTreeSet<ShardId> = all.map(|(shard, _)| *shard).collect();
        let acknowledged = self.led_to.intersection(&all).count();
        let is_more = |reported: &BTreeSet<ShardId>| {
            self.led_to
                .intersection(&all)
                .any(|shard| !reported.contains(shard))
        };
        let changes = if more {
            let (took, changes) = self.settle(revision, now);
            self.took = took;
            self.acknowledge_by = (self.active > self.propagated).then_some(deadline);
            self.reported = None;
            changes
        } else if self.propagated > Revision(0) && self.reported.as_ref().is_some_and(is_more) {
            Vec::new()
        } else {
            return None;
        };
        self.reported.get_or_insert_default().extend(all);
        Some(Action::Propagated {
            gateway: gateway.clone(),
            revision,
            acknowledged,
            total: self.led_to.len(),
            took: self.took,
            changes,
        })
    }

    /// A revision is served by all: what it took, and what each change took that is served by it.
    pub(super) fn settle(
        &mut self,
        revision: Revision,
        now: Duration,
    ) -> (Duration, Vec<Duration>) {
        self.propagated = revision;
        let later = self.changes.split_off(&Revision(revision.0 + 1));
        let changes = std::mem::replace(&mut self.changes, later);
        let took = |change: &Change| now.saturating_sub(change.seen_at);
        let measured = changes.values().filter(|change| change.measured);
        (
            changes.values().next_back().map(took).unwrap_or_default(),
            measured.map(took).collect(),
        )
    }
}

fn raise(of: &mut BTreeMap<ShardId, Revision>, shard: ShardId, revision: Revision) {
    let at = of.entry(shard).or_default();
    *at = (*at).max(revision);
}

/// The revision that each of these shards has reached.
fn least(of: &BTreeMap<ShardId, Revision>, shards: &[ShardId]) -> Revision {
    let reached = |shard| of.get(shard).copied().unwrap_or_default();
    shards.iter().map(reached).min().unwrap_or_default()
}
