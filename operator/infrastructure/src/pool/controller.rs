//! Makes the shards that a ShardPool asks for, and says in its status how far it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::PoolKey;
use api_pool::{ShardPool, shards_name};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::difference::differs;
use crate::follow::follow;
use crate::known::{Known, Place};
use crate::labels::POOL;
use crate::perform::{FIELD_MANAGER, Failure, put, within};
use crate::pool::shards::{PodSettings, PoolError, headless_service, stateful_set};
use crate::pool::status::{Facts, PoolSpec, replicas, status};

/// News of watches that wait; then watches wait.
const NEWS_MAX: usize = 64;
/// Statuses are not written more often: numbers of Gateways change all the time.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Pauses after failures, doubled each time.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A handle; the work ends when it is dropped. What it is told never waits.
#[derive(Debug)]
pub struct PoolController {
    mailbox: Arc<Mailbox>,
    specs: watch::Receiver<Option<PoolSpec>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for PoolController {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Debug, Default)]
struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

/// The newest that was told.
#[derive(Debug, Default, Clone, Copy)]
struct Mail {
    leads: bool,
    in_use: Option<Option<u32>>,
    gateways: Option<u32>,
}

impl PoolController {
    /// Starts to watch the ShardPool and what is made of it. Nothing is written before [`PoolController::lead`].
    ///
    /// `reporter` is this replica's name, for Events.
    pub fn start(client: Client, pool: PoolKey, settings: PodSettings, reporter: &str) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let (spec, specs) = watch::channel(None);
        let (news, received) = mpsc::channel(NEWS_MAX);
        let reporter = Reporter {
            controller: api::CONTROLLER_NAME.into(),
            instance: Some(reporter.to_owned()),
        };
        let mut tasks = watches(&client, &pool, &news);
        let actor = Actor {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            pools: Known::new(vec![None]),
            sets: Known::new(vec![None]),
            services: Known::new(vec![None]),
            pool,
            settings,
            spec,
            status_at: Instant::now(),
        };
        let run = actor.run(Arc::clone(&mailbox), received);
        tasks.push(api_telemetry::task::spawn("shard-pool", run).abort_handle());
        Self {
            mailbox,
            specs,
            tasks,
        }
    }

    /// What the ShardPool asks for; none until it is read, and when it is not there. On every replica.
    pub fn specs(&self) -> watch::Receiver<Option<PoolSpec>> {
        self.specs.clone()
    }

    /// Says whether this replica leads: the leader alone writes. On `false` the rest that was told is forgotten.
    pub fn lead(&self, leads: bool) {
        self.mail(|mail| {
            if !leads {
                *mail = Mail::default();
            }
            mail.leads = leads;
        });
    }

    /// Says which is the highest shard that has Gateways, or serves on for some; none when no shard has. Until it is told,
    /// no shard is taken away.
    pub fn in_use(&self, highest: Option<u32>) {
        self.mail(|mail| mail.in_use = Some(highest));
    }

    /// Says how many Gateways are served.
    pub fn gateways(&self, count: u32) {
        self.mail(|mail| mail.gateways = Some(count));
    }

    fn mail(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut self.mailbox.mail.lock());
        self.mailbox.arrived.notify_one();
    }
}

enum News {
    Pool(Box<Event<ShardPool>>),
    Set(Box<Event<StatefulSet>>),
    Service(Box<Event<Service>>),
}

fn watches(client: &Client, pool: &PoolKey, news: &mpsc::Sender<News>) -> Vec<AbortHandle> {
    let by_name = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (client, namespace) = (|| client.clone(), &pool.namespace);
    let pools = follow(
        "ShardPool",
        Api::namespaced(client(), namespace),
        by_name(&pool.name),
        news.clone(),
        |event| News::Pool(Box::new(event)),
    );
    let made = shards_name(&pool.name);
    let sets = follow(
        "StatefulSet",
        Api::namespaced(client(), namespace),
        by_name(&made),
        news.clone(),
        |event| News::Set(Box::new(event)),
    );
    let services = follow(
        "Service",
        Api::namespaced(client(), namespace),
        by_name(&made),
        news.clone(),
        |event| News::Service(Box::new(event)),
    );
    vec![
        api_telemetry::task::spawn("watch-pool", pools).abort_handle(),
        api_telemetry::task::spawn("watch-set", sets).abort_handle(),
        api_telemetry::task::spawn("watch-headless", services).abort_handle(),
    ]
}

struct Actor {
    client: Client,
    recorder: Recorder,
    pool: PoolKey,
    settings: PodSettings,
    pools: Known<ShardPool>,
    sets: Known<StatefulSet>,
    services: Known<Service>,
    spec: watch::Sender<Option<PoolSpec>>,
    /// When the next status may be written.
    status_at: Instant,
}

impl Actor {
    async fn run(mut self, mailbox: Arc<Mailbox>, mut news: mpsc::Receiver<News>) {
        let mut failures = 0;
        let mut again: Option<Instant> = None;
        loop {
            tokio::select! {
                () = mailbox.arrived.notified() => {}
                received = news.recv() => {
                    let Some(received) = received else { return };
                    self.hear(received);
                }
                () = sleep_until(again) => again = None,
            }
            while let Ok(received) = news.try_recv() {
                self.hear(received);
            }
            self.publish();
            let mail = *mailbox.mail.lock();
            // After a failure changes wait, too: an API server in trouble is not to be asked at each of them.
            let waits = failures > 0 && again.is_some();
            if waits || !mail.leads || !self.is_listed() {
                continue;
            }
            match Box::pin(self.reconcile(mail)).await {
                Ok(due) => (failures, again) = (0, due),
                Err(failure) => {
                    let pause = AGAIN.0 * 2_u32.saturating_pow(failures.min(8));
                    again = Some(Instant::now() + pause.min(AGAIN.1).max(failure.again));
                    failures += 1;
                    tracing::warn!(pool = %self.pool, error = failure.error, "shards cannot be seen to; trying again");
                }
            }
        }
    }

