#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn gateway() -> GatewayKey {
    GatewayKey::new("team-a", "web")
}

/// Places the Gateway on shards, with others that join or leave.
fn place(rollout: &mut Rollout, shards: &[u32], others: &[u32], at: u64) -> Vec<Action> {
    let mut everywhere: Vec<ShardId> = shards.iter().chain(others).copied().map(ShardId).collect();
    everywhere.sort_unstable();
    let placed = Placed {
        shards: shards.iter().copied().map(ShardId).collect(),
        everywhere,
    };
    rollout.placed(&gateway(), &placed, Revision(at), MS * 10)
}

fn rollout(shards: u32) -> Rollout {
    let mut rollout = Rollout::new(500 * MS, Duration::ZERO);
    let all: Vec<u32> = (0..shards).collect();
    place(&mut rollout, &all, &[], 1);
    for shard in 0..shards {
        rollout.connected(ShardId(shard), Duration::ZERO);
    }
    rollout
}

/// A commit whose cause was seen in the same moment.
fn commit(rollout: &mut Rollout, revision: u64, now: Duration) -> Vec<Action> {
    rollout.committed(&gateway(), Revision(revision), now, "", now)
}

fn propagated(revision: u64, shards: (usize, usize), took: u32, changes: &[u32]) -> Action {
    Action::Propagated {
        gateway: gateway(),
        revision: Revision(revision),
        acknowledged: shards.0,
        total: shards.1,
        took: MS * took,
        changes: changes.iter().map(|took| MS * *took).collect(),
    }
}

#[test]
fn a_revision_is_activated_when_the_last_live_shard_has_prepared() {
    let mut rollout = rollout(2);
    assert_eq!(commit(&mut rollout, 5, MS), []);
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
    assert_eq!(actions, [propagated(5, (2, 2), 5, &[5])]);
}

#[test]
fn a_shard_that_disconnects_is_not_waited_for() {
    let mut rollout = rollout(2);
    commit(&mut rollout, 5, MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    let actions = rollout.disconnected(ShardId(1), MS * 2);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(5))]);
}

#[test]
fn a_refused_revision_waits_for_a_newer_one() {
    let mut rollout = rollout(2);
    commit(&mut rollout, 5, MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    rollout.refused(ShardId(1), &gateway(), Revision(5), MS);
    assert_eq!(rollout.tick(MS * 1000), []);
    commit(&mut rollout, 7, MS * 1001);
    rollout.prepared(ShardId(0), &gateway(), Revision(7), MS * 1002);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(7), MS * 1003);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(7))]);
}

#[test]
fn a_silent_shard_is_fenced_after_the_deadline_and_returns_when_it_answers() {
    let mut rollout = rollout(2);
    commit(&mut rollout, 5, MS);
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
    commit(&mut rollout, 5, MS);
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
    commit(&mut rollout, 5, MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    rollout.busy(&gateway(), Revision(5), MS * 300, MS * 450);
    assert_eq!(rollout.tick(MS * 700), []);
    assert!(!rollout.tick(MS * 751).is_empty());
}

#[test]
fn without_any_shard_the_first_one_to_come_decides() {
    let mut rollout = Rollout::new(500 * MS, Duration::ZERO);
    place(&mut rollout, &[0, 1], &[], 1);
    commit(&mut rollout, 5, MS);
    assert_eq!(rollout.tick(MS * 5000), []);
    rollout.connected(ShardId(1), MS * 6000);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(5), MS * 6001);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(5))]);
}

#[test]
fn after_a_start_the_first_shard_to_come_does_not_decide_alone() {
    let mut rollout = Rollout::new(500 * MS, MS * 1000);
    rollout.restored(&gateway(), Revision(3), MS * 1000);
    commit(&mut rollout, 5, MS * 1000);
    place(&mut rollout, &[0, 1], &[], 1);
    rollout.connected(ShardId(0), MS * 1100);
    rollout.acknowledged(ShardId(0), &gateway(), Revision(3), MS * 1100);
    let first = rollout.prepared(ShardId(0), &gateway(), Revision(5), MS * 1101);
    assert_eq!(first, []);
    assert_eq!(rollout.tick(MS * 1900), [], "nor is the other fenced");
    rollout.connected(ShardId(1), MS * 2000);
    let second = rollout.prepared(ShardId(1), &gateway(), Revision(5), MS * 2001);
    assert_eq!(second, [Action::Activate(gateway(), Revision(5))]);
}

