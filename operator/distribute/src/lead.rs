//! The rollout as the leader runs it: applied entries and what streams tell go in, activations and reports come out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{GatewayKey, Revision};
use api_snapshot::{Activation, Applied, RoutingSnapshot};
use parking_lot::RwLock;
use tokio::sync::mpsc;

use crate::event::{AppliedEvent, Event, Refusal, RolloutReport, all_placements, placements};
use crate::metrics::Metrics;
use crate::rollout::{Action, Rollout};

/// Activations, one revision for each Gateway.
pub(crate) type Activations = Vec<(GatewayKey, Revision)>;

/// The rollout and what it is tied to.
pub(crate) struct Lead {
    rollout: Rollout,
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    /// Entries up to this one were in the snapshot that this began with.
    restored: Revision,
    activations: BTreeMap<GatewayKey, Revision>,
    reports: mpsc::Sender<RolloutReport>,
    metrics: Arc<Metrics>,
}

impl Lead {
    /// Begins with what was committed before. What shards say is to be told after.
    pub(crate) async fn new(
        deadline: Duration,
        snapshot: Arc<RwLock<RoutingSnapshot>>,
        reports: mpsc::Sender<RolloutReport>,
        metrics: Arc<Metrics>,
        now: Duration,
    ) -> Self {
        let mut lead = Self {
            rollout: Rollout::new(deadline, now),
            snapshot,
            restored: Revision(0),
            activations: BTreeMap::new(),
            reports,
            metrics,
        };
        let actions = lead.restore(now);
        lead.act(actions).await;
        lead
    }

    fn restore(&mut self, now: Duration) -> Vec<Action> {
        let snapshot = self.snapshot.read();
        self.restored = snapshot.revision();
        for (gateway, chain) in snapshot.gateways() {
            self.rollout.restored(gateway, chain.active(), now);
            for pending in chain.pending() {
                let seen = seen_at(pending.seen_at_us, now);
                // Nobody is connected yet: nothing to do follows.
                self.rollout
                    .committed(gateway, pending.revision, seen, &pending.traceparent, now);
            }
        }
        let placements = all_placements(&snapshot);
        placements
            .flat_map(|(gateway, placed)| {
                self.rollout.placed(&gateway, &placed, self.restored, now)
            })
            .collect()
    }

    /// Takes an entry.
    pub(crate) async fn applied(&mut self, event: &AppliedEvent, now: Duration) {
        if event.index <= self.restored {
            return;
        }
        let mut actions = Vec::new();
        match &event.applied {
            Applied::Committed {
                facts,
                gateways,
                origin,
            } => {
                for (gateway, placed) in placements(&facts.ops) {
                    actions.extend(self.rollout.placed(&gateway, &placed, event.index, now));
                }
                let seen = seen_at(origin.seen_at_us, now);
                for delta in gateways {
                    let (gateway, trace) = (&delta.gateway, origin.traceparent.as_str());
                    actions.extend(
                        self.rollout
                            .committed(gateway, event.index, seen, trace, now),
                    );
                }
            }
            Applied::Activated { gateways } => {
                for Activation {
                    gateway,
                    revision,
                    gone,
                    ..
                } in gateways
                {
                    actions.extend(self.rollout.activated(gateway, *revision, *gone, now));
                }
            }
            Applied::Begun { .. } | Applied::Rejected { .. } => {}
        }
        self.act(actions).await;
    }

    /// Takes what a stream tells, of this replica or another.
    pub(crate) async fn event(&mut self, event: Event, now: Duration) {
        let actions = match event {
            // Which shards that concerns is said apart.
            Event::Restarted => Vec::new(),
            Event::Connected(shard) => {
                self.rollout.connected(shard, now);
                Vec::new()
            }
            Event::Disconnected(shard) => self.rollout.disconnected(shard, now),
            Event::Prepared(shard, gateway, revision) => {
                self.rollout.prepared(shard, &gateway, revision, now)
            }
            Event::Acknowledged(shard, gateway, revision) => {
                if let Some(trace) = self.rollout.traceparent(&gateway, revision) {
                    let span =
                        tracing::info_span!("rollout.acknowledged", %shard, %gateway, %revision);
                    api_telemetry::trace::set_parent(&span, trace);
                    span.in_scope(|| tracing::debug!("shard serves the revision"));
                }
                self.rollout.acknowledged(shard, &gateway, revision, now)
            }
            Event::Busy(_, gateway, revision, by) => {
                self.rollout.busy(&gateway, revision, by, now);
                Vec::new()
            }
            Event::Refused(refusal) => self.refused(refusal, now).await,
        };
        self.act(actions).await;
    }

    async fn refused(&mut self, refusal: Refusal, now: Duration) -> Vec<Action> {
        let Refusal {
            shard,
            gateway,
            revision,
            listener,
            entry,
            port_unavailable,
            message,
        } = refusal;
        tracing::warn!(%shard, %gateway, %revision, ?listener, ?entry, error = message, "revision refused");
        let actions = self.rollout.refused(shard, &gateway, revision, now);
        let report = RolloutReport::Refused {
            gateway,
            revision,
            shard,
            listener,
            entry,
            port_unavailable,
            message,
        };
        // The receiver ends with the process.
        let _ = self.reports.send(report).await;
        actions
    }

    /// Looks at deadlines and counts.
    pub(crate) async fn tick(&mut self, now: Duration) {
        let actions = self.rollout.tick(now);
        self.act(actions).await;
        let (waiting, fenced) = (self.rollout.waiting(), self.rollout.fenced());
        self.metrics
            .waiting
            .store(waiting as u64, Ordering::Relaxed);
        self.metrics.fenced.store(fenced as u64, Ordering::Relaxed);
    }

    /// Whether an activation waits to be proposed.
    pub(crate) fn has_activations(&self) -> bool {
        !self.activations.is_empty()
    }

    /// What is to be activated: of each Gateway the newest.
    pub(crate) fn take_activations(&mut self) -> Activations {
        std::mem::take(&mut self.activations).into_iter().collect()
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
                    changes,
                } => {
                    for took in changes {
                        self.metrics.propagation.record(took);
                    }
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
                Action::Moving {
                    gateway,
                    placed,
                    serving,
                } => RolloutReport::Moving {
                    gateway,
                    placed,
                    serving,
                },
                Action::Fenced(shard, gateway) => {
                    tracing::warn!(%shard, %gateway, "shard does not answer; the rollout goes on without it");
                    RolloutReport::Fenced { shard, gateway }
                }
            };
            // The receiver ends with the process.
            let _ = self.reports.send(report).await;
        }
    }
}

/// A time of the wall clock, as the rollout's clock would have shown it; now when it is not known.
fn seen_at(seen_at_us: u64, now: Duration) -> Duration {
    let ago = SystemTime::now()
        .duration_since(UNIX_EPOCH + Duration::from_micros(seen_at_us))
        .unwrap_or_default();
    if seen_at_us == 0 {
        now
    } else {
        now.saturating_sub(ago)
    }
}
