//! Consistent rollout of each Gateway, as a state machine: events and the time in, actions out. [pure]
//!
//! | state of a Gateway | on | goes to |
//! |---|---|---|
//! | settled | committed | preparing: each live shard is asked |
//! | preparing | every live, unfenced shard prepared this or a newer revision | activating: `Activate` of the newest such revision is proposed |
//! | preparing | refused by a shard | what the others prepared waits: the active revision serves on until a newer one is committed |
//! | preparing | deadline, enough answered | the silent shards are fenced, activating |
//! | preparing | deadline, too few answered | preparing still; reported as waiting |
//! | activating | activated | acknowledging, and preparing if something newer is committed |
//! | acknowledging | every live, unfenced shard acknowledged this or a newer revision | settled: reported as propagated |
//! | settled | a shard more acknowledged | settled: reported as propagated again |
//!
//! A newer revision never holds back an older one: commits that come faster than shards answer are activated as far as
//! all have prepared, and a deadline runs from the last step forward, not from the last commit.
//!
//! Fencing takes a silent shard out of a rollout, never out of service here: at most half of a Gateway's shards, a
//! quarter of the pool (one at least), never the last. A fenced shard that answers for what is active is back.
//! While a Gateway moves, shards that join and leave are waited for as the others are, unless they refuse; they do not count
//! among its shards.
//! For [`RECONNECT_WITHIN`] after the start, shards that were not seen yet count as live: the first one to come does not
//! decide alone.

mod fence;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};

use crate::event::Placed;
use progress::{Change, Progress};

/// Time for the shards to come back after the start; theirs to reconnect is at most a second.
pub const RECONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How often a shard may move the deadline of one step by saying that it is busy.
const EXTENSIONS_MAX: u32 = 20;

/// What the rollout asks for or says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Propose to activate.
    Activate(GatewayKey, Revision),
    /// Every live shard serves the revision, or one more than the last time.
    Propagated {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that acknowledged.
        acknowledged: usize,
        /// Shards of the Gateway; those that join or leave do not count.
        total: usize,
        /// Since its cause was seen, until all that were live then served it.
        took: Duration,
        /// The same for each change that is served with it for the first time, this one included. Empty when it is said
        /// again, and for what was active before the start.
        changes: Vec<Duration>,
    },
    /// Too few shards answered in time; nothing is activated until more do.
    Waiting {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that answered.
        prepared: usize,
        /// Shards of the Gateway.
        total: usize,
    },
    /// Which shards serve what is active of a Gateway that moves; said at each change.
    Moving {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Where its placement was committed or read.
        placed: Revision,
        /// The shards; all that hold it while nothing is active.
        serving: Vec<ShardId>,
    },
    /// The rollout went on without a shard.
    Fenced(ShardId, GatewayKey),
}

/// Rollouts of all Gateways.
#[derive(Debug)]
pub struct Rollout {
    deadline: Duration,
    /// Until then shards that were never seen count as live; none once it has passed.
    grace: Option<Duration>,
    live: BTreeSet<ShardId>,
    seen: BTreeSet<ShardId>,
    gateways: BTreeMap<GatewayKey, Progress>,
    /// Those that are not settled.
    open: BTreeSet<GatewayKey>,
    fenced: BTreeSet<ShardId>,
}

impl Rollout {
    /// A rollout whose shards have `deadline` to prepare a revision.
    pub fn new(deadline: Duration, now: Duration) -> Self {
        Self {
            deadline,
            grace: Some(now + RECONNECT_WITHIN),
            live: BTreeSet::new(),
            seen: BTreeSet::new(),
            gateways: BTreeMap::new(),
            open: BTreeSet::new(),
            fenced: BTreeSet::new(),
        }
    }

    /// Gateways with a committed revision that is not active. Cost: O(Gateways that are not settled).
    pub fn waiting(&self) -> usize {
        let behind = |key: &&GatewayKey| {
            let progress = self.gateways.get(*key);
            progress.is_some_and(|progress| progress.target > progress.active)
        };
        self.open.iter().filter(behind).count()
    }

    /// Shards that rollouts go on without.
    pub fn fenced(&self) -> usize {
        self.fenced.len()
    }

    /// W3C `traceparent` of the change behind a revision that is not settled yet.
    pub fn traceparent(&self, gateway: &GatewayKey, revision: Revision) -> Option<&str> {
        let change = self.gateways.get(gateway)?.changes.get(&revision)?;
        Some(&change.traceparent)
    }

    /// A Gateway is on these shards from now on, as was committed or read at this revision.
    pub fn placed(
        &mut self,
        gateway: &GatewayKey,
        placed: &Placed,
        at: Revision,
        now: Duration,
    ) -> Vec<Action> {
        if placed.everywhere.is_empty() && !self.gateways.contains_key(gateway) {
            return Vec::new();
        }
        let progress = self.gateways.entry(gateway.clone()).or_default();
        progress.placed(placed, at);
        if progress.is_empty() {
            self.gateways.remove(gateway);
            self.open.remove(gateway);
            return Vec::new();
        }
        self.step(gateway, now)
    }

    /// A Gateway as it was found at start: what is active.
    pub fn restored(&mut self, gateway: &GatewayKey, active: Revision, now: Duration) {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        progress.restore(active, now, self.deadline);
        self.note(gateway);
    }

