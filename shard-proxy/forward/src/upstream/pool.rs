//! Connections to endpoints, kept by each worker for itself.
//!
//! Bounds: connections for each endpoint (a request beyond is refused, [`SendError::Overflow`]) and idle ones kept
//! (more are closed). Idle connections are taken last in, first out, and closed after a time that is shorter than
//! servers' own, so that stale ones are rare; a stale one costs a new connection, not the request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api_snapshot::facts::BackendProtocol;
use foldhash::fast::FixedState;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connect::{ConnectError, connect};
use super::{Endpoint, InFlight};
use crate::body::RequestBody;
use crate::config::ForwardConfig;
use crate::metrics::WorkerStats;
use crate::worker::LocalExecutor;

/// Connections of one worker.
pub(crate) struct Pools {
    endpoints: RefCell<HashMap<u64, EndpointPool, FixedState>>,
    config: Arc<ForwardConfig>,
    stats: Arc<WorkerStats>,
}

#[derive(Default)]
struct EndpointPool {
    idle: Vec<Idle>,
    /// HTTP/2 connections are shared, not leased.
    shared: Option<http2::SendRequest<RequestBody>>,
    /// Counts shared connections, so that whoever saw one break takes away that one and not its successor.
    generation: u64,
    /// Held while a shared connection is opened: requests that come meanwhile wait for it instead of opening theirs.
    opening: Rc<tokio::sync::Mutex<()>>,
    open: usize,
}

/// A shared connection and its generation.
type Shared = (http2::SendRequest<RequestBody>, u64);

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
    _open: OpenConnection,
}

/// Counts an open connection while it lasts.
struct OpenConnection {
    pools: Rc<Pools>,
    endpoint: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.pools
            .stats
            .upstream_closed
            .fetch_add(1, Ordering::Relaxed);
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
    Http2,
}

impl Lease {
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
    /// Nothing was written, or the connection was never made: the request is back and may go elsewhere.
    Unsent {
        request: Box<Request<RequestBody>>,
        error: Option<ConnectError>,
        reused: bool,
    },
    /// The connection broke after the request was, perhaps in part, written.
    Broken { error: hyper::Error, reused: bool },
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

    /// Sends a request to an endpoint, on an idle connection if `reuse` and there is one. HTTP/2 always shares: a
    /// connection that broke is no longer shared by the time its requests come back.
    ///
    /// Cancel safety: dropping the future closes the connection that it uses.
    pub(crate) async fn send(
        self: &Rc<Self>,
        in_flight: InFlight,
        request: Request<RequestBody>,
        reuse: bool,
    ) -> Result<Sent, SendError> {
        match in_flight.0.protocol {
            BackendProtocol::H2c => self.send_http2(in_flight, request).await,
            _ => self.send_http1(in_flight, request, reuse).await,
        }
    }

