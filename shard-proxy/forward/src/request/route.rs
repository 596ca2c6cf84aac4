//! Which rule takes a request.

use std::borrow::Cow;
use std::sync::Arc;

use api::path;
use http::request::Parts;
use shard_proxy_table::{Outcome, RequestView, Rule};

use crate::cause::Cause;
use crate::connection::Connection;
use crate::upstream::BackendHandle;

/// Where a request goes, with everything that borrows from it made its own.
pub(super) struct Routed {
    pub(super) rule: Arc<Rule<BackendHandle>>,
    /// The normalised path, if it is not the one in the request.
    pub(super) path: Option<String>,
    /// Length of the prefix that matched; none for exact paths.
    pub(super) prefix: Option<usize>,
}

/// Finds the rule by host (lower-case, without port), path, method, headers and query, in the table of this moment.
pub(super) fn route(connection: &Connection, parts: &Parts, host: &str) -> Result<Routed, Cause> {
    let normalised = match parts.uri.path() {
        // `OPTIONS *` is for the server as a whole; nobody's route takes it.
        "*" => return Err(Cause::NoRoute),
        raw => path::normalise(if raw.is_empty() { "/" } else { raw }).ok_or(Cause::BadRequest)?,
    };
    let view = RequestView {
        host,
        path: &normalised,
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
    };
    let table = connection.gateway.table.load();
    let (listener, found) = match table.route(connection.listener_port, &view) {
        Outcome::NoListener => return Err(Cause::NoListener),
        Outcome::NoRoute { listener } => (listener, None),
        Outcome::Matched(found) => (found.listener, Some(found)),
    };
    // gateway-api v1 `GatewaySpec.listeners`: a host of another listener than the server name's is misdirected.
    if let Some(server_name) = &connection.server_name
        && *server_name != *host
        && table
            .listener_for(connection.listener_port, server_name)
            .is_none_or(|of| of.name != listener.name)
    {
        return Err(Cause::Misdirected);
    }
    let found = found.ok_or(Cause::NoRoute)?;
    Ok(Routed {
        rule: Arc::clone(found.rule),
        prefix: found.prefix().map(str::len),
        path: match normalised {
            Cow::Owned(path) => Some(path),
            Cow::Borrowed(_) => None,
        },
    })
}
