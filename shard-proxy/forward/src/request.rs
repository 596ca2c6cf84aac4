//! One request as named phases: check, match, filter, pick and send, answer.

use std::borrow::Cow;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use shard_proxy_table::{CompiledFilter, HeaderOps, Outcome, RequestView, Rule, RuleBackend};

use crate::body::{Progress, RequestBody, ResponseBody};
use crate::cause::Cause;
use crate::config::ForwardConfig;
use crate::connection::Connection;
use crate::filters::{RedirectFrom, change_headers, changed_path, location};
use crate::log::{Line, RequestRecord};
use crate::upstream::{BackendHandle, ConnectError, SendError, Sent};
use crate::worker::Phase;
use crate::{host, hygiene, path, respond};

/// Attempts at endpoints for one request: the first and two more.
const ATTEMPTS_MAX: u8 = 3;

/// Where a request goes, with everything that borrows from it made its own.
struct Routed {
    rule: Arc<Rule<BackendHandle>>,
    /// The normalised path, if it is not the one in the request.
    path: Option<String>,
    /// Length of the prefix that matched; none for exact paths.
    prefix: Option<usize>,
    host: String,
}

/// Answers one request. Never fails: a failure is an answer with a cause.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    connection.worker.stats.request_begun();
    let (parts, body) = request.into_parts();
    let mut record = RequestRecord {
        started: Instant::now(),
        status: None,
        cause: None,
        bytes_sent: 0,
        line: connection
            .worker
            .logs_access()
            .then(|| Box::new(line(&connection, &parts))),
        connection: Rc::clone(&connection),
    };
    let http2 = parts.version == Version::HTTP_2;
    let head_only = parts.method == Method::HEAD;
    let mut response = match serve(&connection, parts, body, &mut record).await {
        Ok(response) => response,
        Err(cause) => {
            record.cause = Some(cause);
            respond::failed(cause)
        }
    };
    record.status = Some(response.status());
    if connection.worker.phase.get() != Phase::Serving && !http2 {
        // hyper closes the connection after a response that says so.
        response
            .headers_mut()
            .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if head_only && record.cause.is_some() {
        *response.body_mut() = ResponseBody::empty();
    }
    response.map(|body| body.recorded(record))
}

async fn serve(
    connection: &Rc<Connection>,
    mut parts: Parts,
    body: Incoming,
    record: &mut RequestRecord,
) -> Result<Response<ResponseBody>, Cause> {
    hygiene::check_request(&parts.method, &parts.headers)?;
    let routed = route(connection, &parts)?;
    let rule = Arc::clone(&routed.rule);
    if let Some(line) = &mut record.line {
        line.route = Some((rule.route.clone(), rule.index));
    }
    let host = host::host_value(&parts).ok_or(Cause::BadRequest)?;
    hygiene::clean_request(&mut parts.headers, &connection.forwarded, host);

    let mut rewrite = Rewritten::default();
    if let Some(response) = filter(connection, &rule.filters, &routed, &mut parts, &mut rewrite)? {
        return Ok(response);
    }
    let backend = rule
        .pick(connection.worker.random())
        .ok_or(Cause::InvalidBackend)?;
    let handle = backend.target.as_ref().ok_or(Cause::InvalidBackend)?;
    if let Some(response) = filter(
        connection,
        &backend.filters,
        &routed,
        &mut parts,
        &mut rewrite,
    )? {
        return Ok(response);
    }
    target(&mut parts, &routed, rewrite)?;

    let body = RequestBody::new(body);
    let upload = body.progress();
    let request = Request::from_parts(parts, body);
    let deadline = rule
        .timeouts
        .request_ms
        .filter(|ms| *ms > 0)
        .map(|ms| record.started + Duration::from_millis(ms));
    let limits = Limits {
        upload,
        deadline,
        attempt: rule
            .timeouts
            .backend_request_ms
            .filter(|ms| *ms > 0)
            .map(Duration::from_millis),
    };
    let sent = send(connection, handle, request, &limits, record).await?;
    answer(connection, sent, &rule, backend, limits)
}

/// Finds the rule by host, path, method, headers and query, in the table of this moment.
fn route(connection: &Connection, parts: &Parts) -> Result<Routed, Cause> {
    let authority = host::authority(parts).ok_or(Cause::BadRequest)?;
    let normalised = match parts.uri.path() {
        // `OPTIONS *` is for the server as a whole; nobody's route takes it.
        "*" => return Err(Cause::NoRoute),
        raw => path::normalise(if raw.is_empty() { "/" } else { raw }).ok_or(Cause::BadRequest)?,
    };
    let view = RequestView {
        host: &authority.host,
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
        && *server_name != *authority.host
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
        host: authority.host.into_owned(),
    })
}

/// What rewrite filters ask for; the last one counts.
#[derive(Default)]
struct Rewritten {
    path: Option<String>,
}

