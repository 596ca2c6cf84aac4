//! Writes the statuses of objects that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::condition::{reasons, types};
use api::{GatewayKey, ObjectKey, RouteKey};
use api_telemetry::Chain;
use operator_kubernetes::StatusWriter;
use operator_placement::PlanError;
use operator_status::{
    GatewayFacts, ListenerFacts, ParentFacts, StatusAddress, StatusFolder, Statuses, class_status,
    gateway_status, route_status,
};
use operator_translate::status::{ObjectStatus, ParentStatus};
use parking_lot::RwLock;
use serde_json::Value;

use crate::pipeline::Pipeline;

/// Where statuses are written.
#[derive(Clone)]
pub(crate) enum Sink {
    /// A folder of files.
    Folder(StatusFolder),
    /// The API server.
    Kube(StatusWriter),
}

impl Sink {
    /// Gives the objects whose status could not be written, having said why in the log, and those whose status waits.
    async fn write(
        &self,
        changes: Vec<operator_status::Change>,
    ) -> (Vec<ObjectKey>, Vec<ObjectKey>) {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                let errors = tokio::task::spawn_blocking(move || folder.write(changes))
                    .await
                    .unwrap_or_default();
                if let Some(error) = errors.first() {
                    let more = errors.len() - 1;
                    tracing::error!(error = %Chain(error), more, "status is not on disk yet; the admin endpoint has it");
                }
                let failed = errors.iter().map(|error| error.object().clone());
                (failed.collect(), Vec::new())
            }
            Self::Kube(writer) => {
                let (errors, waiting) = writer.write(changes).await;
                if let Some(error) = errors.first() {
                    let more = errors.len() - 1;
                    tracing::error!(error = %Chain(error), more, "status is not in the API server yet; it is tried again");
                }
                let failed = errors.into_iter().map(|error| *error.object);
                (failed.collect(), waiting)
            }
        }
    }
}

/// How often statuses are written, to files and to an API server: several changes of one object within it become one. What is
/// on its way waits longer in an API server (`operator-kubernetes`).
const SAVE_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(50));
/// Pause after one could not be written.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Writes statuses that have changed, beside the pipeline, for ever.
pub(crate) async fn save(statuses: Arc<RwLock<Statuses>>, sink: Sink) {
    let every = match &sink {
        Sink::Folder(_) => SAVE_EVERY.0,
        Sink::Kube(_) => SAVE_EVERY.1,
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !save_now(&statuses, &sink).await {
            tokio::time::sleep(SAVE_AGAIN).await;
        }
    }
}

/// Writes statuses that have changed. Gives whether all could be written; those that could not stay for the next time.
pub(crate) async fn save_now(statuses: &RwLock<Statuses>, sink: &Sink) -> bool {
    let unsaved = statuses.write().take_unsaved();
    if unsaved.is_empty() {
        return true;
    }
    let (failed, waiting) = sink.write(unsaved).await;
    let is_done = failed.is_empty();
    statuses
        .write()
        .keep_unsaved(failed.into_iter().chain(waiting));
    is_done
}

impl Pipeline {
    /// Renders and writes statuses; those of objects that have none any more go.
    pub(crate) fn write_statuses(&mut self, objects: BTreeSet<ObjectKey>) {
        let now = jiff::Timestamp::now();
        let now = format!("{now:.0}");
        for object in objects {
            match self.render(&object) {
                Some(status) => {
                    self.statuses.write().set(&object, status, &now);
                }
                None => {
                    self.statuses.write().remove(&object);
                    if object.kind == "HTTPRoute" {
                        self.progress
                            .route_removed(&RouteKey::http(&object.namespace, &object.name));
                    }
                }
            }
        }
    }

    fn render(&self, object: &ObjectKey) -> Option<Value> {
        match self.translation.status(object)? {
            ObjectStatus::Class(status) => Some(class_status(status)),
            ObjectStatus::Gateway(status) => {
                let key = GatewayKey::new(&object.namespace, &object.name);
                let gateway = self.index.gateway(&key);
                let ports: BTreeMap<String, u16> = gateway
                    .iter()
                    .flat_map(|gateway| &gateway.listeners)
                    .map(|listener| (listener.name.clone(), listener.port))
                    .collect();
                let generation = status
                    .conditions
                    .first()
                    .map_or(0, |condition| condition.observed_generation);
                Some(gateway_status(
                    status,
                    &ports,
                    &self.gateway_facts(&key),
                    generation,
                ))
            }
            ObjectStatus::Route(status) if status.parents.is_empty() => None,
            ObjectStatus::Route(status) => {
                let route = RouteKey::http(&object.namespace, &object.name);
                Some(route_status(status, |parent| {
                    self.parent_facts(object, &route, parent)
                }))
            }
        }
    }

