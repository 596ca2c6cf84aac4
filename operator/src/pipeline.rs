//! Wires the stages: source -> index -> translate -> place -> diff -> propose, and the rollout's reports -> status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{GatewayKey, ObjectKey, Revision, RouteKey};
use api_snapshot::{
    Applied, Command, Delta, Fact, FactKey, FactsDelta, GatewayDelta, Origin, RoutingSnapshot,
};
use api_telemetry::Chain;
use api_telemetry::metrics::DurationHistogram;
use operator_consensus::{Node, ProposeError};
use operator_distribute::RolloutReport;
use operator_index::{Dirty, Index};
use operator_objects::spec::Event;
use operator_placement::{Allocator, PlanError};
use operator_source::{Batch, DirSource};
use operator_status::StatusFolder;
use operator_translate::{Changes, Translation};
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::changelog::ChangeLog;
use crate::delta;
use crate::machine::{Machine, Output};
use crate::progress::Progress;
use crate::retire::Retiring;
use crate::view::Published;

/// Pause before a proposal that found the queue full, or no room on disk, is made again.
const PROPOSE_PAUSE: Duration = Duration::from_millis(200);
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
    pub(crate) statuses: Arc<RwLock<StatusFolder>>,
    pub(crate) published: Arc<RwLock<Published>>,
    pub(crate) reports: mpsc::Receiver<RolloutReport>,
    pub(crate) translate_duration: Arc<DurationHistogram>,
    /// Reports that came while a proposal was under way.
    pub(crate) put_off: VecDeque<RolloutReport>,
    pub(crate) retiring: Retiring,
    pub(crate) changelog: ChangeLog,
    /// Listener ports that a shard could not bind, and why.
    pub(crate) unbound: BTreeMap<GatewayKey, BTreeMap<u16, String>>,
    /// Listener ports that could not be placed, and why.
    pub(crate) refused: BTreeMap<GatewayKey, BTreeMap<u16, PlanError>>,
}

/// What one batch leads to before it is proposed.
#[derive(Default)]
struct Step {
    delta: Delta,
    retired: BTreeSet<FactKey>,
}

