use proptest::prelude::*;

use super::*;

const HERE: Source = Source::Here;
const THERE: Source = Source::Replica(2);
const SHARD: ShardId = ShardId(0);

fn web() -> GatewayKey {
    GatewayKey::new("team-a", "web")
}

fn acknowledged(revision: u64) -> Event {
    Event::Acknowledged(SHARD, web(), Revision(revision))
}

fn prepared(revision: u64) -> Event {
    Event::Prepared(SHARD, web(), Revision(revision))
}

#[test]
fn the_replica_that_a_shard_came_to_last_speaks_for_it() {
    let mut sources = Sources::default();
    sources.take(THERE, Event::Connected(SHARD));
    assert_eq!(sources.take(THERE, prepared(5)), [prepared(5)]);
    let connected = sources.take(HERE, Event::Connected(SHARD));
    assert_eq!(connected, [Event::Connected(SHARD)]);
    assert_eq!(sources.take(THERE, prepared(6)), [], "of before");
    assert_eq!(sources.take(HERE, acknowledged(5)), [acknowledged(5)]);
    // The old stream ends late.
    assert_eq!(sources.take(THERE, Event::Disconnected(SHARD)), []);
    assert_eq!(sources.take(HERE, prepared(7)), [prepared(7)]);
    assert_eq!(
        sources.all(),
        [Event::Connected(SHARD), acknowledged(5), prepared(7)]
    );
    let gone = sources.take(HERE, Event::Disconnected(SHARD));
    assert_eq!(gone, [Event::Disconnected(SHARD)]);
    assert_eq!(sources.all(), []);
    assert!(sources.connected.is_empty());
}

#[test]
fn word_that_came_late_is_made_up_for() {
    let mut sources = Sources::default();
    // The shard went from there to here, and what is said there takes its time.
    sources.take(HERE, Event::Connected(SHARD));
    sources.take(THERE, Event::Connected(SHARD));
    assert_eq!(sources.take(HERE, acknowledged(5)), []);
    let expected = [Event::Connected(SHARD), acknowledged(5)];
    assert_eq!(sources.take(THERE, Event::Disconnected(SHARD)), expected);
    sources.take(THERE, Event::Connected(SHARD));
    assert_eq!(sources.ended(THERE), expected, "a relay that ends");
    assert_eq!(sources.take(HERE, prepared(6)), [prepared(6)]);
}

#[test]
fn who_begins_to_listen_hears_all_that_counts() {
    let mut sources = Sources::default();
    assert_eq!(sources.of(HERE), [Event::Restarted]);
    sources.take(HERE, Event::Connected(SHARD));
    sources.take(THERE, Event::Connected(ShardId(1)));
    let refusal = |revision| {
        Event::Refused(Refusal {
            shard: SHARD,
            gateway: web(),
            revision: Revision(revision),
            listener: None,
            entry: None,
            port_unavailable: true,
            message: "taken".into(),
        })
    };
    for event in [acknowledged(3), prepared(5), refusal(6)] {
        sources.take(HERE, event);
    }
    let said = [acknowledged(3), prepared(5), refusal(6)];
    let begin = [Event::Restarted, Event::Connected(SHARD)];
    assert_eq!(sources.of(HERE), [&begin[..], &said].concat());
    assert_eq!(sources.said_of(SHARD, &web(), Revision(5)), said[1..]);
    assert_eq!(sources.said_of(SHARD, &web(), Revision(7)), []);
    sources.take(HERE, acknowledged(6));
    assert_eq!(
        sources.said_of(SHARD, &web(), Revision(0)),
        [acknowledged(6)]
    );
    sources.tidy(|_, _| false);
    assert_eq!(sources.of(HERE), begin);
    // What a shard says on a stream that is not open is not kept.
    sources.take(THERE, acknowledged(9));
    assert_eq!(sources.said_of(SHARD, &web(), Revision(0)), []);
}

proptest! {
    /// Shards go from replica to replica, each of which tells in order but as late as it likes: once all is told, what counts
    /// is what the shard said where it is.
    #[test]
    fn in_the_end_the_stream_that_is_open_counts(
        steps in proptest::collection::vec((0..3_u8, 0..3_u64, 0..6_u8), 1..80),
    ) {
        let mut sources = Sources::default();
        let mut on_their_way: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
        // What the rollout takes for true: the shard's state, if it is there.
        let mut told: Option<Revision> = None;
        let (mut at, mut truth) = (None, Revision(0));
        let tell = |told: &mut Option<Revision>, events: Vec<Event>| {
            for event in events {
                match event {
                    Event::Connected(_) => *told = Some(Revision(0)),
                    Event::Disconnected(_) => *told = None,
                    Event::Acknowledged(_, _, revision) => *told = Some(revision),
                    _ => {}
                }
            }
        };
        for (action, replica, delay) in steps {
            match action {
                0 => {
                    if let Some(old) = at.replace(replica) {
                        on_their_way.entry(old).or_default().push(Event::Disconnected(SHARD));
                    }
                    let there = on_their_way.entry(replica).or_default();
                    there.push(Event::Connected(SHARD));
                    if truth > Revision(0) {
                        there.push(acknowledged(truth.0));
                    }
                }
                1 => {
                    if let Some(at) = at {
                        truth = Revision(truth.0 + 1);
                        on_their_way.entry(at).or_default().push(acknowledged(truth.0));
                    }
                }
                _ => {
                    let queue = on_their_way.entry(replica).or_default();
                    let some = usize::from(delay).min(queue.len());
                    for event in queue.drain(..some) {
                        tell(&mut told, sources.take(Source::Replica(replica), event));
                    }
                }
            }
        }
        for (replica, queue) in on_their_way {
            for event in queue {
                tell(&mut told, sources.take(Source::Replica(replica), event));
            }
        }
        prop_assert_eq!(told, at.map(|_| truth));
    }
}
