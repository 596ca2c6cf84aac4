//! HTTP on a connection, as hyper serves it, and when it is told to end.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::cause::{Cause, ConnectionCause};
use crate::config::HEADERS_WITHOUT_ALLOCATION;
use crate::stream::ClientStream;
use crate::streams::{StreamExecutor, Streams, Verdict};
use crate::timer::LongTimers;
use crate::worker::Phase;
use crate::{log, request};

/// Time for the answer to an HTTP/2 PING.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a connection's requests to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    connection: Rc<Connection>,
    stream: ClientStream<S>,
) {
    match &connection.streams {
        Some(streams) => {
            let streams = Rc::clone(streams);
            serve_http2(connection, streams, stream).await;
        }
        None => serve_http1(connection, stream).await,
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
        .timer(LongTimers(config.head_timeout))
        .header_read_timeout(config.head_timeout)
        .max_buf_size(config.head_bytes_max.max(8192))
        .half_close(false);
    if config.headers_max != HEADERS_WITHOUT_ALLOCATION {
        builder.max_headers(config.headers_max);
    }
    let service =
        service_fn(|request: Request<Incoming>| request::handle(Rc::clone(&connection), request));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = connection.socket.reaches(Phase::Closing) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        ended_with(&connection, &error);
    }
}

/// HTTP/2. To end, GOAWAY is sent for all streams to come, then, a round trip later, for those that were not begun: when
/// draining, when idle for too long, when the Gateway is removed.
async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    connection: Rc<Connection>,
    streams: Rc<Streams>,
    stream: ClientStream<S>,
) {
    let config = &connection.worker.config;
    let mut builder = http2::Builder::new(StreamExecutor(Rc::clone(&streams)));
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
    let service = service_fn(|request: Request<Incoming>| {
        let connection = Rc::clone(&connection);
        let stream = streams.begin();
        async move {
            let response = request::handle(connection, request).await?;
            Ok::<_, Infallible>(response.map(|body| body.watched(stream)))
        }
    });
    let stream = TokioIo::new(stream.noting(streams.wrote()));
    let mut serving = pin!(builder.serve_connection(stream, service));
    let mut told = pin!(connection.socket.reaches(Phase::Draining));
    let mut ending = false;
    let ended = loop {
        let watch = streams.watch(config);
        tokio::select! {
            biased;
            ended = serving.as_mut() => break ended,
            () = told.as_mut(), if !ending => {}
            verdict = watch => match verdict {
                Verdict::Idle if !ending => {}
                // It was told, and does not go.
                Verdict::Idle => break Ok(()),
                Verdict::Resets => {
                    log::connection_failed(
                        &connection.worker,
                        &connection.gateway,
                        connection.peer,
                        ConnectionCause::Resets,
                        None,
                    );
                    break Ok(());
                }
            },
        }
        ending = true;
        streams.goaway();
        serving.as_mut().graceful_shutdown();
    };
    if let Err(error) = ended {
        ended_with(&connection, &error);
    }
}

/// A connection ended by an error. What hyper refused by itself (it answers 400 or 431) is a failed request, though no
/// handler ever saw it.
fn ended_with(connection: &Connection, error: &hyper::Error) {
    if error.is_parse_too_large() {
        log::head_refused(connection, Cause::HeadTooLarge);
    } else if error.is_parse() {
        log::head_refused(connection, Cause::BadRequest);
    }
    tracing::debug!(gateway = connection.gateway.label, peer = %connection.peer, %error, "connection ended");
}
