//! One request as named phases: check, clean, match, filter, pick, send, answer.

mod answer;
mod filter;
mod limits;
mod route;
mod send;

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use shard_proxy_table::Rule;

use self::answer::{answer, change_response};
use self::filter::{Rewritten, filter, target};
use self::limits::Limits;
use self::route::{Routed, route};
use self::send::send;
use crate::body::{RequestBody, ResponseBody};
use crate::cause::Cause;
use crate::connection::Connection;
use crate::log::{Line, RequestRecord};
use crate::upstream::BackendHandle;
use crate::worker::Phase;
use crate::{host, hygiene, respond};

/// Answers one request. Never fails: a failure is an answer with a cause.
///
/// Everything but the exchange with the endpoint is done without waiting, and in functions: what a future holds is moved
/// with it each time that another takes it in.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    connection.worker.stats.request_begun();
    let http2 = request.version() == Version::HTTP_2;
    let head_only = *request.method() == Method::HEAD;
    let mut record = RequestRecord {
        started: Instant::now(),
        status: None,
        cause: None,
        bytes_sent: 0,
        line: connection
            .worker
            .logs_access()
            .then(|| Box::new(line(&connection, &request))),
        connection: Rc::clone(&connection),
    };
    let response = match begin(&connection, request, &mut record) {
        Ok(Begun::Outgoing(mut outgoing)) => {
            match send(&connection, &mut outgoing, &mut record).await {
                Ok((sent, until)) => answer(sent, outgoing, until),
                Err(cause) => Err((cause, outgoing.rule)),
            }
        }
        Ok(Begun::Answered(response, rule)) => Ok(own(response, &rule)),
        Err((cause, Some(rule))) => Err((cause, rule)),
        Err((cause, None)) => {
            record.cause = Some(cause);
            Ok(respond::failed(cause))
        }
    };
    let response = response.unwrap_or_else(|(cause, rule)| {
        record.cause = Some(cause);
        own(respond::failed(cause), &rule)
    });
    Ok(finish(&connection, response, record, http2, head_only))
}

/// As Envoy does: what a rule says of responses holds for redirects and failures too. A backend's filters do not: it did
/// not answer.
fn own(mut response: Response<ResponseBody>, rule: &Rule<BackendHandle>) -> Response<ResponseBody> {
    change_response(response.headers_mut(), &rule.filters);
    response
}

fn finish(
    connection: &Connection,
    mut response: Response<ResponseBody>,
    mut record: RequestRecord,
    http2: bool,
    head_only: bool,
) -> Response<ResponseBody> {
    record.status = Some(response.status());
    let ends = connection.worker.phase.get() != Phase::Serving || connection.gateway.is_removed();
    if ends && !http2 {
        // hyper closes the connection after a response that says so.
        response
            .headers_mut()
            .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if head_only && record.cause.is_some() {
        *response.body_mut() = ResponseBody::empty();
    }
    response.body_mut().record(record);
    response
}

/// A request that goes to an endpoint.
struct Outgoing {
    /// Taken while it is being sent.
    request: Option<Request<RequestBody>>,
    rule: Arc<Rule<BackendHandle>>,
    /// Position of the backend in the rule.
    backend: usize,
    limits: Limits,
}

/// How a request goes on.
enum Begun {
    Outgoing(Outgoing),
    /// A filter of the rule answered.
    Answered(Response<ResponseBody>, Arc<Rule<BackendHandle>>),
}

/// A cause, and the rule that had been found by then.
type Failed<R> = (Cause, R);

/// Checks, cleans and routes a request. What is matched is what is forwarded: lines that a client may not write are gone
/// before a rule can match them.
fn begin(
    connection: &Connection,
    request: Request<Incoming>,
    record: &mut RequestRecord,
) -> Result<Begun, Failed<Option<Arc<Rule<BackendHandle>>>>> {
    let (mut parts, body) = request.into_parts();
    let early = |cause| (cause, None);
    let lines_max = connection.worker.config.headers_max;
    let found = hygiene::check_request(&parts.method, &parts.headers, lines_max).map_err(early)?;
    let authority = host::authority(&parts).ok_or(early(Cause::BadRequest))?;
    let host = host::matched(&authority).ok_or(early(Cause::BadRequest))?;
    hygiene::clean_request(
        &mut parts.headers,
        found,
        &connection.forwarded,
        &authority,
        parts.uri.authority().is_some(),
    );
    let routed = route(connection, &parts, &host).map_err(early)?;
    if let Some(line) = &mut record.line {
        line.route = Some((routed.rule.route.clone(), routed.rule.index));
    }
    match pick(connection, &routed, &host, &mut parts) {
        Ok(Picked::Backend(backend)) => {
            let body = RequestBody::new(body);
            let config = &connection.worker.config;
            let timeouts = &routed.rule.timeouts;
            let limits = Limits::new(timeouts, record.started, body.progress(), config);
            Ok(Begun::Outgoing(Outgoing {
                request: Some(Request::from_parts(parts, body)),
                rule: routed.rule,
                backend,
                limits,
            }))
        }
        Ok(Picked::Answer(response)) => Ok(Begun::Answered(response, routed.rule)),
        Err(cause) => Err((cause, Some(routed.rule))),
    }
}

enum Picked {
    /// Position in the rule.
    Backend(usize),
    Answer(Response<ResponseBody>),
}

/// Applies filters, picks a backend, and writes the request target that goes to it.
fn pick(
    connection: &Connection,
    routed: &Routed,
    host: &str,
    parts: &mut Parts,
) -> Result<Picked, Cause> {
    let rule = &*routed.rule;
    let mut rewrite = Rewritten::default();
    if let Some(response) = filter(connection, &rule.filters, routed, host, parts, &mut rewrite)? {
        return Ok(Picked::Answer(response));
    }
    let index = rule
        .pick_index(connection.worker.random())
        .ok_or(Cause::InvalidBackend)?;
    let backend = &rule.backends[index];
    if backend.target.is_none() {
        return Err(Cause::InvalidBackend);
    }
    let filters = &backend.filters;
    if let Some(response) = filter(connection, filters, routed, host, parts, &mut rewrite)? {
        return Ok(Picked::Answer(response));
    }
    target(parts, routed, rewrite)?;
    Ok(Picked::Backend(index))
}

fn line(connection: &Connection, request: &Request<Incoming>) -> Line {
    let uri = request.uri();
    let host = request.headers().get(http::header::HOST);
    Line {
        peer: connection.peer,
        method: request.method().clone(),
        host: uri
            .authority()
            .map(|authority| authority.as_str().to_owned())
            .or_else(|| host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()))
            .unwrap_or_default(),
        path: uri.path().to_owned(),
        route: None,
        upstream: None,
        retries: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    fn size_of_future<F: Future>(_: fn(Rc<Connection>, Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_is_moved_with_each_request_stays_small() {
        let bytes = size_of_future(handle);
        // Three times that, with a future for each phase, cost more to move than a request costs to route.
        assert!(bytes <= 2560, "{bytes}");
    }
}
