//! The way to one replica: a call for raft's messages that is opened again and again, and one for each snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_telemetry::Chain;
use api_wire::peer::{Hello, RaftMessage, raft_message};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::dial::{DialError, Patience, dial};
use crate::directory::Peer;
use crate::parts::Cut;
use crate::pause::Pause;
use crate::queue::{Queue, Slot};
use crate::transport::Shared;

/// Messages on their way from the queue to the connection.
const LEAVING_MAX: usize = 16;
/// Time for the other side to accept a call.
pub(crate) const ACCEPTED_WITHIN: Duration = Duration::from_secs(5);
/// Time for a snapshot as a whole.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(300);
/// How often it is said that a replica cannot be reached.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// The way to one replica. Replaced when the replica is elsewhere.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) peer: Peer,
    pub(crate) queue: Queue,
    pub(crate) snapshot: Slot,
    /// The replica has connected to this one: it can be reached.
    pub(crate) back: Notify,
    pub(crate) connected: AtomicBool,
    pub(crate) gone: CancellationToken,
}

/// Why a call to a replica ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("no connection")]
    Dial(#[from] DialError),
    #[error("call refused or lost")]
    Call(#[from] Box<tonic::Status>),
    #[error("not accepted within {ACCEPTED_WITHIN:?}")]
    NotAccepted,
    #[error("replica {0} is not in the directory")]
    Unknown(u64),
    #[error("ended by the other side")]
    Ended,
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl Link {
    pub(crate) fn new(id: u64, peer: Peer) -> Self {
        Self {
            id,
            peer,
            queue: Queue::default(),
            snapshot: Slot::default(),
            back: Notify::new(),
            connected: AtomicBool::new(false),
            gone: CancellationToken::new(),
        }
    }

    /// Starts what carries messages and snapshots; both end with [`Link::gone`].
    pub(crate) fn start(self: &Arc<Self>, shared: &Arc<Shared>) {
        let (link, with) = (Arc::clone(self), Arc::clone(shared));
        api_telemetry::task::spawn("peer messages", async move {
            tokio::select! {
                () = link.gone.cancelled() => {}
                () = link.carry_messages(&with) => {}
            }
            link.connected.store(false, Ordering::Relaxed);
        });
        let (link, with) = (Arc::clone(self), Arc::clone(shared));
        api_telemetry::task::spawn("peer snapshots", async move {
            link.carry_snapshots(&with).await;
        });
    }

    async fn carry_messages(&self, shared: &Shared) {
        let mut pause = Pause::new(self.id);
        let mut warned: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let Err(error) = self.exchange(shared).await;
            if self.connected.swap(false, Ordering::Relaxed) {
                tracing::info!(peer = self.id, error = %Chain(&error), "connection to a replica lost");
            } else {
                shared
                    .metrics
                    .connects_failed
                    .fetch_add(1, Ordering::Relaxed);
                if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    warned = Some(began);
                    tracing::warn!(peer = self.id, address = self.peer.address, error = %Chain(&error), "replica cannot be reached; trying on");
                }
            }
            // By the time that it is back raft has newer ones.
            let dropped = self.queue.clear() as u64;
            shared.metrics.down.fetch_add(dropped, Ordering::Relaxed);
            shared.inbox.unreachable(self.id);
            tokio::select! {
                () = tokio::time::sleep(pause.next(began.elapsed())) => {}
                () = self.back.notified() => {}
            }
        }
    }

    /// Sends what waits until the call ends; there is no other way for it to end.
    async fn exchange(&self, shared: &Shared) -> Result<std::convert::Infallible, LinkError> {
        let mut client = dial(self.id, &self.peer, shared, Patience::Short).await?;
        let (leaving, receiver) = mpsc::channel(LEAVING_MAX);
        let message = |message| RaftMessage {
            message: Some(message),
        };
        let hello = raft_message::Message::Hello(shared.hello(self.id));
        // There is room: nothing was sent yet.
        let _ = leaving.try_send(message(hello));
        let call = client.exchange(ReceiverStream::new(receiver));
        let answer = tokio::time::timeout(ACCEPTED_WITHIN, call).await;
        let mut answer = answer.map_err(|_| LinkError::NotAccepted)??.into_inner();
        self.connected.store(true, Ordering::Relaxed);
        shared.metrics.connects.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            peer = self.id,
            address = self.peer.address,
            "connected to a replica"
        );
        let forward = async {
            loop {
                let raft = raft_message::Message::Raft(self.queue.pop().await);
                if leaving.send(message(raft)).await.is_err() {
                    // The call is over, and says so.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            ended = answer.message() => {
                ended?;
                Err(LinkError::Ended)
            }
            () = forward => Err(LinkError::Ended),
        }
    }

    /// Each snapshot is reported once, also one that waits when this ends.
    async fn carry_snapshots(&self, shared: &Shared) {
        loop {
            let message = tokio::select! {
                biased;
                message = self.snapshot.take() => message,
                () = self.gone.cancelled() => return,
            };
            let bytes = message.len();
            let sent = tokio::select! {
                () = self.gone.cancelled() => Err(LinkError::Ended),
                sent = self.install(message, shared) => sent,
            };
            let (metrics, arrived) = (&shared.metrics, sent.is_ok());
            match sent {
                Ok(()) => {
                    metrics.sent.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(peer = self.id, bytes, "snapshot sent");
                }
                Err(error) => {
                    metrics.not_sent.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(peer = self.id, bytes, error = %Chain(&error), "snapshot not sent");
                }
            }
            shared.inbox.snapshot_sent(self.id, arrived);
        }
    }

    /// On a connection of its own, so that nothing waits behind it.
    async fn install(&self, message: Bytes, shared: &Shared) -> Result<(), LinkError> {
        let mut client = dial(self.id, &self.peer, shared, Patience::Long).await?;
        let parts: Cut = Cut::new(shared.hello(self.id), message);
        let call = client.install(tokio_stream::iter(parts));
        let answer = tokio::time::timeout(SNAPSHOT_WITHIN, call).await;
        answer.map_err(|_| LinkError::NotAccepted)??;
        Ok(())
    }
}

impl Shared {
    pub(crate) fn hello(&self, to: u64) -> Hello {
        Hello {
            cluster: self.config.cluster.clone(),
            from: self.config.id,
            to,
            ordinal: self.config.ordinal,
        }
    }
}
