#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use api_snapshot::facts::Placement;
use api_snapshot::{
    Command, Delta, Epoch, Fact, FactKey, FactsDelta, GatewayDelta, GatewayEntryKey, Op, encode,
};
use api_wire::delivery::{from_shard, to_shard};
use tokio::task::JoinHandle;

use super::*;

/// One replica of the operator, and what comes out of it.
struct Replica {
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    distributor: Distributor,
    activations: mpsc::Receiver<Vec<(GatewayKey, Revision)>>,
    reports: mpsc::Receiver<RolloutReport>,
}

/// A shard's stream to a replica.
struct Stream {
    shard: ShardId,
    session: u64,
    messages: mpsc::Receiver<Vec<ToShard>>,
}

fn web() -> GatewayKey {
    GatewayKey::new("team-a", "web")
}

/// Everybody has had several turns: what one does, and what follows from it elsewhere.
async fn all_is_done() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

impl Replica {
    fn start(activations_max: usize) -> Self {
        let mut snapshot = RoutingSnapshot::default();
        snapshot.apply(Revision(1), Command::Begin(Epoch(7)));
        let snapshot = Arc::new(RwLock::new(snapshot));
        let (activate, activations) = mpsc::channel(activations_max);
        let (reports, reported) = mpsc::channel(1024);
        let config = Config {
            prepare_deadline: Duration::from_secs(600),
        };
        Self {
            distributor: super::start(config, Arc::clone(&snapshot), activate, reports),
            snapshot,
            activations,
            reports: reported,
        }
    }

    async fn apply(&self, index: u64, command: &Command) {
        let index = Revision(index);
        let applied = self.snapshot.write().apply(index, command.clone());
        let applied = Input::Applied(AppliedEvent { index, applied });
        self.distributor.input(applied).await;
        all_is_done().await;
    }

    async fn connect(&self, shard: u32, session: u64, hello: delivery::Hello) -> Stream {
        let (out, messages) = mpsc::channel(64);
        let shard = ShardId(shard);
        let connected = Input::Connected {
            shard,
            session,
            hello,
            out,
        };
        self.distributor.input(connected).await;
        all_is_done().await;
        Stream {
            shard,
            session,
            messages,
        }
    }

    async fn disconnect(&self, stream: &Stream) {
        let disconnected = Input::Disconnected {
            shard: stream.shard,
            session: stream.session,
        };
        self.distributor.input(disconnected).await;
        all_is_done().await;
    }

    /// A shard has prepared, or serves, a revision.
    async fn hear(&self, stream: &Stream, serves: bool, revision: u64) {
        let gateway = Some((&web()).into());
        let message = if serves {
            from_shard::Message::Acknowledged(delivery::Acknowledged { gateway, revision })
        } else {
            from_shard::Message::Prepared(delivery::Prepared { gateway, revision })
        };
        let message = Input::Message {
            shard: stream.shard,
            session: stream.session,
            message: FromShard {
                message: Some(message),
            },
        };
        self.distributor.input(message).await;
        all_is_done().await;
    }

    fn activation(&mut self) -> Option<Vec<(GatewayKey, Revision)>> {
        self.activations.try_recv().ok()
    }

    /// The last that was said of what is served.
    fn propagated(&mut self) -> Option<(u64, usize, usize)> {
        let mut last = None;
        while let Ok(report) = self.reports.try_recv() {
            if let RolloutReport::Propagated {
                revision,
                acknowledged,
                total,
                ..
            } = report
            {
                last = Some((revision.0, acknowledged, total));
            }
        }
        last
    }

    /// Carries what shards say here to another replica.
    async fn relay_to(&self, other: &Self, name: u64) -> JoinHandle<()> {
        let mut events = self.distributor.events().await;
        let other = other.distributor.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                other.relayed(name, event).await;
            }
        })
    }

    fn hello(&self) -> delivery::Hello {
        let snapshot = self.snapshot.read();
        let chain = snapshot.gateway(&web()).unwrap();
        delivery::Hello {
            epoch: 7,
            gateways: vec![delivery::Held {
                gateway: Some((&web()).into()),
                active: chain.active().0,
                active_hash: chain.entries().hash().to_bytes().to_vec(),
            }],
            ..delivery::Hello::default()
        }
    }
}

impl Stream {
    /// Revisions that were sent to prepare, and to serve.
    fn received(&mut self) -> (Vec<u64>, Vec<u64>) {
        let (mut prepare, mut activate) = (Vec::new(), Vec::new());
        while let Ok(batch) = self.messages.try_recv() {
            for message in batch {
                match message.message {
                    Some(to_shard::Message::Prepare(m)) => prepare.push(m.revision),
                    Some(to_shard::Message::Activate(m)) => activate.push(m.revision),
                    _ => {}
                }
            }
        }
        (prepare, activate)
    }
}

