//! One task that knows everything, and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::PoolKey;
use api_telemetry::task::spawn;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Mail, Mailbox, Wanted};
use crate::follow::follow;
use crate::known::Place;
use crate::labels::{POOL, selector};
use crate::metrics::Counts;
use crate::needs::Observed;
use crate::perform::{Done, Failure, Written, perform, zone};
use crate::queue::{Outcome, Queue};
use crate::world::World;

/// Places that are written to at once.
const AT_ONCE: usize = 16;
/// News that are taken before anything is written.
const NEWS_AT_ONCE: usize = 512;
/// Places that are looked at before other tasks have their turn; most have nothing to write after a change of leaders.
const LOOKED_AT_ONCE: usize = 64;
/// When a node that could not be read is asked for again.
const NODE_AGAIN: Duration = Duration::from_secs(60);

/// What watches tell: of which scope, and what.
pub(super) enum News {
    Service(usize, Box<Event<Service>>),
    Slice(usize, Box<Event<EndpointSlice>>),
    Pod(Box<Event<Pod>>),
}

/// Starts a watch of everything, in each scope.
pub(super) fn watches(
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

pub(super) struct Actor {
    client: Client,
    pool: PoolKey,
    world: World,
    queue: Queue,
    leads: bool,
    /// The zones of the shards that were there at first are known.
    has_zones: bool,
    /// Nodes that could not be read, and when they are asked for again.
    unread: Vec<String>,
    unread_due: Option<Instant>,
    counts: Arc<Counts>,
    /// Places whose Gateway may have something to tell.
    untold: BTreeSet<Place>,
    told: BTreeMap<Place, Observed>,
}

impl Actor {
    pub(super) fn new(
        client: Client,
        pool: PoolKey,
        scopes: &[Option<String>],
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            client,
            world: World::new(pool.clone(), scopes),
            pool,
            queue: Queue::default(),
            leads: false,
            has_zones: false,
            unread: Vec::new(),
            unread_due: None,
            counts,
            untold: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    pub(super) async fn run(
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
            // After a start slices without zones would be written, and then written back.
            self.has_zones |= self.world.is_listed() && zones.is_empty();
            let mut looks = LOOKED_AT_ONCE;
            while self.has_zones && jobs.len() < AT_ONCE {
                let Some(job) = self.next_job(&mut looks) else {
                    break;
                };
                jobs.push(job);
            }
            let is_early = looks == 0;
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
                Some(answer) = zones.next() => self.take_zone(answer),
                () = sleep_until(self.unread_due) => {
                    self.unread_due = None;
                    for node in self.unread.drain(..) {
                        self.world.forget_zone(&node);
                    }
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
                () = tokio::task::yield_now(), if is_early => {}
            }
        }
    }

    fn take_zone(&mut self, answer: Result<(String, Option<String>), String>) {
        match answer {
            Ok((node, zone)) => {
                let places = self.world.take_zone(&node, zone);
                self.mark(places);
            }
            Err(node) => {
                self.unread.push(node);
                self.unread_due.get_or_insert(Instant::now() + NODE_AGAIN);
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
        for (gateway, wanted) in mail.gateways {
            let place = match wanted {
                Wanted::Needs(needs) => self.world.set(&gateway, Some(*needs)),
                Wanted::ItsAddress => self.world.keep(&gateway),
                Wanted::Nothing => self.world.set(&gateway, None),
            };
            self.queue.mark_anew(&place);
            self.untold.insert(place);
        }
        if mail.is_complete {
            let places = self.world.complete();
            self.mark(places);
        }
        if !self.leads {
            self.world.forget_gone();
        }
    }

    fn hear(&mut self, news: News) {
        let places = match news {
            News::Service(scope, event) => {
                let places = self.world.take_service(scope, *event);
                self.untold.extend(places.iter().cloned());
                places
            }
            News::Slice(scope, event) => {
                let places = self.world.take_slice(scope, *event);
                self.untold.extend(places.iter().cloned());
                places
            }
            News::Pod(event) => self.world.take_pod(*event),
        };
        self.mark(places);
    }

    fn mark(&mut self, places: Vec<Place>) {
        for place in places {
            self.queue.mark(&place);
        }
    }

    /// The next place where something is to be written; none as well when too many had nothing.
    fn next_job(&mut self, looks: &mut usize) -> Option<impl Future<Output = Done> + Send + use<>> {
        if !self.leads || !self.world.is_listed() {
            return None;
        }
        while *looks > 0 {
            let place = self.queue.next(Instant::now())?;
            *looks -= 1;
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
        None
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
