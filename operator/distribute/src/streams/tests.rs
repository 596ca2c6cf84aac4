#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use api::{BackendKey, GatewayKey, Timestamp};
use api_snapshot::config::{
    BackendTarget, GatewayEntry, ListenerProtocol, ListenerSpec, RuleSpec, Timeouts,
    WeightedBackend,
};
use api_snapshot::facts::{Backend, BackendProtocol, Binding, Placement};
use api_snapshot::{
    Command, Delta, Epoch, Fact, FactKey, FactsDelta, GatewayEntryKey, PENDING_MAX, SetHash, encode,
};
use api_wire::delivery::to_shard::Message;

use api_wire::delivery::{FromShard, from_shard};

use super::*;

mod model;

const MS: Duration = Duration::from_millis(1);
const SHARD: ShardId = ShardId(0);

/// A state machine and the streams that follow it; entries are applied at once and told later, if so wished.
struct Replica {
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    streams: Streams,
    untold: Vec<AppliedEvent>,
    now: Duration,
}

/// The shard's end.
struct Shard {
    messages: mpsc::Receiver<Vec<ToShard>>,
}

impl Replica {
    /// With a history that has begun, at revision 1.
    fn new() -> Self {
        let mut snapshot = RoutingSnapshot::default();
        snapshot.apply(Revision(1), Command::Begin(Epoch(7)));
        Self::on(Arc::new(RwLock::new(snapshot)))
    }

    fn on(snapshot: Arc<RwLock<RoutingSnapshot>>) -> Self {
        let mut streams = Streams::new(Arc::clone(&snapshot), Arc::default(), Arc::default());
        streams.lead(true);
        Self {
            streams,
            snapshot,
            untold: Vec::new(),
            now: MS * 10_000,
        }
    }

    fn apply(&mut self, command: Command) -> Revision {
        let mut snapshot = self.snapshot.write();
        let index = Revision(snapshot.revision().0 + 1);
        let applied = snapshot.apply(index, command);
        drop(snapshot);
        self.untold.push(AppliedEvent { index, applied });
        index
    }

    fn tell(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for event in std::mem::take(&mut self.untold) {
            events.extend(self.streams.applied(&event, self.now));
        }
        events.extend(self.streams.settle(self.now));
        events
    }

    fn commit(&mut self, facts: Vec<Op>, gateway: &GatewayKey, ops: Vec<Op>) -> Revision {
        let chain = self.snapshot.read().gateway(gateway).cloned();
        let chain = chain.unwrap_or_default();
        let delta = GatewayDelta {
            gateway: gateway.clone(),
            base: chain.tip(),
            hash: chain.tip_hash_after(&ops),
            ops,
            removed: false,
        };
        let gateways = if delta.ops.is_empty() {
            Vec::new()
        } else {
            vec![delta]
        };
        self.apply(Command::Commit(Delta {
            facts: FactsDelta { ops: facts },
            gateways,
            origin: Origin {
                traceparent: "trace".into(),
                ..Origin::default()
            },
        }))
    }

    fn remove(&mut self, gateway: &GatewayKey) -> Revision {
        let base = self.snapshot.read().gateway(gateway).unwrap().tip();
        let delta = GatewayDelta {
            gateway: gateway.clone(),
            base,
            ops: Vec::new(),
            hash: SetHash::default(),
            removed: true,
        };
        self.apply(Command::Commit(Delta {
            gateways: vec![delta],
            ..Delta::default()
        }))
    }

    fn activate(&mut self, gateway: &GatewayKey, revision: Revision) {
        self.apply(Command::Activate(vec![(gateway.clone(), revision)]));
    }

    fn connect(&mut self, shard: ShardId, hello: delivery::Hello) -> (Shard, Vec<Event>) {
        let (out, messages) = mpsc::channel(1024);
        let mut events = self.streams.connected(shard, 1, hello, out, self.now);
        events.extend(self.streams.settle(self.now));
        (Shard { messages }, events)
    }

    fn resync(&mut self, shard: ShardId, gateway: Option<&GatewayKey>) -> Vec<Event> {
        self.resync_at(shard, gateway, 0)
    }

