//! One request as named phases: check, clean, match, filter, pick, send, answer.

mod answer;
mod filter;
mod limits;
mod route;
mod send;

use std::rc::Rc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;

use self::answer::{answer, change_response};
use self::filter::{Rewritten, filter, target};
use self::limits::Limits;
use self::route::{Routed, route};
use self::send::send;
use crate::body::{RequestBody, ResponseBody};
use crate::cause::Cause;
use crate::connection::Connection;
use crate::log::{Line, RequestRecord};
use crate::worker::Phase;
use crate::{host, hygiene, respond};

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

/// Checks, cleans and routes a request, then answers it. What is matched is what is forwarded: lines that a client may
/// not write are gone before a rule can match them.
async fn serve(
    connection: &Rc<Connection>,
    mut parts: Parts,
    body: Incoming,
    record: &mut RequestRecord,
) -> Result<Response<ResponseBody>, Cause> {
    let lines_max = connection.worker.config.headers_max;
    let found = hygiene::check_request(&parts.method, &parts.headers, lines_max)?;
    let authority = host::authority(&parts).ok_or(Cause::BadRequest)?;
    let host = host::matched(&authority).ok_or(Cause::BadRequest)?;
    hygiene::clean_request(
        &mut parts.headers,
        found,
        &connection.forwarded,
        &authority,
        parts.uri.authority().is_some(),
    );
    let routed = route(connection, &parts, &host)?;
    if let Some(line) = &mut record.line {
        line.route = Some((routed.rule.route.clone(), routed.rule.index));
    }
    let mut own = match forward(connection, &routed, &host, parts, body, record).await {
        Ok(Answer::Endpoint(response)) => return Ok(response),
        Ok(Answer::Own(response)) => response,
        Err(cause) => {
            record.cause = Some(cause);
            respond::failed(cause)
        }
    };
    // As Envoy does: what a rule says of responses holds for redirects and failures too. A backend's filters do not: it
    // did not answer.
    change_response(own.headers_mut(), &routed.rule.filters);
    Ok(own)
}

/// An answer, and whose.
enum Answer {
    /// With the filters of its rule and backend applied.
    Endpoint(Response<ResponseBody>),
    Own(Response<ResponseBody>),
}

/// Applies filters, picks a backend and sends the request to it.
async fn forward(
    connection: &Rc<Connection>,
    routed: &Routed,
    host: &str,
    mut parts: Parts,
    body: Incoming,
    record: &mut RequestRecord,
) -> Result<Answer, Cause> {
    let rule = &*routed.rule;
    let mut rewrite = Rewritten::default();
    let mut filter =
        |parts: &mut Parts, filters| filter(connection, filters, routed, host, parts, &mut rewrite);
    if let Some(response) = filter(&mut parts, &rule.filters)? {
        return Ok(Answer::Own(response));
    }
    let backend = rule
        .pick(connection.worker.random())
        .ok_or(Cause::InvalidBackend)?;
    let handle = backend.target.as_ref().ok_or(Cause::InvalidBackend)?;
    if let Some(response) = filter(&mut parts, &backend.filters)? {
        return Ok(Answer::Own(response));
    }
    target(&mut parts, routed, rewrite)?;

    let body = RequestBody::new(body);
    let config = &connection.worker.config;
    let limits = Limits::new(&rule.timeouts, record.started, body.progress(), config);
    let request = Request::from_parts(parts, body);
    let (sent, until) = send(connection, handle, request, &limits, record).await?;
    answer(sent, rule, backend, limits.of_body(until)).map(Answer::Endpoint)
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
