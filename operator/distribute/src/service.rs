//! The gRPC side: who may open a stream, and the tasks that carry it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::ShardId;
use api_wire::MESSAGE_BYTES_MAX;
use api_wire::delivery::delivery_server::{Delivery, DeliveryServer};
use api_wire::delivery::{FromShard, ToShard, from_shard};
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::distributor::{Distributor, Input};
use crate::tls::shard_of;

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

/// The stream's endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("serve the delta stream")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves delta streams on a bound socket, for ever. Without TLS every caller is believed: loopback only.
///
/// # Errors
/// [`ServeError`] when TLS cannot be set up.
pub async fn serve(
    distributor: Distributor,
    listener: TcpListener,
    tls: Option<ServerTls>,
) -> Result<(), ServeError> {
    let service = Service {
        distributor,
        sessions: Arc::default(),
        authenticated: tls.is_some(),
    };
    let service = DeliveryServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    if let Some(tls) = tls {
        server = server.tls_config(
            ServerTlsConfig::new()
                .identity(Identity::from_pem(tls.certificate, tls.key))
                .client_ca_root(Certificate::from_pem(tls.ca)),
        )?;
    }
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        stream.and_then(|stream: tokio::net::TcpStream| -> io::Result<_> {
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    });
    server
        .add_service(service)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

struct Service {
    distributor: Distributor,
    sessions: Arc<AtomicU64>,
    authenticated: bool,
}

#[tonic::async_trait]
impl Delivery for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<ToShard, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<FromShard>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let identity = request
            .peer_certs()
            .and_then(|chain| shard_of(chain.first()?));
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
        if self.authenticated && identity != Some(shard) {
            tracing::warn!(%shard, certificate = ?identity, "stream refused: the certificate is another shard's");
            return Err(Status::permission_denied(format!(
                "the client certificate does not name {shard}"
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
