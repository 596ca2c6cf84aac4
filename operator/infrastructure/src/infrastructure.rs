//! Keeps Services and EndpointSlices as Gateways need them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::{GatewayKey, PoolKey};
use api_telemetry::metrics::Source;
use api_telemetry::task::spawn;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::follow::follow;
use crate::known::Place;
use crate::labels::{POOL, selector};
use crate::metrics::Counts;
use crate::needs::{GatewayNeeds, Observed};
use crate::perform::{Done, Failure, Written, perform, zone};
use crate::queue::{Outcome, Queue};
use crate::world::World;

/// Places that are written to at once.
const AT_ONCE: usize = 16;
/// News of watches that wait; then watches wait, and with them the API server's connections.
const NEWS_MAX: usize = 1024;
/// News that are taken before anything is written.
const NEWS_AT_ONCE: usize = 512;
/// What was observed and nobody has taken yet; what comes then waits here, the newest of each Gateway.
const OBSERVED_MAX: usize = 256;

/// What is served, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pool whose pods are the shards.
    pub pool: PoolKey,
    /// Namespaces where there may be Gateways; empty for all.
    pub namespaces: Vec<String>,
}

/// A handle; the work ends when it is dropped. What it is told is taken at once and never waits.
#[derive(Debug)]
pub struct Infrastructure {
    mailbox: Arc<Mailbox>,
    counts: Arc<Counts>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Infrastructure {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The newest of each, until it is taken: as many as there are Gateways at most.
#[derive(Debug, Default)]
struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Mail {
    /// Whether it leads, and whether it has been told not to in between.
    leads: Option<bool>,
    is_reset: bool,
    needs: BTreeMap<GatewayKey, Option<GatewayNeeds>>,
    is_complete: bool,
}

impl Infrastructure {
    /// Starts to watch. Nothing is written before [`Infrastructure::lead`].
    ///
    /// The receiver gets what a Gateway has whenever that, or what is wrong with it, has changed, on every replica that was
    /// told of the Gateway.
    pub fn start(client: Client, settings: Settings) -> (Self, mpsc::Receiver<Observed>) {
        let mailbox = Arc::new(Mailbox::default());
        let counts = Arc::new(Counts::default());
        let (news, received) = mpsc::channel(NEWS_MAX);
        let (observe, observed) = mpsc::channel(OBSERVED_MAX);
        let scopes: Vec<Option<String>> = if settings.namespaces.is_empty() {
            vec![None]
        } else {
            settings.namespaces.iter().cloned().map(Some).collect()
        };
        let mut tasks = watches(&client, &settings.pool, &scopes, &news);
        let actor = Actor {
            client,
            world: World::new(settings.pool.clone(), &scopes),
            pool: settings.pool,
            queue: Queue::default(),
            leads: false,
            counts: Arc::clone(&counts),
            untold: BTreeSet::new(),
            told: BTreeMap::new(),
        };
        let run = actor.run(Arc::clone(&mailbox), received, observe);
        tasks.push(spawn("infrastructure", run).abort_handle());
        let handle = Self {
            mailbox,
            counts,
            tasks,
        };
        (handle, observed)
    }

    /// What has been written, and what waits.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.counts) as Arc<dyn Source>
    }

    /// Says what a Gateway needs; none when it is gone, or not ours any more: then what it had goes.
    pub fn set(&self, gateway: GatewayKey, needs: Option<GatewayNeeds>) {
        self.mail(|mail| {
            mail.needs.insert(gateway, needs);
        });
    }

    /// Says whether this replica leads: the leader alone writes. On `false` all that was set is forgotten; who leads again
    /// sets it again.
    pub fn lead(&self, leads: bool) {
        self.mail(|mail| {
            if !leads {
                *mail = Mail {
                    is_reset: true,
                    ..Mail::default()
                };
            }
            mail.leads = Some(leads);
        });
    }

    /// Says that every Gateway has been set: what was made for others, also before a restart, goes.
    pub fn complete(&self) {
        self.mail(|mail| mail.is_complete = true);
    }

    fn mail(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut self.mailbox.mail.lock());
        self.mailbox.arrived.notify_one();
    }
}

/// What watches tell: of which scope, and what.
enum News {
    Service(usize, Box<Event<Service>>),
    Slice(usize, Box<Event<EndpointSlice>>),
    Pod(Box<Event<Pod>>),
}