    fn gateway_facts(&self, key: &GatewayKey) -> GatewayFacts {
        let progress = self.progress.gateway(key).cloned().unwrap_or_default();
        let mut facts = GatewayFacts {
            shards: self.allocator.shards(key).unwrap_or_default().to_vec(),
            committed: progress.committed,
            propagated: progress.propagated,
            waiting: progress
                .refused
                .into_values()
                .next()
                .or(progress.waits)
                .or_else(|| self.blocked_because(&operator_translate::status::gateway_object(key))),
            ..GatewayFacts::default()
        };
        let left_out = self.left_out(key);
        for (port, binding) in self.allocator.bindings(key).into_iter().flatten() {
            if left_out.contains(port) {
                continue;
            }
            for address in &binding.addresses {
                let address = StatusAddress::ip(*address);
                if !facts.addresses.contains(&address) {
                    facts.addresses.push(address);
                }
            }
            facts.ports.entry(*port).or_default().public_port = Some(binding.public_port);
        }
        for (port, unavailable) in self.unavailable.get(key).into_iter().flatten() {
            if !unavailable.is_tried {
                let port = facts.ports.entry(*port).or_default();
                port.unavailable = Some(unavailable.message.clone());
                port.is_address_unusable = unavailable.is_address_unusable;
            }
        }
        let refused = self.refused.get(key);
        for (port, error) in refused.into_iter().flatten() {
            let refused = ListenerFacts {
                unavailable: Some(error.to_string()),
                ..ListenerFacts::default()
            };
            facts.ports.insert(*port, refused);
        }
        if facts.addresses.is_empty() {
            facts.not_placed = refused
                .and_then(|refused| refused.values().next())
                .map(|error| (reason(error), error.to_string()));
        }
        if let Some(services) = &self.services {
            services.add_to(key, &mut facts);
        }
        facts
    }

    /// Why an object's newest form is not committed.
    fn blocked_because(&self, object: &ObjectKey) -> Option<String> {
        let blocked = self.blocked.as_ref()?;
        blocked
            .objects
            .contains(object)
            .then(|| blocked.reason.clone())
    }

    fn parent_facts(
        &self,
        object: &ObjectKey,
        route: &RouteKey,
        parent: &ParentStatus,
    ) -> ParentFacts {
        let Some(carried) = self.progress.route(route, &parent.gateway) else {
            return ParentFacts::default();
        };
        let blocked = self.blocked_because(object);
        let progress = self
            .progress
            .gateway(&parent.gateway)
            .cloned()
            .unwrap_or_default();
        let served = carried.served.unwrap_or(progress.served);
        ParentFacts {
            revision: Some(carried.revision),
            propagated: progress.serves(carried.revision) && blocked.is_none(),
            shards: served.shards,
            took_ms: u64::try_from(served.took.as_millis()).unwrap_or(u64::MAX),
            waiting: blocked.or(progress.waits),
            inherited: carried
                .is_inherited
                .then(|| propagated_before(&self.statuses.read(), object, parent))
                .flatten(),
        }
    }
}

/// `Propagated` of a route's parent as it is written.
fn propagated_before(
    statuses: &Statuses,
    object: &ObjectKey,
    parent: &ParentStatus,
) -> Option<Value> {
    let parent_ref = serde_json::to_value(parent).ok()?["parentRef"].take();
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let parents = list(statuses.get(object)?, "parents");
    let parent = parents
        .iter()
        .find(|p| p["parentRef"] == parent_ref && p["controllerName"] == api::controller_name())?;
    let mut condition = list(parent, "conditions")
        .into_iter()
        .find(|condition| condition["type"] == types::PROPAGATED)?;
    // Set anew from what is there.
    condition.as_object_mut()?.remove("lastTransitionTime");
    Some(condition)
}

/// The reason of `Programmed` for a Gateway that has no place.
fn reason(error: &PlanError) -> &'static str {
    match error {
        PlanError::RangeExhausted { .. } => reasons::ADDRESS_NOT_ASSIGNED,
        PlanError::Held { .. } => reasons::ADDRESS_NOT_USABLE,
        PlanError::TargetPortsExhausted { .. } => reasons::NO_RESOURCES,
    }
}
