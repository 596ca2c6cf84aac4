//! The gRPC side: who may open a stream, and the tasks that carry it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::ShardId;
use api_wire::MESSAGE_BYTES_MAX;
use api_wire::delivery::delivery_server::{Delivery, DeliveryServer};
use api_wire::delivery::{FromShard, ToShard, from_shard};
use futures::{Stream, StreamExt};
use operator_identity::{Credentials, Identity, IdentityError, Peer, Signer, incoming};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::distributor::{Distributor, Input};

/// Time for a shard's first message.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Batches that wait for a shard; one more closes its stream, and it comes back for what it lacks.
const BATCHES_MAX: usize = 1024;

/// PEM texts for mutual TLS.
#[derive(Clone)]
pub struct ServerTls {
    /// Certificates that shards' certificates must be signed by.
    pub ca: String,
    /// The operator's own.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What delta streams are protected by.
#[derive(Clone)]
pub enum ServeTls {
    /// Nothing: every caller is believed. Loopback only.
    None,
    /// Certificates that somebody hands to the shards.
    Fixed(ServerTls),
    /// Certificates that renew themselves; shards get theirs here.
    Own {
        /// The operator's.
        credentials: Credentials,
        /// Signs the shards'.
        signer: Signer,
    },
}

impl From<Option<ServerTls>> for ServeTls {
    fn from(tls: Option<ServerTls>) -> Self {
        tls.map_or(Self::None, Self::Fixed)
    }
}

/// The stream's endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Certificates.
    #[error("use certificates for the delta stream")]
    Identity(#[from] IdentityError),
    /// The server.
    #[error("serve the delta stream")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves delta streams, and certificates for shards, on a bound socket, for ever. Anybody may connect; each request says
/// what it needs to know of the one who makes it.
///
/// # Errors
/// [`ServeError`] when TLS cannot be set up.
pub async fn serve(
    distributor: Distributor,
    listener: TcpListener,
    tls: impl Into<ServeTls>,
) -> Result<(), ServeError> {
    let (credentials, signer) = match tls.into() {
        ServeTls::None => (None, None),
        ServeTls::Fixed(tls) => {
            let fixed = Credentials::fixed(&tls.certificate, &tls.key, &tls.ca)?;
            (Some(fixed), None)
        }
        ServeTls::Own {
            credentials,
            signer,
        } => (Some(credentials), Some(signer)),
    };
    let refusals = distributor.refusals();
    let service = Service {
        distributor,
        sessions: Arc::default(),
    };
    let service = DeliveryServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    server
        .add_service(service)
        .add_optional_service(signer.map(|signer| signer.service()))
        .serve_with_incoming(incoming(listener, credentials, refusals))
        .await?;
    Ok(())
}

struct Service {
    distributor: Distributor,
    sessions: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Delivery for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<ToShard, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<FromShard>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.unwrap_or(Peer::Anonymous);
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 seconds"))??;
        let Some(from_shard::Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument(
                "the first message must be a hello",
            ));
        };
        let shard = ShardId(hello.shard);
        if !peer.may_act_as(Identity::Shard(shard)) {
            tracing::warn!(%shard, ?peer, "stream refused: no valid certificate of this shard");
            return Err(Status::permission_denied(format!(
                "no valid client certificate of {shard} was shown"
            )));
        }
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (out, batches) = mpsc::channel(BATCHES_MAX);
        let connected = Input::Connected {
            shard,
            session,
            hello,
            out,
        };
        if !self.distributor.input(connected).await {
            return Err(Status::unavailable("the operator is stopping"));
        }
        let distributor = self.distributor.clone();
        api_telemetry::task::spawn("shard stream", async move {
            // Ends with the stream; an error of the transport is the end as well.
            while let Ok(Some(message)) = messages.message().await {
                if !distributor
                    .input(Input::Message {
                        shard,
                        session,
                        message,
                    })
                    .await
                {
                    return;
                }
            }
            distributor
                .input(Input::Disconnected { shard, session })
                .await;
        });
        let out = ReceiverStream::new(batches)
            .flat_map(|batch| futures::stream::iter(batch.into_iter().map(Ok)));
        Ok(Response::new(Box::pin(out)))
    }
}

#[cfg(test)]
mod tests;