fn watches(
    client: &Client,
    pool: &PoolKey,
    scopes: &[Option<String>],
    news: &mpsc::Sender<News>,
) -> Vec<AbortHandle> {
    let mut tasks = Vec::new();
    for (number, scope) in scopes.iter().enumerate() {
        let config = watcher::Config::default().labels(&selector(pool));
        let services = match scope {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let wrap = move |event| News::Service(number, Box::new(event));
        let watch = follow("Service", services, config.clone(), news.clone(), wrap);
        tasks.push(spawn("watch-services", watch).abort_handle());
        let slices = match scope {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let wrap = move |event| News::Slice(number, Box::new(event));
        let watch = follow("EndpointSlice", slices, config, news.clone(), wrap);
        tasks.push(spawn("watch-slices", watch).abort_handle());
    }
    let config = watcher::Config::default().labels(&format!("{POOL}={}", pool.name));
    let pods = Api::namespaced(client.clone(), &pool.namespace);
    let wrap = |event| News::Pod(Box::new(event));
    let watch = follow("Pod", pods, config, news.clone(), wrap);
    tasks.push(spawn("watch-shards", watch).abort_handle());
    tasks
}

struct Actor {
    client: Client,
    pool: PoolKey,
    world: World,
    queue: Queue,
    leads: bool,
    counts: Arc<Counts>,
    /// Places whose Gateway may have something to tell.
    untold: BTreeSet<Place>,
    told: BTreeMap<Place, Observed>,
}

impl Actor {
    async fn run(
        mut self,
        mailbox: Arc<Mailbox>,
        mut news: mpsc::Receiver<News>,
        observe: mpsc::Sender<Observed>,
    ) {
        let mut jobs = FuturesUnordered::new();
        let mut zones = FuturesUnordered::new();
        loop {
            for node in self.world.nodes_to_ask() {
                zones.push(zone(self.client.clone(), node));
            }
            // Slices without zones would be written twice.
            while zones.is_empty() && jobs.len() < AT_ONCE {
                let Some(job) = self.next_job() else { break };
                jobs.push(job);
            }
            let waiting = self.queue.len() as u64;
            self.counts.waiting.store(waiting, Ordering::Relaxed);
            let next = self.next_observed();
            let due = self.queue.due().filter(|_| self.leads);
            tokio::select! {
                () = mailbox.arrived.notified() => self.open(std::mem::take(&mut *mailbox.mail.lock())),
                received = news.recv() => {
                    let Some(received) = received else { return };
                    self.hear(received);
                    // A node that goes takes many pods with it; they are one change.
                    for _ in 1..NEWS_AT_ONCE {
                        let Ok(received) = news.try_recv() else { break };
                        self.hear(received);
                    }
                }
                Some(done) = jobs.next() => self.take(done),
                Some((node, zone)) = zones.next() => {
                    let places = self.world.take_zone(&node, zone);
                    self.mark(places);
                }
                permit = observe.reserve(), if next.is_some() => {
                    if let (Some((place, observed)), Ok(permit)) = (next, permit) {
                        self.untold.remove(&place);
                        self.told.insert(place, observed.clone());
                        permit.send(observed);
                    } else {
                        // Nobody listens any more.
                        self.untold.clear();
                    }
                }
                () = sleep_until(due) => {}
            }
        }
    }

    fn open(&mut self, mail: Mail) {
        if mail.is_reset {
            self.world.forget();
            self.told.clear();
            self.untold.clear();
        }
        if let Some(leads) = mail.leads
            && leads != self.leads
        {
            self.leads = leads;
            let places = self.world.places();
            self.mark(places);
        }
        for (gateway, needs) in mail.needs {
            let place = self.world.set(&gateway, needs);
            self.queue.mark_anew(&place);
            self.untold.insert(place);
        }
        if mail.is_complete {
            let places = self.world.complete();
            self.mark(places);
        }
    }

    fn hear(&mut self, news: News) {
        let places = match news {
            News::Service(scope, event) => {
                let places = self.world.take_service(scope, *event);
                self.untold.extend(places.iter().cloned());
                places
            }
            News::Slice(scope, event) => self.world.take_slice(scope, *event),
            News::Pod(event) => self.world.take_pod(*event),
        };
        self.mark(places);
    }

    fn mark(&mut self, places: Vec<Place>) {
        for place in places {
            self.queue.mark(&place);
        }
    }

    /// The next place where something is to be written.
    fn next_job(&mut self) -> Option<impl Future<Output = Done> + Send + use<>> {
        if !self.leads || !self.world.is_listed() {
            return None;
        }
        loop {
            let place = self.queue.next(Instant::now())?;
            let writes = self.world.plan(&place);
            if writes.is_empty() {
                self.queue.settle(&place);
                self.world.settled(&place);
                continue;
            }
            self.queue.begin(&place);
            return Some(perform(
                self.client.clone(),
                self.pool.clone(),
                place,
                writes,
            ));
        }
    }

    fn take(&mut self, done: Done) {
        let Done {
            place,
            written,
            failure,
        } = done;
        for written in written {
            let count = match &written {
                Written::Service(_) | Written::Slice(_) => &self.counts.written,
                _ => &self.counts.deleted,
            };
            count.fetch_add(1, Ordering::Relaxed);
            match written {
                Written::Service(service) => self.world.written_service(*service),
                Written::Slice(slice) => self.world.written_slice(*slice),
                Written::ServiceDeleted(place, uid) => self.world.deleted_service(&place, &uid),
                Written::SliceDeleted(place, uid) => self.world.deleted_slice(&place, &uid),
            }
        }
        let outcome = match &failure {
            None => Outcome::Written,
            Some(failure) => Outcome::Failed(failure.again),
        };
        self.say(&place, failure.as_ref());
        let problem = failure.and_then(|failure| failure.problem);
        self.world.refused(&place, problem);
        self.queue.end(&place, outcome, Instant::now());
        self.untold.insert(place);
    }

    fn say(&self, place: &Place, failure: Option<&Failure>) {
        let (namespace, service) = (&place.namespace, &place.name);
        match failure {
            Some(Failure { error, problem, .. }) => {
                let count = match problem {
                    Some(_) => &self.counts.refused,
                    None => &self.counts.failed,
                };
                count.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    namespace,
                    service,
                    error,
                    "what a gateway needs cannot be written; trying again"
                );
            }
            None => {
                if let Some(rounds) = self.queue.fights(place) {
                    tracing::warn!(
                        namespace,
                        service,
                        rounds,
                        "somebody else writes a gateway's service or slices again and again"
                    );
                }
            }
        }
    }

    /// What a Gateway has that was not told.
    fn next_observed(&mut self) -> Option<(Place, Observed)> {
        // Before that, nobody can say that an address is not there.
        if !self.world.is_listed() {
            return None;
        }
        while let Some(place) = self.untold.first().cloned() {
            match self.world.observed(&place) {
                Some(observed) if self.told.get(&place) != Some(&observed) => {
                    return Some((place, observed));
                }
                Some(_) => {}
                None => {
                    self.told.remove(&place);
                }
            }
            self.untold.remove(&place);
        }
        None
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
