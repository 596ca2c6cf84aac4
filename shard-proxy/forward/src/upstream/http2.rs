//! HTTP/2 connections to endpoints: shared by requests, opened one at a time, closed when nobody uses them.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connect::ConnectError;
use super::pool::{Lease, Pools, SendError, Sent, unsent};
use super::{Endpoint, InFlight};
use crate::body::RequestBody;
use crate::small_writes::SmallWrites;
use crate::worker::LocalExecutor;

/// Requests on one connection at most, also when the endpoint allows more: past it another is opened, so that one
/// connection's flow control and one lost packet hold up so many.
const STREAMS_MAX: usize = 100;

/// Connections that requests to one endpoint share.
#[derive(Default)]
pub(super) struct SharedConnections {
    connections: Vec<SharedConnection>,
    /// Held while one is opened: requests that come meanwhile wait for it instead of opening theirs.
    opening: Rc<tokio::sync::Mutex<()>>,
    /// How many could not be opened.
    failed: u64,
}

#[derive(Clone)]
struct SharedConnection {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Streams>,
}

/// Requests on one connection.
struct Streams {
    in_flight: Cell<usize>,
    /// What the endpoint allows, as of the last request.
    max: Cell<usize>,
    last_used: Cell<Instant>,
}

/// Counts a request on its connection while it lasts.
pub(super) struct Stream(Rc<Streams>);

impl Stream {
    fn new(streams: Rc<Streams>) -> Self {
        streams.in_flight.set(streams.in_flight.get() + 1);
        Self(streams)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.last_used.set(Instant::now());
    }
}

impl SharedConnections {
    /// The least busy connection that takes one more request.
    fn choose(&self) -> Option<SharedConnection> {
        self.connections
            .iter()
            .filter(|shared| !shared.sender.is_closed())
            .filter(|shared| {
                // An endpoint that allows none is waited for on one connection, not on ever more of them.
                let limit = shared.streams.max.get().clamp(1, STREAMS_MAX);
                shared.streams.in_flight.get() < limit
            })
            .min_by_key(|shared| shared.streams.in_flight.get())
            .cloned()
    }

    fn take_out(&mut self, broken: &Rc<Streams>) {
        self.connections
            .retain(|shared| !Rc::ptr_eq(&shared.streams, broken));
    }

    /// Drops what is closed, or was unused for `limit`. With `gone`, nothing is kept for later requests.
    pub(super) fn sweep(&mut self, limit: Duration, gone: bool) {
        self.connections.retain(|shared| {
            let streams = &shared.streams;
            let unused = streams.in_flight.get() == 0 && streams.last_used.get().elapsed() >= limit;
            !(shared.sender.is_closed() || unused || gone)
        });
    }

    /// Whether somebody holds on to this entry.
    pub(super) fn is_used(&self) -> bool {
        !self.connections.is_empty() || Rc::strong_count(&self.opening) > 1
    }
}

impl Pools {
    /// Sends on a shared connection. One that broke is no longer shared by the time its requests come back.
    pub(super) async fn send_http2(
        self: &Rc<Self>,
        in_flight: InFlight,
        slot: &mut Option<Request<RequestBody>>,
    ) -> Result<Sent, SendError> {
        let endpoint = in_flight.endpoint.id;
        let found = self.with_shared(&in_flight.endpoint, |shared| shared.choose());
        let reused = found.is_some();
        let shared = match found {
            Some(shared) => Ok(shared),
            None => self.open_shared(&in_flight.endpoint).await,
        };
        let mut shared = match shared {
            Ok(shared) => shared,
            Err(SharedError::Overflow) => return Err(SendError::Overflow),
            Err(SharedError::Connect(error)) => return Err(unsent(Some(error), false)),
        };
        let Some(request) = slot.take() else {
            return Err(unsent(None, reused)); // there is one, or nobody would send
        };
        let stream = Stream::new(Rc::clone(&shared.streams));
        let mut error = match shared.sender.try_send_request(request).await {
            Ok(response) => {
                in_flight.answered();
                let lease = Lease::http2(stream, in_flight);
                return Ok(Sent { response, lease });
            }
            Err(error) => error,
        };
        *slot = error.take_message();
        let error = error.into_error();
        // A stream that was reset says nothing of the others'.
        if slot.is_some() || shared.sender.is_closed() || error.is_closed() || is_goaway(&error) {
            self.with_endpoint(endpoint, |shared| shared.take_out(&stream.0));
        }
        Err(match slot {
            Some(_) => unsent(None, reused),
            None => SendError::Broken {
                unprocessed: is_unprocessed(&error),
                error,
                reused,
            },
        })
    }

    /// Opens one more shared connection, or waits for who is opening it.
    async fn open_shared(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<SharedConnection, SharedError> {
        let (opening, failed) = self.with_shared(endpoint, |shared| {
            (Rc::clone(&shared.opening), shared.failed)
        });
        let _held = opening.lock().await;
        let (found, failed) =
            self.with_shared(endpoint, |shared| (shared.choose(), shared.failed > failed));
        if let Some(shared) = found {
            return Ok(shared);
        }
        if failed {
            // Else those who wait for an endpoint that is gone would each wait out a connect of their own, in turn.
            return Err(ConnectError::Waited.into());
        }
        let opened = self.open_http2(endpoint).await;
        self.with_shared(endpoint, |all| match &opened {
            Ok(shared) => all.connections.push(shared.clone()),
            Err(_) => all.failed += 1,
        });
        opened
    }

    async fn open_http2(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<SharedConnection, SharedError> {
        let mut open = self
            .count_open(endpoint)
            .map_err(|_| SharedError::Overflow)?;
        let stream = self.connect(endpoint).await?;
        let config = self.config();
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake(TokioIo::new(SmallWrites(stream)))
            .await
            .map_err(ConnectError::Http)?;
        open.established();
        let streams = Rc::new(Streams {
            in_flight: Cell::new(0),
            max: Cell::new(STREAMS_MAX),
            last_used: Cell::new(Instant::now()),
        });
        let seen = Rc::clone(&streams);
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            let _ = poll_fn(|cx| {
                let ended = connection.as_mut().poll(cx);
                if ended.is_pending() {
                    seen.max.set(connection.current_max_send_streams());
                }
                ended
            })
            .await;
            drop(open);
        });
        Ok(SharedConnection { sender, streams })
    }
}

/// No shared connection is to be had.
enum SharedError {
    Overflow,
    Connect(ConnectError),
}

impl From<ConnectError> for SharedError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

fn is_goaway(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(h2::Error::is_go_away)
}

/// Whether the endpoint says that it has not looked at the request: a stream refused (RFC 9113 section 8.7), or one
/// above the last that a graceful GOAWAY names (section 6.8). One with an error also ends streams that it did see.
fn is_unprocessed(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        error.is_remote()
            && (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
    })
}
