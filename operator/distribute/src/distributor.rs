//! The one task that knows what each shard was sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{Applied, Fact, FactKey, Op, RoutingSnapshot, SetHash, decode};
use api_telemetry::metrics::Source;
use api_wire::delivery::{self, FromShard, ToShard, from_shard, to_shard};
use api_wire::{gateway_key, ops_to_wire};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::interest::{Change, FactBytes, Interest};
use crate::metrics::Metrics;
use crate::rollout::{Action, Rollout};

/// Inputs that wait for the distributor; raft's thread waits for room.
const INPUTS_MAX: usize = 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time for a shard to prepare a revision before the rollout goes on without it.
    pub prepare_deadline: Duration,
}

/// An entry was applied.
#[derive(Debug, Clone)]
pub struct AppliedEvent {
    /// Its index.
    pub index: Revision,
    /// What it did.
    pub applied: Applied,
    /// W3C `traceparent` of the change, or empty.
    pub traceparent: String,
}

/// What the rollout has to say, for statuses and the change log.
#[derive(Debug, Clone)]
pub enum RolloutReport {
    /// All live shards serve a revision.
    Propagated {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that acknowledged.
        acknowledged: usize,
        /// Shards of the Gateway.
        total: usize,
        /// Since it was committed.
        took: Duration,
    },
    /// A shard cannot serve a revision.
    Refused {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Which shard.
        shard: ShardId,
        /// The listener at fault; none for the whole Gateway.
        listener: Option<String>,
        /// Whether a socket could not be bound.
        port_unavailable: bool,
        /// What the shard says.
        message: String,
    },
    /// Too few shards answered.
    Waiting {
        /// Which Gateway.
        gateway: GatewayKey,
        /// Which revision.
        revision: Revision,
        /// Shards that are prepared.
        prepared: usize,
        /// Shards of the Gateway.
        total: usize,
    },
    /// A rollout went on without a shard.
    Fenced {
        /// Which shard.
        shard: ShardId,
        /// In the rollout of which Gateway.
        gateway: GatewayKey,
    },
}

/// A shard as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct ShardView {
    /// Which.
    pub shard: ShardId,
    /// Whether its stream is up.
    pub connected: bool,
    /// Its version.
    pub version: String,
    /// Its admin endpoint.
    pub admin: String,
    /// Gateways placed on it.
    pub gateways: usize,
    /// Open client connections.
    pub connections: u64,
    /// Requests in flight.
    pub requests_in_flight: u64,
    /// Requests since its start.
    pub requests_total: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

pub(crate) enum Input {
    Applied(AppliedEvent),
    Connected {
        shard: ShardId,
        session: u64,
        hello: delivery::Hello,
        out: mpsc::Sender<Vec<ToShard>>,
    },
    Message {
        shard: ShardId,
        session: u64,
        message: FromShard,
    },
    Disconnected {
        shard: ShardId,
        session: u64,
    },
}

/// Handle to the distributor.
#[derive(Clone)]
pub struct Distributor {
    inputs: mpsc::Sender<Input>,
    views: Arc<Mutex<BTreeMap<ShardId, ShardView>>>,
    metrics: Arc<Metrics>,
}

/// Starts the distributor. Activations that it asks for come out of `activate`, coalesced while the receiver is busy;
/// `reports` is awaited, so its receiver must not wait for raft.
pub fn start(
    config: Config,
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    activate: mpsc::Sender<Vec<(GatewayKey, Revision)>>,
    reports: mpsc::Sender<RolloutReport>,
) -> Distributor {
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let distributor = Distributor {
        inputs,
        views: Arc::default(),
        metrics: Arc::default(),
    };
    let task = Task {
        rollout: Rollout::new(config.prepare_deadline),
        started: Instant::now(),
        snapshot,
        interest: Interest::default(),
        streams: HashMap::new(),
        activations: BTreeMap::new(),
        activate,
        reports,
        views: Arc::clone(&distributor.views),
        metrics: Arc::clone(&distributor.metrics),
    };
    api_telemetry::task::spawn("distributor", task.run(receiver));
    distributor
}

