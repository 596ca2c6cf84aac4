//! The one task that joins streams and rollout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::RoutingSnapshot;
use api_telemetry::metrics::Source;
use api_wire::delivery::{self, FromShard, ToShard};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::ShardView;
use crate::event::{AppliedEvent, Event, RolloutReport};
use crate::lead::Lead;
use crate::metrics::Metrics;
use crate::streams::Streams;

/// Inputs that wait for the distributor; raft's thread waits for room.
const INPUTS_MAX: usize = 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// What the rollout's clock shows at the start, so that what was seen before has a time too.
const CLOCK_BEGINS: Duration = Duration::from_secs(86_400);

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time for a shard to prepare a revision before the rollout goes on without it.
    pub prepare_deadline: Duration,
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
///
/// Every entry that is applied to `snapshot` from now on is to be handed in, in order.
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
    let (views, metrics) = (&distributor.views, &distributor.metrics);
    let streams = Streams::new(
        Arc::clone(&snapshot),
        Arc::clone(views),
        Arc::clone(metrics),
    );
    let metrics = Arc::clone(metrics);
    api_telemetry::task::spawn("distributor", async move {
        let lead = Lead::new(
            config.prepare_deadline,
            snapshot,
            reports,
            Arc::clone(&metrics),
            CLOCK_BEGINS,
        );
        let task = Task {
            started: Instant::now(),
            streams,
            lead: lead.await,
            activate,
            metrics,
        };
        task.run(receiver).await;
    });
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

    /// Counts of the connections that are turned away.
    pub(crate) fn refusals(&self) -> Arc<operator_identity::Refusals> {
        Arc::clone(&self.metrics.refusals)
    }
}

struct Task {
    started: Instant,
    streams: Streams,
    lead: Lead,
    activate: mpsc::Sender<Vec<(GatewayKey, Revision)>>,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let activate = self.activate.clone();
            tokio::select! {
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input).await;
                }
                permit = activate.reserve(), if self.lead.has_activations() => {
                    let Ok(permit) = permit else { return };
                    permit.send(self.lead.take_activations());
                    continue;
                }
                _ = ticks.tick() => {
                    let now = self.now();
                    self.streams.tick(now);
                    self.lead.tick(now).await;
                }
            }
            let now = self.now();
            let events = self.streams.settle(now);
            self.tell(events).await;
            let streams = self.streams.len() as u64;
            self.metrics.streams.store(streams, Ordering::Relaxed);
        }
    }

    fn now(&self) -> Duration {
        CLOCK_BEGINS + self.started.elapsed()
    }

    async fn take(&mut self, input: Input) {
        let now = self.now();
        let events = match input {
            Input::Applied(event) => {
                let events = self.streams.applied(&event, now);
                self.lead.applied(&event, now).await;
                events
            }
            Input::Connected {
                shard,
                session,
                hello,
                out,
            } => self.streams.connected(shard, session, hello, out),
            Input::Message {
                shard,
                session,
                message,
            } if self.streams.is_open(shard, session) => self.streams.message(shard, message, now),
            Input::Disconnected { shard, session } if self.streams.is_open(shard, session) => {
                self.streams.disconnected(shard)
            }
            // Of a stream that was replaced.
            Input::Message { .. } | Input::Disconnected { .. } => Vec::new(),
        };
        self.tell(events).await;
    }

    async fn tell(&mut self, events: Vec<Event>) {
        let now = self.now();
        for event in events {
            self.lead.event(event, now).await;
        }
    }
}
