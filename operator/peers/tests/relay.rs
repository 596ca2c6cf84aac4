//! What a follower's shards say reaches whoever leads.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::sync::Arc;

use api::{GatewayKey, Revision, ShardId};
use operator_distribute::Event;
use operator_identity::Authority;
use support::{Claim, Heard, Replica, start, wait_until};

const SHARD: ShardId = ShardId(7);

fn acknowledged(revision: u64) -> Event {
    let gateway = GatewayKey {
        namespace: "n".into(),
        name: "g".into(),
    };
    Event::Acknowledged(SHARD, gateway, Revision(revision))
}

/// Of the third replica.
fn heard(events: impl IntoIterator<Item = Event>) -> Vec<Heard> {
    let heard = |event| Heard::Relayed(2, event);
    events.into_iter().map(heard).collect()
}

/// Three replicas; the first leads, and has heard that the third has a shard.
fn three() -> Vec<Replica> {
    three_with(&Arc::new(Authority::make().unwrap()))
}

fn three_with(authority: &Arc<Authority>) -> Vec<Replica> {
    let replicas = start(&[1, 2, 3].map(|id| Claim::of(id, authority)));
    replicas[0].leader(1);
    replicas[2].shards.tell(Event::Connected(SHARD));
    replicas[2].leader(1);
    let first = heard([Event::Restarted, Event::Connected(SHARD)]);
    replicas[0].shards.expect(first);
    replicas
}

#[test]
fn the_leader_hears_each_event_and_a_new_one_all_that_is_so() {
    let replicas = three();
    replicas[2].shards.tell(acknowledged(1));
    replicas[0].shards.expect(heard([acknowledged(1)]));
    let waiting = || replicas[2].metric("shardway_relay_waiting", "");
    wait_until(|| waiting() == 0);

    // The second leads, and the third hears of it before the first does.
    replicas[1].leader(2);
    replicas[2].leader(2);
    replicas[0].shards.expect([Heard::Ended(2)]);
    let all = [Event::Restarted, Event::Connected(SHARD), acknowledged(1)];
    replicas[1].shards.expect(heard(all.clone()));
    replicas[2].shards.tell(acknowledged(2));
    replicas[1].shards.expect(heard([acknowledged(2)]));

    // The third leads itself for a while.
    replicas[2].leader(3);
    replicas[1].shards.expect([Heard::Ended(2)]);
    replicas[2].leader(2);
    let all = all.into_iter().chain([acknowledged(2)]);
    replicas[1].shards.expect(heard(all));
    assert_eq!(replicas[0].shards.heard(), []);
}

#[test]
fn one_that_does_not_lead_any_more_takes_nothing() {
    let replicas = three();
    replicas[0].leader(2);
    replicas[0].shards.expect([Heard::Ended(2)]);
    let ends = || replicas[2].metric("shardway_relay_ends", "");
    let before = ends();
    wait_until(|| ends() > before + 1);
    assert_eq!(replicas[0].shards.heard(), []);
    replicas[0].leader(1);
    let all = [Event::Restarted, Event::Connected(SHARD)];
    replicas[0].shards.expect(heard(all));
}

#[test]
fn a_replica_that_crashes_has_no_shards_any_more() {
    let mut replicas = three();
    replicas[2].crash();
    replicas[0].shards.expect([Heard::Ended(2)]);
}

#[test]
fn events_that_end_begin_anew() {
    let replicas = three();
    replicas[2].shards.end_events();
    let mut expected = vec![Heard::Ended(2)];
    expected.extend(heard([Event::Restarted, Event::Connected(SHARD)]));
    replicas[0].shards.expect(expected);
}

#[test]
fn a_newer_call_of_a_replica_begins_once_the_older_one_has_ended() {
    let authority = Arc::new(Authority::make().unwrap());
    let mut replicas = three_with(&authority);
    let leader = replicas.remove(0);
    // The same replica once more, while the first one's connection is still open.
    let again = Replica::start(
        &Claim::of(3, &authority),
        support::free(),
        leader.directory.clone(),
    );
    again.leader(1);
    wait_until(|| leader.shards.heard().len() >= 2);
    assert_eq!(
        leader.shards.heard()[..2],
        [Heard::Ended(2), Heard::Relayed(2, Event::Restarted)]
    );
}
