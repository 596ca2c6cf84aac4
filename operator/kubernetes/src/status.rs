//! Writes statuses into the API server: our own entries, what differs, newest first, at a bounded rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api::ObjectKey;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::names;
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use operator_status::Change;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::events::{EventType, EventWriter, Regarding};
use crate::kinds::Kind;
use crate::merge::{merged, observed_generation};
use crate::news::news;
use crate::pace::Pace;
use crate::schemas::Schemas;
use crate::urgency::Urgency;

/// Writes under way at once.
const AT_ONCE: usize = 16;
/// Writes in a second, over time, and how many may come at once after a pause: a thousand routes that are applied at once
/// are told within a second or two that they are accepted.
const RATE: (f64, f64) = (200.0, 1000.0);
/// Who writes, in `managedFields`.
const FIELD_MANAGER: &str = "shardway";
/// Tries when somebody else writes the same object.
const TRIES: usize = 4;

/// A writer. One for each process that leads.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
    pace: Arc<Mutex<Pace>>,
    urgency: Arc<Mutex<Urgency>>,
    counts: Arc<Counts>,
    schemas: Schemas,
    events: Option<EventWriter>,
    is_paused: Arc<AtomicBool>,
}

/// What has been done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Writes that changed something.
    pub written: AtomicU64,
    /// Statuses that were there already as they should be.
    pub unchanged: AtomicU64,
    /// Statuses of a generation that is not the newest any more; the newest is on its way.
    pub outdated: AtomicU64,
    /// Writes that met somebody else's and were made again.
    pub conflicts: AtomicU64,
}

impl Source for Counts {
    fn collect(&self, sink: &mut dyn Sink) {
        for (result, count) in [
            ("written", &self.written),
            ("unchanged", &self.unchanged),
            ("outdated", &self.outdated),
            ("conflict", &self.conflicts),
        ] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::STATUS_WRITES, &[("result", result)], count);
        }
    }
}

/// A status could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write status of {object}")]
pub struct WriteError {
    /// Whose.
    pub object: Box<ObjectKey>,
    #[source]
    source: kube::Error,
}