#[test]
fn a_shard_that_does_not_come_back_is_not_waited_for_and_is_reported_once_it_does() {
    let mut rollout = Rollout::new(500 * MS, Duration::ZERO);
    rollout.restored(&gateway(), Revision(3), Duration::ZERO);
    place(&mut rollout, &[0, 1], &[], 1);
    rollout.connected(ShardId(0), MS * 100);
    let first = rollout.acknowledged(ShardId(0), &gateway(), Revision(3), MS * 100);
    assert_eq!(first, []);
    assert_eq!(rollout.tick(MS * 2100), [propagated(3, (1, 2), 2100, &[])]);
    rollout.connected(ShardId(1), MS * 9000);
    let more = rollout.acknowledged(ShardId(1), &gateway(), Revision(3), MS * 9000);
    assert_eq!(more, [propagated(3, (2, 2), 2100, &[])]);
    // Another reconnect is no news.
    rollout.disconnected(ShardId(1), MS * 9100);
    rollout.connected(ShardId(1), MS * 9200);
    let again = rollout.acknowledged(ShardId(1), &gateway(), Revision(3), MS * 9200);
    assert_eq!(again, []);
}

#[test]
fn a_fenced_shard_that_returns_is_reported() {
    let mut rollout = rollout(2);
    commit(&mut rollout, 5, MS);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS);
    rollout.tick(MS * 600);
    rollout.activated(&gateway(), Revision(5), false, MS * 601);
    let without = rollout.acknowledged(ShardId(0), &gateway(), Revision(5), MS * 602);
    assert_eq!(without, [propagated(5, (1, 2), 601, &[601])]);
    let with = rollout.acknowledged(ShardId(1), &gateway(), Revision(5), MS * 900);
    assert_eq!(with, [propagated(5, (2, 2), 601, &[])]);
}

#[test]
fn answers_about_revisions_that_were_never_committed_count_for_nothing() {
    let mut rollout = rollout(2);
    commit(&mut rollout, 2, MS);
    for shard in [0, 1] {
        let (at, now) = (Revision(8817), MS * 2);
        assert_eq!(
            rollout.acknowledged(ShardId(shard), &gateway(), at, now),
            []
        );
        assert_eq!(rollout.prepared(ShardId(shard), &gateway(), at, now), []);
    }
    rollout.prepared(ShardId(0), &gateway(), Revision(2), MS * 3);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(2), MS * 3);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(2))]);
    rollout.activated(&gateway(), Revision(2), false, MS * 4);
    assert_eq!(rollout.tick(MS * 5), []);
}

#[test]
fn a_gateway_that_is_created_anew_goes_to_the_shards_that_its_placement_names() {
    let mut rollout = rollout(2);
    commit(&mut rollout, 5, MS);
    for shard in [0, 1] {
        rollout.prepared(ShardId(shard), &gateway(), Revision(5), MS * 2);
    }
    let gone = rollout.activated(&gateway(), Revision(5), true, MS * 3);
    assert_eq!(gone, [propagated(5, (0, 2), 2, &[2])]);
    for shard in [0, 1] {
        let late = rollout.acknowledged(ShardId(shard), &gateway(), Revision(5), MS * 4);
        assert_eq!(late, []);
    }
    commit(&mut rollout, 8, MS * 5);
    rollout.prepared(ShardId(0), &gateway(), Revision(8), MS * 6);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(8), MS * 6);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(8))]);
}

#[test]
fn nothing_is_kept_of_gateways_that_are_gone_or_were_never_there() {
    let mut rollout = rollout(2);
    let other = GatewayKey::new("team-b", "web");
    rollout.prepared(ShardId(0), &other, Revision(5), MS);
    rollout.acknowledged(ShardId(0), &other, Revision(5), MS);
    rollout.refused(ShardId(0), &other, Revision(5), MS);
    rollout.busy(&other, Revision(5), MS, MS);
    rollout.placed(&other, &Placed::default(), Revision(2), MS);
    assert_eq!(rollout.gateways.len(), 1);
    commit(&mut rollout, 5, MS);
    rollout.activated(&gateway(), Revision(5), true, MS * 3);
    place(&mut rollout, &[], &[], 4);
    assert!(rollout.gateways.is_empty() && rollout.open.is_empty());
}

