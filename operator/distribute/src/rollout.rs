//! Consistent rollout of each Gateway, as a state machine: events and the time in, actions out. [pure]
//!
//! | state of a Gateway | on | goes to |
//! |---|---|---|
//! | settled | committed | preparing: each live shard is asked |
//! | preparing | every live, unfenced shard prepared | activating: `Activate` is proposed |
//! | preparing | refused by a shard | refused: the active revision serves on until a newer one is committed |
//! | preparing | deadline, enough answered | the silent shards are fenced, activating |
//! | preparing | deadline, too few answered | preparing still; reported as waiting |
//! | activating | activated | acknowledging |
//! | acknowledging | every live, unfenced shard acknowledged | settled: reported as propagated |
//! | any | newer revision committed | preparing the newest |
//!
//! Fencing takes a silent shard out of a rollout, never out of service here: at most half of a Gateway's shards, a
//! quarter of the pool (one at least), never the last. A fenced shard that answers is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};

/// How often a shard may move the deadline of one revision by saying that it is busy.
const EXTENSIONS_MAX: u32 = 20;

/// What the rollout asks for or says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Propose to activate.
    Activate(GatewayKey, Revision),
    /// Every live shard serves the revision.
    Propagated {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that acknowledged.
        acknowledged: usize,
        /// Shards of the Gateway.
        total: usize,
        /// Since it was committed.
        took: Duration,
    },
    /// Too few shards answered in time; nothing is activated until more do.
    Waiting {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that are prepared.
        prepared: usize,
        /// Shards of the Gateway.
        total: usize,
    },
    /// The rollout went on without a shard.
    Fenced(ShardId, GatewayKey),
}

/// Rollouts of all Gateways.
#[derive(Debug)]
pub struct Rollout {
    deadline: Duration,
    live: BTreeSet<ShardId>,
    gateways: BTreeMap<GatewayKey, Progress>,
    fenced: BTreeSet<ShardId>,
}

#[derive(Debug, Default)]
struct Progress {
    shards: BTreeSet<ShardId>,
    /// Newest committed revision.
    target: Revision,
    committed_at: Duration,
    deadline_at: Duration,
    extensions: u32,
    /// Newest revision that each shard prepared.
    prepared: BTreeMap<ShardId, Revision>,
    refused: BTreeSet<ShardId>,
    /// Revision that was proposed for activation.
    proposed: Revision,
    active: Revision,
    acknowledged: BTreeMap<ShardId, Revision>,
    propagated: Revision,
    waiting_reported: bool,
}