impl Pipeline {
    /// Runs for ever: takes the folder as it is, brings what is committed to it, then follows changes.
    pub(crate) async fn run(mut self, mut source: DirSource) -> anyhow::Result<()> {
        self.take_over()?;
        let batch = source.initial();
        self.publish_problems(&batch);
        let seen = Instant::now();
        for event in batch.events {
            self.index.apply(event);
        }
        self.reconcile(seen).await;
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while let Some(report) = self.put_off.pop_front() {
                self.report(report).await;
            }
            self.retire().await;
            tokio::select! {
                batch = source.next() => self.batch(batch).await,
                Some(report) = self.reports.recv() => self.report(report).await,
                _ = housekeeping.tick() => self.keep_house().await,
            }
        }
    }

    /// Reads what was committed before this process started.
    fn take_over(&mut self) -> anyhow::Result<()> {
        let snapshot = self.machine.snapshot.read();
        self.allocator.restore(snapshot.facts())?;
        for (gateway, chain) in snapshot.gateways() {
            self.progress.restore(gateway, chain.tip());
        }
        Ok(())
    }

    /// Translates everything and proposes the difference to what is committed: nothing, when nothing has changed.
    async fn reconcile(&mut self, seen: Instant) {
        self.tell_time();
        let changes = self
            .translation
            .update(&self.index, Dirty::all(&self.index));
        let mut step = Step::default();
        {
            let snapshot = Arc::clone(&self.machine.snapshot);
            let snapshot = snapshot.read();
            let ours: BTreeSet<GatewayKey> = self.translation.gateways().cloned().collect();
            for gateway in &ours {
                self.place(&snapshot, gateway, &mut step);
                let unbound = self.unbound_ports(gateway);
                let entries = delta::wanted(&self.translation, gateway, &unbound);
                step.delta
                    .gateways
                    .extend(delta::gateway_delta_to(&snapshot, gateway, entries));
            }
            let committed: Vec<GatewayKey> =
                snapshot.gateways().map(|(key, _)| key.clone()).collect();
            for gateway in committed.iter().filter(|gateway| !ours.contains(*gateway)) {
                self.remove(&snapshot, gateway, &mut step);
            }
            for (key, backend) in self.translation.backends() {
                let fact = Fact::Backend(backend.clone());
                delta::put_fact(
                    &snapshot,
                    &mut step.delta.facts,
                    &FactKey::Backend(key.clone()),
                    &fact,
                );
            }
            for (key, certificate) in self.translation.certificates() {
                let fact = Fact::Certificate(certificate.clone());
                delta::put_fact(
                    &snapshot,
                    &mut step.delta.facts,
                    &FactKey::Certificate(key.clone()),
                    &fact,
                );
            }
            // Whatever else is committed has lost its last reference while this process was away.
            for (key, _) in api_snapshot::view::facts(snapshot.facts()).unwrap_or_default() {
                if !self.is_wanted(&key) {
                    step.retired.insert(key);
                }
            }
        }
        self.propose(step, &[], seen, String::new()).await;
        let status_of =
            |translation: &Translation, object: &ObjectKey| translation.status(object).is_some();
        let translation = &self.translation;
        self.statuses
            .write()
            .retain(|object| status_of(translation, object));
        let routes: Vec<(RouteKey, GatewayKey)> = self.carried_routes();
        for (route, gateway) in routes {
            self.progress.carried(&route, &gateway);
        }
        self.write_statuses(changes.statuses);
    }

    /// Every route with each Gateway that it is served by.
    fn carried_routes(&self) -> Vec<(RouteKey, GatewayKey)> {
        self.index
            .routes()
            .flat_map(|(route, _)| {
                let parents = self
                    .translation
                    .route_status(route)
                    .map(|status| &status.parents);
                parents
                    .into_iter()
                    .flatten()
                    .filter(|p| p.served)
                    .map(|p| (route.clone(), p.gateway.clone()))
            })
            .collect()
    }

    async fn batch(&mut self, batch: Batch) {
        self.publish_problems(&batch);
        if batch.events.is_empty() {
            return;
        }
        let seen = Instant::now();
        let span = tracing::info_span!("change", objects = batch.changed.len());
        let traceparent = api_telemetry::trace::traceparent(&span);
        self.change(batch.events, &batch.changed, seen, traceparent)
            .instrument(span)
            .await;
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
        // A Gateway that changed may have moved away from the port that was taken.
        for gateway in &dirty.gateways {
            self.unbound.remove(gateway);
        }
        let changes = self.translation.update(&self.index, dirty);
        self.translate_duration.record(seen.elapsed());
        let step = self.step(&changes);
        self.propose(step, objects, seen, traceparent).await;
        let mut statuses = changes.statuses;
        statuses.extend(objects.iter().cloned());
        self.write_statuses(statuses);
        self.publish_counts();
    }

    /// What changes lead to, against what is committed.
    fn step(&mut self, changes: &Changes) -> Step {
        let snapshot = Arc::clone(&self.machine.snapshot);
        let snapshot = snapshot.read();
        let mut step = Step::default();
        for (gateway, change) in &changes.gateways {
            if change.removed {
                self.remove(&snapshot, gateway, &mut step);
                continue;
            }
            let structural = change
                .ops
                .iter()
                .any(|(key, _)| !matches!(key, api_snapshot::GatewayEntryKey::Rule(..)));
            if structural || self.allocator.shards(gateway).is_none() {
                self.place(&snapshot, gateway, &mut step);
            }
            let unbound = self.unbound_ports(gateway);
            if unbound.is_empty() {
                step.delta.gateways.extend(delta::gateway_delta(
                    &snapshot,
                    gateway,
                    change.ops.iter().cloned(),
                ));
            } else {
                let entries = delta::wanted(&self.translation, gateway, &unbound);
                step.delta
                    .gateways
                    .extend(delta::gateway_delta_to(&snapshot, gateway, entries));
            }
        }
        for (key, backend) in &changes.backends {
            let key = FactKey::Backend(key.clone());
            match backend {
                Some(backend) => {
                    delta::put_fact(
                        &snapshot,
                        &mut step.delta.facts,
                        &key,
                        &Fact::Backend(backend.clone()),
                    );
                }
                None => {
                    step.retired.insert(key);
                }
            }
        }
        for (key, certificate) in &changes.certificates {
            let key = FactKey::Certificate(key.clone());
            match certificate {
                Some(certificate) => {
                    delta::put_fact(
                        &snapshot,
                        &mut step.delta.facts,
                        &key,
                        &Fact::Certificate(certificate.clone()),
                    );
                }
                None => {
                    step.retired.insert(key);
                }
            }
        }
        step
    }

    fn place(&mut self, snapshot: &RoutingSnapshot, gateway: &GatewayKey, step: &mut Step) {
        let entries = delta::wanted(&self.translation, gateway, &BTreeSet::new());
        let (plan, gone) = delta::place(
            snapshot,
            &mut self.allocator,
            &self.index,
            &entries,
            gateway,
            &mut step.delta.facts,
        );
        step.retired.extend(gone);
        if plan.refused.is_empty() {
            self.refused.remove(gateway);
        } else {
            self.refused.insert(gateway.clone(), plan.refused);
        }
    }

    fn remove(&mut self, snapshot: &RoutingSnapshot, gateway: &GatewayKey, step: &mut Step) {
        step.delta
            .gateways
            .extend(delta::removal(snapshot, gateway));
        for port in self
            .allocator
            .bindings(gateway)
            .into_iter()
            .flat_map(BTreeMap::keys)
        {
            step.retired
                .insert(FactKey::Binding(gateway.clone(), *port));
        }
        step.retired.insert(FactKey::Placement(gateway.clone()));
        self.allocator.release(gateway);
        self.unbound.remove(gateway);
        self.refused.remove(gateway);
    }

    /// Ports that are left out of what is served: not bound by a shard, or not placed.
    fn unbound_ports(&self, gateway: &GatewayKey) -> BTreeSet<u16> {
        let unbound = self
            .unbound
            .get(gateway)
            .into_iter()
            .flat_map(BTreeMap::keys);
        let refused = self
            .refused
            .get(gateway)
            .into_iter()
            .flat_map(BTreeMap::keys);
        unbound.chain(refused).copied().collect()
    }

    fn is_wanted(&self, fact: &FactKey) -> bool {
        match fact {
            FactKey::Backend(key) => self.translation.backend(key).is_some(),
            FactKey::Certificate(key) => self.translation.certificate(key).is_some(),
            FactKey::Placement(gateway) => self.allocator.shards(gateway).is_some(),
            FactKey::Binding(gateway, port) => self
                .allocator
                .bindings(gateway)
                .is_some_and(|bindings| bindings.contains_key(port)),
            _ => true,
        }
    }

    /// Commits a step and notes what it carries. Waits until it is committed: the next step is made against it.
    async fn propose(
        &mut self,
        mut step: Step,
        objects: &[ObjectKey],
        seen: Instant,
        traceparent: String,
    ) {
        if !step.delta.is_empty() {
            step.delta.origin = origin(objects, seen, traceparent);
            let command = Command::Commit(step.delta).to_bytes();
            let Some((revision, gateways)) = self.commit(command).await else {
                return;
            };
            for gateway in &gateways {
                if gateway.removed {
                    continue;
                }
                self.progress
                    .committed(&gateway.gateway, revision, delta::routes_of(gateway));
            }
            let keys = gateways.iter().map(|gateway| gateway.gateway.clone());
            self.changelog.committed(revision, objects, keys, seen);
        }
        if !step.retired.is_empty() {
            // Whatever is committed and not active may still be what a shard serves by.
            let snapshot = self.machine.snapshot.read();
            let until = snapshot
                .gateways()
                .filter(|(_, chain)| chain.tip() != chain.active())
                .map(|(key, chain)| (key.clone(), chain.tip()))
                .collect();
            drop(snapshot);
            self.retiring.add(step.retired, until);
        }
    }

    /// Proposes until it is committed. Reports that come meanwhile are put off, so that nobody waits in a circle.
    async fn commit(&mut self, command: Vec<u8>) -> Option<(Revision, Vec<GatewayDelta>)> {
        loop {
            let node = Arc::clone(&self.node);
            let mut proposal = std::pin::pin!(node.propose(command.clone()));
            let committed = loop {
                tokio::select! {
                    committed = &mut proposal => break committed,
                    Some(report) = self.reports.recv() => self.put_off.push_back(report),
                }
            };
            match committed {
                Ok(committed) => match committed.output.applied {
                    Applied::Committed { gateways, .. } => {
                        return Some((Revision(committed.index), gateways));
                    }
                    other => {
                        // One leader writes; another base means that this process's view is not the committed one.
                        tracing::error!(
                            ?other,
                            "proposal was rejected; the next change of the object brings it again"
                        );
                        return None;
                    }
                },
                Err(ProposeError::QueueFull) => tokio::time::sleep(PROPOSE_PAUSE).await,
                Err(error @ ProposeError::NoRoom(_)) => {
                    tracing::error!(error = %Chain(&error), "revision waits for room on disk; what is committed serves on");
                    tokio::time::sleep(PROPOSE_PAUSE * 5).await;
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "revision is not committed");
                    return None;
                }
            }
        }
    }

    async fn report(&mut self, report: RolloutReport) {
        match report {
            RolloutReport::Propagated {
                gateway,
                revision,
                acknowledged,
                total,
                took,
            } => {
                let shards = (acknowledged, total);
                let routes = self.progress.propagated(&gateway, revision, shards, took);
                self.changelog.propagated(&gateway, revision, shards);
                self.retiring.reached(&gateway, revision);
                if self.translation.gateway_status(&gateway).is_none() {
                    self.progress.removed(&gateway);
                }
                let objects = routes.iter().map(RouteKey::object);
                self.write_statuses(
                    objects
                        .chain([operator_translate::status::gateway_object(&gateway)])
                        .collect(),
                );
            }
            RolloutReport::Refused {
                gateway,
                revision,
                listener,
                port_unavailable,
                message,
                shard,
            } => {
                let text = format!("{shard}: {message}");
                self.progress
                    .refused(&gateway, revision, listener.clone(), text.clone());
                if let (true, Some(listener)) = (port_unavailable, listener) {
                    self.unbind(&gateway, &listener, text).await;
                }
                self.write_statuses([operator_translate::status::gateway_object(&gateway)].into());
            }
            RolloutReport::Waiting { .. } | RolloutReport::Fenced { .. } => {}
        }
    }

    /// A listener's port cannot be bound: the Gateway goes on without it.
    async fn unbind(&mut self, gateway: &GatewayKey, listener: &str, message: String) {
        let key = api_snapshot::GatewayEntryKey::Listener(listener.to_owned());
        let entries = self.translation.entries(gateway);
        let Some(api_snapshot::GatewayEntry::Listener(spec)) = entries.get(&key) else {
            return;
        };
        let known = self.unbound.entry(gateway.clone()).or_default();
        if known.insert(spec.port, message).is_none() {
            self.rebuild(gateway).await;
        }
    }

    /// Brings a Gateway to what is wanted of it now.
    async fn rebuild(&mut self, gateway: &GatewayKey) {
        let mut step = Step::default();
        {
            let snapshot = Arc::clone(&self.machine.snapshot);
            let snapshot = snapshot.read();
            let unbound = self.unbound_ports(gateway);
            let entries = delta::wanted(&self.translation, gateway, &unbound);
            step.delta
                .gateways
                .extend(delta::gateway_delta_to(&snapshot, gateway, entries));
        }
        let object = operator_translate::status::gateway_object(gateway);
        self.propose(step, &[object], Instant::now(), String::new())
            .await;
    }

    /// Removes facts that nothing refers to any more.
    async fn retire(&mut self) {
        let due: Vec<FactKey> = self
            .retiring
            .due()
            .into_iter()
            .filter(|fact| !self.is_wanted(fact))
            .collect();
        if due.is_empty() {
            return;
        }
        let mut step = Step::default();
        {
            let snapshot = self.machine.snapshot.read();
            let mut facts = FactsDelta::default();
            for fact in &due {
                delta::remove_fact(&snapshot, &mut facts, fact);
            }
            step.delta.facts = facts;
        }
        if !step.delta.is_empty() {
            step.delta.origin = origin(&[], Instant::now(), String::new());
            self.commit(Command::Commit(step.delta).to_bytes()).await;
        }
    }

    /// Tries ports that could not be bound, tells translate the time, and notes how much there is.
    async fn keep_house(&mut self) {
        let free: Vec<(GatewayKey, u16)> = self
            .unbound
            .iter()
            .flat_map(|(gateway, ports)| ports.keys().map(move |port| (gateway.clone(), *port)))
            .filter(|(gateway, port)| {
                let binding = self
                    .allocator
                    .bindings(gateway)
                    .and_then(|bindings| bindings.get(port));
                binding.is_some_and(|binding| {
                    binding.addresses.iter().all(|address| {
                        TcpListener::bind(SocketAddr::new(*address, binding.public_port)).is_ok()
                    })
                })
            })
            .collect();
        for (gateway, port) in free {
            if let Some(ports) = self.unbound.get_mut(&gateway) {
                ports.remove(&port);
            }
            self.rebuild(&gateway).await;
        }
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

    fn publish_problems(&self, batch: &Batch) {
        let mut published = self.published.write();
        for problem in &batch.problems {
            if problem.is_error && !published.problems.contains(problem) {
                tracing::error!(problem = %problem, "manifest refused; the last good state serves on");
            }
        }
        published.problems.clone_from(&batch.problems);
    }

    fn publish_counts(&self) {
        let mut published = self.published.write();
        published.gateways = self.index.gateways().count();
        published.routes = self.index.routes().count();
        published.rejected = self.index.rejections().count();
    }
}

fn origin(objects: &[ObjectKey], seen: Instant, traceparent: String) -> Origin {
    let seen_at = SystemTime::now()
        .checked_sub(seen.elapsed())
        .unwrap_or(UNIX_EPOCH);
    let seen_at_us = seen_at
        .duration_since(UNIX_EPOCH)
        .map_or(0, |at| u64::try_from(at.as_micros()).unwrap_or(0));
    Origin {
        seen_at_us,
        objects: objects.iter().take(Origin::OBJECTS_MAX).cloned().collect(),
        objects_total: u32::try_from(objects.len()).unwrap_or(u32::MAX),
        traceparent,
    }
}
