//! Moves of Gateways from shard to shard, make before break, a portion at a time.
//!
//! | step | committed placement | goes on when |
//! |---|---|---|
//! | queued | as it was | there is room among those that join |
//! | joining | `joining` are those that come | all of them serve what is active |
//! | leaving | they are among `shards`; those that go are `leaving` | endpoints are written, [`Settings::leave_after`] has passed, and one of `shards` serves |
//! | done | `leaving` is empty: those that were are told to drop it | |
//!
//! A pool that changes again while Gateways move sends them elsewhere from where they are; nobody is let go before that.
//! After a change of leader, the steps go on from what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::facts::{Binding, Placement};

use crate::Allocator;

/// A Gateway that has not joined in this time does not keep others from moving: a shard of its may not exist yet.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// How moves are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Gateways that join other shards at the same time, at most; and steps that are committed together.
    pub at_once_max: usize,
    /// How long those that leave serve on, from when clients are led elsewhere.
    pub leave_after: Duration,
    /// Clients are led by endpoints that are written outside: [`Moves::endpoints_written`] says when.
    pub waits_for_endpoints: bool,
}

/// A step to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveStep {
    /// Whose.
    pub gateway: GatewayKey,
    /// Where it is from now on.
    pub placement: Placement,
    /// Bindings that are others than before.
    pub bindings: BTreeMap<u16, Binding>,
}

/// Moves that are to be done and under way. Bounded by the Gateways that there are. Times are of any one clock.
#[derive(Debug)]
pub struct Moves {
    settings: Settings,
    queue: BTreeSet<GatewayKey>,
    under_way: BTreeMap<GatewayKey, Move>,
    /// What was said of placements before this revision does not count.
    since: Revision,
}

#[derive(Debug, Clone)]
struct Move {
    phase: Phase,
    /// Shards that serve what is active, as was said last.
    serving: BTreeSet<ShardId>,
    /// Where its placement was committed; none while it is being committed.
    placed: Option<Revision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody wants the Gateway; should it come back, it goes on from where it is.
    Unwanted,
    Joining {
        since: Duration,
    },
    /// None until endpoints are written.
    Leaving {
        until: Option<Duration>,
    },
}