    fn is_listed(&self) -> bool {
        self.pools.is_listed() && self.sets.is_listed() && self.services.is_listed()
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Pool(event) => drop(self.pools.take(0, *event)),
            News::Set(event) => drop(self.sets.take(0, *event)),
            News::Service(event) => drop(self.services.take(0, *event)),
        }
    }

    fn publish(&self) {
        let spec = self.pools.get(&self.place()).map(PoolSpec::of);
        self.spec.send_if_modified(|now| {
            let is_other = *now != spec && self.pools.is_listed();
            if is_other {
                *now = spec;
            }
            is_other
        });
    }

    fn place(&self) -> Place {
        Place::new(&self.pool.namespace, &self.pool.name)
    }

    /// Writes what differs. Gives when there is more to write, if nothing happens before.
    async fn reconcile(&mut self, mail: Mail) -> Result<Option<Instant>, Failure> {
        let Some(pool) = self.pools.get(&self.place()).cloned() else {
            return Ok(None);
        };
        if pool.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let error = self.shards(&pool, mail).await?;
        let now = Instant::now();
        if now < self.status_at {
            return Ok(Some(self.status_at));
        }
        let place = Place::new(&self.pool.namespace, &shards_name(&self.pool.name));
        let facts = Facts {
            pool: &pool,
            set: self.sets.get(&place),
            gateways: mail.gateways,
            error: error.as_ref(),
        };
        let status = status(facts, &Time(Timestamp::now()));
        if pool.status.as_ref() != Some(&status) {
            self.status_at = now + STATUS_EVERY;
            let api: Api<ShardPool> = Api::namespaced(self.client.clone(), &self.pool.namespace);
            let patch = json!({
                "apiVersion": ShardPool::api_version(&()), "kind": ShardPool::kind(&()),
                "metadata": {"uid": pool.metadata.uid},
                "status": status,
            });
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let written =
                within(api.patch_status(&self.pool.name, &params, &Patch::Apply(&patch))).await?;
            self.pools.put(written);
        }
        Ok(None)
    }

    /// Sees to the shards. Gives what is wrong with the ShardPool.
    async fn shards(&mut self, pool: &ShardPool, mail: Mail) -> Result<Option<PoolError>, Failure> {
        let place = Place::new(&self.pool.namespace, &shards_name(&self.pool.name));
        let current = self.sets.get(&place);
        let runs = current.and_then(|set| set.spec.as_ref()?.replicas);
        let count = replicas(PoolSpec::of(pool).shards, mail.in_use, runs);
        let made = headless_service(pool)
            .and_then(|service| Ok((service, stateful_set(pool, &self.settings, count)?)));
        let (service, set) = match made {
            Ok(made) => made,
            Err(error) => return Ok(Some(error)),
        };
        let is_ours = |meta: &ObjectMeta| is_of(meta, &self.pool.name);
        let there = self.services.get(&place);
        if there.is_none_or(|there| differs(there, &service)) {
            let uid = there.filter(|of| is_ours(&of.metadata));
            let uid = uid.and_then(|of| of.metadata.uid.clone());
            let written = put(&self.client, is_ours, service, uid).await?;
            self.services.put(written);
        }
        let current = self.sets.get(&place);
        if current.is_none_or(|current| differs(current, &set)) {
            let uid = current.filter(|of| is_ours(&of.metadata));
            let uid = uid.and_then(|of| of.metadata.uid.clone());
            let written = put(&self.client, is_ours, set, uid).await?;
            self.sets.put(written);
            if runs != Some(count) {
                self.tell(pool, runs, count).await;
            }
        }
        Ok(None)
    }

    /// An Event, for whoever looks at the ShardPool.
    async fn tell(&self, pool: &ShardPool, before: Option<i32>, now: i32) {
        let (reason, note) = match before {
            None => ("Created", format!("{now} shards are being made")),
            Some(before) if before < now => ("ScaledOut", format!("from {before} shards to {now}")),
            Some(before) => ("ScaledIn", format!("from {before} shards to {now}")),
        };
        tracing::info!(pool = %self.pool, shards = now, before, "pool scaled");
        let event = KubeEvent {
            type_: EventType::Normal,
            reason: reason.into(),
            note: Some(note),
            action: "Scale".into(),
            secondary: None,
        };
        let pool = pool.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &pool).await {
            let error = api_telemetry::Chain(&error).to_string();
            tracing::debug!(error, "event cannot be written");
        }
    }
}

/// Whether something was made from the pool.
fn is_of(meta: &ObjectMeta, pool: &str) -> bool {
    let labels: Option<&BTreeMap<String, String>> = meta.labels.as_ref();
    let is_labelled = labels.is_some_and(|of| of.get(POOL).is_some_and(|name| name == pool));
    let owners = meta.owner_references.iter().flatten();
    let mut owners = owners.filter(|of| of.kind == "ShardPool");
    is_labelled && owners.any(|of| of.name == pool)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