impl Distributor {
    /// Hands in an applied entry, in order. Blocks while the distributor is busy: called on raft's thread.
    pub fn applied(&self, event: AppliedEvent) {
        // The distributor ends with the process.
        let _ = self.inputs.blocking_send(Input::Applied(event));
    }

    pub(crate) async fn input(&self, input: Input) -> bool {
        self.inputs.send(input).await.is_ok()
    }

    /// All shards that were seen, by number.
    pub fn shards(&self) -> Vec<ShardView> {
        self.views.lock().values().cloned().collect()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }
}

/// What one connected shard was sent.
struct Stream {
    session: u64,
    out: mpsc::Sender<Vec<ToShard>>,
    facts_revision: Revision,
    facts: HashMap<FactBytes, SetHash>,
    facts_hash: SetHash,
}

struct Task {
    rollout: Rollout,
    started: Instant,
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    interest: Interest,
    streams: HashMap<ShardId, Stream>,
    activations: BTreeMap<GatewayKey, Revision>,
    activate: mpsc::Sender<Vec<(GatewayKey, Revision)>>,
    reports: mpsc::Sender<RolloutReport>,
    views: Arc<Mutex<BTreeMap<ShardId, ShardView>>>,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        self.restore();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let activate = self.activate.clone();
            tokio::select! {
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    let actions = self.take(input).await;
                    self.act(actions).await;
                }
                permit = activate.reserve(), if !self.activations.is_empty() => {
                    let Ok(permit) = permit else { return };
                    permit.send(std::mem::take(&mut self.activations).into_iter().collect());
                }
                _ = ticks.tick() => {
                    let now = self.now();
                    let actions = self.rollout.tick(now);
                    self.act(actions).await;
                }
            }
            self.metrics
                .streams
                .store(self.streams.len() as u64, Ordering::Relaxed);
            self.metrics
                .fenced
                .store(self.rollout.fenced() as u64, Ordering::Relaxed);
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes over what was committed before this process started.
    fn restore(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        let snapshot = snapshot.read();
        let now = self.now();
        for (key, chain) in snapshot.gateways() {
            let shards = placement(&snapshot, key);
            self.interest.restore(key, chain, shards.clone());
            self.rollout.placed(key, shards, now);
            self.rollout.restored(key, chain.active(), chain.tip(), now);
        }
    }

    async fn take(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::Applied(event) => self.applied(event),
            Input::Connected {
                shard,
                session,
                hello,
                out,
            } => self.connected(shard, session, &hello, out),
            Input::Message {
                shard,
                session,
                message,
            } => {
                if self
                    .streams
                    .get(&shard)
                    .is_some_and(|stream| stream.session == session)
                {
                    self.message(shard, message).await
                } else {
                    Vec::new() // of a stream that was replaced
                }
            }
            Input::Disconnected { shard, session } => {
                if self
                    .streams
                    .get(&shard)
                    .is_some_and(|stream| stream.session == session)
                {
                    self.disconnect(shard)
                } else {
                    Vec::new()
                }
            }
        }
    }

    fn applied(&mut self, event: AppliedEvent) -> Vec<Action> {
        let now = self.now();
        let mut batches: HashMap<ShardId, Vec<ToShard>> = HashMap::new();
        let mut actions = Vec::new();
        match event.applied {
            Applied::Committed { facts, gateways } => {
                let mut gained: Vec<Change> = Vec::new();
                for delta in &gateways {
                    gained.extend(self.interest.committed(delta, event.index));
                }
                let joined = self.place(&facts.ops, &mut gained, &mut batches, &mut actions);
                self.send_facts(event.index, &facts.ops, gained, &mut batches);
                for delta in gateways {
                    let prepare = delivery::Prepare {
                        gateway: Some((&delta.gateway).into()),
                        base: delta.base.0,
                        revision: event.index.0,
                        ops: ops_to_wire(&delta.ops),
                        replace: false,
                        hash: delta.hash.to_bytes().to_vec(),
                        removed: delta.removed,
                    };
                    for shard in self.interest.shards_of(&delta.gateway) {
                        // One that has just joined gets the Gateway whole.
                        if !joined.contains(&(*shard, delta.gateway.clone())) {
                            let message = to_shard::Message::Prepare(prepare.clone());
                            batches
                                .entry(*shard)
                                .or_default()
                                .push(wire(message, &event.traceparent));
                        }
                    }
                    actions.extend(self.rollout.committed(&delta.gateway, event.index, now));
                }
                let snapshot = Arc::clone(&self.snapshot);
                for (shard, gateway) in joined {
                    let messages = whole_gateway(&snapshot.read(), &gateway, None);
                    batches.entry(shard).or_default().extend(messages);
                }
            }
            Applied::Activated { gateways } => {
                let mut lost = Vec::new();
                for (gateway, revision, gone) in gateways {
                    let activate = delivery::Activate {
                        gateway: Some((&gateway).into()),
                        revision: revision.0,
                    };
                    for shard in self.interest.shards_of(&gateway) {
                        let message = to_shard::Message::Activate(activate.clone());
                        batches
                            .entry(*shard)
                            .or_default()
                            .push(wire(message, &event.traceparent));
                    }
                    lost.extend(self.interest.activated(&gateway, revision, gone));
                    actions.extend(self.rollout.activated(&gateway, revision, gone, now));
                }
                self.drop_facts(event.index, lost, &mut batches);
            }
            Applied::Rejected { .. } => {}
        }
        for (shard, batch) in batches {
            actions.extend(self.send(shard, batch));
        }
        actions
    }

    /// Takes changes of placement. Gives the shards that join a Gateway.
    fn place(
        &mut self,
        ops: &[Op],
        gained: &mut Vec<Change>,
        batches: &mut HashMap<ShardId, Vec<ToShard>>,
        actions: &mut Vec<Action>,
    ) -> Vec<(ShardId, GatewayKey)> {
        let now = self.now();
        let mut joined = Vec::new();
        for op in ops {
            let Ok(FactKey::Placement(gateway)) = decode("fact key", &op.key) else {
                continue;
            };
            let shards = match op.value.as_deref().map(|value| decode("fact", value)) {
                Some(Ok(Fact::Placement(placement))) => placement.shards,
                _ => Vec::new(),
            };
            let old = self.interest.shards_of(&gateway).to_vec();
            joined.extend(
                shards
                    .iter()
                    .filter(|s| !old.contains(s))
                    .map(|s| (*s, gateway.clone())),
            );
            for left in old.iter().filter(|shard| !shards.contains(shard)) {
                let message = to_shard::Message::Drop(delivery::Drop {
                    gateway: Some((&gateway).into()),
                });
                batches.entry(*left).or_default().push(wire(message, ""));
            }
            let (more, _) = self.interest.placed(&gateway, shards.clone());
            gained.extend(more);
            actions.extend(self.rollout.placed(&gateway, shards, now));
        }
        joined
    }

    /// Puts a facts message into the batch of each shard that needs one of `ops` or has gained a fact.
    fn send_facts(
        &mut self,
        index: Revision,
        ops: &[Op],
        gained: Vec<Change>,
        batches: &mut HashMap<ShardId, Vec<ToShard>>,
    ) {
        let mut by_shard: HashMap<ShardId, BTreeMap<FactBytes, Option<Vec<u8>>>> = HashMap::new();
        let snapshot = Arc::clone(&self.snapshot);
        let snapshot = snapshot.read();
        for (shard, fact) in gained {
            if let Some(value) = snapshot.facts().value(&fact) {
                by_shard
                    .entry(shard)
                    .or_default()
                    .insert(fact, Some(value.to_vec()));
            }
        }
        for op in ops {
            for shard in self
                .streams
                .keys()
                .filter(|shard| self.interest.wants(**shard, &op.key))
            {
                by_shard
                    .entry(*shard)
                    .or_default()
                    .insert(op.key.clone(), op.value.clone());
            }
        }
        drop(snapshot);
        self.push_facts(index, by_shard, batches);
    }

    fn drop_facts(
        &mut self,
        index: Revision,
        lost: Vec<Change>,
        batches: &mut HashMap<ShardId, Vec<ToShard>>,
    ) {
        let mut by_shard: HashMap<ShardId, BTreeMap<FactBytes, Option<Vec<u8>>>> = HashMap::new();
        for (shard, fact) in lost {
            by_shard.entry(shard).or_default().insert(fact, None);
        }
        self.push_facts(index, by_shard, batches);
    }

    fn push_facts(
        &mut self,
        index: Revision,
        by_shard: HashMap<ShardId, BTreeMap<FactBytes, Option<Vec<u8>>>>,
        batches: &mut HashMap<ShardId, Vec<ToShard>>,
    ) {
        for (shard, facts) in by_shard {
            let Some(stream) = self.streams.get_mut(&shard) else {
                continue;
            };
            let ops: Vec<Op> = facts
                .into_iter()
                .map(|(key, value)| Op { key, value })
                .collect();
            let message = stream.facts(index, &ops);
            batches
                .entry(shard)
                .or_default()
                .push(wire(to_shard::Message::Facts(message), ""));
        }
    }

    fn connected(
        &mut self,
        shard: ShardId,
        session: u64,
        hello: &delivery::Hello,
        out: mpsc::Sender<Vec<ToShard>>,
    ) -> Vec<Action> {
        let now = self.now();
        let mut actions = if self.streams.contains_key(&shard) {
            self.disconnect(shard)
        } else {
            Vec::new()
        };
        let snapshot = Arc::clone(&self.snapshot);
        let snapshot = snapshot.read();
        let mut stream = Stream {
            session,
            out,
            facts_revision: Revision(hello.facts_revision),
            facts: HashMap::new(),
            facts_hash: SetHash::default(),
        };
        let mut batch = Vec::new();
        let ops = facts_for(&snapshot, &self.interest, shard);
        let whole = stream.facts(snapshot.revision(), &ops);
        if hello.facts_hash != stream.facts_hash.to_bytes() {
            let message = delivery::Facts {
                replace: true,
                base: 0,
                ..whole
            };
            batch.push(wire(to_shard::Message::Facts(message), ""));
        } else {
            stream.facts_revision = Revision(hello.facts_revision);
        }
        let mut held: HashMap<GatewayKey, &delivery::Held> = HashMap::new();
        for gateway in &hello.gateways {
            if let Ok(key) = gateway_key(gateway.gateway.clone()) {
                held.insert(key, gateway);
            }
        }
        let mut placed = 0;
        for gateway in self.interest.gateways_of(shard) {
            placed += 1;
            batch.extend(whole_gateway(&snapshot, gateway, held.remove(gateway)));
        }
        for gateway in held.keys() {
            let message = to_shard::Message::Drop(delivery::Drop {
                gateway: Some(gateway.into()),
            });
            batch.push(wire(message, ""));
        }
        let synced = delivery::Synced {
            revision: snapshot.revision().0,
        };
        batch.push(wire(to_shard::Message::Synced(synced), ""));
        drop(snapshot);
        tracing::info!(%shard, gateways = placed, messages = batch.len(), version = hello.version, "shard connected");
        self.streams.insert(shard, stream);
        self.views.lock().insert(
            shard,
            ShardView {
                shard,
                connected: true,
                version: hello.version.clone(),
                admin: hello.admin.clone(),
                gateways: placed,
                connections: 0,
                requests_in_flight: 0,
                requests_total: 0,
                rss_bytes: 0,
            },
        );
        actions.extend(self.rollout.connected(shard, now));
        actions.extend(self.send(shard, batch));
        actions
    }

    fn disconnect(&mut self, shard: ShardId) -> Vec<Action> {
        self.streams.remove(&shard);
        if let Some(view) = self.views.lock().get_mut(&shard) {
            view.connected = false;
        }
        tracing::info!(%shard, "shard disconnected");
        let now = self.now();
        self.rollout.disconnected(shard, now)
    }

    async fn message(&mut self, shard: ShardId, message: FromShard) -> Vec<Action> {
        let now = self.now();
        let key = |key| match gateway_key(key) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::warn!(%shard, %error, "message left out");
                None
            }
        };
        match message.message {
            Some(from_shard::Message::Prepared(m)) => {
                let Some(gateway) = key(m.gateway) else {
                    return Vec::new();
                };
                self.rollout
                    .prepared(shard, &gateway, Revision(m.revision), now)
            }
            Some(from_shard::Message::Acknowledged(m)) => {
                let Some(gateway) = key(m.gateway) else {
                    return Vec::new();
                };
                self.rollout
                    .acknowledged(shard, &gateway, Revision(m.revision), now)
            }
            Some(from_shard::Message::Busy(m)) => {
                let Some(gateway) = key(m.gateway) else {
                    return Vec::new();
                };
                let by = Duration::from_millis(u64::from(m.extend_ms));
                self.rollout.busy(&gateway, Revision(m.revision), by, now);
                Vec::new()
            }
            Some(from_shard::Message::Refused(m)) => {
                let port_unavailable = m.reason() == delivery::RefusedReason::PortUnavailable;
                let Some(gateway) = key(m.gateway) else {
                    return Vec::new();
                };
                tracing::warn!(%shard, %gateway, revision = m.revision, listener = m.listener, error = m.message, "revision refused");
                self.rollout.refused(shard, &gateway, Revision(m.revision));
                let report = RolloutReport::Refused {
                    gateway,
                    revision: Revision(m.revision),
                    shard,
                    listener: (!m.listener.is_empty()).then_some(m.listener),
                    port_unavailable,
                    message: m.message,
                };
                let _ = self.reports.send(report).await;
                Vec::new()
            }
            Some(from_shard::Message::Resync(m)) => self.resync(shard, m),
            Some(from_shard::Message::Load(m)) => {
                if let Some(view) = self.views.lock().get_mut(&shard) {
                    view.connections = m.connections;
                    view.requests_in_flight = m.requests_in_flight;
                    view.requests_total = m.requests_total;
                    view.rss_bytes = m.rss_bytes;
                    view.gateways = self.interest.gateways_of(shard).count();
                }
                Vec::new()
            }
            Some(from_shard::Message::Hello(_)) | None => Vec::new(),
        }
    }

    fn resync(&mut self, shard: ShardId, request: delivery::Resync) -> Vec<Action> {
        tracing::warn!(%shard, reason = request.reason, gateway = ?request.gateway, "shard asks anew");
        let snapshot = Arc::clone(&self.snapshot);
        let snapshot = snapshot.read();
        let batch = match request.gateway {
            Some(key) => {
                let gateway = GatewayKey {
                    namespace: key.namespace,
                    name: key.name,
                };
                whole_gateway(&snapshot, &gateway, None)
            }
            None => {
                let ops = facts_for(&snapshot, &self.interest, shard);
                let Some(stream) = self.streams.get_mut(&shard) else {
                    return Vec::new();
                };
                stream.facts.clear();
                stream.facts_hash = SetHash::default();
                let whole = stream.facts(snapshot.revision(), &ops);
                let message = delivery::Facts {
                    replace: true,
                    base: 0,
                    ..whole
                };
                vec![wire(to_shard::Message::Facts(message), "")]
            }
        };
        drop(snapshot);
        self.send(shard, batch)
    }

    fn send(&mut self, shard: ShardId, batch: Vec<ToShard>) -> Vec<Action> {
        let Some(stream) = self.streams.get(&shard) else {
            return Vec::new();
        };
        if batch.is_empty() || stream.out.try_send(batch).is_ok() {
            return Vec::new();
        }
        self.metrics.lagging.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%shard, "shard does not keep up; its stream is closed so that it comes back for what it lacks");
        self.disconnect(shard)
    }

    async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            let report = match action {
                Action::Activate(gateway, revision) => {
                    self.activations.insert(gateway, revision);
                    continue;
                }
                Action::Propagated {
                    gateway,
                    revision,
                    acknowledged,
                    total,
                    took,
                } => {
                    self.metrics.propagation.record(took);
                    RolloutReport::Propagated {
                        gateway,
                        revision,
                        acknowledged,
                        total,
                        took,
                    }
                }
                Action::Waiting {
                    gateway,
                    revision,
                    prepared,
                    total,
                } => {
                    tracing::warn!(%gateway, %revision, prepared, total, "too few shards answer; the rollout waits");
                    RolloutReport::Waiting {
                        gateway,
                        revision,
                        prepared,
                        total,
                    }
                }
                Action::Fenced(shard, gateway) => {
                    tracing::warn!(%shard, %gateway, "shard does not answer; the rollout goes on without it");
                    RolloutReport::Fenced { shard, gateway }
                }
            };
            let _ = self.reports.send(report).await;
        }
        self.metrics
            .waiting
            .store(self.activations.len() as u64, Ordering::Relaxed);
    }
}

