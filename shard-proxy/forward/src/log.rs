//! One line for each request, target `access`.

use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use api::RouteKey;
use http::{Method, StatusCode};

use crate::cause::{Cause, ConnectionCause};
use crate::connection::Connection;
use crate::gateway::Gateway;
use crate::worker::Worker;

/// What is known of a request until its end; written when dropped, so that no way out misses it.
pub(crate) struct RequestRecord {
    pub(crate) connection: Rc<Connection>,
    pub(crate) started: Instant,
    /// Set when the answer goes to the client; without one, the client left before.
    pub(crate) status: Option<StatusCode>,
    pub(crate) cause: Option<Cause>,
    pub(crate) bytes_sent: u64,
    /// Only filled when requests are logged.
    pub(crate) line: Option<Box<Line>>,
}

/// What only the log needs.
pub(crate) struct Line {
    pub(crate) peer: SocketAddr,
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) route: Option<(RouteKey, u16)>,
    pub(crate) upstream: Option<String>,
    pub(crate) retries: u8,
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let status = self.status.unwrap_or_else(|| {
            self.cause = Some(Cause::DownstreamClosed);
            client_left()
        });
        let Connection {
            gateway, worker, ..
        } = &*self.connection;
        if let Some(streams) = &self.connection.streams
            && matches!(self.cause, Some(Cause::DownstreamClosed))
        {
            streams.reset(took, worker.config.h2_resets_max);
        }
        gateway.record(worker.index, status, took);
        worker.stats.request_ended(self.cause);
        let Some(line) = self.line.take() else { return };
        let route = line
            .route
            .as_ref()
            .map(|(route, rule)| format!("{}/{} rules[{rule}]", route.namespace, route.name));
        tracing::info!(
            target: "access",
            gateway = gateway.label,
            peer = %line.peer,
            method = %line.method,
            host = line.host,
            path = line.path,
            route,
            upstream = line.upstream,
            status = status.as_u16(),
            flag = self.cause.map(Cause::flag),
            bytes = self.bytes_sent,
            retries = line.retries,
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

/// Counts and logs a connection that the proxy ended, or never served.
pub(crate) fn connection_failed(
    worker: &Worker,
    gateway: &Gateway,
    peer: SocketAddr,
    cause: ConnectionCause,
    error: Option<&(dyn Error + 'static)>,
) {
    worker.stats.connection_failed(cause);
    if !worker.logs_access() || !cause.is_logged() {
        tracing::debug!(gateway = gateway.label, %peer, flag = cause.flag(), error, "connection failed");
        return;
    }
    tracing::info!(target: "access", gateway = gateway.label, %peer, flag = cause.flag(), error, "connection");
}

/// Counts and logs a request that hyper answered by itself: its head could not be read, so that no handler ever saw it.
pub(crate) fn head_refused(connection: &Connection, cause: Cause) {
    let Connection {
        gateway, worker, ..
    } = connection;
    worker.stats.refused(cause);
    gateway.record(worker.index, cause.status(), Duration::ZERO);
    if worker.logs_access() {
        tracing::info!(
            target: "access",
            gateway = gateway.label,
            peer = %connection.peer,
            status = cause.status().as_u16(),
            flag = cause.flag(),
            "request"
        );
    }
}

/// 499, as nginx counts requests whose client left before the answer.
fn client_left() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}
