//! Commits steps through Raft, and takes away what nothing refers to any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{GatewayKey, ObjectKey, Revision};
use api_snapshot::{Applied, Command, FactKey, FactsDelta, GatewayDelta, Origin};
use api_telemetry::Chain;
use operator_consensus::ProposeError;

use crate::delta;
use crate::pipeline::Pipeline;
use crate::pipeline::step::Step;

/// Pause before a proposal that found the queue full, or no room on disk, is made again.
pub(super) const PROPOSE_PAUSE: Duration = Duration::from_millis(200);

/// A proposal that cannot be committed yet.
pub(crate) struct Blocked {
    /// Why, for people.
    pub(crate) reason: String,
    /// Objects that wait for it.
    pub(crate) objects: BTreeSet<ObjectKey>,
}

impl Pipeline {
    /// Commits a step and notes what it carries. Waits until it is committed: the next step is made against it. Gives its
    /// revision; none when there was nothing to commit, or what is committed is to be read anew.
    pub(super) async fn propose(
        &mut self,
        mut step: Step,
        objects: &[ObjectKey],
        seen: Instant,
        traceparent: String,
    ) -> Option<Revision> {
        let mut at = None;
        if !step.delta.is_empty() {
            step.delta.origin = origin(objects, seen, traceparent);
            let command = Command::Commit(step.delta).to_bytes();
            let (revision, gateways) = self.commit(command, objects).await?;
            at = Some(revision);
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
        self.let_retire(step.retired);
        at
    }

    /// Lets facts go once nobody serves by them: a Gateway's own with that Gateway, shared ones with every Gateway that is
    /// on its way.
    fn let_retire(&mut self, retired: BTreeSet<FactKey>) {
        if retired.is_empty() {
            return;
        }
        let snapshot = self.machine.snapshot.read();
        let on_its_way = |gateway: &GatewayKey| {
            let chain = snapshot.gateway(gateway)?;
            (chain.tip() != chain.active()).then(|| (gateway.clone(), chain.tip()))
        };
        let mut shared = BTreeSet::new();
        for fact in retired {
            match &fact {
                FactKey::Placement(gateway) | FactKey::Binding(gateway, _) => {
                    let until = on_its_way(gateway).into_iter().collect();
                    self.retiring.add([fact].into(), until);
                }
                _ => {
                    shared.insert(fact);
                }
            }
        }
        if !shared.is_empty() {
            let until = snapshot.gateways().filter_map(|(key, _)| on_its_way(key));
            self.retiring.add(shared, until.collect());
        }
    }

    /// Proposes until it is committed. Reports that come meanwhile are put off, so that nobody waits in a circle. None:
    /// what is committed is to be read anew.
    async fn commit(
        &mut self,
        command: Vec<u8>,
        objects: &[ObjectKey],
    ) -> Option<(Revision, Vec<GatewayDelta>)> {
        loop {
            let node = Arc::clone(&self.node);
            let mut proposal = std::pin::pin!(node.propose(command.clone()));
            let committed = loop {
                tokio::select! {
                    committed = &mut proposal => break committed,
                    Some(report) = self.reports.recv() => self.put_off.push_back(report),
                }
            };
            let error = match committed {
                Ok(committed) => {
                    self.unblock();
                    if let Applied::Committed { gateways, .. } = committed.output.applied {
                        return Some((Revision(committed.index), gateways));
                    }
                    tracing::error!(output = ?committed.output.applied, "proposal was rejected; what is committed is read anew");
                    self.astray = true;
                    return None;
                }
                Err(error) => error,
            };
            let pause = match error {
                ProposeError::QueueFull => PROPOSE_PAUSE,
                ProposeError::NoRoom(_) => PROPOSE_PAUSE * 5,
                _ => {
                    tracing::error!(error = %Chain(&error), "revision is not committed; what is committed is read anew");
                    tokio::time::sleep(PROPOSE_PAUSE).await;
                    self.astray = true;
                    return None;
                }
            };
            if self.blocked.is_none() {
                tracing::error!(error = %Chain(&error), "revision waits; what is committed serves on");
                let objects: BTreeSet<ObjectKey> = objects.iter().cloned().collect();
                self.blocked = Some(Blocked {
                    reason: format!("not committed yet: {}", Chain(&error)),
                    objects: objects.clone(),
                });
                // Whether they are accepted does not wait for it.
                self.write_statuses(objects);
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn unblock(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            tracing::info!("the revision that waited is committed");
            self.write_statuses(blocked.objects);
        }
    }

    /// Removes facts that nothing refers to any more, and lets those who waited for them have what is free now.
    pub(super) async fn retire(&mut self) {
        if self.allocator.take_moved() && !self.refused.is_empty() {
            self.place_refused().await;
        }
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
            if self
                .commit(Command::Commit(step.delta).to_bytes(), &[])
                .await
                .is_none()
            {
                return;
            }
        }
        let mut freed = false;
        for fact in due {
            if let FactKey::Binding(gateway, port) = fact {
                freed |= self.allocator.freed(&gateway, port);
            }
        }
        if freed {
            self.place_refused().await;
        }
    }
}

pub(super) fn origin(objects: &[ObjectKey], seen: Instant, traceparent: String) -> Origin {
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
