//! Connections to the operator: accepted, authenticated, bounded.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use api_certificate::validity;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::names;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::{Credentials, Identity};

/// Bounds of what is accepted.
struct Limits {
    /// Handshakes at a time; further connections wait in the socket's queue.
    handshakes_max: usize,
    /// Time for one.
    handshake_within: Duration,
    /// Open connections of those who show no certificate that counts; one more is closed at once. Those who show one are
    /// as many as there are shards.
    anonymous_max: usize,
    /// How long such a connection may last: it is for one request.
    anonymous_within: Duration,
}

const LIMITS: Limits = Limits {
    handshakes_max: 512,
    handshake_within: Duration::from_secs(5),
    anonymous_max: 256,
    anonymous_within: Duration::from_secs(30),
};
/// Pause after a failed accept, which may be for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection. Found in a request's extensions.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Whoever is let in without TLS: believed, for experiments on one machine.
    Believed,
    /// No certificate that counts was shown.
    Anonymous,
    /// One of ours.
    Known {
        /// Whose it is.
        identity: Identity,
        /// End of the certificate that was shown.
        not_after: SystemTime,
    },
}

impl Peer {
    /// Whose connection it is, by a certificate that still counts.
    pub fn identity(&self) -> Option<Identity> {
        match self {
            Self::Known {
                identity,
                not_after,
            } if SystemTime::now() < *not_after => Some(*identity),
            _ => None,
        }
    }

    /// Whether it may act as `identity`.
    pub fn may_act_as(&self, identity: Identity) -> bool {
        matches!(self, Self::Believed) || self.identity() == Some(identity)
    }
}

/// Accepted connections, for `serve_with_incoming`.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// What was turned away.
#[derive(Debug, Default)]
pub struct Refusals {
    tls: AtomicU64,
    timeout: AtomicU64,
    limit: AtomicU64,
}

impl Source for Refusals {
    fn collect(&self, sink: &mut dyn Sink) {
        for (cause, count) in [
            ("tls", &self.tls),
            ("timeout", &self.timeout),
            ("limit", &self.limit),
        ] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::STREAM_HANDSHAKES_FAILED, &[("cause", cause)], count);
        }
    }
}

/// Accepts connections until what it gives is dropped. Each handshake takes the credentials of its moment, so that
/// connections that are open go on when they are renewed. Without credentials there is no TLS.
pub fn incoming(
    listener: TcpListener,
    credentials: Option<Credentials>,
    refusals: Arc<Refusals>,
) -> Incoming {
    bounded(listener, credentials, refusals, LIMITS)
}

fn bounded(
    listener: TcpListener,
    credentials: Option<Credentials>,
    refusals: Arc<Refusals>,
    limits: Limits,
) -> Incoming {
    let (out, connections) = mpsc::channel(16);
    let acceptor = Acceptor {
        credentials,
        refusals,
        handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
        anonymous: Arc::new(Semaphore::new(limits.anonymous_max)),
        limits: Arc::new(limits),
        out,
    };
    api_telemetry::task::spawn("accept", acceptor.run(listener));
    ReceiverStream::new(connections)
}

#[derive(Clone)]
struct Acceptor {
    credentials: Option<Credentials>,
    refusals: Arc<Refusals>,
    handshakes: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    limits: Arc<Limits>,
    out: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            let Ok(permit) = Arc::clone(&self.handshakes).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.out.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let acceptor = self.clone();
                    api_telemetry::task::spawn("handshake", async move {
                        if let Some(connection) = acceptor.connection(stream).await {
                            let _ = acceptor.out.send(Ok(connection)).await;
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) -> Option<Connection> {
        stream.set_nodelay(true).ok()?;
        let Some(credentials) = &self.credentials else {
            return Some(Connection {
                stream: Stream::Plain(stream),
                peer: Peer::Believed,
                anonymous: None,
            });
        };
        let current = credentials.current();
        let handshake = TlsAcceptor::from(Arc::clone(&current.stream)).accept(stream);
        let stream = match tokio::time::timeout(self.limits.handshake_within, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.refusals.tls.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "handshake failed");
                return None;
            }
            Err(_) => {
                self.refusals.timeout.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let known = current.verifier.identity(chain).and_then(|identity| {
            let (_, not_after) = chain.first().and_then(|shown| validity(shown)).ok_or(
                rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding),
            )?;
            Ok(Peer::Known {
                identity,
                not_after,
            })
        });
        let (peer, anonymous) = match known {
            Ok(peer) => (peer, None),
            Err(error) => {
                if !chain.is_empty() {
                    tracing::info!(%error, "client certificate does not count");
                }
                let Ok(permit) = Arc::clone(&self.anonymous).try_acquire_owned() else {
                    self.refusals.limit.fetch_add(1, Ordering::Relaxed);
                    return None;
                };
                let end = Box::pin(tokio::time::sleep(self.limits.anonymous_within));
                (Peer::Anonymous, Some((end, permit)))
            }
        };
        Some(Connection {
            stream: Stream::Tls(Box::new(stream)),
            peer,
            anonymous,
        })
    }
}

/// One of them.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    /// End of its time, and its place among those that are nobody's.
    anonymous: Option<(Pin<Box<Sleep>>, OwnedSemaphorePermit)>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((end, _)) = &mut self.anonymous
            && end.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests;