impl Rollout {
    /// A rollout whose shards have `deadline` to prepare a revision.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            live: BTreeSet::new(),
            gateways: BTreeMap::new(),
            fenced: BTreeSet::new(),
        }
    }

    /// Gateways with a committed revision that is not active.
    pub fn waiting(&self) -> usize {
        self.gateways
            .values()
            .filter(|progress| progress.target > progress.active)
            .count()
    }

    /// Shards that rollouts go on without.
    pub fn fenced(&self) -> usize {
        self.fenced.len()
    }

    /// Where a Gateway stands at start or after a change of its placement.
    pub fn placed(
        &mut self,
        gateway: &GatewayKey,
        shards: impl IntoIterator<Item = ShardId>,
        now: Duration,
    ) -> Vec<Action> {
        self.progress(gateway).shards = shards.into_iter().collect();
        self.step(gateway, now)
    }

    /// A Gateway as it was found at start: what is active, and the newest committed revision.
    pub fn restored(
        &mut self,
        gateway: &GatewayKey,
        active: Revision,
        tip: Revision,
        now: Duration,
    ) -> Vec<Action> {
        self.progress(gateway).active = active;
        self.committed(gateway, tip, now)
    }

    /// A revision was committed.
    pub fn committed(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        now: Duration,
    ) -> Vec<Action> {
        let deadline = self.deadline;
        let progress = self.progress(gateway);
        progress.target = progress.target.max(revision);
        progress.committed_at = now;
        progress.deadline_at = now + deadline;
        progress.extensions = 0;
        progress.refused.clear();
        progress.waiting_reported = false;
        self.step(gateway, now)
    }

    /// A revision was activated; `gone` when that removed the Gateway.
    pub fn activated(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        gone: bool,
        now: Duration,
    ) -> Vec<Action> {
        let progress = self.progress(gateway);
        progress.active = progress.active.max(revision);
        if gone && progress.target <= revision {
            let progress = self.gateways.remove(gateway).unwrap_or_default();
            return vec![Action::Propagated {
                gateway: gateway.clone(),
                revision,
                acknowledged: 0,
                total: progress.shards.len(),
                took: now.saturating_sub(progress.committed_at),
            }];
        }
        self.step(gateway, now)
    }

    /// A shard's stream is up. It says what it has prepared and serves by the usual events.
    pub fn connected(&mut self, shard: ShardId, now: Duration) -> Vec<Action> {
        self.live.insert(shard);
        self.fenced.remove(&shard);
        let deadline = self.deadline;
        for progress in self
            .gateways
            .values_mut()
            .filter(|progress| progress.shards.contains(&shard))
        {
            progress.prepared.remove(&shard);
            progress.acknowledged.remove(&shard);
            progress.refused.remove(&shard);
            if progress.target > progress.active {
                progress.deadline_at = progress.deadline_at.max(now + deadline);
            }
        }
        Vec::new()
    }

    /// A shard's stream is down: rollouts no longer wait for it.
    pub fn disconnected(&mut self, shard: ShardId, now: Duration) -> Vec<Action> {
        self.live.remove(&shard);
        self.fenced.remove(&shard);
        let affected: Vec<GatewayKey> = self
            .gateways
            .iter_mut()
            .filter(|(_, progress)| progress.shards.contains(&shard))
            .map(|(key, progress)| {
                progress.prepared.remove(&shard);
                progress.acknowledged.remove(&shard);
                progress.refused.remove(&shard);
                key.clone()
            })
            .collect();
        affected
            .iter()
            .flat_map(|gateway| self.step(gateway, now))
            .collect()
    }

    /// A shard has built and bound a revision.
    pub fn prepared(
        &mut self,
        shard: ShardId,
        gateway: &GatewayKey,
        revision: Revision,
        now: Duration,
    ) -> Vec<Action> {
        self.fenced.remove(&shard);
        let progress = self.progress(gateway);
        let prepared = progress.prepared.entry(shard).or_default();
        *prepared = (*prepared).max(revision);
        if revision == progress.target {
            progress.refused.remove(&shard);
        }
        self.step(gateway, now)
    }

    /// A shard cannot serve a revision.
    pub fn refused(&mut self, shard: ShardId, gateway: &GatewayKey, revision: Revision) {
        let progress = self.progress(gateway);
        if revision == progress.target {
            progress.refused.insert(shard);
        }
    }

    /// A shard needs longer.
    pub fn busy(&mut self, gateway: &GatewayKey, revision: Revision, by: Duration, now: Duration) {
        let limit = self.deadline * 4;
        let progress = self.progress(gateway);
        if revision == progress.target && progress.extensions < EXTENSIONS_MAX {
            progress.extensions += 1;
            progress.deadline_at = progress.deadline_at.max(now + by.min(limit));
        }
    }

    /// A shard serves a revision.
    pub fn acknowledged(
        &mut self,
        shard: ShardId,
        gateway: &GatewayKey,
        revision: Revision,
        now: Duration,
    ) -> Vec<Action> {
        self.fenced.remove(&shard);
        let progress = self.progress(gateway);
        for of in [&mut progress.acknowledged, &mut progress.prepared] {
            let at = of.entry(shard).or_default();
            *at = (*at).max(revision);
        }
        self.step(gateway, now)
    }

    /// Time has passed: deadlines are looked at. Cost: O(Gateways); called every 100 ms.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let due: Vec<GatewayKey> = self
            .gateways
            .iter()
            .filter(|(_, p)| p.target > p.propagated && now >= p.deadline_at)
            .map(|(key, _)| key.clone())
            .collect();
        let mut actions = Vec::new();
        for gateway in due {
            actions.extend(self.fence(&gateway));
            actions.extend(self.step(&gateway, now));
        }
        actions
    }

    fn progress(&mut self, gateway: &GatewayKey) -> &mut Progress {
        self.gateways.entry(gateway.clone()).or_default()
    }

    /// Takes silent shards out of a rollout whose deadline has passed, within the bounds.
    fn fence(&mut self, gateway: &GatewayKey) -> Vec<Action> {
        let Some(progress) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        let wanted = progress.target;
        let of = if progress.active >= wanted {
            &progress.acknowledged
        } else {
            &progress.prepared
        };
        let answered = |shard: &ShardId| of.get(shard).is_some_and(|at| *at >= wanted);
        let total = progress.shards.len();
        let done = progress
            .shards
            .iter()
            .filter(|shard| answered(shard))
            .count();
        let silent: Vec<ShardId> = progress
            .shards
            .iter()
            .filter(|shard| self.live.contains(shard) && !self.fenced.contains(shard))
            .filter(|shard| !answered(shard) && !progress.refused.contains(shard))
            .copied()
            .collect();
        let out = progress
            .shards
            .iter()
            .filter(|shard| self.fenced.contains(shard))
            .count();
        let pool_limit = (self.live.len() / 4).max(1);
        let allowed = done * 2 >= total
            && done > 0
            && out + silent.len() <= total / 2
            && self.fenced.len() + silent.len() <= pool_limit;
        if !allowed {
            if silent.is_empty() || progress.waiting_reported {
                return Vec::new();
            }
            progress.waiting_reported = true;
            return vec![Action::Waiting {
                gateway: gateway.clone(),
                revision: wanted,
                prepared: done,
                total,
            }];
        }
        silent
            .into_iter()
            .map(|shard| {
                self.fenced.insert(shard);
                Action::Fenced(shard, gateway.clone())
            })
            .collect()
    }

    /// Moves one Gateway as far as it can go.
    fn step(&mut self, gateway: &GatewayKey, now: Duration) -> Vec<Action> {
        let Some(progress) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        let waited_for: Vec<ShardId> = progress
            .shards
            .iter()
            .filter(|shard| self.live.contains(shard) && !self.fenced.contains(shard))
            .copied()
            .collect();
        // Nobody there: the first shard to come decides.
        if waited_for.is_empty() {
            return Vec::new();
        }
        let reached = |of: &BTreeMap<ShardId, Revision>, at: Revision| {
            waited_for
                .iter()
                .all(|shard| of.get(shard).is_some_and(|have| *have >= at))
        };
        let mut actions = Vec::new();
        let target = progress.target;
        if target > progress.active
            && progress.proposed < target
            && progress.refused.is_empty()
            && reached(&progress.prepared, target)
        {
            progress.proposed = target;
            actions.push(Action::Activate(gateway.clone(), target));
        }
        let active = progress.active;
        if active > progress.propagated && reached(&progress.acknowledged, active) {
            progress.propagated = active;
            let acknowledged = progress
                .shards
                .iter()
                .filter(|s| progress.acknowledged.get(s).is_some_and(|at| *at >= active))
                .count();
            actions.push(Action::Propagated {
                gateway: gateway.clone(),
                revision: active,
                acknowledged,
                total: progress.shards.len(),
                took: now.saturating_sub(progress.committed_at),
            });
        }
        actions
    }
}

#[cfg(test)]
mod tests;