impl Stream {
    /// The message that changes the shard's facts by `ops`.
    fn facts(&mut self, revision: Revision, ops: &[Op]) -> delivery::Facts {
        for op in ops {
            let new = op.value.as_ref().map(|value| SetHash::of(&op.key, value));
            let old = match new {
                Some(hash) => self.facts.insert(op.key.clone(), hash),
                None => self.facts.remove(&op.key),
            };
            self.facts_hash = self
                .facts_hash
                .minus(old.unwrap_or_default())
                .plus(new.unwrap_or_default());
        }
        let base = std::mem::replace(&mut self.facts_revision, revision);
        delivery::Facts {
            base: base.0,
            revision: revision.0,
            ops: ops_to_wire(ops),
            replace: false,
            hash: self.facts_hash.to_bytes().to_vec(),
        }
    }
}

fn placement(snapshot: &RoutingSnapshot, gateway: &GatewayKey) -> Vec<ShardId> {
    let key = api_snapshot::encode(&FactKey::Placement(gateway.clone()));
    match snapshot
        .facts()
        .value(&key)
        .map(|value| decode("placement", value))
    {
        Some(Ok(Fact::Placement(placement))) => placement.shards,
        _ => Vec::new(),
    }
}

fn facts_for(snapshot: &RoutingSnapshot, interest: &Interest, shard: ShardId) -> Vec<Op> {
    let mut ops: Vec<Op> = interest
        .facts_of(shard)
        .filter_map(|key| {
            let value = snapshot.facts().value(key)?;
            Some(Op {
                key: key.clone(),
                value: Some(value.to_vec()),
            })
        })
        .collect();
    ops.sort_by(|a, b| a.key.cmp(&b.key));
    ops
}

