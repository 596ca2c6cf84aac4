//! All watches together: what the pipeline is fed by in a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{CertificateKey, ObjectKey, PoolKey};
use kube::Client;
use operator_objects::spec::{Event, Object};
use operator_source::{Batch, Problem};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Instrument;

use crate::kinds::{CONFIG_MAP, CRD, Kind, NAMESPACE, POOL, SECRET, WATCHED};
use crate::named::Named;
use crate::schemas::Schemas;
use crate::watch::{self, Report, Target, WatchId};
use crate::watched::{Changed, Watched};

/// Reports that wait for the pipeline; then watches wait, and with them the API server's connections.
const REPORTS_MAX: usize = 1024;
/// Reports that become one batch at most.
const BATCH_MAX: usize = 4096;
/// How often a start that waits for the API server says so.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Namespaces whose objects are read; empty for all.
    pub namespaces: Vec<String>,
    /// The ShardPool that is served.
    pub pool: Option<PoolKey>,
}

/// Objects of a cluster.
pub struct KubeSource {
    client: Client,
    reports: mpsc::Receiver<(WatchId, Report)>,
    report: mpsc::Sender<(WatchId, Report)>,
    watches: BTreeMap<WatchId, Watch>,
    next_id: WatchId,
    schemas: Schemas,
    changed_schemas: BTreeSet<String>,
    secrets: Named,
    config_maps: Named,
    /// Problems as they were last told.
    told: Vec<Problem>,
    /// Events of watches that have ended.
    left: Vec<Event>,
}

struct Watch {
    kind: &'static Kind,
    namespace: Option<String>,
    watched: Watched,
    is_missing: bool,
    is_forbidden: bool,
    trouble: Option<String>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A batch, and statuses as they stand in the API server.
#[derive(Debug, Default)]
pub struct KubeBatch {
    /// For the pipeline.
    pub batch: Batch,
    /// Of objects that were seen now; none for those that are gone.
    pub statuses: Vec<(ObjectKey, Option<Value>)>,
}

impl KubeSource {
    /// Starts one watch for each kind and namespace.
    pub fn start(client: Client, settings: &Settings) -> Self {
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let mut source = Self {
            client,
            reports,
            report,
            watches: BTreeMap::new(),
            next_id: 0,
            schemas: Schemas::default(),
            changed_schemas: BTreeSet::new(),
            secrets: Named::default(),
            config_maps: Named::default(),
            told: Vec::new(),
            left: Vec::new(),
        };
        for kind in WATCHED {
            if settings.namespaces.is_empty() {
                source.watch(kind, None, None);
                continue;
            }
            for namespace in &settings.namespaces {
                if kind.is_namespaced {
                    source.watch(kind, Some(namespace.clone()), None);
                } else if kind.kind == NAMESPACE {
                    source.watch(kind, None, Some(namespace.clone()));
                }
            }
            if !kind.is_namespaced && kind.kind != NAMESPACE {
                source.watch(kind, None, None);
            }
        }
        for name in Kind::crds() {
            source.watch(&CRD, None, Some(name));
        }
        if let Some(pool) = &settings.pool {
            source.watch(&POOL, Some(pool.namespace.clone()), Some(pool.name.clone()));
        }
        source
    }

    fn watch(
        &mut self,
        kind: &'static Kind,
        namespace: Option<String>,
        name: Option<String>,
    ) -> WatchId {
        let id = self.next_id;
        self.next_id += 1;
        let target = Target {
            kind,
            namespace: namespace.clone(),
            name,
        };
        let span = tracing::info_span!(
            "watch",
            kind = kind.kind,
            namespace = target.namespace,
            name = target.name
        );
        let run = watch::run(id, target, self.client.clone(), self.report.clone());
        let run = run.instrument(span);
        let task = api_telemetry::task::spawn("watch", run).abort_handle();
        let watch = Watch {
            kind,
            namespace,
            watched: Watched::default(),
            is_missing: false,
            is_forbidden: false,
            trouble: None,
            task,
        };
        self.watches.insert(id, watch);
        id
    }

    /// Everything that is there: waits until each kind has been listed or is known to be missing, or not ours to
    /// read.
    pub async fn initial(&mut self) -> KubeBatch {
        let mut changed = Changed::default();
        let mut say_at = Instant::now() + SAY_EVERY;
        while let Some(waiting) = self.incomplete() {
            match tokio::time::timeout_at(say_at, self.reports.recv()).await {
                Ok(Some((id, report))) => self.take(id, report, &mut changed),
                Ok(None) => break,
                Err(_) => {
                    say_at = Instant::now() + SAY_EVERY;
                    tracing::warn!(
                        kind = waiting,
                        "the API server has not listed a kind yet; shards serve on from what they have"
                    );
                }
            }
        }
        self.batch(changed)
    }

    /// Waits for changes and gives them. A batch has an event, a status, or another list of problems.
    ///
    /// Cancel safety: safe; what was taken in is given by the next call.
    pub async fn next(&mut self) -> KubeBatch {
        loop {
            let mut changed = Changed::default();
            if self.left.is_empty()
                && let Some((id, report)) = self.reports.recv().await
            {
                self.take(id, report, &mut changed);
            }
            // No await from here on: nothing is lost when the caller stops waiting.
            for _ in 1..BATCH_MAX {
                let Ok((id, report)) = self.reports.try_recv() else {
                    break;
                };
                self.take(id, report, &mut changed);
            }
            let batch = self.batch(changed);
            let is_news = !batch.batch.events.is_empty() || !batch.statuses.is_empty();
            if is_news || batch.batch.problems != self.told {
                self.told.clone_from(&batch.batch.problems);
                return batch;
            }
        }
    }

