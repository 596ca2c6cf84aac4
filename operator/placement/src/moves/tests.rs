#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::VecDeque;

use api_snapshot::{EntrySet, Fact, FactKey, Op};
use proptest::prelude::*;

use super::*;
use crate::{Request, Rules, WantedAddress, shards_of};

const SECOND: Duration = Duration::from_secs(1);
/// Time that clients go by endpoints of before.
const LAG: u64 = 4;

fn settings(waits_for_endpoints: bool) -> Settings {
    Settings {
        at_once_max: 3,
        leave_after: SECOND * 6,
        waits_for_endpoints,
    }
}

fn key(n: usize) -> GatewayKey {
    GatewayKey::new("team", &format!("g{n}"))
}

fn web() -> Request {
    Request {
        address: WantedAddress::Any,
        ports: [80, 443].into(),
    }
}

/// Who serves, and to whom clients are led.
#[derive(Default)]
struct World {
    now: u64,
    revision: u64,
    placements: BTreeMap<GatewayKey, (Revision, Placement)>,
    /// Shards that hold a Gateway, and from when on they serve it.
    held: BTreeMap<(GatewayKey, ShardId), u64>,
    /// Endpoints as they were written, with the time until which somebody goes by them.
    led: BTreeMap<GatewayKey, Vec<(u64, Vec<ShardId>)>>,
    /// What is said of who serves, on its way.
    said: VecDeque<(GatewayKey, Revision, Vec<ShardId>)>,
}

impl World {
    fn commit(&mut self, gateway: &GatewayKey, placement: &Placement, slow: u64) {
        self.revision += 1;
        let all = placement.everywhere();
        self.held
            .retain(|(of, shard), _| of != gateway || all.contains(shard));
        for shard in all {
            let at = self.now + slow;
            self.held.entry((gateway.clone(), shard)).or_insert(at);
        }
        let placed = (Revision(self.revision), placement.clone());
        self.placements.insert(gateway.clone(), placed);
    }

    fn serves(&self, gateway: &GatewayKey, shard: ShardId) -> bool {
        let at = self.held.get(&(gateway.clone(), shard));
        at.is_some_and(|at| *at <= self.now)
    }

    fn say(&mut self) {
        for (gateway, (placed, placement)) in &self.placements {
            let all = placement.everywhere().into_iter();
            let serving = all.filter(|shard| self.serves(gateway, *shard)).collect();
            self.said.push_back((gateway.clone(), *placed, serving));
        }
    }

    /// Writes the endpoints of a Gateway; clients go by what was there for a while.
    fn write(&mut self, gateway: &GatewayKey) -> Vec<ShardId> {
        let shards = self.placements[gateway].1.shards.clone();
        let led = self.led.entry(gateway.clone()).or_default();
        if led.last().is_none_or(|(_, at)| *at != shards) {
            if let Some((until, _)) = led.last_mut() {
                *until = self.now + LAG;
            }
            led.push((u64::MAX, shards.clone()));
        }
        led.retain(|(until, _)| *until > self.now);
        shards
    }

