//! Where Gateways are to be, and the steps of a move there.

use std::collections::{BTreeMap, BTreeSet};

use api::{GatewayKey, ShardId};
use api_snapshot::facts::{Binding, Placement};

use super::{Allocator, Held};
use crate::rendezvous::by_weight;

/// A step of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Where the Gateway is from now on.
    pub placement: Placement,
    /// Bindings that have another target port now, because no shard could be found where the number was free. Clients that
    /// are led to the old one are refused until its endpoints are written.
    pub bindings: BTreeMap<u16, Binding>,
}

impl Allocator {
    /// The pool has another size, or other numbers of its shards serve each Gateway, from now on. New Gateways go by it;
    /// those that are there stay until they are moved. Whether it is another size than before.
    pub fn resize(&mut self, pool: u32, shards_per_gateway: usize) -> bool {
        let before = (self.pool, self.shards_per_gateway);
        (self.pool, self.shards_per_gateway) = (pool.max(1), shards_per_gateway.max(1));
        before != (self.pool, self.shards_per_gateway)
    }

    /// Gateways that are not where they are to be, or on their way. Cost: O(Gateways, pool).
    pub fn misplaced(&self) -> BTreeSet<GatewayKey> {
        let misplaced = self.gateways.iter().filter(|(gateway, held)| {
            let on_its_way = !held.joining.is_empty() || !held.leaving.is_empty();
            on_its_way || (!held.released && self.chosen(gateway, held) != held.shards)
        });
        misplaced.map(|(gateway, _)| gateway.clone()).collect()
    }

    /// Lets the shards join that a Gateway is to be on; where it was on its way before does not count any more. None when it
    /// is not wanted.
    pub fn begin_move(&mut self, gateway: &GatewayKey) -> Option<Moved> {
        let to = self.chosen(gateway, self.wanted(gateway)?);
        let mut held = self.gateways.remove(gateway)?;
        self.taken.let_go(&held);
        let joins = |shard: &&ShardId| !held.shards.contains(*shard);
        let joining = to.iter().filter(joins).copied().collect();
        // One that joined may have been leaving a moment before: clients may be led to it still.
        held.leaving.append(&mut held.joining);
        held.leaving.retain(|shard| !to.contains(shard));
        held.leaving.sort_unstable();
        held.joining = joining;
        held.to = to;
        let bindings = self.give_way(gateway, &mut held);
        let placement = held.placement();
        self.gateways.insert(gateway.clone(), held);
        Some(Moved {
            placement,
            bindings,
        })
    }

    /// Those that have joined take the place of those that are to leave. None when it is not wanted, or has not begun to move.
    pub fn hand_over(&mut self, gateway: &GatewayKey) -> Option<Placement> {
        self.wanted(gateway).filter(|held| !held.to.is_empty())?;
        self.change(gateway, |held| {
            let to = std::mem::take(&mut held.to);
            let (stay, leave): (Vec<ShardId>, _) = std::mem::take(&mut held.shards)
                .into_iter()
                .partition(|shard| to.contains(shard));
            held.shards = [stay, std::mem::take(&mut held.joining)].concat();
            held.leaving.extend(leave);
            held.shards.sort_unstable();
            held.leaving.sort_unstable();
        });
        self.placement(gateway)
    }

    /// Those that leave have left. None when it is not wanted.
    pub fn end_move(&mut self, gateway: &GatewayKey) -> Option<Placement> {
        self.wanted(gateway)?;
        self.change(gateway, |held| held.leaving.clear());
        self.placement(gateway)
    }

    /// Shards that a Gateway is to be on: by rendezvous hashing, but for those where others have its target ports. When that
    /// is so of all of them, it comes to those that it should and gets other target ports.
    pub(super) fn chosen(&self, gateway: &GatewayKey, held: &Held) -> Vec<ShardId> {
        let there = held.everywhere();
        let bindings = || held.bindings.values().chain(held.retired.values());
        let can_hold = |shard: &ShardId| {
            let free = |binding: &Binding| {
                let shard = std::slice::from_ref(shard);
                self.taken.is_target_free(binding.target_port, shard)
            };
            there.contains(shard) || bindings().all(free)
        };
        let best = by_weight(gateway, self.pool);
        let all = best.iter().copied();
        let mut chosen: Vec<ShardId> = all
            .clone()
            .filter(can_hold)
            .take(self.shards_per_gateway)
            .collect();
        if chosen.is_empty() {
            chosen = all.take(self.shards_per_gateway).collect();
        }
        chosen.sort_unstable();
        chosen
    }

    /// Changes the shards of a Gateway, and with them where its ports are taken.
    fn change(&mut self, gateway: &GatewayKey, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.gateways.get_mut(gateway) {
            self.taken.let_go(held);
            change(held);
            self.taken.hold(gateway, held);
        }
    }

    /// Takes what a Gateway's bindings need, and gives other target ports to those whose number is another Gateway's on a shard
    /// that joins.
    fn give_way(&mut self, gateway: &GatewayKey, held: &mut Held) -> BTreeMap<u16, Binding> {
        let shards = held.everywhere();
        let all = held.bindings.iter_mut().chain(&mut held.retired);
        let (stay, give_way): (Vec<_>, Vec<_>) =
            all.partition(|(_, binding)| self.taken.is_target_free(binding.target_port, &shards));
        for (_, binding) in &stay {
            self.taken.bind(gateway, &shards, binding);
        }
        let mut given = BTreeMap::new();
        for (port, binding) in give_way {
            let other = self.target_port(gateway, *port, &shards, &held.avoided, None);
            // Without any, two Gateways want one socket there: it is the first one's.
            if let Some(other) = other {
                binding.target_port = other;
                given.insert(*port, binding.clone());
            }
            self.taken.bind(gateway, &shards, binding);
        }
        given
    }
}
