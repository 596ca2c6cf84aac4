//! Writes statuses into the API server: our own entries, what differs, newest first, at a bounded rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

use crate::kinds::Kind;
use crate::merge::{merged, observed_generation};
use crate::urgency::Urgency;

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// Writes in a second, over time, and how many may come at once after a pause.
const RATE: (f64, f64) = (100.0, 200.0);
/// Tries when somebody else writes the same object.
const TRIES: usize = 4;

/// A writer. One for each process that leads.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
    pace: Arc<Mutex<Pace>>,
    urgency: Arc<Mutex<Urgency>>,
    counts: Arc<Counts>,
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
            pace: Arc::new(Mutex::new(Pace::new(Instant::now()))),
            urgency: Arc::default(),
            counts: Arc::default(),
        }
    }

    /// What has been done so far.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.counts) as Arc<dyn Source>
    }

    /// Writes statuses. Gives those that could not be written, and the objects whose status can wait: they are to be given
    /// again.
    pub async fn write(&self, changes: Vec<Change>) -> (Vec<WriteError>, Vec<ObjectKey>) {
        let (due, waiting) = self.urgency.lock().split(changes, Instant::now());
        let writes = futures::stream::iter(due).map(|change| async move {
            let object = Box::new(change.object.clone());
            let written = self.one(change).await;
            written.err().map(|source| WriteError { object, source })
        });
        let results = writes.buffer_unordered(AT_ONCE);
        let errors = results.filter_map(std::future::ready).collect().await;
        (errors, waiting)
    }

    async fn one(&self, Change { object, status }: Change) -> Result<(), kube::Error> {
        let Some(kind) = Kind::named(&object.kind) else {
            return Ok(());
        };
        let resource = kind.resource(kind.versions[0]);
        let api: Api<DynamicObject> = if kind.is_namespaced {
            Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        for _ in 0..TRIES {
            let Some(current) = api.get_opt(&object.name).await? else {
                return Ok(());
            };
            if is_outdated(&current, status.as_ref()) {
                self.counts.outdated.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            let Some(new) = merged(&object, &current.data["status"], status.as_ref()) else {
                self.counts.unchanged.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            let pause = self.pace.lock().take(Instant::now());
            tokio::time::sleep(pause).await;
            // With the version that it was merged with: a write in between makes this one fail.
            let patch = json!({
                "metadata": {"resourceVersion": current.metadata.resource_version},
                "status": new,
            });
            let patch = Patch::Merge(&patch);
            match api
                .patch_status(&object.name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => {
                    self.counts.written.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        // Somebody writes it all the time; what they wrote comes back as a change, and this with it.
        tracing::warn!(%object, tries = TRIES, "status meets other writes again and again");
        Ok(())
    }
}

/// Whether the object has a newer generation than the status speaks of.
fn is_outdated(current: &DynamicObject, status: Option<&Value>) -> bool {
    let observed = status.and_then(observed_generation);
    let generation = current.metadata.generation;
    matches!((observed, generation), (Some(observed), Some(generation)) if observed < generation)
}

/// A bucket of writes that fills with time.
#[derive(Debug)]
struct Pace {
    filled: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            filled: RATE.1,
            at: now,
        }
    }

    /// Takes one write; how long it has to wait.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.filled = (self.filled + passed * RATE.0).min(RATE.1) - 1.0;
        self.at = now;
        if self.filled >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.filled / RATE.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_paced() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..RATE.1 as usize {
            assert_eq!(pace.take(now), Duration::ZERO);
        }
        let wait = pace.take(now);
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(20));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(later), Duration::ZERO);
    }
}
