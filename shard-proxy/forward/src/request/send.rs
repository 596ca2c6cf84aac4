//! Sending a request to an endpoint, and to another when that is safe.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use api_snapshot::facts::BackendProtocol;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Uri, Version};

use super::Limits;
use crate::body::RequestBody;
use crate::cause::Cause;
use crate::connection::Connection;
use crate::log::RequestRecord;
use crate::upstream::{BackendHandle, ConnectError, SendError, Sent};

/// Attempts at endpoints for one request: the first and two more.
const ATTEMPTS_MAX: u8 = 3;

/// Sends the request to an endpoint; returns the response and when its attempt ends. It is sent again, at most
/// [`ATTEMPTS_MAX`] times in all:
/// - when nothing of it was written: the connect failed (then to an endpoint not tried yet), or a connection was stale;
/// - when it has no body and a reused connection broke, if its method may be repeated (RFC 9110 section 9.2.2);
/// - when it has no body and the endpoint says that it did nothing with it (RFC 9113 section 8.7).
pub(super) async fn send(
    connection: &Rc<Connection>,
    backend: &BackendHandle,
    mut request: Request<RequestBody>,
    limits: &Limits,
    record: &mut RequestRecord,
) -> Result<(Sent, Option<Instant>), Cause> {
    let worker = &connection.worker;
    // Endpoints that could not be connected to.
    let mut tried = [u64::MAX; ATTEMPTS_MAX as usize];
    let mut reuse = true;
    for attempt in 1..=ATTEMPTS_MAX {
        let Some(endpoint) = backend.choose(worker.random(), &tried) else {
            return Err(if attempt == 1 {
                Cause::NoEndpoint
            } else {
                Cause::ConnectFailed
            });
        };
        let id = endpoint.0.id;
        if let Some(line) = &mut record.line {
            line.upstream = Some(endpoint.0.label());
            line.retries = attempt - 1;
        }
        let http2 = endpoint.0.protocol == BackendProtocol::H2c;
        if http2 {
            to_http2(&mut request)?;
        } else {
            to_http1(&mut request)?;
        }
        let worth = http2 || reuse && is_repeatable(request.method());
        let spare =
            (worth && attempt < ATTEMPTS_MAX && is_empty(&request)).then(|| copy_head(&request));
        let until = limits.attempt();
        let sending = pin!(worker.pools.send(endpoint, request, reuse));
        let error = match limits.apply(until, sending).await? {
            Ok(sent) => return Ok((sent, until)),
            Err(error) => error,
        };
        match error {
            SendError::Overflow => return Err(Cause::Overflow),
            SendError::Unsent {
                request: unsent,
                error,
                reused,
            } => {
                tracing::debug!(backend = %backend.key(), endpoint = id, error = ?error, "request was not sent");
                let cause = match error {
                    Some(ConnectError::Http(_)) | None => Cause::UpstreamClosed,
                    Some(_) => Cause::ConnectFailed,
                };
                if attempt == ATTEMPTS_MAX {
                    return Err(cause);
                }
                if error.is_some() {
                    tried[usize::from(attempt) - 1] = id;
                }
                // A stale connection says that others may be stale too: the next attempt opens its own.
                reuse = !reused;
                request = *unsent;
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
                if error.is_parse() || error.is_parse_status() {
                    return Err(Cause::UpstreamProtocol);
                }
                let safe =
                    |request: &Request<_>| unprocessed || reused && is_repeatable(request.method());
                let Some(again) = spare.filter(safe) else {
                    return Err(Cause::UpstreamClosed);
                };
                reuse = false;
                request = again;
            }
        }
        worker.stats.retries.fetch_add(1, Ordering::Relaxed);
    }
    Err(Cause::UpstreamClosed)
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

fn copy_head(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
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