/// A change of the Gateway; the first one places it on two shards.
fn commit(snapshot: &RwLock<RoutingSnapshot>) -> Command {
    let snapshot = snapshot.read();
    let chain = snapshot.gateway(&web()).cloned().unwrap_or_default();
    let key = FactKey::Placement(web());
    let placement = Placement::new(vec![ShardId(0), ShardId(1)], None);
    let facts = vec![Op::put(&key, &Fact::Placement(placement))];
    let ops = vec![Op {
        key: encode(&GatewayEntryKey::Gateway),
        value: Some(encode(&chain.tip())),
    }];
    Command::Commit(Delta {
        facts: FactsDelta { ops: facts },
        gateways: vec![GatewayDelta {
            gateway: web(),
            base: chain.tip(),
            hash: chain.tip_hash_after(&ops),
            ops,
            removed: false,
        }],
        ..Delta::default()
    })
}

fn activate(revision: u64) -> Command {
    Command::Activate(vec![(web(), Revision(revision))])
}

#[tokio::test]
async fn shards_of_leader_and_follower_go_on_together_wherever_they_are() {
    let (mut one, mut two) = (Replica::start(8), Replica::start(8));
    one.distributor.lead(true);
    let relay = two.relay_to(&one, 2).await;
    let mut here = one.connect(0, 1, delivery::Hello::default()).await;
    let mut there = two.connect(1, 1, delivery::Hello::default()).await;
    let begin = commit(&one.snapshot);
    // The follower, and its shard, are faster than the leader's own task.
    two.apply(2, &begin).await;
    assert_eq!(there.received(), (vec![2], vec![]));
    two.hear(&there, false, 2).await;
    one.apply(2, &begin).await;
    assert_eq!(here.received(), (vec![2], vec![]));
    assert_eq!(one.activation(), None);
    one.hear(&here, false, 2).await;
    assert_eq!(one.activation(), Some(vec![(web(), Revision(2))]));
    two.apply(3, &activate(2)).await;
    two.hear(&there, true, 2).await;
    one.apply(3, &activate(2)).await;
    one.hear(&here, true, 2).await;
    assert_eq!(one.propagated(), Some((2, 2, 2)));
    assert_eq!(two.propagated(), None, "it follows");

    // The shard goes over to the leader; its old stream ends late.
    let moved = one.connect(1, 2, one.hello()).await;
    two.disconnect(&there).await;
    let next = commit(&one.snapshot);
    for replica in [&one, &two] {
        replica.apply(4, &next).await;
    }
    one.hear(&here, false, 4).await;
    assert_eq!(one.activation(), None, "the other is alive");
    one.hear(&moved, false, 4).await;
    assert_eq!(one.activation(), Some(vec![(web(), Revision(4))]));
    for replica in [&one, &two] {
        replica.apply(5, &activate(4)).await;
    }

    // The other one leads now, and knows of what was said before.
    relay.abort();
    one.distributor.lead(false);
    let relay = one.relay_to(&two, 1).await;
    all_is_done().await;
    two.distributor.lead(true);
    all_is_done().await;
    one.hear(&here, true, 4).await;
    one.hear(&moved, true, 4).await;
    assert_eq!(two.propagated(), Some((4, 2, 2)));
    let next = commit(&one.snapshot);
    for replica in [&one, &two] {
        replica.apply(6, &next).await;
    }
    one.hear(&here, false, 6).await;
    one.hear(&moved, false, 6).await;
    assert_eq!(one.activation(), None, "it follows");
    assert_eq!(two.activation(), Some(vec![(web(), Revision(6))]));
    // What it asked for is lost; said again that it leads, it begins anew.
    two.distributor.lead(true);
    all_is_done().await;
    assert_eq!(two.activation(), Some(vec![(web(), Revision(6))]));
    // The replica that its shards are on is gone: nobody is waited for.
    relay.abort();
    two.distributor.relay_ended(1).await;
    all_is_done().await;
    let shards = two.distributor.shards();
    assert!(shards.iter().all(|shard| !shard.connected), "{shards:?}");
}

#[tokio::test]
async fn who_begins_to_listen_hears_everything_first_and_what_is_too_much_is_said_anew() {
    let replica = Replica::start(1);
    let begin = commit(&replica.snapshot);
    replica.apply(2, &begin).await;
    let stream = replica.connect(0, 1, delivery::Hello::default()).await;
    replica.hear(&stream, false, 2).await;
    let mut events = replica.distributor.events().await;
    let expected = [
        Event::Restarted,
        Event::Connected(ShardId(0)),
        Event::Prepared(ShardId(0), web(), Revision(2)),
    ];
    for event in &expected {
        assert_eq!(events.recv().await.as_ref(), Some(event));
    }
    // Nobody takes them.
    for _ in 0..20_000 {
        replica.hear(&stream, false, 2).await;
    }
    let mut all = Vec::new();
    while let Ok(event) = events.try_recv() {
        all.push(event);
        if events.is_empty() {
            all_is_done().await;
        }
    }
    assert!(all.len() < 20_000, "{}", all.len());
    let anew = all.iter().rposition(|event| *event == Event::Restarted);
    assert_eq!(all[anew.unwrap()..][..3], expected);
    // While this one leads there is nothing to tell; after that, everything.
    replica.distributor.lead(true);
    all_is_done().await;
    replica.hear(&stream, false, 2).await;
    assert!(events.try_recv().is_err());
    replica.distributor.lead(false);
    for event in &expected {
        assert_eq!(events.recv().await.as_ref(), Some(event));
    }
    let _other = replica.distributor.events().await;
    assert_eq!(events.recv().await, None, "one listens at a time");
}