#[test]
fn commits_that_come_faster_than_shards_answer_are_activated_as_far_as_all_have_prepared() {
    let mut rollout = rollout(2);
    // Each shard is one commit behind, for ever; every activation takes a commit.
    let (mut active, mut last) = (0, 0);
    for round in 1..1000_u64 {
        let now = MS * u32::try_from(round).unwrap();
        let mut actions = commit(&mut rollout, round, now);
        for shard in [0, 1].into_iter().filter(|_| round > 1) {
            actions.extend(rollout.prepared(ShardId(shard), &gateway(), Revision(round - 1), now));
            if active > 0 {
                let served = Revision(active);
                actions.extend(rollout.acknowledged(ShardId(shard), &gateway(), served, now));
            }
        }
        actions.extend(rollout.tick(now));
        for action in actions {
            match action {
                Action::Activate(_, revision) => {
                    active = revision.0;
                    let more = rollout.activated(&gateway(), revision, false, now);
                    assert_eq!(more, []);
                }
                Action::Propagated { revision, took, .. } => {
                    assert!(took <= MS * 3, "{took:?}");
                    last = revision.0;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(active >= 998 && last >= 996, "{active} {last}");
}

#[test]
fn commits_without_end_do_not_push_the_deadline_of_a_silent_shard() {
    let mut rollout = rollout(2);
    let mut fenced = None;
    for round in 1..1000_u64 {
        let now = MS * u32::try_from(round).unwrap();
        let mut actions = commit(&mut rollout, round, now);
        actions.extend(rollout.prepared(ShardId(0), &gateway(), Revision(round), now));
        actions.extend(rollout.tick(now));
        if actions.contains(&Action::Fenced(ShardId(1), gateway())) {
            fenced = Some(round);
            break;
        }
    }
    assert_eq!(fenced, Some(501));
}

#[test]
fn the_time_is_counted_from_when_the_change_was_seen() {
    let mut rollout = rollout(1);
    rollout.committed(&gateway(), Revision(5), MS * 40, "trace", MS * 100);
    assert_eq!(rollout.traceparent(&gateway(), Revision(5)), Some("trace"));
    rollout.committed(&gateway(), Revision(6), MS * 90, "", MS * 101);
    rollout.prepared(ShardId(0), &gateway(), Revision(6), MS * 110);
    rollout.activated(&gateway(), Revision(6), false, MS * 120);
    let actions = rollout.acknowledged(ShardId(0), &gateway(), Revision(6), MS * 140);
    assert_eq!(actions, [propagated(6, (1, 1), 50, &[100, 50])]);
}

fn moving(placed: u64, serving: &[u32]) -> Action {
    Action::Moving {
        gateway: gateway(),
        placed: Revision(placed),
        serving: serving.iter().copied().map(ShardId).collect(),
    }
}

/// Two shards serve revision 5 and know it.
fn serving() -> Rollout {
    let mut rollout = rollout(2);
    commit(&mut rollout, 5, MS);
    rollout.activated(&gateway(), Revision(5), false, MS * 2);
    for shard in [0, 1] {
        rollout.acknowledged(ShardId(shard), &gateway(), Revision(5), MS * 3);
    }
    rollout
}

#[test]
fn of_a_gateway_that_moves_it_is_said_who_serves_it() {
    let mut rollout = serving();
    rollout.connected(ShardId(2), MS * 4);
    assert_eq!(place(&mut rollout, &[0, 1], &[2], 7), [moving(7, &[0, 1])]);
    let actions = rollout.acknowledged(ShardId(2), &gateway(), Revision(5), MS * 20);
    assert_eq!(
        actions,
        [moving(7, &[0, 1, 2])],
        "it is not one of its shards yet"
    );
    // It takes the place of one that leaves.
    let actions = place(&mut rollout, &[1, 2], &[0], 8);
    assert_eq!(
        actions,
        [propagated(5, (2, 2), 2, &[]), moving(8, &[0, 1, 2])]
    );
    assert_eq!(
        rollout.disconnected(ShardId(0), MS * 30),
        [moving(8, &[1, 2])]
    );
    assert_eq!(place(&mut rollout, &[1, 2], &[], 9), []);
    assert_eq!(rollout.tick(MS * 5000), []);
}

#[test]
fn a_gateway_of_which_nothing_is_active_may_move_at_once() {
    let mut rollout = rollout(1);
    commit(&mut rollout, 5, MS);
    assert_eq!(place(&mut rollout, &[0], &[1], 7), [moving(7, &[0, 1])]);
    rollout.prepared(ShardId(0), &gateway(), Revision(5), MS * 20);
    let actions = rollout.activated(&gateway(), Revision(5), false, MS * 30);
    assert_eq!(actions, [moving(7, &[])]);
    let gone = rollout.activated(&gateway(), Revision(5), true, MS * 40);
    assert_eq!(gone.last(), Some(&moving(7, &[0, 1])));
}

#[test]
fn a_shard_that_joins_is_waited_for_and_fenced_without_being_missed() {
    let mut rollout = serving();
    rollout.connected(ShardId(2), MS * 4);
    place(&mut rollout, &[0, 1], &[2], 7);
    commit(&mut rollout, 8, MS * 20);
    for shard in [0, 1] {
        let actions = rollout.prepared(ShardId(shard), &gateway(), Revision(8), MS * 21);
        assert_eq!(actions, [], "the one that joins has it not");
    }
    assert_eq!(
        rollout.tick(MS * 521),
        [
            Action::Fenced(ShardId(2), gateway()),
            Action::Activate(gateway(), Revision(8))
        ]
    );
    rollout.activated(&gateway(), Revision(8), false, MS * 522);
    rollout.acknowledged(ShardId(0), &gateway(), Revision(8), MS * 523);
    let actions = rollout.acknowledged(ShardId(1), &gateway(), Revision(8), MS * 523);
    assert!(
        actions.contains(&propagated(8, (2, 2), 503, &[503])),
        "{actions:?}"
    );
    // When it answers, it is back.
    let actions = rollout.acknowledged(ShardId(2), &gateway(), Revision(8), MS * 600);
    assert_eq!(actions, [moving(7, &[0, 1, 2])]);
    assert_eq!(rollout.fenced(), 0);
}

#[test]
fn a_shard_that_joins_and_cannot_serve_holds_nobody_back() {
    let mut rollout = serving();
    rollout.connected(ShardId(2), MS * 4);
    place(&mut rollout, &[0, 1], &[2], 7);
    commit(&mut rollout, 8, MS * 20);
    rollout.prepared(ShardId(0), &gateway(), Revision(8), MS * 21);
    assert_eq!(
        rollout.refused(ShardId(2), &gateway(), Revision(8), MS * 21),
        []
    );
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(8), MS * 22);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(8))]);
    // Once it can serve something newer, it is waited for again.
    rollout.activated(&gateway(), Revision(8), false, MS * 23);
    commit(&mut rollout, 9, MS * 30);
    rollout.prepared(ShardId(2), &gateway(), Revision(9), MS * 33);
    commit(&mut rollout, 10, MS * 40);
    rollout.prepared(ShardId(0), &gateway(), Revision(10), MS * 41);
    let actions = rollout.prepared(ShardId(1), &gateway(), Revision(10), MS * 41);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(9))]);
    // And holds back no longer when it refuses last.
    let actions = rollout.refused(ShardId(2), &gateway(), Revision(10), MS * 42);
    assert_eq!(actions, [Action::Activate(gateway(), Revision(10))]);
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
    /// Whatever comes: an activation is for a revision that, or a newer one, was prepared by each live, unfenced shard; never twice or
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
                    commit(&mut rollout, tip.0, now)
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
                    rollout.connected(ShardId(n), now);
                    Vec::new()
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
                        prop_assert!(revision <= tip && revision > active);
                        let unprepared: Vec<u32> = live.iter().copied()
                            .filter(|n| prepared.get(n).is_none_or(|at| *at < revision)).collect();
                        prop_assert!(unprepared.len() <= rollout.fenced());
                        active = revision;
                        actions.extend(rollout.activated(&gateway(), revision, false, now));
                    }
                    Action::Propagated { revision, changes, .. } => {
                        // Said again for a shard more, or of something newer.
                        prop_assert!(revision >= propagated && revision <= active);
                        prop_assert!(revision > propagated || changes.is_empty());
                        propagated = revision;
                    }
                    Action::Fenced(..) => prop_assert!(rollout.fenced() <= 1),
                    Action::Waiting { .. } | Action::Moving { .. } => {}
                }
            }
        }
        prop_assert_eq!(propagated, tip);
    }
}
