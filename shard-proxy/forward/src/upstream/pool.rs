//! Connections to endpoints, kept by each worker for itself.
//!
//! Bounds: connections for each endpoint (a request beyond is refused, [`SendError::Overflow`]) and idle ones kept
//! (more are closed). Idle connections are taken last in, first out, and closed after a time that is shorter than
//! servers' own, so that stale ones are rare; a stale one costs a new connection, not the request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use api_snapshot::facts::BackendProtocol;
use foldhash::fast::FixedState;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::connect::{ConnectError, connect};
use super::http2::{SharedConnections, Stream};
use super::{Endpoint, InFlight};
use crate::body::RequestBody;
use crate::config::{ForwardConfig, HEADERS_WITHOUT_ALLOCATION};
use crate::metrics::WorkerStats;
use crate::small_writes::SmallWrites;

/// Connections of one worker.
pub(crate) struct Pools {
    endpoints: RefCell<HashMap<u64, EndpointPool, FixedState>>,
    config: Arc<ForwardConfig>,
    stats: Arc<WorkerStats>,
}

#[derive(Default)]
struct EndpointPool {
    /// Tells whether the endpoint has left its backend, and no request is on its way to it.
    endpoint: Weak<Endpoint>,
    idle: Vec<Idle>,
    /// HTTP/2 connections are shared, not leased.
    shared: SharedConnections,
    open: usize,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
    _open: OpenConnection,
}

/// Counts an open connection while it lasts.
pub(super) struct OpenConnection {
    pools: Rc<Pools>,
    endpoint: u64,
    established: bool,
}

impl OpenConnection {
    /// It is no longer only an attempt.
    pub(super) fn established(&mut self) {
        self.established = true;
        let opened = &self.pools.stats.upstream_opened;
        opened.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if self.established {
            let closed = &self.pools.stats.upstream_closed;
            closed.fetch_add(1, Ordering::Relaxed);
        }
        // While the pool itself is being swept or dropped it is borrowed; it then corrects the count itself.
        if let Ok(mut endpoints) = self.pools.endpoints.try_borrow_mut()
            && let Some(pool) = endpoints.get_mut(&self.endpoint)
        {
            pool.open = pool.open.saturating_sub(1);
        }
    }
}

/// A connection on loan to one request. [`Lease::finish`] gives it back; dropping closes it.
pub(crate) struct Lease {
    kind: LeaseKind,
    _in_flight: InFlight,
}

enum LeaseKind {
    Http1 {
        pools: Rc<Pools>,
        endpoint: u64,
        sender: http1::SendRequest<RequestBody>,
        open: OpenConnection,
    },
    Http2 {
        _stream: Stream,
    },
}

impl Lease {
    pub(super) fn http2(stream: Stream, in_flight: InFlight) -> Self {
        Self {
            kind: LeaseKind::Http2 { _stream: stream },
            _in_flight: in_flight,
        }
    }

    /// The connection is closed after this response: its framing is in doubt.
    pub(crate) fn condemned(mut self) -> Self {
        if let LeaseKind::Http1 { endpoint, .. } = &mut self.kind {
            // No pool has this id: finishing drops the connection.
            *endpoint = u64::MAX;
        }
        self
    }

    /// The response has ended and its framing is sound: the next request may have the connection.
    pub(crate) fn finish(self) {
        let LeaseKind::Http1 {
            pools,
            endpoint,
            sender,
            open,
        } = self.kind
        else {
            return;
        };
        if sender.is_closed() {
            return;
        }
        let dropped = {
            let mut endpoints = pools.endpoints.borrow_mut();
            let Some(pool) = endpoints.get_mut(&endpoint) else {
                return;
            };
            pool.idle.push(Idle {
                sender,
                since: Instant::now(),
                _open: open,
            });
            // The oldest goes; it is dropped outside the borrow.
            (pool.idle.len() > pools.config.pool_idle_max).then(|| pool.idle.remove(0))
        };
        drop(dropped);
    }
}

/// A response's head has come.
pub(crate) struct Sent {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// No response's head has come.
pub(crate) enum SendError {
    /// Nothing was written, or the connection was never made: the request is back in its place and may go elsewhere.
    Unsent {
        error: Option<ConnectError>,
        reused: bool,
    },
    /// The connection broke after the request was, perhaps in part, written.
    Broken {
        error: hyper::Error,
        reused: bool,
        /// The endpoint says that it did nothing with the request.
        unprocessed: bool,
    },
    /// Too many connections to the endpoint.
    Overflow,
}

impl Pools {
    pub(crate) fn new(config: Arc<ForwardConfig>, stats: Arc<WorkerStats>) -> Rc<Self> {
        Rc::new(Self {
            endpoints: RefCell::default(),
            config,
            stats,
        })
    }