    /// Everybody to whom somebody may be led serves.
    fn check(&self) -> Result<(), TestCaseError> {
        for (gateway, led) in &self.led {
            for (until, shards) in led.iter().filter(|(until, _)| *until > self.now) {
                prop_assert!(!shards.is_empty());
                for shard in shards {
                    let serves = self.serves(gateway, *shard);
                    prop_assert!(serves, "{gateway} is led to {shard} until {until}");
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_move_is_three_steps_and_keeps_the_target_ports() {
    let mut allocator = Allocator::new(1, 1, Rules::Services);
    let first = allocator.plan(&key(0), &web());
    assert_eq!(first.placement.shards, [ShardId(0)]);
    let mut moves = Moves::new(settings(true));
    allocator.resize(2, 2);
    moves.plan(&allocator);
    let at = Duration::ZERO;
    let steps = moves.due(&mut allocator, at);
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].placement.joining, [ShardId(1)]);
    assert_eq!(steps[0].placement.shards, [ShardId(0)]);
    assert!(moves.due(&mut allocator, at).is_empty());
    // Before it is committed, nothing that is said can be of it.
    let both = [ShardId(0), ShardId(1)];
    moves.serving(&key(0), Revision(9), both);
    assert!(moves.due(&mut allocator, at).is_empty());
    moves.committed(&steps, Revision(5));
    moves.serving(&key(0), Revision(4), both);
    moves.serving(&key(0), Revision(5), [ShardId(0)]);
    assert!(moves.due(&mut allocator, at).is_empty());
    moves.serving(&key(0), Revision(5), both);
    let steps = moves.due(&mut allocator, at);
    assert_eq!(steps[0].placement, Placement::new(both.to_vec(), None));
    assert_eq!(moves.counts(), (0, 0));
    assert_eq!(allocator.highest_shard(), Some(ShardId(1)));
    assert_eq!(allocator.bindings(&key(0)), Some(&first.bindings));
    // And back.
    allocator.resize(1, 1);
    moves.plan(&allocator);
    let steps = moves.due(&mut allocator, at);
    assert_eq!(steps[0].placement.shards, [ShardId(0)]);
    assert_eq!(steps[0].placement.leaving, [ShardId(1)]);
    moves.committed(&steps, Revision(6));
    moves.serving(&key(0), Revision(6), both);
    assert!(moves.due(&mut allocator, SECOND * 60).is_empty());
    assert_eq!(moves.waiting_for_endpoints().count(), 1);
    moves.endpoints_written(&key(0), &both, &allocator, SECOND * 60);
    assert_eq!(moves.waiting_for_endpoints().count(), 1, "of before");
    moves.endpoints_written(&key(0), &[ShardId(0)], &allocator, SECOND * 60);
    assert_eq!(allocator.highest_shard(), Some(ShardId(1)));
    assert!(moves.due(&mut allocator, SECOND * 65).is_empty());
    let steps = moves.due(&mut allocator, SECOND * 66);
    assert_eq!(steps[0].placement, Placement::new(vec![ShardId(0)], None));
    assert_eq!(allocator.highest_shard(), Some(ShardId(0)));
    assert_eq!(allocator.bindings(&key(0)), Some(&first.bindings));
}

#[test]
fn a_shard_where_a_target_port_is_anothers_is_passed_over() {
    // Two allocators gave the same number on different shards.
    let placed = |n: usize, shard: u32, target_port: u16| {
        let binding = Binding {
            addresses: Vec::new(),
            public_port: 80,
            target_port,
        };
        [
            Op::put(
                &FactKey::Placement(key(n)),
                &Fact::Placement(Placement::new(vec![ShardId(shard)], None)),
            ),
            Op::put(&FactKey::Binding(key(n), 80), &Fact::Binding(binding)),
        ]
    };
    let facts = [placed(0, 0, 4000), placed(1, 1, 4000)].concat();
    let mut allocator = Allocator::new(2, 2, Rules::Services);
    allocator
        .restore(&facts.iter().collect::<EntrySet>())
        .unwrap();
    assert!(allocator.misplaced().is_empty());
    // With nowhere else to go, it gets another number.
    allocator.resize(1, 1);
    assert_eq!(allocator.misplaced(), [key(1)].into());
    let moved = allocator.begin_move(&key(1)).unwrap();
    assert_eq!(moved.placement.joining, [ShardId(0)]);
    assert_ne!(moved.bindings[&80].target_port, 4000);
    assert_eq!(
        allocator.bindings(&key(1)).unwrap()[&80],
        moved.bindings[&80]
    );
}

#[test]
fn a_gateway_that_is_removed_while_it_moves_goes_on_when_it_comes_back() {
    let mut allocator = Allocator::new(1, 1, Rules::Services);
    allocator.plan(&key(0), &web());
    let mut moves = Moves::new(settings(false));
    allocator.resize(2, 2);
    moves.plan(&allocator);
    let steps = moves.due(&mut allocator, SECOND);
    moves.committed(&steps, Revision(5));
    allocator.release(&key(0));
    assert!(moves.due(&mut allocator, SECOND).is_empty());
    assert_eq!(moves.counts(), (0, 1));
    let back = allocator.plan(&key(0), &web());
    assert_eq!(back.placement.joining, [ShardId(1)]);
    moves.serving(&key(0), Revision(5), [ShardId(0), ShardId(1)]);
    moves.due(&mut allocator, SECOND);
    moves.due(&mut allocator, SECOND);
    assert_eq!(allocator.shards(&key(0)).unwrap().len(), 2);
    allocator.release(&key(0));
    for port in [80, 443] {
        allocator.freed(&key(0), port);
    }
    moves.due(&mut allocator, SECOND);
    assert_eq!(moves.counts(), (0, 0));
}

proptest! {
    /// Whatever the pool does, and however late and stale what is said: whoever a client may be led to serves, no target port
    /// is two Gateways', and in the end everybody is where rendezvous hashing puts it.
    #[test]
    fn resizes_lose_no_gateway(
        steps in proptest::collection::vec((0..8_u8, 1..6_u32, 1..4_usize, 0..5_u64), 1..120),
        waits in any::<bool>(),
    ) {
        let mut allocator = Allocator::new(2, 2, Rules::Services);
        let mut moves = Moves::new(settings(waits));
        let mut world = World::default();
        for n in 0..8 {
            let plan = allocator.plan(&key(n), &web());
            world.commit(&key(n), &plan.placement, 0);
            world.write(&key(n));
        }
        let (mut pool, mut k) = (2, 2);
        let end = (0..400).map(|n| (if n % 2 == 0 { 3 } else { 5 }, 1, 1, 1));
        for (action, shards, of_each, slow) in steps.into_iter().chain(end) {
            match action {
                0 => {
                    (pool, k) = (shards, of_each);
                    allocator.resize(pool, k);
                    moves.plan(&allocator);
                }
                1 => {
                    // Another leader, which knows what is committed.
                    let facts: EntrySet = world.placements.iter().flat_map(|(gateway, (_, placement))| {
                        let bindings = allocator.bindings(gateway).unwrap().iter();
                        let bindings = bindings.map(|(port, binding)| Op::put(&FactKey::Binding(gateway.clone(), *port), &Fact::Binding(binding.clone())));
                        bindings.chain([Op::put(&FactKey::Placement(gateway.clone()), &Fact::Placement(placement.clone()))]).collect::<Vec<_>>()
                    }).collect::<Vec<Op>>().iter().collect();
                    allocator = allocator.emptied();
                    allocator.restore(&facts).unwrap();
                    moves.restart(&allocator, Revision(world.revision));
                    // It has read all placements at this revision.
                    for (placed, _) in world.placements.values_mut() {
                        *placed = Revision(world.revision);
                    }
                }
                2 => world.say(),
                _ => {
                    world.say();
                    while let Some((gateway, placed, serving)) = world.said.pop_front() {
                        moves.serving(&gateway, placed, serving);
                    }
                }
            }
            let now = SECOND * u32::try_from(world.now).unwrap();
            loop {
                let steps = moves.due(&mut allocator, now);
                if steps.is_empty() {
                    break;
                }
                for step in &steps {
                    prop_assert!(step.bindings.is_empty());
                    world.commit(&step.gateway, &step.placement, slow);
                    moves.committed([step], Revision(world.revision));
                }
            }
            if waits {
                let gateways: Vec<GatewayKey> = moves.waiting_for_endpoints().cloned().collect();
                for gateway in gateways.iter().take(usize::try_from(slow).unwrap()) {
                    let shards = world.write(gateway);
                    moves.endpoints_written(gateway, &shards, &allocator, now);
                }
            }
            // Without being waited for, they are written at once.
            for gateway in (0..8).map(key) {
                if !waits || slow > 2 {
                    world.write(&gateway);
                }
            }
            world.check()?;
            let mut taken = BTreeSet::new();
            for gateway in (0..8).map(key) {
                for shard in allocator.placement(&gateway).unwrap().everywhere() {
                    for binding in allocator.bindings(&gateway).unwrap().values() {
                        prop_assert!(taken.insert((shard, binding.target_port)));
                    }
                }
            }
            world.now += 1;
        }
        for gateway in (0..8).map(key) {
            let there = allocator.placement(&gateway).unwrap();
            prop_assert_eq!(there, Placement::new(shards_of(&gateway, pool, k), None));
        }
        prop_assert_eq!(moves.counts(), (0, 0));
    }
}