    /// Asks while a revision serves.
    fn resync_at(
        &mut self,
        shard: ShardId,
        gateway: Option<&GatewayKey>,
        active: u64,
    ) -> Vec<Event> {
        let message = from_shard::Message::Resync(delivery::Resync {
            gateway: gateway.map(Into::into),
            reason: "a test".into(),
            active,
        });
        let message = FromShard {
            message: Some(message),
        };
        let mut events = self.streams.message(shard, message, self.now);
        events.extend(self.streams.settle(self.now));
        events
    }
}

impl Shard {
    fn received(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Ok(batch) = self.messages.try_recv() {
            all.extend(batch.into_iter().filter_map(|message| message.message));
        }
        all
    }

    /// What came, in short.
    fn texts(&mut self) -> Vec<String> {
        self.received().iter().map(text).collect()
    }
}

fn text(message: &Message) -> String {
    let name = |key: &Option<delivery::GatewayKey>| key.clone().unwrap().name;
    match message {
        Message::Welcome(m) => format!("welcome {}", m.epoch),
        Message::Facts(m) => {
            let gone = m.ops.iter().filter(|op| op.value.is_none()).count();
            let how = if m.replace { "all facts" } else { "facts" };
            format!("{how} +{} -{gone}", m.ops.len() - gone)
        }
        Message::Prepare(m) => {
            let how = if m.replace { "whole" } else { "delta" };
            let how = if m.removed { "removal" } else { how };
            format!("{how} {} {}->{}", name(&m.gateway), m.base, m.revision)
        }
        Message::Activate(m) => format!("activate {} {}", name(&m.gateway), m.revision),
        Message::Drop(m) => format!("drop {}", name(&m.gateway)),
        Message::Synced(_) => "synced".into(),
    }
}

fn web() -> GatewayKey {
    GatewayKey::new("team-a", "web")
}

fn placed(gateway: &GatewayKey, shards: &[u32]) -> Op {
    moving(gateway, shards, &[], &[])
}

fn moving(gateway: &GatewayKey, shards: &[u32], joining: &[u32], leaving: &[u32]) -> Op {
    let ids = |of: &[u32]| of.iter().copied().map(ShardId).collect();
    let placement = Placement {
        joining: ids(joining),
        leaving: ids(leaving),
        ..Placement::new(ids(shards), None)
    };
    let key = FactKey::Placement(gateway.clone());
    Op::put(&key, &Fact::Placement(placement))
}

fn binding(gateway: &GatewayKey, port: u16) -> Op {
    let binding = Binding {
        addresses: Vec::new(),
        public_port: port,
        target_port: port,
    };
    let key = FactKey::Binding(gateway.clone(), port);
    Op::put(&key, &Fact::Binding(binding))
}

fn backend(name: &str) -> Op {
    let backend = Backend {
        protocol: BackendProtocol::Http1,
        endpoints: Vec::new(),
    };
    let key = FactKey::Backend(BackendKey::new("team-a", name, 80));
    Op::put(&key, &Fact::Backend(backend))
}

fn listener(name: &str, port: u16) -> Op {
    let spec = ListenerSpec {
        port,
        protocol: ListenerProtocol::Http,
        hostname: None,
        certificates: Vec::new(),
    };
    let key = GatewayEntryKey::Listener(name.into());
    Op::put(&key, &GatewayEntry::Listener(spec))
}

fn rule(index: u16, backend: &str) -> Op {
    let spec = RuleSpec {
        name: None,
        created_at: Timestamp(0),
        attachments: Vec::new(),
        matches: Vec::new(),
        filters: Vec::new(),
        backends: vec![WeightedBackend {
            target: BackendTarget::Backend(BackendKey::new("team-a", backend, 80)),
            weight: 1,
            filters: Vec::new(),
        }],
        timeouts: Timeouts::default(),
    };
    let route = api::RouteKey {
        kind: api::RouteKind::HttpRoute,
        namespace: "team-a".into(),
        name: "r".into(),
    };
    let key = GatewayEntryKey::Rule(route, index);
    Op::put(&key, &GatewayEntry::Rule(spec))
}