impl StatusWriter {
    /// A writer by this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            pace: Arc::new(Mutex::new(Pace::new(RATE.0, RATE.1, Instant::now()))),
            urgency: Arc::default(),
            counts: Arc::default(),
            schemas: Schemas::default(),
            events: None,
            is_paused: Arc::default(),
        }
    }

    /// The same, leaving out what the installed CRDs do not know.
    #[must_use]
    pub fn with_schemas(self, schemas: Schemas) -> Self {
        Self { schemas, ..self }
    }

    /// The same, telling what has changed by Events.
    #[must_use]
    pub fn with_events(self, events: EventWriter) -> Self {
        Self {
            events: Some(events),
            ..self
        }
    }

    /// Stops writing, or goes on. What is given while it is paused is given back; a write that is on its way may still end.
    pub fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::SeqCst);
    }

    /// What has been done so far.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.counts) as Arc<dyn Source>
    }

    /// Writes statuses, new generations first. Gives those that could not be written, and the objects whose status can wait:
    /// they are to be given again.
    pub async fn write(&self, changes: Vec<Change>) -> (Vec<WriteError>, Vec<ObjectKey>) {
        if self.is_paused.load(Ordering::SeqCst) {
            let objects = changes.into_iter().map(|change| change.object);
            return (Vec::new(), objects.collect());
        }
        let (due, mut waiting) = self.urgency.lock().split(changes, Instant::now());
        // One that finds nobody there is enough: the others need not wait for their time to run out.
        let is_unreachable = AtomicBool::new(false);
        let writes = futures::stream::iter(due).map(|change| {
            let is_unreachable = &is_unreachable;
            async move {
                let object = change.object.clone();
                if is_unreachable.load(Ordering::Relaxed) {
                    return Some(Err(object));
                }
                match self.one(change).await {
                    Ok(Written::Done) => None,
                    Ok(Written::Paused) => Some(Err(object)),
                    Err(source) => {
                        let is_answer = matches!(source, kube::Error::Api(_));
                        is_unreachable.fetch_or(!is_answer, Ordering::Relaxed);
                        let object = Box::new(object);
                        Some(Ok(WriteError { object, source }))
                    }
                }
            }
        });
        let (mut errors, mut unwritten) = (Vec::new(), Vec::new());
        let mut results = writes.buffer_unordered(AT_ONCE);
        while let Some(result) = results.next().await {
            match result {
                Some(Ok(error)) => errors.push(error),
                Some(Err(object)) => unwritten.push(object),
                None => {}
            }
        }
        drop(results);
        let failed = errors.iter().map(|error| error.object.as_ref());
        self.urgency.lock().forget(failed.chain(&unwritten));
        waiting.append(&mut unwritten);
        (errors, waiting)
    }

    async fn one(&self, Change { object, status }: Change) -> Result<Written, kube::Error> {
        let Some(kind) = Kind::named(&object.kind) else {
            return Ok(Written::Done);
        };
        let version = kind.versions[0];
        let resource = kind.resource(version);
        let api: Api<DynamicObject> = if kind.is_namespaced {
            Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        let mut status = status;
        if let Some(status) = &mut status {
            self.schemas.cut(&object, status);
        }
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        for _ in 0..TRIES {
            let Some(current) = api.get_opt(&object.name).await? else {
                return Ok(Written::Done);
            };
            if is_outdated(&current, status.as_ref()) {
                self.counts.outdated.fetch_add(1, Ordering::Relaxed);
                return Ok(Written::Done);
            }
            let before = &current.data["status"];
            let Some(new) = merged(&object, before, status.as_ref()) else {
                self.counts.unchanged.fetch_add(1, Ordering::Relaxed);
                return Ok(Written::Done);
            };
            let pause = self.pace.lock().take(Instant::now());
            tokio::time::sleep(pause).await;
            // Another replica may lead by now: what this one knows is old.
            if self.is_paused.load(Ordering::SeqCst) {
                return Ok(Written::Paused);
            }
            // With the version that it was merged with: a write in between makes this one fail.
            let patch = json!({
                "metadata": {"resourceVersion": current.metadata.resource_version},
                "status": new,
            });
            let patch = Patch::Merge(&patch);
            match api.patch_status(&object.name, &parameters, &patch).await {
                Ok(_) => {
                    self.counts.written.fetch_add(1, Ordering::Relaxed);
                    self.tell(&object, version, &current, &new);
                    return Ok(Written::Done);
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Written::Done),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        // Somebody writes it all the time; what they wrote comes back as a change, and this with it.
        tracing::warn!(%object, tries = TRIES, "status meets other writes again and again");
        Ok(Written::Done)
    }

    /// Events for what a write has changed.
    fn tell(&self, object: &ObjectKey, version: &str, current: &DynamicObject, new: &Value) {
        let Some(events) = &self.events else {
            return;
        };
        for news in news(object, &current.data["status"], new) {
            let regarding = Regarding {
                object: object.clone(),
                version: version.to_owned(),
                uid: current.metadata.uid.clone().unwrap_or_default(),
            };
            let type_ = match news.is_warning {
                true => EventType::Warning,
                false => EventType::Normal,
            };
            events.say(regarding, type_, &news.reason, &news.note);
        }
    }
}

/// How a write ended that met no error.
enum Written {
    /// It stands there as it should, or there is nothing to write it to.
    Done,
    /// It was not made: writing is paused.
    Paused,
}

/// Whether the object has a newer generation than the status speaks of.
fn is_outdated(current: &DynamicObject, status: Option<&Value>) -> bool {
    let observed = status.and_then(observed_generation);
    let generation = current.metadata.generation;
    matches!((observed, generation), (Some(observed), Some(generation)) if observed < generation)
}

#[cfg(test)]
mod tests;
