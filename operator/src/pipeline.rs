//! Wires the stages: source -> index -> translate -> place -> diff -> propose, and the rollout's reports -> status.

mod begin;
mod leading;
mod moves;
mod ports;
mod propose;
mod reconcile;
mod report;
mod services;
mod step;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{GatewayKey, ObjectKey};
use api_telemetry::metrics::DurationHistogram;
use operator_consensus::Node;
use operator_distribute::{Distributor, RolloutReport};
use operator_index::{Dirty, Index};
use operator_objects::spec::Event;
use operator_placement::{Allocator, PlanError};
use operator_source::Batch;
use operator_status::Statuses;
use operator_translate::Translation;
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::changelog::ChangeLog;
use crate::kept::Kept;
use crate::machine::{Machine, Output};
use crate::progress::Progress;
use crate::retire::Retiring;
use crate::source::Source;
use crate::view::Published;

pub(crate) use moves::Moving;
pub(crate) use ports::Unavailable;
pub(crate) use propose::Blocked;
pub(crate) use services::Services;

/// How often ports that could not be bound are tried, and the time is told to translate.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// The pipeline. One task owns it, and with it everything that is written before Raft.
pub(crate) struct Pipeline {
    pub(crate) index: Index,
    pub(crate) translation: Translation,
    pub(crate) allocator: Allocator,
    pub(crate) node: Arc<Node<Output>>,
    pub(crate) machine: Machine,
    pub(crate) progress: Progress,
    pub(crate) statuses: Arc<RwLock<Statuses>>,
    pub(crate) published: Arc<RwLock<Published>>,
    pub(crate) reports: mpsc::Receiver<RolloutReport>,
    pub(crate) distributor: Distributor,
    pub(crate) translate_duration: Arc<DurationHistogram>,
    /// Reports that came while a proposal was under way.
    pub(crate) put_off: VecDeque<RolloutReport>,
    pub(crate) retiring: Retiring,
    pub(crate) changelog: ChangeLog,
    /// Listener ports that a shard could not bind.
    pub(crate) unavailable: BTreeMap<GatewayKey, BTreeMap<u16, Unavailable>>,
    /// Listener ports that could not be placed, and why.
    pub(crate) refused: BTreeMap<GatewayKey, BTreeMap<u16, PlanError>>,
    /// What is committed of objects that cannot be read since this process started.
    pub(crate) kept: Kept,
    /// Gateways that move because the pool has changed.
    pub(crate) moving: Moving,
    /// Why the last proposal is not committed yet, and whose it is.
    pub(crate) blocked: Option<Blocked>,
    /// What is committed is not what this process took it for.
    pub(crate) astray: bool,
    /// Other Secrets or ConfigMaps may be referred to than before.
    pub(crate) gateways_changed: bool,
    /// Services of Gateways and the pool, in a cluster.
    pub(crate) services: Option<Services>,
    /// Whether this replica leads, as Raft sees it.
    pub(crate) leading: watch::Receiver<bool>,
    /// Whether it does as a leader does.
    pub(crate) leads: bool,
}

impl Pipeline {
    /// Runs for ever: takes the source as it is, and follows its changes. While this replica leads, brings what is committed
    /// to it.
    pub(crate) async fn run(mut self, mut source: Source) -> anyhow::Result<()> {
        self.warm(&mut source).await;
        self.wait_for_pool().await;
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let leads = *self.leading.borrow_and_update();
            match (self.leads, leads) {
                (false, true) => self.begin_leading().await?,
                (true, false) => self.stop_leading(),
                _ => {}
            }
            if self.leads {
                self.go_on().await?;
            }
            tokio::select! {
                // The sender ends with the process.
                Ok(()) = self.leading.changed() => {}
                batch = source.next(self.leads) => {
                    if self.leads {
                        self.batch(batch).await;
                    } else {
                        self.follow(batch);
                    }
                    if std::mem::take(&mut self.gateways_changed) && source.is_asked_by_name() {
                        source.want_named(&self.translation, false).await;
                    }
                }
                Some(report) = self.reports.recv() => {
                    if self.leads {
                        self.report(report).await;
                    }
                }
                news = services::news(&mut self.services) => self.news(news),
                _ = housekeeping.tick() => {
                    if self.leads {
                        self.keep_house().await;
                    }
                }
            }
        }
    }

    /// What is left of earlier steps, and what follows from it.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        loop {
            while let Some(report) = self.put_off.pop_front() {
                self.report(report).await;
            }
            self.retire().await;
            if std::mem::take(&mut self.astray) {
                self.take_over()?;
                self.reconcile(Instant::now()).await;
                let gateways: Vec<GatewayKey> = self.translation.gateways().cloned().collect();
                self.needs_changed(gateways);
            }
            self.move_on().await;
            self.tell_needs();
            // Reports come while a step is proposed: a move may wait for them.
            if self.put_off.is_empty() {
                return Ok(());
            }
        }
    }

    async fn batch(&mut self, batch: Batch) {
        let problems_changed = self.publish_problems(&batch);
        if !batch.events.is_empty() {
            let seen = Instant::now();
            let span = tracing::info_span!("change", objects = batch.changed.len());
            let traceparent = api_telemetry::trace::traceparent(&span);
            self.change(batch.events, &batch.changed, seen, traceparent)
                .instrument(span)
                .await;
        }
        // What could not be read may be readable now, or gone.
        if problems_changed && !self.kept.is_empty() {
            self.reconcile(Instant::now()).await;
        }
    }

    async fn change(
        &mut self,
        events: Vec<Event>,
        objects: &[ObjectKey],
        seen: Instant,
        traceparent: String,
    ) {
        let mut dirty = Dirty::default();
        for event in events {
            dirty.merge(self.index.apply(event));
        }
        self.gateways_changed |= !dirty.gateways.is_empty();
        self.needs_changed(dirty.gateways.iter().cloned());
        let changes = self.translation.update(&self.index, dirty);
        self.translate_duration.record(seen.elapsed());
        let step = self.step(&changes);
        self.propose(step, objects, seen, traceparent).await;
        let mut statuses = changes.statuses;
        statuses.extend(objects.iter().cloned());
        self.write_statuses(statuses);
        self.publish_counts();
    }

    /// Tries ports that could not be bound, tells translate the time, and notes how much there is.
    async fn keep_house(&mut self) {
        self.tell_pool();
        self.look_at_endpoints();
        self.try_ports_again().await;
        self.tell_time();
        let changes = self.translation.update(&self.index, Dirty::default());
        self.write_statuses(changes.statuses);
        self.publish_counts();
    }

    fn tell_time(&mut self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs() as i64);
        self.translation.set_now(api::Timestamp(now));
    }

    /// Shows what is wrong with the folder; whether that is something else than before.
    fn publish_problems(&self, batch: &Batch) -> bool {
        let mut published = self.published.write();
        if published.problems == batch.problems {
            return false;
        }
        let known: BTreeSet<_> = published.problems.iter().collect();
        for problem in &batch.problems {
            if problem.is_error && !known.contains(problem) {
                tracing::error!(problem = %problem, "objects cannot be read; the last good state serves on");
            }
        }
        published.problems.clone_from(&batch.problems);
        true
    }

    fn publish_counts(&self) {
        let mut published = self.published.write();
        published.gateways = self.index.gateways().len();
        published.routes = self.index.routes().len();
        published.rejected = self.index.rejections().len();
        published.moving = self.moving.counts();
    }
}