/// What a shard says that serves one Gateway.
fn hello(epoch: u64, gateway: &GatewayKey, active: u64, hash: SetHash) -> delivery::Hello {
    delivery::Hello {
        epoch,
        facts_hash: SetHash::default().to_bytes().to_vec(),
        gateways: vec![delivery::Held {
            gateway: Some(gateway.into()),
            active,
            active_hash: hash.to_bytes().to_vec(),
        }],
        ..delivery::Hello::default()
    }
}

#[test]
fn a_shard_of_another_history_is_given_what_is_committed_and_keeps_serving_until_then() {
    let mut replica = Replica::new();
    let facts = vec![placed(&web(), &[0]), binding(&web(), 80)];
    replica.commit(facts, &web(), vec![listener("a", 80)]);
    let tip = replica.commit(Vec::new(), &web(), vec![listener("b", 80)]);
    replica.tell();
    let before = hello(3, &web(), 8817, SetHash::of(b"k", b"v"));
    let (mut shard, events) = replica.connect(SHARD, before.clone());
    // Nothing is active: an empty table at revision 0 would take the serving one's place.
    let expected = ["welcome 7", "all facts +1 -0", "whole web 0->3", "synced"];
    assert_eq!(shard.texts(), expected);
    assert_eq!(events, [Event::Connected(SHARD)]);
    // Nor if it comes again, knowing the history.
    let again = hello(7, &web(), 0, SetHash::of(b"k", b"v"));
    let (mut shard, _) = replica.connect(SHARD, again);
    assert_eq!(shard.texts(), expected);
    replica.activate(&web(), tip);
    replica.tell();
    assert_eq!(shard.texts(), ["activate web 3"]);
    // Even a number that fits says nothing.
    let (mut shard, events) = replica.connect(SHARD, hello(3, &web(), 3, SetHash::default()));
    assert_eq!(shard.texts()[2..4], ["whole web 0->3", "activate web 3"]);
    assert_eq!(events[1..], [Event::Connected(SHARD)]);
}

#[test]
fn a_shard_that_holds_what_is_active_is_sent_nothing_and_counts_as_acknowledged() {
    let mut replica = Replica::new();
    let facts = vec![placed(&web(), &[0])];
    let active = replica.commit(facts, &web(), vec![rule(0, "shop")]);
    replica.activate(&web(), active);
    let next = replica.commit(Vec::new(), &web(), vec![rule(1, "shop")]);
    replica.tell();
    let hash = replica
        .snapshot
        .read()
        .gateway(&web())
        .unwrap()
        .entries()
        .hash();
    let (mut shard, events) = replica.connect(SHARD, hello(7, &web(), active.0, hash));
    assert_eq!(shard.texts(), ["welcome 7", "delta web 2->4", "synced"]);
    let served = Event::Acknowledged(SHARD, web(), active);
    assert_eq!(events, [Event::Connected(SHARD), served]);
    // One that holds more than this replica has applied keeps it.
    let (mut shard, _) = replica.connect(SHARD, hello(7, &web(), next.0, hash));
    assert_eq!(shard.texts(), ["welcome 7", "synced"]);
}

#[test]
fn a_replica_that_follows_answers_a_shard_once_it_has_applied_what_that_serves() {
    let mut replica = Replica::new();
    replica.streams.lead(false);
    let facts = vec![placed(&web(), &[0]), binding(&web(), 80)];
    let active = replica.commit(facts, &web(), vec![listener("a", 80)]);
    replica.activate(&web(), active);
    replica.tell();
    // It was told elsewhere of what comes next: its Gateway, or facts alone.
    let ahead = hello(7, &web(), 4, SetHash::default());
    let facts_ahead = delivery::Hello {
        epoch: 7,
        facts_revision: 4,
        ..delivery::Hello::default()
    };
    for early in [ahead, facts_ahead] {
        let mut replica = Replica::on(Arc::new(RwLock::new(replica.snapshot.read().clone())));
        replica.streams.lead(false);
        let (mut shard, events) = replica.connect(SHARD, early.clone());
        replica.now += APPLIED_WITHIN - MS;
        assert_eq!([events, replica.tell()].concat(), []);
        assert_eq!(shard.texts(), [""; 0]);
        replica.commit(Vec::new(), &web(), vec![listener("b", 80)]);
        assert_eq!(replica.tell()[0], Event::Connected(SHARD));
        assert_eq!(shard.texts()[0], "welcome 7");
        // Without it, the shard is left to a replica that has more.
        let late = delivery::Hello {
            facts_revision: 9,
            ..early
        };
        let (mut shard, _) = replica.connect(SHARD, late);
        replica.now += APPLIED_WITHIN;
        assert_eq!(replica.tell(), []);
        assert!(!replica.streams.is_open(SHARD, 1));
        assert!(shard.messages.try_recv().is_err());
    }
    // What is of another history says nothing.
    let other = hello(3, &web(), 8817, SetHash::default());
    let (mut shard, _) = replica.connect(SHARD, other);
    assert_eq!(shard.texts()[0], "welcome 7");
}