    /// Sends the request in `slot` to an endpoint, on an idle connection if `reuse` and there is one. HTTP/2 always
    /// shares. What was not sent is back in the slot.
    ///
    /// Cancel safety: dropping the future closes the connection that it uses.
    pub(crate) async fn send(
        self: &Rc<Self>,
        in_flight: InFlight,
        slot: &mut Option<Request<RequestBody>>,
        reuse: bool,
    ) -> Result<Sent, SendError> {
        // What is rare or large is boxed: it would be moved with each request's future.
        if in_flight.endpoint.protocol == BackendProtocol::H2c {
            return Box::pin(self.send_http2(in_flight, slot)).await;
        }
        let endpoint = in_flight.endpoint.id;
        let idle = if reuse {
            self.take_idle(endpoint)
        } else {
            None
        };
        let reused = idle.is_some();
        let (mut sender, open) = match idle {
            Some(idle) => (idle.sender, idle._open),
            None => Box::pin(self.open_http1(&in_flight.endpoint)).await?,
        };
        let Some(request) = slot.take() else {
            return Err(unsent(None, reused)); // there is one, or nobody would send
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                in_flight.answered();
                let kind = LeaseKind::Http1 {
                    pools: Rc::clone(self),
                    endpoint,
                    sender,
                    open,
                };
                Ok(Sent {
                    response,
                    lease: Lease {
                        kind,
                        _in_flight: in_flight,
                    },
                })
            }
            Err(mut error) => {
                *slot = error.take_message();
                Err(match slot {
                    Some(_) => unsent(None, reused),
                    None => SendError::Broken {
                        error: error.into_error(),
                        reused,
                        unprocessed: false,
                    },
                })
            }
        }
    }

    /// Calls with the shared connections of an endpoint, whose entry is made when there is none.
    pub(super) fn with_shared<T>(
        &self,
        endpoint: &Arc<Endpoint>,
        call: impl FnOnce(&mut SharedConnections) -> T,
    ) -> T {
        let mut endpoints = self.endpoints.borrow_mut();
        call(&mut entry(&mut endpoints, endpoint).shared)
    }

    /// Calls with the shared connections of an endpoint if it has an entry.
    pub(super) fn with_endpoint(&self, endpoint: u64, call: impl FnOnce(&mut SharedConnections)) {
        if let Some(pool) = self.endpoints.borrow_mut().get_mut(&endpoint) {
            call(&mut pool.shared);
        }
    }

    pub(super) fn config(&self) -> &ForwardConfig {
        &self.config
    }

    fn take_idle(&self, endpoint: u64) -> Option<Idle> {
        // What is not usable is dropped after the borrow has ended: dropping corrects counts in the pool.
        let mut unusable = Vec::new();
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.get_mut(&endpoint)?;
        let mut found = None;
        while let Some(idle) = pool.idle.pop() {
            if idle.sender.is_ready() {
                found = Some(idle);
                break;
            }
            if idle.sender.is_closed() {
                unusable.push(idle);
            } else {
                // Its last response ended a moment ago; the connection has not come round yet. Leave it for others.
                unusable.push(idle);
                if unusable.len() >= 4 {
                    break;
                }
            }
        }
        let (back, gone): (Vec<Idle>, Vec<Idle>) = unusable
            .into_iter()
            .partition(|idle| !idle.sender.is_closed());
        pool.idle.extend(back.into_iter().rev());
        drop(endpoints);
        drop(gone);
        found
    }

    /// Counts a connection that is about to be opened.
    ///
    /// # Errors
    /// [`SendError::Overflow`] when the endpoint has as many as it may.
    pub(super) fn count_open(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<OpenConnection, SendError> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = entry(&mut endpoints, endpoint);
        if pool.open >= self.config.endpoint_connections_max {
            return Err(SendError::Overflow);
        }
        pool.open += 1;
        Ok(OpenConnection {
            pools: Rc::clone(self),
            endpoint: endpoint.id,
            established: false,
        })
    }

    async fn open_http1(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(http1::SendRequest<RequestBody>, OpenConnection), SendError> {
        let mut open = self.count_open(endpoint)?;
        let stream = self
            .connect(endpoint)
            .await
            .map_err(|error| unsent(Some(error), false))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(self.config.head_bytes_max.max(8192));
        if self.config.headers_max != HEADERS_WITHOUT_ALLOCATION {
            builder.max_headers(self.config.headers_max);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(SmallWrites(stream)))
            .await
            .map_err(|error| unsent(Some(ConnectError::Http(error)), false))?;
        open.established();
        // Its end is seen by the sender.
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok((sender, open))
    }

    /// Connects. Whoever sends says what a failure means for the endpoint.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
    ) -> Result<tokio::net::TcpStream, ConnectError> {
        let connected = connect(endpoint, self.config.connect_timeout).await;
        match &connected {
            Ok(_) => endpoint.connected(),
            Err(_) => {
                self.stats.upstream_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        connected
    }

    /// Closes connections that were unused for too long, those to endpoints that have left, and forgets endpoints without
    /// any. Called once a second.
    pub(crate) fn sweep(&self) {
        let limit = self.config.pool_idle_timeout;
        let mut old = Vec::new();
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.retain(|_, pool| {
            let gone = pool.endpoint.strong_count() == 0;
            // Oldest first, as they were pushed.
            let fresh = pool
                .idle
                .iter()
                .position(|idle| !gone && idle.since.elapsed() < limit && !idle.sender.is_closed())
                .unwrap_or(pool.idle.len());
            old.extend(pool.idle.drain(..fresh));
            pool.shared.sweep(limit, gone);
            pool.open > 0 || pool.shared.is_used()
        });
        drop(endpoints);
        drop(old);
    }
}

pub(super) fn unsent(error: Option<ConnectError>, reused: bool) -> SendError {
    SendError::Unsent { error, reused }
}

fn entry<'a>(
    endpoints: &'a mut HashMap<u64, EndpointPool, FixedState>,
    endpoint: &Arc<Endpoint>,
) -> &'a mut EndpointPool {
    endpoints
        .entry(endpoint.id)
        .or_insert_with(|| EndpointPool {
            endpoint: Arc::downgrade(endpoint),
            ..EndpointPool::default()
        })
}
