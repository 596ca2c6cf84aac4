//! Keeps Services and EndpointSlices as Gateways need them.

mod actor;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{GatewayKey, PoolKey};
use api_telemetry::metrics::Source;
use api_telemetry::task::spawn;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::metrics::Counts;
use crate::needs::{GatewayNeeds, Observed};
use actor::{Actor, watches};

/// News of watches that wait; then watches wait, and with them the API server's connections.
const NEWS_MAX: usize = 1024;
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
    gateways: BTreeMap<GatewayKey, Wanted>,
    is_complete: bool,
}

/// What is wanted for a Gateway.
#[derive(Debug)]
enum Wanted {
    Needs(Box<GatewayNeeds>),
    ItsAddress,
    Nothing,
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
        let actor = Actor::new(client, settings.pool, &scopes, Arc::clone(&counts));
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
            let wanted = needs.map_or(Wanted::Nothing, |needs| Wanted::Needs(Box::new(needs)));
            mail.gateways.insert(gateway, wanted);
        });
    }

    /// Says that a Gateway is not served, and is to keep its address: the Service stays, its slices go.
    ///
    /// For one that asks for what it cannot have. Nothing is made for it.
    pub fn keep(&self, gateway: GatewayKey) {
        self.mail(|mail| {
            mail.gateways.insert(gateway, Wanted::ItsAddress);
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

#[cfg(test)]
mod tests;
