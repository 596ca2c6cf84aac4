//! Delta streams to the shards that are connected here: what each was sent, and what it is to be sent.
//!
//! Runs from applied entries, on any replica: it needs no leader and proposes nothing. What shards answer comes out as
//! [`Event`]s. A stream is begun, and a Gateway sent whole, from the snapshot; that is done only while this task has
//! seen all that the snapshot holds, so that what follows builds on it without a gap. And not before the history has
//! begun, which is when all that the source holds is committed: a shard that serves by another history would be told to
//! drop it all.

mod heard;
mod messages;
mod owed;
mod stream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{Activation, Applied, Epoch, GatewayDelta, Op, Origin, RoutingSnapshot};
use api_wire::delivery::{self, ToShard};
use api_wire::gateway_key;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::ShardView;
use crate::event::{AppliedEvent, Event, placements};
use crate::interest::{Change, FactBytes, Interest};
use crate::metrics::Metrics;
use messages::{Holds, whole};
use owed::Owed;
use stream::Stream;

/// Time without an applied entry after which those between here and the snapshot are taken for missed.
const MISSED_AFTER: Duration = Duration::from_secs(2);

/// Time that a shard waits for entries that another replica has told it of; then it is left to another.
const APPLIED_WITHIN: Duration = Duration::from_secs(3);

/// Messages for each shard that one entry leads to.
type Batches = HashMap<ShardId, Vec<ToShard>>;

/// All streams of this replica.
pub(crate) struct Streams {
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    interest: Interest,
    /// The last entry that was taken.
    revision: Revision,
    /// Since when something waits for entries that the snapshot holds, without one coming.
    behind: Option<Duration>,
    streams: HashMap<ShardId, Stream>,
    /// Shards that said hello and were not answered yet, and when that was.
    greeting: BTreeMap<ShardId, (delivery::Hello, Duration)>,
    /// Whatever is committed anywhere was applied here.
    leads: bool,
    owed: Owed,
    views: Arc<Mutex<BTreeMap<ShardId, ShardView>>>,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Begins with what was committed before.
    pub(crate) fn new(
        snapshot: Arc<RwLock<RoutingSnapshot>>,
        views: Arc<Mutex<BTreeMap<ShardId, ShardView>>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (interest, revision) = {
            let snapshot = snapshot.read();
            (Interest::of(&snapshot), snapshot.revision())
        };
        Self {
            snapshot,
            interest,
            revision,
            behind: None,
            streams: HashMap::new(),
            greeting: BTreeMap::new(),
            leads: false,
            owed: Owed::default(),
            views,
            metrics,
        }
    }