#[test]
fn a_snapshot_of_another_replica_begins_all_streams_anew() {
    let mut replica = Replica::new();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    shard.received();
    replica.commit(vec![placed(&web(), &[0])], &web(), vec![rule(0, "a")]);
    // Entries came as a snapshot, not one by one.
    replica.untold.clear();
    let events = replica.streams.restored();
    assert_eq!(events, [Event::Restarted, Event::Disconnected(SHARD)]);
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    assert_eq!(shard.texts()[0], "welcome 7");
}

#[test]
fn a_gateway_that_is_created_anew_goes_to_its_shards_without_another_placement() {
    let mut replica = Replica::new();
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    let facts = vec![placed(&web(), &[0]), binding(&web(), 80)];
    let first = replica.commit(facts, &web(), vec![listener("a", 80)]);
    replica.activate(&web(), first);
    let removal = replica.remove(&web());
    replica.activate(&web(), removal);
    replica.tell();
    shard.received();
    replica.commit(Vec::new(), &web(), vec![listener("a", 80)]);
    replica.tell();
    assert_eq!(shard.texts(), ["facts +1 -0", "delta web 0->6"]);
    // Nor does it take one after a start.
    let revision = replica.remove(&web());
    replica.activate(&web(), revision);
    let mut replica = Replica::on(Arc::clone(&replica.snapshot));
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    shard.received();
    replica.commit(Vec::new(), &web(), vec![listener("a", 80)]);
    replica.tell();
    assert_eq!(shard.texts(), ["facts +1 -0", "delta web 0->9"]);
    // And once the placement has left, nothing is kept.
    let revision = replica.remove(&web());
    replica.activate(&web(), revision);
    let gone = Op::remove(&FactKey::Placement(web()));
    replica.commit(vec![gone], &web(), Vec::new());
    replica.tell();
    assert_eq!(shard.texts().last().unwrap(), "drop web");
    assert!(replica.streams.interest.is_empty());
}

#[test]
fn a_stream_begins_only_when_all_that_the_snapshot_holds_was_taken() {
    let mut replica = Replica::new();
    replica.tell();
    let facts = vec![placed(&web(), &[0]), binding(&web(), 80)];
    let first = replica.commit(facts, &web(), vec![listener("a", 80)]);
    let (mut shard, events) = replica.connect(SHARD, delivery::Hello::default());
    assert_eq!(shard.texts(), [""; 0]);
    assert_eq!(events, []);
    assert_eq!(replica.tell(), [Event::Connected(SHARD)]);
    let expected = ["welcome 7", "all facts +1 -0", "delta web 0->2", "synced"];
    assert_eq!(shard.texts(), expected);
    // The same holds for a Gateway that is asked for.
    replica.activate(&web(), first);
    replica.tell();
    shard.received();
    let facts = vec![binding(&web(), 81)];
    replica.commit(facts, &web(), vec![listener("b", 81)]);
    replica.resync(SHARD, Some(&web()));
    assert_eq!(shard.texts(), [""; 0]);
    replica.tell();
    let expected = [
        "facts +1 -0",
        "whole web 0->2",
        "activate web 2",
        "delta web 2->4",
    ];
    assert_eq!(shard.texts(), expected);
}