    /// What the installed CRDs let statuses say; it follows them.
    pub fn schemas(&self) -> Schemas {
        self.schemas.clone()
    }

    /// Kinds whose statuses may say something else than at the last call, as their CRD has changed: what is said of their
    /// objects is to be compared again.
    pub fn take_changed_schemas(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed_schemas)
    }

    /// Watches just these Secrets from now on.
    pub fn want_secrets(&mut self, wanted: &BTreeSet<CertificateKey>) {
        let key = |of: &CertificateKey| ObjectKey::new("", SECRET.kind, &of.namespace, &of.name);
        let mut named = std::mem::take(&mut self.secrets);
        self.want(&SECRET, &mut named, &wanted.iter().map(key).collect());
        self.secrets = named;
    }

    /// Watches just these ConfigMaps from now on.
    pub fn want_config_maps(&mut self, wanted: &BTreeSet<ObjectKey>) {
        let mut named = std::mem::take(&mut self.config_maps);
        self.want(&CONFIG_MAP, &mut named, wanted);
        self.config_maps = named;
    }

    fn want(&mut self, kind: &'static Kind, named: &mut Named, wanted: &BTreeSet<ObjectKey>) {
        let plan = named.plan(wanted);
        for (key, id) in plan.stop {
            if self.watches.remove(&id).is_some() {
                named.stopped(&key);
                self.left.push(Event::Delete(key));
            }
        }
        for key in plan.start {
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            let id = self.watch(kind, Some(namespace), Some(name));
            named.started(key, id);
        }
    }

    /// Waits until all Secrets and ConfigMaps that are wanted have been looked at, and gives what was seen meanwhile. Those that cannot be
    /// read in time come later.
    pub async fn settle(&mut self, within: Duration) -> KubeBatch {
        let until = Instant::now() + within;
        let mut changed = Changed::default();
        while self.incomplete().is_some() {
            match tokio::time::timeout_at(until, self.reports.recv()).await {
                Ok(Some((id, report))) => self.take(id, report, &mut changed),
                _ => break,
            }
        }
        self.batch(changed)
    }

    /// A kind that has not been listed and is known neither to be missing nor to be forbidden.
    fn incomplete(&self) -> Option<&'static str> {
        self.watches
            .values()
            .find(|watch| !watch.watched.is_complete() && !watch.is_missing && !watch.is_forbidden)
            .map(|watch| watch.kind.kind)
    }

    fn take(&mut self, id: WatchId, report: Report, changed: &mut Changed) {
        // One that has ended may have said something before.
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        match report {
            Report::Seen(seen) => {
                watch.is_missing = false;
                watch.is_forbidden = false;
                watch.trouble = None;
                watch.watched.take(seen, changed);
            }
            Report::Missing => {
                if !watch.is_missing {
                    tracing::warn!(
                        kind = watch.kind.kind,
                        "the API server has no such kind; it is taken up when its CRD is there"
                    );
                }
                watch.is_missing = true;
            }
            Report::Forbidden(error) => {
                if !watch.is_forbidden {
                    tracing::error!(
                        kind = watch.kind.kind,
                        namespace = watch.namespace,
                        error,
                        "objects may not be read; what else there is is served"
                    );
                }
                watch.is_forbidden = true;
                watch.trouble = Some(error);
            }
            Report::Trouble(error) => {
                if watch.trouble.is_none() {
                    tracing::warn!(
                        kind = watch.kind.kind,
                        namespace = watch.namespace,
                        error,
                        "watch does not get on; what is known serves on"
                    );
                }
                watch.trouble = Some(error);
            }
        }
    }

    fn batch(&mut self, changed: Changed) -> KubeBatch {
        let mut events = std::mem::take(&mut self.left);
        events.extend(changed.events);
        let crds = events.iter().filter_map(|event| match event {
            Event::Apply(Object::Crd(crd)) => Some(crd),
            _ => None,
        });
        let changed_schemas = crds.filter(|crd| self.schemas.apply(crd));
        self.changed_schemas
            .extend(changed_schemas.map(|crd| crd.kind.clone()));
        let keys = events.iter().map(|event| match event {
            Event::Apply(object) => object.key(),
            Event::Reject(rejected) => rejected.key.clone(),
            Event::Delete(key) => key.clone(),
        });
        KubeBatch {
            batch: Batch {
                changed: keys.collect::<BTreeSet<_>>().into_iter().collect(),
                events,
                problems: self.problems(),
            },
            statuses: changed.statuses,
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .watches
            .values()
            .filter_map(|watch| {
                let kind = watch.kind.kind;
                let (message, is_error) = match &watch.trouble {
                    // An error of no object: an API server that has just started may not know its CRDs yet, so nobody can
                    // tell that there are no objects.
                    _ if watch.is_missing => {
                        let group = watch.kind.group;
                        let versions = watch.kind.versions.join(" or ");
                        let message = format!(
                            "kind {kind} ({group}) is not in this cluster in version {versions}; install its CRD"
                        );
                        (message, watch.kind.is_served())
                    }
                    Some(error) => {
                        // As above, when nothing of it was ever read.
                        let is_error = watch.is_forbidden
                            && watch.kind.is_served()
                            && !watch.watched.is_complete();
                        (format!("kind {kind} cannot be watched: {error}"), is_error)
                    }
                    None => return None,
                };
                Some(Problem {
                    file: std::path::PathBuf::new(),
                    line: 0,
                    object: None,
                    message,
                    is_error,
                })
            })
            .collect();
        problems.sort();
        problems.dedup();
        problems
    }
}

#[cfg(test)]
mod tests;
