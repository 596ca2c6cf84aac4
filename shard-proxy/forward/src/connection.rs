//! One client connection: TLS, then HTTP/1.1 or HTTP/2, until it ends or drains.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::cause::Cause;
use crate::config::HEADERS_WITHOUT_ALLOCATION;
use crate::gateway::Gateway;
use crate::hygiene::ForwardedHeaders;
use crate::request;
use crate::stream::{ClientStream, Spoken, first_bytes};
use crate::worker::{LocalExecutor, Phase, Socket, Worker};

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
}

/// Time for the answer to an HTTP/2 PING.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Counts a connection while it lasts.
struct Counted(Rc<Worker>);

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
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    worker.stats.connections.fetch_add(1, Ordering::Relaxed);
    worker
        .connections_open
        .set(worker.connections_open.get() + 1);
    let counted = Counted(Rc::clone(&worker));
    // Only a broken socket fails here, and then the first read says so.
    let _ = stream.set_nodelay(true);
    let stall = worker.config.client_idle_timeout;
    let Some(tls) = &socket.tls else {
        let mut stream = stream;
        let Some((first, spoken)) = first(&worker, &mut stream).await else {
            return;
        };
        let stream = ClientStream::new(stream, first, stall);
        let connection = Rc::new(connection(worker, &socket, peer, None, false));
        match spoken {
            Spoken::Http1 => serve_http1(connection, stream).await,
            Spoken::Http2 => serve_http2(connection, stream).await,
        }
        drop(counted);
        return;
    };
    let limit = worker.config.tls_handshake_timeout;
    let accepted =
        tokio::time::timeout(limit, TlsAcceptor::from(Arc::clone(tls)).accept(stream)).await;
    let mut stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(gateway = socket.gateway.label, %peer, %error, "tls handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(gateway = socket.gateway.label, %peer, "tls handshake timed out");
            return;
        }
    };
    // hyper closes a connection that it has read nothing from when it is told to drain, and with it a request that is
    // on its way: so the first bytes come before it.
    let Some((first, _)) = first(&worker, &mut stream).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let server_name = session.server_name().map(str::to_ascii_lowercase);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let connection = Rc::new(connection(worker, &socket, peer, server_name, true));
    let stream = ClientStream::new(stream, first, stall);
    if http2 {
        serve_http2(connection, stream).await;
    } else {
        serve_http1(connection, stream).await;
    }
    drop(counted);
}

fn connection(
    worker: Rc<Worker>,
    socket: &Socket,
    peer: SocketAddr,
    server_name: Option<String>,
    tls: bool,
) -> Connection {
    let value =
        |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    Connection {
        gateway: Arc::clone(&socket.gateway),
        listener_port: socket.listener_port,
        public_port: socket.public_port,
        peer,
        tls,
        server_name,
        forwarded: ForwardedHeaders {
            client: value(peer.ip().to_canonical().to_string()),
            port: HeaderValue::from(socket.public_port),
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
        },
        worker,
    }
}

/// Serves until the end; told to end gracefully once the drain reaches `$phase`.
macro_rules! serve_until {
    ($connection:expr, $phase:expr, $serving:expr) => {{
        let mut drain = $connection.worker.drain.clone();
        let mut serving = pin!($serving);
        let ended = tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            _ = drain.wait_for(|phase| *phase >= $phase) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            ended_with(&$connection, &error);
        }
    }};
}

/// Reads the client's first bytes, within the time for a head, or until idle connections are closed.
async fn first<S: AsyncRead + Unpin>(
    worker: &Worker,
    stream: &mut S,
) -> Option<(BytesMut, Spoken)> {
    let mut drain = worker.drain.clone();
    let read = tokio::time::timeout(worker.config.head_timeout, first_bytes(stream));
    tokio::select! {
        biased;
        read = read => read.ok()?.ok()?,
        _ = drain.wait_for(|phase| *phase >= Phase::Closing) => None,
    }
}

/// HTTP/1.1. While draining, responses say `Connection: close`; connections that are idle are closed only in the last
/// phase, because a request may already be on its way on them.
async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    connection: Rc<Connection>,
    stream: ClientStream<S>,
) {
    let config = &connection.worker.config;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_buf_size(config.head_bytes_max.max(8192))
        .half_close(false);
    if config.headers_max != HEADERS_WITHOUT_ALLOCATION {
        builder.max_headers(config.headers_max);
    }
    let service = service(&connection);
    serve_until!(
        connection,
        Phase::Closing,
        builder.serve_connection(TokioIo::new(stream), service)
    );
}

/// HTTP/2. Draining sends GOAWAY for all streams to come, then, a round trip later, for those that were not begun.
async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    connection: Rc<Connection>,
    stream: ClientStream<S>,
) {
    let config = &connection.worker.config;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.h2_streams_max)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024)
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(256))
        .keep_alive_interval(Some(config.head_timeout))
        .keep_alive_timeout(H2_PING_TIMEOUT);
    let service = service(&connection);
    serve_until!(
        connection,
        Phase::Draining,
        builder.serve_connection(TokioIo::new(stream), service)
    );
}

/// A connection ended by an error. What hyper refused by itself (it answers 400 or 431) is counted as a failure here,
/// since no request of it ever reached a handler.
fn ended_with(connection: &Connection, error: &hyper::Error) {
    if error.is_parse() {
        connection.worker.stats.refused(Cause::BadRequest);
    }
    tracing::debug!(gateway = connection.gateway.label, peer = %connection.peer, %error, "connection ended");
}

fn service(
    connection: &Rc<Connection>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = http::Response<crate::body::ResponseBody>,
    Error = Infallible,
    Future: 'static,
> + use<> {
    let connection = Rc::clone(connection);
    service_fn(move |request: Request<Incoming>| {
        let connection = Rc::clone(&connection);
        async move { Ok::<_, Infallible>(request::handle(connection, request).await) }
    })
}