    async fn send_http1(
        self: &Rc<Self>,
        in_flight: InFlight,
        request: Request<RequestBody>,
        reuse: bool,
    ) -> Result<Sent, SendError> {
        let endpoint = in_flight.0.id;
        let idle = if reuse {
            self.take_idle(endpoint)
        } else {
            None
        };
        let reused = idle.is_some();
        let (mut sender, open) = match idle {
            Some(idle) => (idle.sender, idle._open),
            None => {
                let open = self.count_open(endpoint)?;
                // Boxed: opening is rare and its future large; it would be moved with each request's.
                match Box::pin(self.open_http1(&in_flight.0)).await {
                    Ok(sender) => (sender, open),
                    Err(error) => {
                        let request = Box::new(request);
                        return Err(SendError::Unsent {
                            request,
                            error: Some(error),
                            reused,
                        });
                    }
                }
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
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
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::Unsent {
                    request: Box::new(request),
                    error: None,
                    reused,
                },
                None => SendError::Broken {
                    error: error.into_error(),
                    reused,
                },
            }),
        }
    }

    async fn send_http2(
        self: &Rc<Self>,
        in_flight: InFlight,
        request: Request<RequestBody>,
    ) -> Result<Sent, SendError> {
        let endpoint = in_flight.0.id;
        let reused = self.shared(endpoint);
        let was_open = reused.is_some();
        let shared = match reused {
            Some(shared) => Ok(shared),
            None => Box::pin(self.open_shared(&in_flight.0)).await,
        };
        let (mut sender, generation) = match shared {
            Ok(shared) => shared,
            Err(error) => {
                return Err(SendError::Unsent {
                    request: Box::new(request),
                    error: Some(error),
                    reused: false,
                });
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok(Sent {
                response,
                lease: Lease {
                    kind: LeaseKind::Http2,
                    _in_flight: in_flight,
                },
            }),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => {
                    self.unshare(endpoint, generation);
                    SendError::Unsent {
                        request: Box::new(request),
                        error: None,
                        reused: was_open,
                    }
                }
                None => {
                    let error = error.into_error();
                    // A stream that was reset says nothing of the others'.
                    if sender.is_closed() || error.is_closed() {
                        self.unshare(endpoint, generation);
                    }
                    SendError::Broken {
                        error,
                        reused: was_open,
                    }
                }
            }),
        }
    }

    /// Opens the connection that requests to an endpoint share, or waits for who is opening it.
    async fn open_shared(self: &Rc<Self>, endpoint: &Endpoint) -> Result<Shared, ConnectError> {
        let opening = {
            let mut endpoints = self.endpoints.borrow_mut();
            Rc::clone(&endpoints.entry(endpoint.id).or_default().opening)
        };
        let _held = opening.lock().await;
        if let Some(shared) = self.shared(endpoint.id) {
            return Ok(shared);
        }
        let sender = self.open_http2(endpoint).await?;
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(endpoint.id).or_default();
        pool.generation += 1;
        pool.shared = Some(sender.clone());
        Ok((sender, pool.generation))
    }

    /// The shared connection to an endpoint, if it is open.
    fn shared(&self, endpoint: u64) -> Option<Shared> {
        let endpoints = self.endpoints.borrow();
        let pool = endpoints.get(&endpoint)?;
        let sender = pool.shared.as_ref().filter(|sender| !sender.is_closed())?;
        Some((sender.clone(), pool.generation))
    }

    fn unshare(&self, endpoint: u64, generation: u64) {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(pool) = endpoints.get_mut(&endpoint)
            && pool.generation == generation
        {
            pool.shared = None;
        }
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

    fn count_open(self: &Rc<Self>, endpoint: u64) -> Result<OpenConnection, SendError> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(endpoint).or_default();
        if pool.open >= self.config.endpoint_connections_max {
            return Err(SendError::Overflow);
        }
        pool.open += 1;
        self.stats.upstream_opened.fetch_add(1, Ordering::Relaxed);
        Ok(OpenConnection {
            pools: Rc::clone(self),
            endpoint,
        })
    }

    async fn open_http1(
        &self,
        endpoint: &Endpoint,
    ) -> Result<http1::SendRequest<RequestBody>, ConnectError> {
        let stream = self.connect(endpoint).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.config.head_bytes_max.max(8192))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        // Its end is seen by the sender.
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn open_http2(
        self: &Rc<Self>,
        endpoint: &Endpoint,
    ) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
        let stream = self.connect(endpoint).await?;
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.config.head_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        self.stats.upstream_opened.fetch_add(1, Ordering::Relaxed);
        let stats = Arc::clone(&self.stats);
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            stats.upstream_closed.fetch_add(1, Ordering::Relaxed);
        });
        Ok(sender)
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<tokio::net::TcpStream, ConnectError> {
        connect(endpoint, self.config.connect_timeout)
            .await
            .inspect_err(|_| {
                self.stats.upstream_failed.fetch_add(1, Ordering::Relaxed);
            })
    }

    /// Closes connections that were idle for too long, and forgets endpoints without any. Called once a second.
    pub(crate) fn sweep(&self) {
        let limit = self.config.pool_idle_timeout;
        let mut old = Vec::new();
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.retain(|_, pool| {
            // Oldest first, as they were pushed.
            let fresh = pool
                .idle
                .iter()
                .position(|idle| idle.since.elapsed() < limit && !idle.sender.is_closed())
                .unwrap_or(pool.idle.len());
            old.extend(pool.idle.drain(..fresh));
            if pool
                .shared
                .as_ref()
                .is_some_and(http2::SendRequest::is_closed)
            {
                pool.shared = None;
            }
            // An entry that somebody opens a connection for stays: its generation goes on counting.
            pool.open > 0 || pool.shared.is_some() || Rc::strong_count(&pool.opening) > 1
        });
        drop(endpoints);
        drop(old);
    }
}
