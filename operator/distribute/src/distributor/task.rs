//! What the task holds, and what each input does to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{Activation, Applied, RoutingSnapshot};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};

use super::{Config, Distributor, Input};
use crate::ShardView;
use crate::event::{AppliedEvent, Event, RolloutReport, placements};
use crate::lead::Lead;
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::sources::{Source, Sources};
use crate::streams::Streams;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often what is over is forgotten.
const TIDY: Duration = Duration::from_secs(60);
/// What the rollout's clock shows at the start, so that what was seen before has a time too.
const CLOCK_BEGINS: Duration = Duration::from_secs(86_400);

/// The task.
pub(super) struct Task {
    config: Config,
    started: Instant,
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    streams: Streams,
    sources: Sources,
    /// While this replica leads.
    lead: Option<Lead>,
    /// To the replica that does.
    relay: Option<Relay>,
    tidied: Duration,
    activate: mpsc::Sender<Vec<(GatewayKey, Revision)>>,
    reports: mpsc::Sender<RolloutReport>,
    views: Arc<Mutex<BTreeMap<ShardId, ShardView>>>,
    metrics: Arc<Metrics>,
}

impl Task {
    pub(super) fn new(
        config: Config,
        snapshot: Arc<RwLock<RoutingSnapshot>>,
        activate: mpsc::Sender<Vec<(GatewayKey, Revision)>>,
        reports: mpsc::Sender<RolloutReport>,
        distributor: &Distributor,
    ) -> Self {
        let (views, metrics) = (&distributor.views, &distributor.metrics);
        Self {
            config,
            started: Instant::now(),
            streams: Streams::new(
                Arc::clone(&snapshot),
                Arc::clone(views),
                Arc::clone(metrics),
            ),
            snapshot,
            sources: Sources::default(),
            lead: None,
            relay: None,
            tidied: CLOCK_BEGINS,
            activate,
            reports,
            views: Arc::clone(views),
            metrics: Arc::clone(metrics),
        }
    }

    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut leading: watch::Receiver<(bool, u64)>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let activate = self.activate.clone();
            let relay = self.relay.as_ref().filter(|relay| relay.waits());
            let relay = relay.map(Relay::sender);
            let has_activations = self.lead.as_ref().is_some_and(Lead::has_activations);
            tokio::select! {
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input).await;
                }
                // Its sender is with that of the inputs.
                Ok(()) = leading.changed() => {
                    let (leads, _) = *leading.borrow_and_update();
                    self.lead(leads).await;
                }
                permit = activate.reserve(), if has_activations => {
                    let Ok(permit) = permit else { return };
                    if let Some(lead) = &mut self.lead {
                        permit.send(lead.take_activations());
                    }
                    continue;
                }
                () = has_room(relay) => {
                    self.relay.take_if(|relay| !relay.send());
                    continue;
                }
                _ = ticks.tick() => self.tick().await,
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

    async fn tick(&mut self) {
        let now = self.now();
        self.streams.tick(now);
        if now >= self.tidied + TIDY {
            self.tidied = now;
            let streams = &self.streams;
            self.sources
                .tidy(|shard, gateway| streams.shards_of(gateway).contains(&shard));
        }
        match &mut self.lead {
            Some(lead) => lead.tick(now).await,
            None => {
                self.metrics.waiting.store(0, Ordering::Relaxed);
                self.metrics.fenced.store(0, Ordering::Relaxed);
            }
        }
    }

    async fn lead(&mut self, leads: bool) {
        self.streams.lead(leads);
        let led = self.lead.take().is_some();
        if !leads {
            if led && let Some(relay) = &mut self.relay {
                relay.anew(self.sources.of(Source::Here));
            }
            return;
        }
        if let Some(relay) = &mut self.relay {
            relay.stop();
        }
        let now = self.now();
        let lead = Lead::new(
            self.config.prepare_deadline,
            Arc::clone(&self.snapshot),
            self.reports.clone(),
            Arc::clone(&self.metrics),
            now,
        );
        let mut lead = lead.await;
        for event in self.sources.all() {
            lead.event(event, now).await;
        }
        self.lead = Some(lead);
    }

    async fn take(&mut self, input: Input) {
        let now = self.now();
        let events = match input {
            Input::Applied(event) => {
                let events = self.streams.applied(&event, now);
                self.applied(&event, now).await;
                events
            }
            Input::Restored => self.streams.restored(),
            Input::Connected {
                shard,
                session,
                hello,
                out,
            } => self.streams.connected(shard, session, hello, out, now),
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
            Input::Listens(relay) => {
                let mut relay = Relay::new(relay, self.sources.of(Source::Here));
                if self.lead.is_some() {
                    relay.stop();
                }
                self.relay = Some(relay);
                Vec::new()
            }
            Input::Relayed(replica, event) => {
                self.told(Source::Replica(replica), event).await;
                Vec::new()
            }
            Input::RelayEnded(replica) => {
                self.told(Source::Replica(replica), Event::Restarted).await;
                Vec::new()
            }
        };
        self.tell(events).await;
    }

    /// Gives an entry to the rollout, and tells it again what shards have said of it: the entry may have come to another
    /// replica, and its shards' word here, before it came itself.
    async fn applied(&mut self, event: &AppliedEvent, now: Duration) {
        let Some(lead) = &mut self.lead else { return };
        lead.applied(event, now).await;
        let mut said = Vec::new();
        let (sources, streams) = (&self.sources, &self.streams);
        let mut of = |gateway: &GatewayKey, shards: &[ShardId], from: Revision| {
            let shards = shards.iter();
            said.extend(shards.flat_map(|shard| sources.said_of(*shard, gateway, from)));
        };
        match &event.applied {
            Applied::Committed {
                facts, gateways, ..
            } => {
                for (gateway, placed) in placements(&facts.ops) {
                    of(&gateway, &placed.everywhere, Revision(0));
                }
                for delta in gateways {
                    let shards = streams.shards_of(&delta.gateway);
                    of(&delta.gateway, shards, event.index);
                }
            }
            Applied::Activated { gateways } => {
                for Activation {
                    gateway, revision, ..
                } in gateways
                {
                    of(gateway, streams.shards_of(gateway), *revision);
                }
            }
            Applied::Begun { .. } | Applied::Rejected { .. } => {}
        }
        for event in said {
            lead.event(event, now).await;
        }
    }

    /// Passes on what this replica's streams tell.
    async fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            let missed = event == Event::Restarted;
            let relays = self.relay.is_some() && self.lead.is_none();
            let relayed = relays.then(|| event.clone());
            self.told(Source::Here, event).await;
            if let (Some(relay), Some(event)) = (&mut self.relay, relayed)
                && !relay.say(event)
            {
                tracing::warn!("the relay to the leader does not keep up; it begins anew");
                self.metrics.relays_lagging.fetch_add(1, Ordering::Relaxed);
                relay.anew(self.sources.of(Source::Here));
            }
            if missed && self.lead.is_some() {
                // The rollout has missed them as well.
                self.lead(true).await;
            }
        }
    }

    /// Takes what is said by the shards of a replica.
    async fn told(&mut self, source: Source, event: Event) {
        let now = self.now();
        for event in self.sources.take(source, event) {
            if source != Source::Here {
                self.show(&event);
            }
            if let Some(lead) = &mut self.lead {
                lead.event(event, now).await;
            }
        }
    }

    /// Shows a shard that is connected to another replica.
    fn show(&self, event: &Event) {
        let (shard, connected) = match event {
            Event::Connected(shard) => (*shard, true),
            Event::Disconnected(shard) => (*shard, false),
            _ => return,
        };
        let mut views = self.views.lock();
        let view = views.entry(shard);
        let view = view.or_insert_with(|| ShardView::elsewhere(shard));
        view.connected = connected;
    }
}

/// Waits until something can be sent to a relay, or nobody listens any more; for ever without one.
async fn has_room(relay: Option<mpsc::Sender<Event>>) {
    match relay {
        Some(relay) => drop(relay.reserve().await),
        None => std::future::pending().await,
    }
}
