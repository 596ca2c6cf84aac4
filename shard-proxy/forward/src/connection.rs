//! One client connection: TLS, then HTTP/1.1 or HTTP/2, until it ends or drains.

mod http;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::http::HeaderValue;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cause::ConnectionCause;
use crate::gateway::Gateway;
use crate::hygiene::ForwardedHeaders;
use crate::listening::Socket;
use crate::log;
use crate::stream::{ClientStream, Spoken, first_bytes};
use crate::streams::Streams;
use crate::worker::{Phase, Worker};

/// What a request knows of the connection that it came on.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) listener_port: u16,
    pub(crate) public_port: u16,
    pub(crate) peer: SocketAddr,
    pub(crate) tls: bool,
    /// Server name of the TLS handshake, lower-case.
    pub(crate) server_name: Option<String>,
    pub(crate) forwarded: ForwardedHeaders,
    /// Of HTTP/2.
    pub(crate) streams: Option<Rc<Streams>>,
    socket: Rc<Socket>,
}

/// Time that a connection gets for its first byte even when idle ones are being closed: its client was told that it is
/// connected, and its request may be on its way.
const FIRST_BYTE_MIN: Duration = Duration::from_secs(1);

/// Counts a connection while it lasts, from its acceptance on.
pub(crate) struct Counted(Rc<Worker>);

impl Counted {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.stats.connections.fetch_add(1, Ordering::Relaxed);
        worker
            .connections_open
            .set(worker.connections_open.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0
            .stats
            .connections_closed
            .fetch_add(1, Ordering::Relaxed);
        self.0
            .connections_open
            .set(self.0.connections_open.get().saturating_sub(1));
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    counted: Counted,
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    // Only a broken socket fails here, and then the first read says so.
    let _ = stream.set_nodelay(true);
    let failed = |cause, error: Option<&(dyn std::error::Error + 'static)>| {
        log::connection_failed(&worker, &socket.gateway, peer, cause, error);
    };
    let stall = worker.config.client_idle_timeout;
    if socket.tls.is_none() {
        let mut stream = stream;
        match first(&worker, &socket, &mut stream).await {
            First::Read(first, spoken) => {
                let connection = connection(&worker, &socket, peer, None, false, spoken);
                let stream = ClientStream::new(stream, first, stall);
                http::serve(connection, stream).await;
            }
            First::TimedOut => failed(ConnectionCause::NoRequest, None),
            First::Ended => {}
        }
        drop(counted);
        return;
    }
    let mut stream = match handshake(&worker, &socket, stream).await {
        Ok(stream) => stream,
        Err((cause, error)) => {
            let error = error.as_ref().map(|error| error as _);
            failed(cause, error);
            return;
        }
    };
    // hyper closes a connection that it has read nothing from when it is told to drain, and with it a request that is
    // on its way: so the first bytes come before it.
    match first(&worker, &socket, &mut stream).await {
        First::Read(first, _) => {
            let (_, session) = stream.get_ref();
            let server_name = session.server_name().map(str::to_ascii_lowercase);
            let spoken = match session.alpn_protocol() {
                Some(b"h2") => Spoken::Http2,
                _ => Spoken::Http1,
            };
            let connection = connection(&worker, &socket, peer, server_name, true, spoken);
            let stream = ClientStream::new(stream, first, stall);
            http::serve(connection, stream).await;
        }
        First::TimedOut => failed(ConnectionCause::NoRequest, None),
        First::Ended => {}
    }
    drop(counted);
}

/// Opens TLS within its time limit.
async fn handshake(
    worker: &Worker,
    socket: &Socket,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, (ConnectionCause, Option<io::Error>)> {
    let Some(tls) = &socket.tls else {
        return Err((ConnectionCause::Tls, None));
    };
    let accepting = TlsAcceptor::from(Arc::clone(tls)).accept(stream);
    match tokio::time::timeout(worker.config.tls_handshake_timeout, accepting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let left = matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            );
            let cause = if left {
                ConnectionCause::TlsLeft
            } else {
                ConnectionCause::Tls
            };
            Err((cause, Some(error)))
        }
        Err(_) => Err((ConnectionCause::TlsTimeout, None)),
    }
}

fn connection(
    worker: &Rc<Worker>,
    socket: &Rc<Socket>,
    peer: SocketAddr,
    server_name: Option<String>,
    tls: bool,
    spoken: Spoken,
) -> Rc<Connection> {
    let value =
        |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    Rc::new(Connection {
        gateway: Arc::clone(&socket.gateway),
        listener_port: socket.listener_port,
        public_port: socket.public_port,
        peer,
        tls,
        server_name,
        forwarded: ForwardedHeaders {
            client: value(peer.ip().to_string()),
            port: HeaderValue::from(socket.public_port),
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
        },
        streams: (spoken == Spoken::Http2).then(Streams::new),
        worker: Rc::clone(worker),
        socket: Rc::clone(socket),
    })
}

/// How a connection begins.
enum First {
    Read(BytesMut, Spoken),
    /// The client, or the drain, ended it before.
    Ended,
    TimedOut,
}

/// Reads the client's first bytes, within the time for a head, or until idle connections are closed.
async fn first<S: AsyncRead + Unpin>(worker: &Worker, socket: &Socket, stream: &mut S) -> First {
    let not_before = Instant::now() + FIRST_BYTE_MIN;
    let closing = async {
        socket.reaches(Phase::Closing).await;
        tokio::time::sleep_until(not_before).await;
    };
    let read = tokio::time::timeout(worker.config.head_timeout, first_bytes(stream));
    tokio::select! {
        biased;
        read = read => match read {
            Ok(Ok(Some((bytes, spoken)))) => First::Read(bytes, spoken),
            Ok(_) => First::Ended,
            Err(_) => First::TimedOut,
        },
        () = closing => First::Ended,
    }
}
