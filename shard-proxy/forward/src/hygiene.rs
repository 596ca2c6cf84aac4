//! Which header lines cross the proxy. RFC 9110 sections 6.5.1 and 7.6.1, RFC 9112 section 6.1.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::cause::Cause;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
static FORWARDED: HeaderName = HeaderName::from_static("forwarded");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What upstream learns of the client's connection; made once for each connection.
#[derive(Debug)]
pub(crate) struct ForwardedHeaders {
    pub(crate) client: HeaderValue,
    pub(crate) port: HeaderValue,
    pub(crate) proto: HeaderValue,
}

/// Refuses a request whose framing or purpose is not served.
pub(crate) fn check_request(method: &Method, headers: &HeaderMap) -> Result<(), Cause> {
    if headers.contains_key(TRANSFER_ENCODING) && !is_chunked_alone(headers) {
        return Err(Cause::BadRequest);
    }
    if *method == Method::CONNECT {
        return Err(Cause::NotServed);
    }
    if let Some(upgrade) = headers.get(UPGRADE) {
        // Asking for HTTP/2 in clear text this way is obsolete and may be ignored (RFC 9113 section 3.1).
        if !upgrade.as_bytes().eq_ignore_ascii_case(b"h2c") {
            return Err(Cause::NotServed);
        }
    }
    Ok(())
}

fn is_chunked_alone(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let (first, second) = (lines.next(), lines.next());
    second.is_none() && first.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Takes hop-by-hop lines out of a request and writes who asks.
pub(crate) fn clean_request(
    headers: &mut HeaderMap,
    forwarded: &ForwardedHeaders,
    host: HeaderValue,
) {
    // gRPC needs `te: trailers`; every other value is for this hop.
    let trailers = headers
        .get(TE)
        .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
    remove_lookalikes(headers);
    headers.remove(&FORWARDED);
    headers.insert(X_FORWARDED_FOR.clone(), forwarded.client.clone());
    headers.insert(X_FORWARDED_PROTO.clone(), forwarded.proto.clone());
    headers.insert(X_FORWARDED_PORT.clone(), forwarded.port.clone());
    headers.insert(X_FORWARDED_HOST.clone(), host.clone());
    headers.insert(HOST, host);
}

/// HTTP/2 clients split cookies; servers of HTTP/1.1 expect one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let mut joined = Vec::new();
    for line in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

/// Underscores in names are passed on, as RFC 9110 allows them, except in names that read like one of ours once `_` and
/// `-` are the same to the reader, as for CGI and its heirs: `X_Forwarded_For` would say there what a client must not.
fn remove_lookalikes(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let lookalikes: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .filter(|name| {
            HeaderName::from_bytes(name.as_str().replace('_', "-").as_bytes())
                .is_ok_and(|plain| is_protected(&plain) || plain == TRANSFER_ENCODING)
        })
        .cloned()
        .collect();
    for name in lookalikes {
        headers.remove(name);
    }
}

/// Takes hop-by-hop lines out of a response. Returns false when its framing is not to be trusted: the connection
/// that it came on must not be used again.
///
/// # Errors
/// [`Cause::UpstreamProtocol`] for a coding of the transfer other than `chunked`: nobody here would undo it.
pub(crate) fn clean_response(headers: &mut HeaderMap) -> Result<bool, Cause> {
    let mut trusted = true;
    if headers.contains_key(TRANSFER_ENCODING) {
        if !is_chunked_alone(headers) {
            return Err(Cause::UpstreamProtocol);
        }
        // Both lengths given: the chunks count, and whoever wrote the other must not be reused (hyper keeps it).
        if headers.remove(CONTENT_LENGTH).is_some() {
            trusted = false;
        }
    }
    strip_hop_by_hop(headers);
    Ok(trusted)
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(|name| !is_protected(name))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &HTTP2_SETTINGS,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &TE,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Whether a line is about one hop or its framing, so that no filter may write it.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    [
        &CONNECTION,
        &CONTENT_LENGTH,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &TE,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ]
    .contains(&name)
}

/// Lines that a client may not have removed by nominating them in Connection.
fn is_protected(name: &HeaderName) -> bool {
    [
        &HOST,
        &AUTHORIZATION,
        &COOKIE,
        &CONTENT_LENGTH,
        &CONTENT_TYPE,
        &FORWARDED,
    ]
    .contains(&name)
        || name.as_str().starts_with("x-forwarded-")
}

/// Trailer lines that may cross: not those that frame, route, authenticate or describe the body.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let refused = [
        &CONTENT_LENGTH,
        &TRANSFER_ENCODING,
        &HOST,
        &CONNECTION,
        &TE,
        &TRAILER,
        &UPGRADE,
        &AUTHORIZATION,
        &PROXY_AUTHORIZATION,
        &PROXY_AUTHENTICATE,
        &COOKIE,
        &SET_COOKIE,
        &CONTENT_TYPE,
        &CONTENT_ENCODING,
        &CONTENT_RANGE,
        &FORWARDED,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
    ];
    for name in refused {
        trailers.remove(name);
    }
    let forwarded: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in forwarded {
        trailers.remove(name);
    }
}
