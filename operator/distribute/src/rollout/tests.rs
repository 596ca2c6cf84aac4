#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn gateway() -> GatewayKey {
    GatewayKey::new("team-a", "web")
}

fn rollout(shards: u32) -> Rollout {
    let mut rollout = Rollout::new(500 * MS);
    rollout.placed(&gateway(), (0..shards).map(ShardId), Duration::ZERO);
    for shard in 0..shards {
        rollout.connected(ShardId(shard), Duration::ZERO);
    }
    rollout
}

#[test]
fn a_revision_is_activated_when_the_last_live_shard_has_prepared() {
    let mut rollout = rollout(2);
    assert_eq!(rollout.committed(&gateway(), Revision(5), MS), []);
    assert_eq!(
        rollout.prepared(ShardId(0), &gateway(), Revision(5), MS * 2),
        []
    );
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(5), MS * 3);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(5))]);
    rollout.activated(&gateway(), Revision(5), false, MS * 4);
    assert_eq!(
        rollout.acknowledged(ShardId(1), &gateway(), Revision(5), MS * 5),
        []
    );
    let actions = rollout.acknowledged(ShardId(0), &gateway(), Revision(5), MS * 6);
    let propagated = Action::Propagated {
        gateway: gateway(),
        revision: Revision(5),
        acknowledged: 2,
        total: 2,
        took: MS * 5,
    };
    assert_eq!(actions, [propagated]);
}

#[test]
fn a_shard_that_disconnects_is_not_waited_for() {
    let mut rollout = rollout(2);
    rollout.committed(&gateway(), Revision(5), MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    let actions = rollout.disconnected(ShardId(1), MS * 2);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(5))]);
}

#[test]
fn a_refused_revision_waits_for_a_newer_one() {
    let mut rollout = rollout(2);
    rollout.committed(&gateway(), Revision(5), MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    rollout.refused(ShardId(1), &gateway(), Revision(5));
    assert_eq!(rollout.tick(MS * 1000), []);
    rollout.committed(&gateway(), Revision(7), MS * 1001);
    rollout.prepared(ShardId(0), &gateway(), Revision(7), MS * 1002);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(7), MS * 1003);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(7))]);
}

#[test]
fn a_silent_shard_is_fenced_after_the_deadline_and_returns_when_it_answers() {
    let mut rollout = rollout(2);
    rollout.committed(&gateway(), Revision(5), MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    assert_eq!(rollout.tick(MS * 400), []);
    assert_eq!(
        rollout.tick(MS * 501),
        [
            Action::Fenced(ShardId(1), gateway()),
            Action::Activate(gateway(), Revision(5))
        ]
    );
    assert_eq!(rollout.fenced(), 1);
    rollout.prepared(ShardId(1), &gateway(), Revision(5), MS * 600);
    assert_eq!(rollout.fenced(), 0);
}

#[test]
fn when_most_are_silent_nobody_is_fenced_and_it_says_so_once() {
    let mut rollout = rollout(3);
    rollout.committed(&gateway(), Revision(5), MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    let waiting = Action::Waiting {
        gateway: gateway(),
        revision: Revision(5),
        prepared: 1,
        total: 3,
    };
    assert_eq!(rollout.tick(MS * 600), [waiting]);
    assert_eq!(rollout.tick(MS * 700), []);
}

#[test]
fn busy_moves_the_deadline() {
    let mut rollout = rollout(2);
    rollout.committed(&gateway(), Revision(5), MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    rollout.busy(&gateway(), Revision(5), MS * 300, MS * 450);
    assert_eq!(rollout.tick(MS * 700), []);
    assert!(!rollout.tick(MS * 751).is_empty());
}

#[test]
fn without_any_shard_the_first_one_to_come_decides() {
    let mut rollout = Rollout::new(500 * MS);
    rollout.placed(&gateway(), [ShardId(0), ShardId(1)], Duration::ZERO);
    rollout.committed(&gateway(), Revision(5), MS);
    assert_eq!(rollout.tick(MS * 5000), []);
    rollout.connected(ShardId(1), MS * 6000);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(5), MS * 6001);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(5))]);
}

#[derive(Debug, Clone)]
enum Event {
    Commit,
    Answer(u32),
    Connect(u32),
    Disconnect(u32),
    Tick(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        Just(Event::Commit),
        (0..4_u32).prop_map(Event::Answer),
        (0..4_u32).prop_map(Event::Connect),
        (0..4_u32).prop_map(Event::Disconnect),
        (1..900_u64).prop_map(Event::Tick),
    ];
    proptest::collection::vec(event, 1..120)
}

proptest! {
    /// Whatever comes: an activation is for the newest revision, prepared by each live, unfenced shard; never twice or
    /// backwards; fences stay within bounds; and once all answer, the newest revision is propagated.
    #[test]
    fn rollouts_are_safe_and_end(events in events()) {
        let mut rollout = rollout(4);
        let mut live: BTreeSet<u32> = (0..4).collect();
        let mut prepared: BTreeMap<u32, Revision> = BTreeMap::new();
        let (mut tip, mut active, mut now) = (Revision(0), Revision(0), Duration::ZERO);
        let finish: Vec<Event> = (0..4).map(Event::Connect).chain([Event::Commit])
            .chain((0..4).map(Event::Answer)).chain((0..4).map(Event::Answer)).collect();
        let mut propagated = Revision(0);
        for event in events.into_iter().chain(finish) {
            now += MS;
            let mut actions = match event {
                Event::Commit => {
                    tip = Revision(tip.0 + 1);
                    rollout.committed(&gateway(), tip, now)
                }
                // Answers with what a shard would know: prepares the newest, serves what is active.
                Event::Answer(n) if live.contains(&n) => {
                    prepared.insert(n, tip);
                    let mut actions = rollout.prepared(ShardId(n), &gateway(), tip, now);
                    if active.0 > 0 {
                        actions.extend(rollout.acknowledged(ShardId(n), &gateway(), active, now));
                    }
                    actions
                }
                Event::Answer(_) => Vec::new(),
                Event::Connect(n) => {
                    live.insert(n);
                    prepared.remove(&n);
                    rollout.connected(ShardId(n), now)
                }
                Event::Disconnect(n) => {
                    live.remove(&n);
                    prepared.remove(&n);
                    rollout.disconnected(ShardId(n), now)
                }
                Event::Tick(ms) => {
                    now += MS * u32::try_from(ms).unwrap_or(1);
                    rollout.tick(now)
                }
            };
            while let Some(action) = actions.pop() {
                match action {
                    Action::Activate(_, revision) => {
                        prop_assert_eq!(revision, tip);
                        prop_assert!(revision > active);
                        let unprepared: Vec<u32> = live.iter().copied()
                            .filter(|n| prepared.get(n) != Some(&revision)).collect();
                        prop_assert!(unprepared.len() <= rollout.fenced());
                        active = revision;
                        actions.extend(rollout.activated(&gateway(), revision, false, now));
                    }
                    Action::Propagated { revision, .. } => {
                        prop_assert!(revision > propagated && revision <= active);
                        propagated = revision;
                    }
                    Action::Fenced(..) => prop_assert!(rollout.fenced() <= 1),
                    Action::Waiting { .. } => {}
                }
            }
        }
        prop_assert_eq!(propagated, tip);
    }
}