#[test]
fn a_stream_does_not_begin_before_the_history_has() {
    let mut replica = Replica::on(Arc::default());
    let before = hello(3, &web(), 8817, SetHash::of(b"k", b"v"));
    let (mut shard, _) = replica.connect(SHARD, before);
    // The operator has read nothing of its source yet: everything that the shard serves would be dropped.
    replica.tell();
    assert_eq!(shard.texts(), [""; 0]);
    replica.commit(vec![placed(&web(), &[0])], &web(), vec![rule(0, "a")]);
    replica.tell();
    assert_eq!(shard.texts(), [""; 0]);
    replica.apply(Command::Begin(Epoch(7)));
    replica.tell();
    assert_eq!(shard.texts(), ["welcome 7", "whole web 0->1", "synced"]);
}

#[test]
fn streams_begin_anew_when_entries_were_missed() {
    let mut replica = Replica::new();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    shard.received();
    replica.commit(vec![placed(&web(), &[0])], &web(), vec![rule(0, "a")]);
    replica.untold.clear();
    replica.resync(SHARD, None);
    assert!(replica.streams.is_open(SHARD, 1));
    replica.now += MISSED_AFTER + MS;
    let events = replica.tell();
    assert_eq!(events, [Event::Restarted, Event::Disconnected(SHARD)]);
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    let expected = ["welcome 7", "all facts +0 -0", "delta web 0->2", "synced"];
    assert_eq!(shard.texts(), expected);
}

#[test]
fn a_shard_is_not_given_what_is_not_placed_on_it_and_loses_what_leaves_it() {
    let mut replica = Replica::new();
    let facts = vec![placed(&web(), &[0]), binding(&web(), 80), backend("shop")];
    let ops = vec![listener("a", 80), rule(0, "shop")];
    let first = replica.commit(facts, &web(), ops);
    replica.activate(&web(), first);
    replica.tell();
    let (mut other, _) = replica.connect(ShardId(1), delivery::Hello::default());
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    other.received();
    shard.received();
    replica.resync(ShardId(1), Some(&web()));
    assert_eq!(other.texts(), ["drop web"]);
    replica.commit(vec![placed(&web(), &[1])], &web(), Vec::new());
    replica.tell();
    assert_eq!(shard.texts(), ["drop web", "facts +0 -2"]);
    let expected = ["facts +2 -0", "whole web 0->2", "activate web 2"];
    assert_eq!(other.texts(), expected);
}

#[test]
fn a_shard_that_leaves_holds_a_gateway_until_it_has_left() {
    let mut replica = Replica::new();
    let facts = vec![placed(&web(), &[0]), binding(&web(), 80), backend("shop")];
    let ops = vec![listener("a", 80), rule(0, "shop")];
    let first = replica.commit(facts, &web(), ops);
    replica.activate(&web(), first);
    replica.tell();
    let (mut joins, _) = replica.connect(ShardId(1), delivery::Hello::default());
    let (mut leaves, _) = replica.connect(SHARD, delivery::Hello::default());
    joins.received();
    leaves.received();
    replica.commit(vec![moving(&web(), &[0], &[1], &[])], &web(), Vec::new());
    replica.tell();
    let expected = ["facts +2 -0", "whole web 0->2", "activate web 2"];
    assert_eq!(joins.texts(), expected);
    replica.commit(vec![moving(&web(), &[1], &[], &[0])], &web(), Vec::new());
    let next = replica.commit(Vec::new(), &web(), vec![rule(1, "shop")]);
    replica.activate(&web(), next);
    replica.tell();
    let expected = ["delta web 2->6", "activate web 6"];
    assert_eq!(joins.texts(), expected);
    assert_eq!(leaves.texts(), expected);
    replica.commit(vec![placed(&web(), &[1])], &web(), Vec::new());
    replica.tell();
    assert_eq!(joins.texts(), [""; 0]);
    assert_eq!(leaves.texts(), ["drop web", "facts +0 -2"]);
}

