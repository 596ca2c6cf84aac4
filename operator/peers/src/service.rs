//! Calls of other replicas.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_wire::peer::peer_server::Peer;
use api_wire::peer::{
    Ended, FromFollower, FromLeader, Hello, Installed, RaftMessage, SnapshotPart, from_follower,
    raft_message, snapshot_part,
};
use futures::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::parts::{Join, PartError};
use crate::relay::Receiving;
use crate::stream::Origin;
use crate::tls::Caller;
use crate::transport::Shared;

/// Time for the first message of a call.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Time for the next frame of a snapshot.
const FRAME_WITHIN: Duration = Duration::from_secs(15);
/// Snapshots that are taken at a time: one that a former leader has left half, and the one that counts.
const INSTALLS_MAX: usize = 2;

/// Serves the calls of other replicas.
pub(crate) struct Service {
    shared: Arc<Shared>,
    receiving: Option<Arc<Receiving>>,
    installs: Semaphore,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(crate) fn new(shared: Arc<Shared>, receiving: Option<Receiving>) -> Self {
        Self {
            shared,
            receiving: receiving.map(Arc::new),
            installs: Semaphore::new(INSTALLS_MAX),
        }
    }

    /// Whether the caller is who it says, and means this replica. Gives the caller's raft id.
    fn admit(&self, caller: Caller, hello: Option<Hello>) -> Result<u64, Status> {
        let admitted = admit(caller, hello, &self.shared);
        if let Err(status) = &admitted {
            self.shared.metrics.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                ?caller,
                error = status.message(),
                "call of a replica refused"
            );
        }
        admitted
    }
}

fn admit(caller: Caller, hello: Option<Hello>, shared: &Shared) -> Result<u64, Status> {
    if !caller.is_some_replica() {
        return Err(Status::permission_denied(
            "the certificate names no replica of the operator",
        ));
    }
    let Some(hello) = hello else {
        return Err(Status::invalid_argument(
            "the first message must be a hello",
        ));
    };
    let (own, cluster) = (shared.config.id, &shared.config.cluster);
    if hello.cluster != *cluster {
        return Err(Status::failed_precondition(format!(
            "this replica is of cluster {cluster}, not of {}",
            hello.cluster
        )));
    }
    if hello.to != own || hello.from == own {
        return Err(Status::failed_precondition(format!(
            "this replica is {own}; {} speaks to {}",
            hello.from, hello.to
        )));
    }
    // One that is not known here is known to the leader: it has just joined.
    let known = shared.directory.peer(hello.from);
    let is_its_own = known.is_none_or(|peer| peer.ordinal == hello.ordinal);
    if !(is_its_own && caller.is_replica(hello.ordinal)) {
        return Err(Status::permission_denied(format!(
            "the certificate, or the directory, has another one for replica {} of ordinal {}",
            hello.from, hello.ordinal
        )));
    }
    Ok(hello.from)
}

/// Who calls, by the connection, and from where.
fn origin<T>(request: &Request<T>) -> Origin {
    let origin = request.extensions().get::<Origin>();
    origin.copied().unwrap_or(Origin {
        caller: Caller::Unknown,
        address: None,
    })
}

/// The next message of a call.
async fn next<T>(messages: &mut Streaming<T>, within: Duration) -> Result<T, Status> {
    let next = tokio::time::timeout(within, messages.message()).await;
    let next = next.map_err(|_| Status::deadline_exceeded(format!("nothing within {within:?}")))?;
    next?.ok_or_else(|| Status::aborted("the call ends in the middle"))
}

#[tonic::async_trait]
impl Peer for Service {
    type ExchangeStream = Answer<Ended>;
    type RelayStream = Answer<FromLeader>;

    async fn exchange(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let Origin { caller, address } = origin(&request);
        let mut messages = request.into_inner();
        let hello = match next(&mut messages, HELLO_WITHIN).await?.message {
            Some(raft_message::Message::Hello(hello)) => Some(hello),
            _ => None,
        };
        let from = self.admit(caller, hello)?;
        if let Some(address) = address {
            let directory = &self.shared.directory;
            self.shared.seen.called(from, address, directory);
        }
        if let Some(link) = self.shared.metrics.links.read().get(&from) {
            link.back.notify_waiters();
        }
        let shared = Arc::clone(&self.shared);
        let (answer, answers) = mpsc::channel(1);
        api_telemetry::task::spawn("messages of a peer", async move {
            // Ends with the call; an error of the connection is the end as well.
            while let Ok(Some(message)) = messages.message().await {
                if let Some(raft_message::Message::Raft(raft)) = message.message {
                    shared.inbox.message(raft.into());
                }
            }
            drop(answer);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn install(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Installed>, Status> {
        let caller = origin(&request).caller;
        let mut parts = request.into_inner();
        let taken = self.take_snapshot(caller, &mut parts).await;
        let metrics = &self.shared.metrics;
        match taken {
            Ok((from, bytes)) => {
                metrics.received.fetch_add(1, Ordering::Relaxed);
                tracing::info!(peer = from, bytes, "snapshot received");
                Ok(Response::new(Installed {}))
            }
            Err(status) => {
                metrics.not_received.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(?caller, error = status.message(), "snapshot not received");
                Err(status)
            }
        }
    }

    async fn relay(
        &self,
        request: Request<Streaming<FromFollower>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let caller = origin(&request).caller;
        let mut messages = request.into_inner();
        let hello = match next(&mut messages, HELLO_WITHIN).await?.message {
            Some(from_follower::Message::Hello(hello)) => Some(hello),
            _ => None,
        };
        let replica = hello.as_ref().map_or(0, |hello| hello.ordinal);
        self.admit(caller, hello)?;
        let Some(receiving) = &self.receiving else {
            return Err(Status::unimplemented("this replica takes no relay"));
        };
        let answers = receiving.take(replica, messages).await?;
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Service {
    async fn take_snapshot(
        &self,
        caller: Caller,
        parts: &mut Streaming<SnapshotPart>,
    ) -> Result<(u64, usize), Status> {
        let Some(snapshot_part::Part::Head(head)) = next(parts, HELLO_WITHIN).await?.part else {
            return Err(Status::invalid_argument("the first part must be the head"));
        };
        let from = self.admit(caller, head.hello)?;
        let Ok(_place) = self.installs.try_acquire() else {
            return Err(Status::resource_exhausted(
                "other snapshots are being received",
            ));
        };
        let mut join =
            Join::new(head.bytes, self.shared.config.snapshot_bytes_max).map_err(damaged)?;
        loop {
            match next(parts, FRAME_WITHIN).await?.part {
                Some(snapshot_part::Part::Frame(frame)) => join.frame(&frame).map_err(damaged)?,
                Some(snapshot_part::Part::End(end)) => {
                    let message = join.end(&end).map_err(damaged)?;
                    let bytes = message.len();
                    return if self.shared.inbox.message(message) {
                        Ok((from, bytes))
                    } else {
                        Err(Status::unavailable("raft does not take it now"))
                    };
                }
                _ => return Err(Status::invalid_argument("a frame or the end must follow")),
            }
        }
    }
}

fn damaged(error: PartError) -> Status {
    Status::data_loss(error.to_string())
}
