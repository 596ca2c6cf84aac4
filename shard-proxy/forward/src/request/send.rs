//! Sending a request to an endpoint, and to another when that is safe.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use api_snapshot::facts::BackendProtocol;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::Outgoing;
use crate::body::RequestBody;
use crate::cause::Cause;
use crate::connection::Connection;
use crate::log::RequestRecord;
use crate::upstream::{BackendHandle, ConnectError, Retry, SendError, Sent};

/// Attempts at endpoints for one request: the first and two more.
const ATTEMPTS_MAX: u8 = 3;

/// Sends the request to an endpoint; returns the response and when its attempt ends. It is sent again, at most
/// [`ATTEMPTS_MAX`] times in all, within the request's own time limit and, but for stale connections, the backend's budget
/// (see [`BackendHandle::retry`]):
/// - when nothing of it was written: the connect failed or took all of the attempt's time (then to an endpoint not tried
///   yet), the endpoint has as many connections as it may, or a connection was stale. Its body has not been asked for a
///   byte by then;
/// - when it has no body and a reused connection broke, if its method may be repeated (RFC 9110 section 9.2.2);
/// - when it has no body and the endpoint says that it did nothing with it (RFC 9113 section 8.7).
///
/// A new connection that breaks is not tried again, whatever the method: the endpoint has most likely seen the request,
/// and may break on it anywhere.
pub(super) async fn send(
    connection: &Rc<Connection>,
    outgoing: &mut Outgoing,
    record: &mut RequestRecord,
) -> Result<(Sent, Option<Instant>), Cause> {
    let worker = &connection.worker;
    let Outgoing {
        request: slot,
        rule,
        backend,
        limits,
    } = outgoing;
    let backend = rule
        .backends
        .get(*backend)
        .and_then(|backend| backend.target.as_ref())
        .ok_or(Cause::InvalidBackend)?;
    // Endpoints that are not to be had.
    let mut tried = [u64::MAX; ATTEMPTS_MAX as usize];
    let mut reuse = true;
    // Held until there is an answer.
    let mut retrying = None;
    let mut cause = Cause::NoEndpoint;
    for attempt in 1..=ATTEMPTS_MAX {
        let Some(in_flight) = backend.choose(worker.random(), &tried) else {
            break;
        };
        let (id, probe) = (in_flight.endpoint.id, in_flight.probe);
        if let Some(line) = &mut record.line {
            line.upstream = Some(in_flight.endpoint.label());
            line.retries = attempt - 1;
        }
        let Some(request) = slot else {
            break;
        };
        let http2 = in_flight.endpoint.protocol == BackendProtocol::H2c;
        if http2 {
            to_http2(request)?;
        } else {
            to_http1(request)?;
        }
        let worth = http2 || reuse && is_repeatable(request.method());
        let spare =
            (worth && attempt < ATTEMPTS_MAX && is_empty(request)).then(|| Spare::of(request));
        let until = limits.attempt();
        let outcome = {
            let sending = pin!(worker.pools.send(in_flight, slot, reuse));
            limits.apply(until, sending).await
        };
        let failed = match outcome {
            Ok(Ok(sent)) => return Ok((sent, until)),
            Ok(Err(error)) => error,
            Err(ended) => {
                cause = ended;
                if cause == Cause::UpstreamTimeout && !limits.waits_for_client() {
                    backend.unanswered(id, probe);
                }
                // While it is in its place, the connection does not stand.
                if slot.is_none() || limits.are_over() || attempt == ATTEMPTS_MAX {
                    return Err(cause);
                }
                tried[usize::from(attempt) - 1] = id;
                retry(connection, backend, &mut retrying, cause)?;
                continue;
            }
        };
        match failed {
            SendError::Overflow => {
                cause = Cause::Overflow;
                tried[usize::from(attempt) - 1] = id;
            }
            SendError::Unsent { error, reused } => {
                tracing::debug!(backend = %backend.key(), endpoint = id, error = ?error, "request was not sent");
                cause = match error {
                    Some(ConnectError::Http(_)) | None => Cause::UpstreamClosed,
                    Some(_) => Cause::ConnectFailed,
                };
                match error {
                    Some(ConnectError::Http(_)) => backend.unanswered(id, probe),
                    Some(_) => backend.connect_failed(id, probe),
                    None => {}
                }
                if error.is_some() {
                    tried[usize::from(attempt) - 1] = id;
                }
                // A stale connection says that others may be stale too: the next attempt opens its own. The endpoint has
                // had no load of it, which the budget is for.
                reuse = !reused;
                if reused && error.is_none() && attempt < ATTEMPTS_MAX {
                    worker.stats.retries.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            SendError::Broken {
                error,
                reused,
                unprocessed,
            } => {
                tracing::debug!(backend = %backend.key(), endpoint = id, %error, "connection broke");
                if limits
                    .upload
                    .as_ref()
                    .is_some_and(|upload| upload.is_broken())
                {
                    return Err(Cause::DownstreamClosed);
                }
                let malformed = error.is_parse() || error.is_parse_status();
                // HTTP/1.1 connections that were kept break now and then; refused streams are no failure at all.
                if malformed || !unprocessed && (!reused || http2 || probe) {
                    backend.unanswered(id, probe);
                }
                if malformed {
                    return Err(Cause::UpstreamProtocol);
                }
                cause = Cause::UpstreamClosed;
                let safe = |spare: &Spare| unprocessed || reused && is_repeatable(&spare.method);
                let Some(again) = spare.filter(safe) else {
                    return Err(cause);
                };
                reuse = false;
                *slot = Some(again.into_request());
            }
        }
        if attempt < ATTEMPTS_MAX {
            retry(connection, backend, &mut retrying, cause)?;
        }
    }
    Err(cause)
}

/// Counts that a request is sent again, within its backend's budget; beyond it the request ends with `cause`.
fn retry<'a>(
    connection: &Connection,
    backend: &'a BackendHandle,
    retrying: &mut Option<Retry<'a>>,
    cause: Cause,
) -> Result<(), Cause> {
    let stats = &connection.worker.stats;
    if retrying.is_none() {
        *retrying = backend.retry();
    }
    if retrying.is_none() {
        stats.retries_refused.fetch_add(1, Ordering::Relaxed);
        return Err(cause);
    }
    stats.retries.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn is_empty(request: &Request<RequestBody>) -> bool {
    matches!(request.body(), RequestBody::Empty)
}

fn is_repeatable(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

/// A request without a body, to be sent again. Lines as a list: a copy of the map costs three times that.
struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    lines: Vec<(HeaderName, HeaderValue)>,
}

impl Spare {
    fn of(request: &Request<RequestBody>) -> Self {
        let headers = request.headers();
        let mut lines = Vec::with_capacity(headers.len());
        lines.extend(
            headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            lines,
        }
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        for (name, value) in self.lines {
            request.headers_mut().append(name, value);
        }
        request
    }
}

/// HTTP/1.1 frames every body: without this, one whose length is not known would be left out of methods that seldom have
/// one, and the request would say something else than it did (RFC 9112 section 6.3).
fn to_http1(request: &mut Request<RequestBody>) -> Result<(), Cause> {
    if request.version() == Version::HTTP_2 {
        // The backend came to speak another protocol between two attempts; rare enough to give up.
        return Err(Cause::UpstreamClosed);
    }
    if !is_empty(request) && !request.headers().contains_key(CONTENT_LENGTH) {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    Ok(())
}

/// HTTP/2 has the host in the target, and frames of its own.
fn to_http2(request: &mut Request<RequestBody>) -> Result<(), Cause> {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_some() {
        return Ok(());
    }
    request.headers_mut().remove(TRANSFER_ENCODING);
    let host = request
        .headers_mut()
        .remove(HOST)
        .ok_or(Cause::BadRequest)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(host.as_bytes().try_into().map_err(|_| Cause::BadRequest)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Cause::BadRequest)?;
    Ok(())
}