/// Applies the filters that concern the request; a redirect or a failed filter answers it.
fn filter(
    connection: &Connection,
    filters: &[CompiledFilter],
    routed: &Routed,
    parts: &mut Parts,
    rewritten: &mut Rewritten,
) -> Result<Option<Response<ResponseBody>>, Cause> {
    for filter in filters {
        match filter {
            CompiledFilter::RequestHeaders(ops) => change_headers(&mut parts.headers, ops),
            CompiledFilter::ResponseHeaders(_) => {}
            CompiledFilter::Redirect(redirect) => {
                let path = routed.path.as_deref().unwrap_or(parts.uri.path());
                let from = RedirectFrom {
                    tls: connection.server_name.is_some() || connection.tls,
                    host: &routed.host,
                    public_port: connection.public_port,
                    path,
                    query: parts.uri.query(),
                    prefix: routed.prefix.and_then(|length| path.get(..length)),
                };
                let location = location(redirect, &from).ok_or(Cause::FilterFailed)?;
                return Ok(Some(respond::redirect(redirect.status, location)));
            }
            CompiledFilter::Rewrite(rewrite) => {
                if let Some(hostname) = &rewrite.hostname {
                    let value = HeaderValue::from_str(hostname).map_err(|_| Cause::FilterFailed)?;
                    parts.headers.insert(http::header::HOST, value);
                }
                if let Some(change) = &rewrite.path {
                    let path = routed.path.as_deref().unwrap_or(parts.uri.path());
                    let prefix = routed.prefix.and_then(|length| path.get(..length));
                    rewritten.path = Some(changed_path(change, path, prefix));
                }
            }
            CompiledFilter::Fail(status) => {
                let status =
                    StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                if status == StatusCode::INTERNAL_SERVER_ERROR {
                    return Err(Cause::FilterFailed);
                }
                return Ok(Some(respond::status(status)));
            }
        }
    }
    Ok(None)
}

/// Writes the request target that goes upstream, in origin form: the path that was matched, or its rewritten form.
fn target(parts: &mut Parts, routed: &Routed, rewritten: Rewritten) -> Result<(), Cause> {
    let new = rewritten.path.as_deref().or(routed.path.as_deref());
    parts.version = Version::HTTP_11;
    if new.is_none() && parts.uri.scheme().is_none() && parts.uri.authority().is_none() {
        return Ok(());
    }
    let path = new.unwrap_or(parts.uri.path());
    let text = match parts.uri.query() {
        Some(query) if !path.contains('?') => format!("{path}?{query}"),
        _ if path.is_empty() => "/".to_owned(),
        _ => path.to_owned(),
    };
    parts.uri = Uri::try_from(text).map_err(|_| Cause::BadRequest)?;
    Ok(())
}

/// Sends the request to an endpoint. It is sent again when nothing of it was written (stale connection, connect
/// failed), or when a reused connection broke and repeating is safe (RFC 9110 section 9.2.2, no body); at most
/// [`ATTEMPTS_MAX`] times in all.
async fn send(
    connection: &Rc<Connection>,
    backend: &BackendHandle,
    request: Request<RequestBody>,
    limits: &Limits,
    record: &mut RequestRecord,
) -> Result<Sent, Cause> {
    let worker = &connection.worker;
    let mut next = Some(request);
    let mut avoid = None;
    let mut reuse = true;
    for attempt in 1..=ATTEMPTS_MAX {
        let endpoint = backend
            .choose(worker.random(), avoid)
            .ok_or(Cause::NoEndpoint)?;
        let id = endpoint.0.id;
        if let Some(line) = &mut record.line {
            line.upstream = Some(endpoint.0.label());
            line.retries = attempt - 1;
        }
        let Some(mut request) = next.take() else {
            break;
        };
        let http2 = endpoint.0.protocol == api_snapshot::facts::BackendProtocol::H2c;
        if http2 {
            to_http2(&mut request)?;
        }
        let spare = (reuse && repeatable(&request)).then(|| copy_head(&request));
        let sending = pin!(worker.pools.send(endpoint, request, reuse));
        let error = match limits.apply(&worker.config, sending).await? {
            Ok(sent) => return Ok(sent),
            Err(error) => error,
        };
        match error {
            SendError::Overflow => return Err(Cause::Overflow),
            SendError::Unsent {
                request,
                error,
                reused,
            } => {
                tracing::debug!(backend = %backend.key(), endpoint = id, error = ?error, "request was not sent");
                if attempt == ATTEMPTS_MAX || (error.is_some() && backend.usable() < 2) {
                    return Err(match error {
                        Some(ConnectError::Http(_)) | None => Cause::UpstreamClosed,
                        Some(_) => Cause::ConnectFailed,
                    });
                }
                if error.is_some() {
                    avoid = Some(id);
                }
                // A stale connection says that others may be stale too: the next attempt opens its own.
                reuse = !reused;
                next = Some(*request);
            }
            SendError::Broken { error, reused } => {
                tracing::debug!(backend = %backend.key(), endpoint = id, %error, "connection broke");
                if limits
                    .upload
                    .as_ref()
                    .is_some_and(|upload| upload.is_broken())
                {
                    return Err(Cause::DownstreamClosed);
                }
                if error.is_parse() || error.is_parse_status() {
                    return Err(Cause::UpstreamProtocol);
                }
                let Some(request) = spare.filter(|_| reused && attempt < ATTEMPTS_MAX) else {
                    return Err(Cause::UpstreamClosed);
                };
                reuse = false;
                next = Some(request);
            }
        }
        worker.stats.retries.fetch_add(1, Ordering::Relaxed);
    }
    Err(Cause::UpstreamClosed)
}

