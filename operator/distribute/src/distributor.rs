//! The one task that joins streams and, on the replica that leads, the rollout.

mod task;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::RoutingSnapshot;
use api_telemetry::metrics::Source as MetricSource;
use api_wire::delivery::{self, FromShard, ToShard};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};

use crate::ShardView;
use crate::event::{AppliedEvent, Event, RolloutReport};
use crate::metrics::Metrics;
use task::Task;

/// Inputs that wait for the distributor; raft's thread waits for room.
const INPUTS_MAX: usize = 1024;
/// Events in the channel to a relay.
const EVENTS_MAX: usize = 1024;

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time for a shard to prepare a revision before the rollout goes on without it.
    pub prepare_deadline: Duration,
}

pub(crate) enum Input {
    Applied(AppliedEvent),
    Restored,
    Connected {
        shard: ShardId,
        session: u64,
        hello: delivery::Hello,
        out: mpsc::Sender<Vec<ToShard>>,
    },
    Message {
        shard: ShardId,
        session: u64,
        message: FromShard,
    },
    Disconnected {
        shard: ShardId,
        session: u64,
    },
    /// A relay begins to listen.
    Listens(mpsc::Sender<Event>),
    Relayed(u64, Event),
    RelayEnded(u64),
}

/// Handle to the distributor.
#[derive(Clone)]
pub struct Distributor {
    inputs: mpsc::Sender<Input>,
    /// Whether to lead, and how often that was said.
    leads: Arc<watch::Sender<(bool, u64)>>,
    views: Arc<Mutex<BTreeMap<ShardId, ShardView>>>,
    metrics: Arc<Metrics>,
}

/// Starts the distributor, which follows. Activations that it asks for come out of `activate`, coalesced while the
/// receiver is busy; `reports` is awaited, so its receiver must not wait for raft.
///
/// Every entry that is applied to `snapshot` from now on is to be handed in, in order.
pub fn start(
    config: Config,
    snapshot: Arc<RwLock<RoutingSnapshot>>,
    activate: mpsc::Sender<Vec<(GatewayKey, Revision)>>,
    reports: mpsc::Sender<RolloutReport>,
) -> Distributor {
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let (leads, leading) = watch::channel((false, 0));
    let distributor = Distributor {
        inputs,
        leads: Arc::new(leads),
        views: Arc::default(),
        metrics: Arc::default(),
    };
    let task = Task::new(config, snapshot, activate, reports, &distributor);
    api_telemetry::task::spawn("distributor", task.run(receiver, leading));
    distributor
}

impl Distributor {
    /// Hands in an applied entry, in order. Blocks while the distributor is busy: called on raft's thread.
    pub fn applied(&self, event: AppliedEvent) {
        // The distributor ends with the process.
        let _ = self.inputs.blocking_send(Input::Applied(event));
    }

    /// Another replica's snapshot has taken the place of what was committed here: all streams begin anew from it. In order
    /// with [`Distributor::applied`], and as that.
    pub fn restored(&self) {
        let _ = self.inputs.blocking_send(Input::Restored);
    }

    /// Leads from now on, or follows. A leader begins with what is committed and what every replica's shards have said;
    /// saying it again makes it begin anew. Never waits. Reports of before may still come: they say nothing to a new
    /// leader, and are to be taken out before this is called.
    pub fn lead(&self, leads: bool) {
        self.leads
            .send_modify(|(current, times)| (*current, *times) = (leads, *times + 1));
    }

    /// What this replica's shards say, for the replica that leads: first [`Event::Restarted`] and everything that counts,
    /// then what comes. While this one leads, nothing; after that, and when more waits than is kept, it begins anew. For one
    /// listener: each call ends the one before.
    pub async fn events(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        self.input(Input::Listens(sender)).await;
        receiver
    }

    /// Hands in what a replica's shards say, in order. It counts while this one leads, and is kept for when it does. Waits
    /// while the distributor is busy.
    pub async fn relayed(&self, replica: u64, event: Event) {
        self.input(Input::Relayed(replica, event)).await;
    }

    /// Nothing is known of a replica's shards any more: its relay has ended.
    pub async fn relay_ended(&self, replica: u64) {
        self.input(Input::RelayEnded(replica)).await;
    }

    pub(crate) async fn input(&self, input: Input) -> bool {
        self.inputs.send(input).await.is_ok()
    }

    /// All shards that were seen, by number.
    pub fn shards(&self) -> Vec<ShardView> {
        self.views.lock().values().cloned().collect()
    }

    /// Counts of the connections that are turned away.
    pub(crate) fn refusals(&self) -> Arc<operator_identity::Refusals> {
        Arc::clone(&self.metrics.refusals)
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn MetricSource> {
        Arc::clone(&self.metrics) as Arc<dyn MetricSource>
    }
}

#[cfg(test)]
mod tests;