    /// A revision was committed; its cause was seen at `seen`.
    pub fn committed(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        seen: Duration,
        traceparent: &str,
        now: Duration,
    ) -> Vec<Action> {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        let change = Change {
            seen_at: seen,
            traceparent: traceparent.to_owned(),
            measured: true,
        };
        progress.commit(revision, change, now + self.deadline);
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
        let Some(progress) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        progress.activate(revision, now + self.deadline);
        if !(gone && progress.target <= revision) {
            return self.step(gateway, now);
        }
        let (took, changes) = progress.settle(revision, now);
        progress.end();
        let total = progress.led_to.len();
        let moving = progress.moving(gateway);
        // The shards stay known while the placement stands: a Gateway of that name may come back to them.
        if progress.is_empty() {
            self.gateways.remove(gateway);
        }
        self.note(gateway);
        let gone = Action::Propagated {
            gateway: gateway.clone(),
            revision,
            acknowledged: 0,
            total,
            took,
            changes,
        };
        [gone].into_iter().chain(moving).collect()
    }

    /// A shard's stream is up. It says what it has prepared and serves by the usual events.
    pub fn connected(&mut self, shard: ShardId, now: Duration) {
        self.live.insert(shard);
        self.seen.insert(shard);
        self.fenced.remove(&shard);
        let deadline = now + self.deadline;
        for progress in self.gateways.values_mut() {
            if progress.shards.contains(&shard) {
                progress.forget(shard);
                progress.extend(deadline);
            }
        }
    }

    /// A shard's stream is down: rollouts no longer wait for it.
    pub fn disconnected(&mut self, shard: ShardId, now: Duration) -> Vec<Action> {
        self.live.remove(&shard);
        self.fenced.remove(&shard);
        let mut affected = Vec::new();
        for (gateway, progress) in &mut self.gateways {
            if progress.shards.contains(&shard) {
                progress.forget(shard);
                affected.push(gateway.clone());
            }
        }
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
        let Some(progress) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        if !progress.prepared(shard, revision) {
            return Vec::new();
        }
        if revision >= progress.active {
            self.fenced.remove(&shard);
        }
        self.step(gateway, now)
    }

    /// A shard cannot serve a revision.
    pub fn refused(
        &mut self,
        shard: ShardId,
        gateway: &GatewayKey,
        revision: Revision,
        now: Duration,
    ) -> Vec<Action> {
        let Some(progress) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        progress.refused(shard, revision);
        self.step(gateway, now)
    }

    /// A shard needs longer.
    pub fn busy(&mut self, gateway: &GatewayKey, revision: Revision, by: Duration, now: Duration) {
        let limit = self.deadline * 4;
        if let Some(progress) = self.gateways.get_mut(gateway)
            && revision > progress.active
            && progress.extensions < EXTENSIONS_MAX
        {
            progress.extensions += 1;
            progress.extend(now + by.min(limit));
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
        let Some(progress) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        if !progress.acknowledged(shard, revision) {
            return Vec::new();
        }
        if revision >= progress.active {
            self.fenced.remove(&shard);
        }
        self.step(gateway, now)
    }

    /// Time has passed: deadlines are looked at. Cost: O(Gateways that are not settled); called every 100 ms.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        let graced = self.grace.is_some_and(|until| now >= until);
        if graced {
            self.grace = None;
        }
        for gateway in self.open.clone() {
            let fences = self.fence(&gateway, now);
            if graced || !fences.is_empty() {
                actions.extend(fences);
                actions.extend(self.step(&gateway, now));
            }
        }
        actions
    }

    /// Shards that a Gateway's rollout waits for.
    fn waited_for(&self, progress: &Progress) -> Vec<ShardId> {
        let there = |shard: &ShardId| {
            self.live.contains(shard) || (self.grace.is_some() && !self.seen.contains(shard))
        };
        let shards = progress.shards.iter().copied();
        shards
            .filter(|shard| there(shard) && !self.fenced.contains(shard))
            .filter(|shard| !progress.is_hindered(*shard))
            .collect()
    }

    /// Moves one Gateway as far as it can go.
    fn step(&mut self, gateway: &GatewayKey, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(progress) = self.gateways.get(gateway) {
            let waited_for = self.waited_for(progress);
            // With nobody there, the first shard to come decides.
            if !waited_for.is_empty()
                && let Some(progress) = self.gateways.get_mut(gateway)
            {
                let activate = progress.next_to_activate(&waited_for);
                actions.extend(activate.map(|at| Action::Activate(gateway.clone(), at)));
                let deadline = now + self.deadline;
                actions.extend(progress.propagate(gateway, &waited_for, now, deadline));
            }
        }
        let progress = self.gateways.get_mut(gateway);
        actions.extend(progress.and_then(|progress| progress.moving(gateway)));
        self.note(gateway);
        actions
    }

    /// Keeps the set of Gateways that are not settled.
    fn note(&mut self, gateway: &GatewayKey) {
        let open = |progress: &Progress| !progress.is_settled();
        if self.gateways.get(gateway).is_some_and(open) {
            self.open.insert(gateway.clone());
        } else {
            self.open.remove(gateway);
        }
    }
}

#[cfg(test)]
mod tests;
