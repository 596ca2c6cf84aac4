//! Moves of Gateways when the pool changes: plans them, commits their steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{Fact, FactKey};
use operator_placement::{MoveSettings, MoveStep, Moves};

use crate::delta;
use crate::pipeline::Pipeline;
use crate::pipeline::step::Step;

/// Gateways that join other shards at the same time.
const AT_ONCE_MAX: usize = 50;
/// Time that a shard serves on after endpoints lead elsewhere, at least; nodes go by them a moment later.
const LEAVE_AFTER: Duration = Duration::from_secs(10);

/// Moves, by this process's clock.
pub(crate) struct Moving {
    moves: Moves,
    started: Instant,
    /// Before that, Gateways stay where they are.
    is_pool_known: bool,
}

impl Moving {
    /// On one machine: the pool is what the flags say, and clients find a Gateway's shards by its address.
    pub(crate) fn by_addresses() -> Self {
        Self::new(true, Duration::ZERO, false)
    }

    /// In a cluster: the pool is told by [`Pipeline::pool_changed`], and clients are led by endpoints.
    pub(crate) fn by_endpoints() -> Self {
        Self::new(false, LEAVE_AFTER, true)
    }

    fn new(is_pool_known: bool, leave_after: Duration, waits_for_endpoints: bool) -> Self {
        Self {
            moves: Moves::new(MoveSettings {
                at_once_max: AT_ONCE_MAX,
                leave_after,
                waits_for_endpoints,
            }),
            started: Instant::now(),
            is_pool_known,
        }
    }

    /// Another replica leads: moves are its to go on with.
    pub(super) fn clear(&mut self) {
        self.moves.clear();
    }

    /// Gateways that wait to move, and that are moving.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.moves.counts()
    }

    /// These shards serve what is active of a Gateway that moves.
    pub(super) fn serving(
        &mut self,
        gateway: &GatewayKey,
        placed: Revision,
        serving: Vec<ShardId>,
    ) {
        self.moves.serving(gateway, placed, serving);
    }
}

impl Pipeline {
    /// The pool has so many shards from now on, and so many of them serve each Gateway. The same as before changes nothing.
    /// Gateways move in portions; the pool may not lose a shard before [`operator_placement::Allocator::highest_shard`] is
    /// below it.
    pub(crate) fn pool_changed(&mut self, shards: u32, shards_per_gateway: usize) {
        let is_news = self.allocator.resize(shards, shards_per_gateway);
        if !is_news && self.moving.is_pool_known {
            return;
        }
        self.moving.is_pool_known = true;
        if self.leads {
            self.moving.moves.plan(&self.allocator);
            let (waiting, _) = self.moving.moves.counts();
            tracing::info!(
                shards,
                shards_per_gateway,
                gateways = waiting,
                "the pool has changed; gateways move"
            );
        }
    }

    /// Gateways whose endpoints are waited for: each is to be answered by [`Pipeline::endpoints_written`].
    pub(crate) fn waiting_for_endpoints(&self) -> Vec<GatewayKey> {
        self.moving.moves.waiting_for_endpoints().cloned().collect()
    }

    /// Endpoints lead to these shards of a Gateway and to no other that is ready: those that leave it may, once nodes have
    /// heard of it.
    pub(crate) fn endpoints_written(&mut self, gateway: &GatewayKey, shards: &[ShardId]) {
        let now = self.moving.started.elapsed();
        self.moving
            .moves
            .endpoints_written(gateway, shards, &self.allocator, now);
    }
}

impl Pipeline {
    /// Goes on from what is committed, once that was read.
    pub(super) fn restart_moves(&mut self) {
        self.moving.moves.clear();
        if self.moving.is_pool_known {
            let at = self.machine.snapshot.read().revision();
            self.moving.moves.restart(&self.allocator, at);
        }
    }

    /// Commits the steps whose time has come.
    pub(super) async fn move_on(&mut self) {
        loop {
            let now = self.moving.started.elapsed();
            let steps = self.moving.moves.due(&mut self.allocator, now);
            if steps.is_empty() {
                return;
            }
            let step = self.step_of(&steps);
            let committed = self.propose(step, &[], Instant::now(), String::new()).await;
            if self.astray {
                return; // all is read anew
            }
            let at = committed.unwrap_or_else(|| self.machine.snapshot.read().revision());
            self.moving.moves.committed(&steps, at);
            self.needs_changed(steps.iter().map(|step| step.gateway.clone()));
            // Shards that join are in use before clients are led to them.
            self.tell_pool();
            for MoveStep {
                gateway, placement, ..
            } in &steps
            {
                tracing::info!(%gateway, revision = %at, shards = ?placement.shards, joining = ?placement.joining, leaving = ?placement.leaving, "gateway moves");
            }
        }
    }

    fn step_of(&self, steps: &[MoveStep]) -> Step {
        let snapshot = Arc::clone(&self.machine.snapshot);
        let snapshot = snapshot.read();
        let mut step = Step::default();
        for moved in steps {
            let key = FactKey::Placement(moved.gateway.clone());
            let fact = Fact::Placement(moved.placement.clone());
            delta::put_fact(&snapshot, &mut step.delta.facts, &key, &fact);
            for (port, binding) in &moved.bindings {
                tracing::warn!(gateway = %moved.gateway, port, target_port = binding.target_port, "no shard has the target port free; clients are refused until endpoints name the new one");
                let key = FactKey::Binding(moved.gateway.clone(), *port);
                let fact = Fact::Binding(binding.clone());
                delta::put_fact(&snapshot, &mut step.delta.facts, &key, &fact);
            }
        }
        step
    }
}