/// What brings a shard from what it holds of a Gateway to what is committed: nothing, the pending deltas, or all.
fn whole_gateway(
    snapshot: &RoutingSnapshot,
    gateway: &GatewayKey,
    held: Option<&delivery::Held>,
) -> Vec<ToShard> {
    let Some(chain) = snapshot.gateway(gateway) else {
        let message = to_shard::Message::Drop(delivery::Drop {
            gateway: Some(gateway.into()),
        });
        return vec![wire(message, "")];
    };
    let mut messages = Vec::new();
    let current = held.is_some_and(|held| {
        held.active == chain.active().0 && held.active_hash == chain.entries().hash().to_bytes()
    });
    // Without an active revision there is nothing to send whole; the pending deltas start from nothing.
    if !current && (chain.active() != Revision(0) || held.is_some()) {
        let ops = chain
            .entries()
            .iter()
            .map(|(key, value)| delivery::Op {
                key: key.to_vec(),
                value: Some(value.to_vec()),
            })
            .collect();
        messages.push(wire(
            to_shard::Message::Prepare(delivery::Prepare {
                gateway: Some(gateway.into()),
                base: 0,
                revision: chain.active().0,
                ops,
                replace: true,
                hash: chain.entries().hash().to_bytes().to_vec(),
                removed: false,
            }),
            "",
        ));
        let activate = delivery::Activate {
            gateway: Some(gateway.into()),
            revision: chain.active().0,
        };
        messages.push(wire(to_shard::Message::Activate(activate), ""));
    }
    for pending in chain.pending() {
        messages.push(wire(
            to_shard::Message::Prepare(delivery::Prepare {
                gateway: Some(gateway.into()),
                base: pending.delta.base.0,
                revision: pending.revision.0,
                ops: ops_to_wire(&pending.delta.ops),
                replace: false,
                hash: pending.delta.hash.to_bytes().to_vec(),
                removed: pending.delta.removed,
            }),
            "",
        ));
    }
    messages
}

fn wire(message: to_shard::Message, traceparent: &str) -> ToShard {
    ToShard {
        message: Some(message),
        traceparent: traceparent.to_owned(),
    }
}