#[test]
fn a_fact_that_one_gateway_takes_along_stays_for_another_that_comes() {
    let mut replica = Replica::new();
    let other = GatewayKey::new("team-a", "other");
    let facts = vec![placed(&web(), &[0]), backend("shop")];
    replica.commit(facts, &web(), vec![rule(0, "shop")]);
    replica.commit(vec![placed(&other, &[1])], &other, vec![rule(0, "shop")]);
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    shard.received();
    let facts = vec![placed(&web(), &[1]), placed(&other, &[0])];
    replica.commit(facts, &web(), Vec::new());
    replica.tell();
    let received = shard.texts();
    assert!(
        !received.iter().any(|text| text.contains("-1")),
        "{received:?}"
    );
    assert_eq!(received.last().unwrap(), "delta other 0->3");
}

#[test]
fn a_shard_that_asks_again_and_again_is_answered_ever_more_slowly() {
    let mut replica = Replica::new();
    replica.commit(vec![placed(&web(), &[0])], &web(), vec![rule(0, "a")]);
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    shard.received();
    let mut answers = 0;
    for _ in 0..60_000 {
        replica.now += MS;
        if !shard.received().is_empty() {
            answers += 1;
        }
        replica.resync(SHARD, Some(&web()));
    }
    assert!((8..15).contains(&answers), "{answers} answers in a minute");
    // Deltas that build on what is owed are left out, and none is missed.
    replica.commit(Vec::new(), &web(), vec![rule(1, "a")]);
    replica.tell();
    assert_eq!(shard.texts(), [""; 0]);
    replica.now += MS * 10_000;
    replica.tell();
    let expected = ["drop web", "delta web 0->2", "delta web 2->3"];
    assert_eq!(shard.texts(), expected);
}

#[test]
fn a_shard_that_is_ahead_of_this_replica_keeps_what_it_serves() {
    let mut replica = Replica::new();
    let ahead = replica.commit(vec![placed(&web(), &[0])], &web(), vec![rule(0, "a")]);
    replica.commit(Vec::new(), &web(), vec![rule(1, "a")]);
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    shard.received();
    // Another replica has told it that its revision is active.
    replica.resync_at(SHARD, Some(&web()), ahead.0);
    assert_eq!(shard.texts(), ["delta web 2->3"]);
}

#[test]
fn what_is_sent_belongs_to_the_trace_of_its_change() {
    let mut replica = Replica::new();
    let facts = vec![placed(&web(), &[0])];
    let first = replica.commit(facts, &web(), vec![rule(0, "a")]);
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    replica.activate(&web(), first);
    replica.tell();
    let mut traces = Vec::new();
    while let Ok(batch) = shard.messages.try_recv() {
        for message in batch {
            if let Some(Message::Prepare(_) | Message::Activate(_)) = message.message {
                traces.push(message.traceparent);
            }
        }
    }
    assert_eq!(traces, ["trace", "trace"]);
}

#[test]
fn a_large_gateway_comes_in_parts() {
    let mut replica = Replica::new();
    let long = "x".repeat(api_wire::PART_BYTES / 2);
    let ops = (0..4).map(|n| rule(n, &long)).collect();
    replica.commit(vec![placed(&web(), &[0])], &web(), ops);
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    let parts: Vec<(usize, bool)> = shard
        .received()
        .into_iter()
        .filter_map(|message| match message {
            Message::Prepare(m) => Some((m.ops.len(), m.more)),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [(1, true), (1, true), (1, true), (1, false)]);
}

#[test]
fn what_waits_for_activation_without_end_stays_bounded() {
    let mut replica = Replica::new();
    replica.commit(vec![placed(&web(), &[0])], &web(), vec![rule(0, "a")]);
    replica.tell();
    let (mut shard, _) = replica.connect(SHARD, delivery::Hello::default());
    for round in 0..500 {
        replica.commit(Vec::new(), &web(), vec![rule(0, &format!("b{round}"))]);
        replica.tell();
        shard.received();
        assert!(replica.streams.interest.facts_of(SHARD).count() <= PENDING_MAX + 2);
    }
    let tip = replica.snapshot.read().gateway(&web()).unwrap().tip();
    replica.activate(&web(), tip);
    replica.tell();
    let facts: Vec<&FactBytes> = replica.streams.interest.facts_of(SHARD).collect();
    let last = encode(&FactKey::Backend(BackendKey::new("team-a", "b499", 80)));
    assert_eq!(facts, [&last]);
}