    /// Whether this replica leads: then nobody knows of more than it does.
    pub(crate) fn lead(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// Shards that hold a Gateway.
    pub(crate) fn shards_of(&self, gateway: &GatewayKey) -> &[ShardId] {
        self.interest.shards_of(gateway)
    }

    /// Streams that are open.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether a message is of the stream that is open now, not of one that it replaced.
    pub(crate) fn is_open(&self, shard: ShardId, session: u64) -> bool {
        let of = |stream: &Stream| stream.session == session;
        self.streams.get(&shard).is_some_and(of)
    }

    /// Sends what an entry leads to. Cost: O(operations in it) for each shard that they concern.
    pub(crate) fn applied(&mut self, event: &AppliedEvent, now: Duration) -> Vec<Event> {
        if event.index <= self.revision {
            return Vec::new(); // the snapshot that this began with had it
        }
        self.revision = event.index;
        self.behind = None;
        let mut batches = Batches::new();
        match &event.applied {
            Applied::Committed {
                facts,
                gateways,
                origin,
            } => self.committed(event.index, &facts.ops, gateways, origin, &mut batches, now),
            Applied::Activated { gateways } => {
                self.activated(event.index, gateways, &mut batches);
            }
            // Streams that wait for it begin when they are settled.
            Applied::Begun { .. } | Applied::Rejected { .. } => {}
        }
        let batches = batches.into_iter();
        batches
            .flat_map(|(shard, batch)| self.send(shard, batch))
            .collect()
    }

    fn committed(
        &mut self,
        index: Revision,
        ops: &[Op],
        gateways: &[GatewayDelta],
        origin: &Origin,
        batches: &mut Batches,
        now: Duration,
    ) {
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for delta in gateways {
            let (more, less) = self.interest.committed(delta, index);
            gained.extend(more);
            lost.extend(less);
        }
        for (gateway, placed) in placements(ops) {
            let shards = placed.everywhere;
            let old = self.interest.shards_of(&gateway).to_vec();
            for left in old.iter().filter(|shard| !shards.contains(shard)) {
                self.owed.forget(*left, &gateway);
                self.push(*left, [messages::drop_gateway(&gateway)], batches);
            }
            // One that joins gets the Gateway whole.
            for joined in shards.iter().filter(|shard| !old.contains(shard)) {
                if self.is_greeted(*joined) {
                    self.owed.now((*joined, Some(gateway.clone())), now);
                }
            }
            let (more, less) = self.interest.placed(&gateway, shards);
            gained.extend(more);
            lost.extend(less);
        }
        self.send_facts(index, ops, gained, lost, batches);
        for delta in gateways {
            let messages = messages::delta(delta, index, &origin.traceparent);
            for shard in self.interest.shards_of(&delta.gateway).to_vec() {
                if !self.owed.has(shard, Some(&delta.gateway))
                    && !self.owed.waits_for_facts(shard, &delta.gateway)
                {
                    self.push(shard, messages.iter().cloned(), batches);
                }
            }
        }
    }

    fn activated(&mut self, index: Revision, gateways: &[Activation], batches: &mut Batches) {
        let mut lost = Vec::new();
        for Activation {
            gateway,
            revision,
            traceparent,
            ..
        } in gateways
        {
            let message = messages::activate(gateway, *revision, traceparent);
            for shard in self.interest.shards_of(gateway).to_vec() {
                if let Some(stream) = self.streams.get_mut(&shard) {
                    stream.foreign.remove(gateway);
                }
                if !self.owed.has(shard, Some(gateway)) {
                    self.push(shard, [message.clone()], batches);
                }
            }
            lost.extend(self.interest.activated(gateway, *revision));
        }
        self.send_facts(index, &[], Vec::new(), lost, batches);
    }

    /// Puts a facts message into the batch of each shard that needs one of `ops`, or has gained or lost a fact.
    fn send_facts(
        &mut self,
        index: Revision,
        ops: &[Op],
        gained: Vec<Change>,
        lost: Vec<Change>,
        batches: &mut Batches,
    ) {
        let mut by_shard: HashMap<ShardId, BTreeMap<FactBytes, Option<Vec<u8>>>> = HashMap::new();
        {
            let snapshot = self.snapshot.read();
            for (shard, fact) in gained {
                if let Some(value) = snapshot.facts().value(&fact) {
                    let facts = by_shard.entry(shard).or_default();
                    facts.insert(fact, Some(value.to_vec()));
                }
            }
        }
        for op in ops {
            for shard in self.streams.keys() {
                if self.interest.wants(*shard, &op.key) {
                    let facts = by_shard.entry(*shard).or_default();
                    facts.insert(op.key.clone(), op.value.clone());
                }
            }
        }
        for (shard, fact) in lost {
            // What one Gateway has lost another may have gained.
            if !self.interest.wants(shard, &fact) {
                by_shard.entry(shard).or_default().insert(fact, None);
            }
        }
        for (shard, facts) in by_shard {
            if self.is_greeted(shard)
                && !self.owed.has(shard, None)
                && let Some(stream) = self.streams.get_mut(&shard)
            {
                let ops = facts.into_iter().map(|(key, value)| Op { key, value });
                let messages = stream.facts(index, &ops.collect::<Vec<Op>>());
                batches.entry(shard).or_default().extend(messages);
            }
        }
    }

    /// Whether a shard's stream has begun: before that nothing is sent, and what it begins with has everything.
    fn is_greeted(&self, shard: ShardId) -> bool {
        self.streams.contains_key(&shard) && !self.greeting.contains_key(&shard)
    }

    fn push(
        &self,
        shard: ShardId,
        messages: impl IntoIterator<Item = ToShard>,
        batches: &mut Batches,
    ) {
        if self.is_greeted(shard) {
            batches.entry(shard).or_default().extend(messages);
        }
    }

    /// A shard's stream is open. It is answered by [`Streams::settle`].
    pub(crate) fn connected(
        &mut self,
        shard: ShardId,
        session: u64,
        hello: delivery::Hello,
        out: mpsc::Sender<Vec<ToShard>>,
        now: Duration,
    ) -> Vec<Event> {
        let events = if self.streams.contains_key(&shard) {
            self.disconnected(shard)
        } else {
            Vec::new()
        };
        self.streams.insert(shard, Stream::new(session, out));
        self.greeting.insert(shard, (hello, now));
        events
    }

    /// A shard's stream has ended.
    pub(crate) fn disconnected(&mut self, shard: ShardId) -> Vec<Event> {
        self.streams.remove(&shard);
        self.owed.disconnected(shard);
        if let Some(view) = self.views.lock().get_mut(&shard) {
            view.connected = false;
        }
        if self.greeting.remove(&shard).is_some() {
            return Vec::new(); // nobody has heard of it
        }
        tracing::info!(%shard, "shard disconnected");
        vec![Event::Disconnected(shard)]
    }

    /// Begins streams and sends what is owed, once every entry that the snapshot holds was taken.
    pub(crate) fn settle(&mut self, now: Duration) -> Vec<Event> {
        if self.greeting.is_empty() && !self.owed.is_due(now) {
            return Vec::new();
        }
        let snapshot = Arc::clone(&self.snapshot);
        let snapshot = snapshot.read();
        if snapshot.revision() != self.revision {
            let since = *self.behind.get_or_insert(now);
            return if now > since + MISSED_AFTER {
                self.restart(&snapshot)
            } else {
                Vec::new()
            };
        }
        let mut events = Vec::new();
        for (shard, (hello, since)) in std::mem::take(&mut self.greeting) {
            if is_answerable(&hello, &snapshot, self.leads) {
                events.extend(self.greet(&snapshot, shard, &hello));
            } else if self.leads || now < since + APPLIED_WITHIN {
                self.greeting.insert(shard, (hello, since));
            } else {
                tracing::warn!(%shard, applied = %snapshot.revision(), "this replica lags behind what the shard serves; it is left to another");
                self.metrics.left_to_others.fetch_add(1, Ordering::Relaxed);
                self.streams.remove(&shard);
            }
        }
        if snapshot.epoch() == Epoch::NONE {
            return events;
        }
        for (shard, gateway) in self.owed.take(now) {
            let batch = match gateway {
                Some(gateway) => {
                    let stream = self.streams.get_mut(&shard);
                    let (foreign, serves) = stream.map_or((false, None), |stream| {
                        let foreign = stream.foreign.contains(&gateway);
                        (foreign, stream.serves.remove(&gateway))
                    });
                    let held = delivery::Held {
                        active: serves.unwrap_or_default().0,
                        ..delivery::Held::default()
                    };
                    let holds = match serves {
                        _ if foreign => Holds::Foreign,
                        Some(_) => Holds::Revision(&held),
                        None => Holds::Unknown,
                    };
                    whole(&snapshot, &gateway, holds).messages
                }
                None => match self.streams.get_mut(&shard) {
                    Some(stream) => stream.all_facts(&snapshot, &self.interest, shard),
                    None => Vec::new(),
                },
            };
            events.extend(self.send(shard, batch));
        }
        events
    }

    /// Another replica's snapshot took the place of what was committed here.
    pub(crate) fn restored(&mut self) -> Vec<Event> {
        let snapshot = Arc::clone(&self.snapshot);
        let snapshot = snapshot.read();
        self.restart(&snapshot)
    }

    /// Entries were missed, as when a replica is given a snapshot: what streams were sent says nothing any more.
    fn restart(&mut self, snapshot: &RoutingSnapshot) -> Vec<Event> {
        let open: BTreeSet<ShardId> = self.streams.keys().copied().collect();
        // At the start of the process nobody is there yet.
        if !open.is_empty() {
            tracing::warn!(from = %self.revision, to = %snapshot.revision(), streams = open.len(), "entries were missed; all streams begin anew");
        }
        let mut events = vec![Event::Restarted];
        for shard in open {
            events.extend(self.disconnected(shard));
        }
        self.interest = Interest::of(snapshot);
        self.revision = snapshot.revision();
        self.behind = None;
        events
    }

    fn greet(
        &mut self,
        snapshot: &RoutingSnapshot,
        shard: ShardId,
        hello: &delivery::Hello,
    ) -> Vec<Event> {
        let Some(stream) = self.streams.get_mut(&shard) else {
            return Vec::new();
        };
        let mut batch = vec![messages::welcome(snapshot.epoch())];
        batch.extend(stream.begin(snapshot, &self.interest, shard, hello));
        let same_history = hello.epoch == snapshot.epoch().0;
        let mut held: HashMap<GatewayKey, &delivery::Held> = HashMap::new();
        for gateway in &hello.gateways {
            if let Ok(key) = gateway_key(gateway.gateway.clone()) {
                if same_history && gateway.active > snapshot.revision().0 {
                    tracing::warn!(%shard, gateway = %key, revision = gateway.active, applied = %snapshot.revision(), "shard serves a revision that is not applied here");
                }
                held.insert(key, gateway);
            }
        }
        let mut events = vec![Event::Connected(shard)];
        let mut placed = 0;
        for gateway in self.interest.gateways_of(shard) {
            placed += 1;
            let holds = match held.remove(gateway) {
                None => Holds::Nothing,
                // Revision 0 is what a shard calls what it has of another history.
                Some(held) if same_history && held.active > 0 => Holds::Revision(held),
                Some(_) => {
                    stream.foreign.insert(gateway.clone());
                    Holds::Foreign
                }
            };
            let whole = whole(snapshot, gateway, holds);
            batch.extend(whole.messages);
            let served = whole.served;
            events.extend(served.map(|at| Event::Acknowledged(shard, gateway.clone(), at)));
        }
        batch.extend(held.keys().map(messages::drop_gateway));
        batch.push(messages::synced(snapshot.revision()));
        tracing::info!(%shard, gateways = placed, messages = batch.len(), version = hello.version, same_history, "shard connected");
        self.views
            .lock()
            .insert(shard, ShardView::connected(shard, hello, placed));
        events.extend(self.send(shard, batch));
        events
    }

    /// Forgets what is over.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.owed.tidy(now);
    }

    fn send(&mut self, shard: ShardId, batch: Vec<ToShard>) -> Vec<Event> {
        let Some(stream) = self.streams.get(&shard) else {
            return Vec::new();
        };
        if batch.is_empty() || stream.out.try_send(batch).is_ok() {
            return Vec::new();
        }
        self.metrics.lagging.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%shard, "shard does not keep up; its stream is closed so that it comes back for what it lacks");
        self.disconnected(shard)
    }
}

/// Whether a shard can be answered. One that has followed a replica that was told of more is not to go back; it waits until
/// this one has applied as much. A replica that leads has applied all there is, and waits for nothing but its history's
/// beginning.
fn is_answerable(hello: &delivery::Hello, snapshot: &RoutingSnapshot, leads: bool) -> bool {
    if snapshot.epoch() == Epoch::NONE {
        return false;
    }
    let revisions = hello.gateways.iter().map(|held| held.active);
    let newest = revisions
        .max()
        .unwrap_or_default()
        .max(hello.facts_revision);
    leads || hello.epoch != snapshot.epoch().0 || newest <= snapshot.revision().0
}

#[cfg(test)]
mod tests;
