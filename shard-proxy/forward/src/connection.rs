//! One client connection: TLS, then HTTP/1.1 or HTTP/2, until it ends or drains.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::HEADERS_WITHOUT_ALLOCATION;
use crate::gateway::Gateway;
use crate::hygiene::ForwardedHeaders;
use crate::request;
use crate::worker::{LocalExecutor, Socket, Worker};

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
    drain: watch::Receiver<bool>,
}

impl Connection {
    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }
}

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
    let Some(tls) = &socket.tls else {
        let connection = Rc::new(connection(worker, &socket, peer, None, false));
        serve_clear(connection, stream).await;
        drop(counted);
        return;
    };
    let limit = worker.config.tls_handshake_timeout;
    let accepted =
        tokio::time::timeout(limit, TlsAcceptor::from(Arc::clone(tls)).accept(stream)).await;
    let stream = match accepted {
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
    let (_, session) = stream.get_ref();
    let server_name = session.server_name().map(str::to_ascii_lowercase);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let connection = Rc::new(connection(worker, &socket, peer, server_name, true));
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
        drain: worker.drain.clone(),
        worker,
    }
}

macro_rules! run_until_drained {
    ($connection:expr, $serving:expr) => {{
        let mut drain = $connection.drain.clone();
        let mut serving = pin!($serving);
        tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            _ = drain.wait_for(|draining| *draining) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    }};
}

/// Clear text: HTTP/1.1, or HTTP/2 when the client begins with its preface.
async fn serve_clear(connection: Rc<Connection>, stream: TcpStream) {
    let config = &connection.worker.config;
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_buf_size(config.head_bytes_max.max(8192))
        .half_close(false);
    if config.headers_max != HEADERS_WITHOUT_ALLOCATION {
        builder.http1().max_headers(config.headers_max);
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.h2_streams_max)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(256))
        .keep_alive_interval(Some(config.head_timeout))
        .keep_alive_timeout(std::time::Duration::from_secs(20));
    let service = service(&connection);
    let ended = run_until_drained!(
        connection,
        builder.serve_connection(TokioIo::new(stream), service)
    );
    if let Err(error) = ended {
        tracing::debug!(gateway = connection.gateway.label, peer = %connection.peer, error, "connection ended");
    }
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    connection: Rc<Connection>,
    stream: S,
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
    let ended = run_until_drained!(
        connection,
        builder.serve_connection(TokioIo::new(stream), service)
    );
    if let Err(error) = ended {
        tracing::debug!(gateway = connection.gateway.label, peer = %connection.peer, %error, "connection ended");
    }
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    connection: Rc<Connection>,
    stream: S,
) {
    let config = &connection.worker.config;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.h2_streams_max)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(256))
        .keep_alive_interval(Some(config.head_timeout))
        .keep_alive_timeout(std::time::Duration::from_secs(20));
    let service = service(&connection);
    let ended = run_until_drained!(
        connection,
        builder.serve_connection(TokioIo::new(stream), service)
    );
    if let Err(error) = ended {
        tracing::debug!(gateway = connection.gateway.label, peer = %connection.peer, %error, "connection ended");
    }
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