impl Moves {
    /// None yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            queue: BTreeSet::new(),
            under_way: BTreeMap::new(),
            since: Revision(0),
        }
    }

    /// Gateways that wait to move, and that are moving.
    pub fn counts(&self) -> (usize, usize) {
        (self.queue.len(), self.under_way.len())
    }

    /// The pool has changed: finds out what is to move. Cost: O(Gateways, pool).
    pub fn plan(&mut self, allocator: &Allocator) {
        self.queue = allocator.misplaced();
        self.under_way
            .retain(|gateway, _| self.queue.contains(gateway));
    }

    /// What is committed was read anew, at this revision: goes on from there. What shards serve is to be said anew.
    pub fn restart(&mut self, allocator: &Allocator, at: Revision) {
        self.clear();
        self.since = at;
        self.plan(allocator);
    }

    /// Forgets all moves.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.under_way.clear();
    }

    /// Steps were committed at this revision.
    pub fn committed<'a>(&mut self, steps: impl IntoIterator<Item = &'a MoveStep>, at: Revision) {
        for step in steps {
            if let Some(moving) = self.under_way.get_mut(&step.gateway) {
                moving.placed = Some(at);
            }
        }
    }

    /// These shards serve what is active of a Gateway that moves, and no others; said by who knows its placement of
    /// revision `placed`.
    pub fn serving(
        &mut self,
        gateway: &GatewayKey,
        placed: Revision,
        serving: impl IntoIterator<Item = ShardId>,
    ) {
        // Of an earlier placement it says nothing: a shard may have left and joined since.
        if let Some(moving) = self.under_way.get_mut(gateway)
            && moving.placed.is_some_and(|at| at <= placed)
        {
            moving.serving = serving.into_iter().collect();
        }
    }

    /// Gateways whose endpoints are waited for.
    pub fn waiting_for_endpoints(&self) -> impl Iterator<Item = &GatewayKey> {
        let waits = |moving: &Move| moving.phase == Phase::Leaving { until: None };
        let waiting = self.under_way.iter().filter(move |(_, m)| waits(m));
        waiting.map(|(gateway, _)| gateway)
    }

    /// Clients of a Gateway are led to `shards` of this placement, and to those alone.
    pub fn endpoints_written(
        &mut self,
        gateway: &GatewayKey,
        shards: &[ShardId],
        allocator: &Allocator,
        now: Duration,
    ) {
        let leave_at = now + self.settings.leave_after;
        if let Some(moving) = self.under_way.get_mut(gateway)
            && let Phase::Leaving { until } = &mut moving.phase
            && until.is_none()
            && allocator.shards(gateway) == Some(shards)
        {
            *until = Some(leave_at);
        }
    }

    /// Steps that are to be committed now, at most [`Settings::at_once_max`]: called until there are none. The allocator
    /// counts them as committed.
    pub fn due(&mut self, allocator: &mut Allocator, now: Duration) -> Vec<MoveStep> {
        let mut steps = self.go_on(allocator, now);
        let mut joining = self
            .under_way
            .values()
            .filter(|moving| matches!(moving.phase, Phase::Joining { since } if now < since + STUCK_AFTER))
            .count();
        while joining < self.settings.at_once_max
            && steps.len() < self.settings.at_once_max
            && let Some(gateway) = self.queue.pop_first()
        {
            let before = allocator.placement(&gateway);
            let moving = self.under_way.entry(gateway.clone());
            let moving = moving.or_insert_with(|| Move {
                phase: Phase::Unwanted,
                serving: BTreeSet::new(),
                placed: Some(self.since),
            });
            let Some(moved) = allocator.begin_move(&gateway) else {
                moving.phase = Phase::Unwanted;
                continue;
            };
            let placement = if moved.placement.joining.is_empty() {
                // Others leave, or nobody does any more.
                allocator.hand_over(&gateway).unwrap_or(moved.placement)
            } else {
                moved.placement
            };
            let is_news = before.as_ref() != Some(&placement) || !moved.bindings.is_empty();
            if !placement.joining.is_empty() {
                joining += 1;
                moving.phase = Phase::Joining { since: now };
            } else if placement.leaving.is_empty() {
                self.under_way.remove(&gateway);
            } else if is_news || !matches!(moving.phase, Phase::Leaving { .. }) {
                moving.phase = self.settings.leaving(now);
            }
            if is_news {
                if let Some(moving) = self.under_way.get_mut(&gateway) {
                    moving.placed = None;
                }
                steps.push(MoveStep {
                    gateway,
                    placement,
                    bindings: moved.bindings,
                });
            }
        }
        steps
    }

    /// Takes those a step further that are under way.
    fn go_on(&mut self, allocator: &mut Allocator, now: Duration) -> Vec<MoveStep> {
        let mut steps = Vec::new();
        let (mut over, mut again) = (Vec::new(), Vec::new());
        for (gateway, moving) in &mut self.under_way {
            if steps.len() == self.settings.at_once_max {
                break;
            }
            // It begins anew from where it is.
            if self.queue.contains(gateway) {
                continue;
            }
            let Some(at) = allocator.placement(gateway) else {
                moving.phase = Phase::Unwanted;
                if !allocator.holds(gateway) {
                    over.push(gateway.clone());
                }
                continue;
            };
            if moving.phase == Phase::Unwanted {
                again.push(gateway.clone());
                continue;
            }
            let serves = |shard: &ShardId| moving.serving.contains(shard);
            let placement = match moving.phase {
                Phase::Joining { .. }
                    if !at.joining.is_empty() && at.joining.iter().all(serves) =>
                {
                    moving.phase = self.settings.leaving(now);
                    allocator.hand_over(gateway)
                }
                Phase::Leaving { until: Some(until) }
                    if until <= now && at.shards.iter().any(serves) =>
                {
                    allocator.end_move(gateway)
                }
                _ => None,
            };
            let Some(placement) = placement else { continue };
            moving.placed = None;
            if placement.leaving.is_empty() {
                over.push(gateway.clone());
            }
            steps.push(MoveStep {
                gateway: gateway.clone(),
                placement,
                bindings: BTreeMap::new(),
            });
        }
        for gateway in over {
            self.under_way.remove(&gateway);
        }
        self.queue.extend(again);
        steps
    }
}

impl Settings {
    fn leaving(&self, now: Duration) -> Phase {
        let until = (!self.waits_for_endpoints).then_some(now + self.leave_after);
        Phase::Leaving { until }
    }
}

#[cfg(test)]
mod tests;
