//! The leader's end: calls of followers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_wire::peer::{FromFollower, FromLeader, from_follower};
use operator_consensus::Leadership;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{Shards, wire};
use crate::metrics::Metrics;

/// Time for an older call of the same replica to end.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);
/// Acknowledgements that wait; each covers all that were taken before it.
const ANSWERS_MAX: usize = 1;

/// Takes what followers relay.
pub(crate) struct Receiving {
    own: u64,
    shards: Arc<dyn Shards>,
    leadership: watch::Receiver<Leadership>,
    metrics: Arc<Metrics>,
    /// The call of each replica that is open.
    open: Mutex<BTreeMap<u64, Open>>,
}

#[derive(Clone, Default)]
struct Open {
    /// A newer one takes its place.
    replaced: CancellationToken,
    /// Its end was told.
    over: CancellationToken,
}

type Answers = mpsc::Sender<Result<FromLeader, Status>>;

impl Receiving {
    /// For the replica of raft id `own`.
    pub(crate) fn new(
        own: u64,
        shards: Arc<dyn Shards>,
        leadership: watch::Receiver<Leadership>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            own,
            shards,
            leadership,
            metrics,
            open: Mutex::default(),
        }
    }

    /// Takes a call of a replica that was admitted. An older call of it ends first, so that its end does not undo what this
    /// one says.
    pub(crate) async fn take(
        self: &Arc<Self>,
        replica: u64,
        messages: Streaming<FromFollower>,
    ) -> Result<ReceiverStream<Result<FromLeader, Status>>, Status> {
        if self.leadership.borrow().leader != Some(self.own) {
            return Err(Status::failed_precondition("this replica does not lead"));
        }
        let open = Open::default();
        let older = self.open.lock().insert(replica, open.clone());
        if let Some(older) = older {
            older.replaced.cancel();
            let over = tokio::time::timeout(REPLACED_WITHIN, older.over.cancelled()).await;
            if over.is_err() {
                // It stands in for the older one: the next call waits for that as well.
                open.replaced.cancel();
                self.over_with(older, open);
                return Err(Status::unavailable("an older call is still worked on"));
            }
        }
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let receiving = Arc::clone(self);
        api_telemetry::task::spawn("relay of a follower", async move {
            let ended = tokio::select! {
                () = open.replaced.cancelled() => Err(Status::aborted("a newer call takes its place")),
                () = receiving.ends() => Err(Status::failed_precondition("this replica does not lead any more")),
                ended = receiving.read(replica, messages, &answers) => ended,
            };
            receiving.shards.relay_ended(replica).await;
            receiving.close(&open);
            let error = ended.as_ref().err().map(Status::message);
            tracing::info!(replica, error, "relay of a replica ended");
            if let Err(error) = ended {
                // With no room the follower sees the call end without a reason.
                let _ = answers.try_send(Err(error));
            }
        });
        tracing::info!(replica, "a replica relays its shards");
        Ok(ReceiverStream::new(receiver))
    }

    /// Ends `open` once `older` has.
    fn over_with(self: &Arc<Self>, older: Open, open: Open) {
        let receiving = Arc::clone(self);
        api_telemetry::task::spawn("older relay", async move {
            older.over.cancelled().await;
            receiving.close(&open);
        });
    }

    fn close(&self, open: &Open) {
        open.over.cancel();
        let mut all = self.open.lock();
        all.retain(|_, open| !open.over.is_cancelled());
    }

    /// Resolves once this replica does not lead any more.
    async fn ends(&self) {
        let mut leadership = self.leadership.clone();
        // An error means that raft has ended here: nobody leads.
        let _ = leadership
            .wait_for(|now| now.leader != Some(self.own))
            .await;
    }

    async fn read(
        &self,
        replica: u64,
        mut messages: Streaming<FromFollower>,
        answers: &Answers,
    ) -> Result<(), Status> {
        let (mut taken, mut told) = (0, 0);
        loop {
            let message = tokio::select! {
                message = messages.message() => message?,
                permit = answers.reserve(), if told < taken => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(Ok(FromLeader { taken }));
                    told = taken;
                    continue;
                }
            };
            let event = match message.map(|message| message.message) {
                None => return Ok(()),
                Some(Some(from_follower::Message::Event(event))) => event,
                Some(_) => continue,
            };
            if event.sequence != taken + 1 {
                return Err(Status::data_loss(format!(
                    "event {} follows {taken}",
                    event.sequence
                )));
            }
            taken = event.sequence;
            match event.event.and_then(wire::from_wire) {
                Some(event) => self.shards.relayed(replica, event).await,
                None => tracing::warn!(replica, "relayed event left out"),
            }
            let received = &self.metrics.relay_received;
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
}