/// Time limits of one request.
struct Limits {
    upload: Option<Rc<Progress>>,
    /// End of the request's own limit (gateway-api v1 `HTTPRouteTimeouts.request`).
    deadline: Option<Instant>,
    /// For one attempt (`backendRequest`).
    attempt: Option<Duration>,
}

impl Limits {
    /// Runs one attempt up to the response's head. Without progress of the request's body or an answer it ends after
    /// the idle limit of whoever keeps it waiting, the client or the endpoint.
    async fn apply<F: Future>(
        &self,
        config: &ForwardConfig,
        mut attempt: Pin<&mut F>,
    ) -> Result<F::Output, Cause> {
        let begun = Instant::now();
        let hard = match (self.attempt.map(|limit| begun + limit), self.deadline) {
            (Some(attempt), Some(request)) => Some(attempt.min(request)),
            (attempt, request) => attempt.or(request),
        };
        loop {
            let moved = self.upload.as_ref().map_or(begun, |upload| upload.last());
            let awaited = self
                .upload
                .as_ref()
                .is_some_and(|upload| upload.is_awaited());
            let idle = if awaited {
                moved + config.client_idle_timeout
            } else {
                moved.max(begun) + config.upstream_idle_timeout
            };
            let until = hard.map_or(idle, |hard| hard.min(idle));
            if let Ok(done) = tokio::time::timeout_at(until.into(), attempt.as_mut()).await {
                return Ok(done);
            }
            if hard.is_some_and(|hard| hard <= until) {
                return Err(Cause::UpstreamTimeout);
            }
            let Some(upload) = &self.upload else {
                return Err(Cause::UpstreamTimeout);
            };
            // Something moved, or the one that keeps us waiting changed: look again, with that one's limit.
            if upload.last() == moved && upload.is_awaited() == awaited {
                return Err(if awaited {
                    Cause::ClientTimeout
                } else {
                    Cause::UpstreamTimeout
                });
            }
        }
    }
}

fn repeatable(request: &Request<RequestBody>) -> bool {
    matches!(request.body(), RequestBody::Empty)
        && matches!(
            *request.method(),
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::PUT
                | Method::DELETE
                | Method::TRACE
        )
}

fn copy_head(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// HTTP/2 has the host in the target.
fn to_http2(request: &mut Request<RequestBody>) -> Result<(), Cause> {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_some() {
        return Ok(());
    }
    let host = request
        .headers_mut()
        .remove(http::header::HOST)
        .ok_or(Cause::BadRequest)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(host.as_bytes().try_into().map_err(|_| Cause::BadRequest)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Cause::BadRequest)?;
    Ok(())
}

/// Passes the endpoint's response on.
fn answer(
    connection: &Connection,
    sent: Sent,
    rule: &Rule<BackendHandle>,
    backend: &RuleBackend<BackendHandle>,
    limits: Limits,
) -> Result<Response<ResponseBody>, Cause> {
    let (mut parts, body) = sent.response.into_parts();
    // Nobody asked for a switch of protocols.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Cause::UpstreamProtocol);
    }
    let lease = if hygiene::clean_response(&mut parts.headers)? {
        sent.lease
    } else {
        // Its framing is in doubt: the body is read to its end, the connection is closed after it.
        sent.lease.condemned()
    };
    for filters in [&rule.filters, &backend.filters] {
        for ops in filters.iter().filter_map(response_headers) {
            change_headers(&mut parts.headers, ops);
        }
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = if body.is_end_stream() {
        lease.finish();
        ResponseBody::empty()
    } else {
        ResponseBody::upstream(
            body,
            lease,
            limits.upload,
            connection.worker.config.upstream_idle_timeout,
            limits.deadline,
        )
    };
    Ok(Response::from_parts(parts, body))
}

fn response_headers(filter: &CompiledFilter) -> Option<&HeaderOps> {
    match filter {
        CompiledFilter::ResponseHeaders(ops) => Some(ops),
        _ => None,
    }
}

fn line(connection: &Connection, parts: &Parts) -> Line {
    let host: Option<&HeaderValue> = HeaderMap::get(&parts.headers, http::header::HOST);
    Line {
        peer: connection.peer,
        method: parts.method.clone(),
        host: parts
            .uri
            .authority()
            .map(|authority| authority.as_str().to_owned())
            .or_else(|| host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()))
            .unwrap_or_default(),
        path: parts.uri.path().to_owned(),
        route: None,
        upstream: None,
        retries: 0,
    }
}
