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

/// What there is among a message's lines, found in one pass: most messages have little of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    transfer_encoding: bool,
    connection: bool,
    upgrade: bool,
    te: bool,
    /// Any other line for this hop alone.
    other_hop: bool,
    cookie: bool,
    /// Lines in which only a proxy speaks of the client, or names that may be read as such.
    about_client: bool,
}

fn survey(headers: &HeaderMap) -> Found {
    let mut found = Found::default();
    for name in headers.keys() {
        match name.as_str() {
            "transfer-encoding" => found.transfer_encoding = true,
            "connection" => found.connection = true,
            "upgrade" => found.upgrade = true,
            "te" => found.te = true,
            "keep-alive"
            | "proxy-connection"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authorization" => found.other_hop = true,
            "cookie" => found.cookie = true,
            name => found.about_client |= name.contains('_') || is_about_client(name),
        }
    }
    found
}

/// Refuses a request whose framing or purpose is not served, or that has more lines than `lines_max`.
pub(crate) fn check_request(
    method: &Method,
    headers: &HeaderMap,
    lines_max: usize,
) -> Result<Found, Cause> {
    // For HTTP/1.1 the parser has counted them already.
    if headers.len() > lines_max {
        return Err(Cause::HeadTooLarge);
    }
    let found = survey(headers);
    if found.transfer_encoding && !is_chunked_alone(headers) {
        return Err(Cause::BadRequest);
    }
    if *method == Method::CONNECT {
        return Err(Cause::NotServed);
    }
    // Asking for HTTP/2 in clear text this way is obsolete and may be ignored (RFC 9113 section 3.1).
    let is_h2c = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"h2c");
    if found.upgrade && !headers.get(UPGRADE).is_some_and(is_h2c) {
        return Err(Cause::NotServed);
    }
    Ok(found)
}

/// Whether a name has more than one line. In nearly every message none has, which the map knows by its counts.
pub(crate) fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.len() > headers.keys_len() && headers.get_all(name).iter().nth(1).is_some()
}

fn is_chunked_alone(headers: &HeaderMap) -> bool {
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    headers.get(TRANSFER_ENCODING).is_some_and(is_chunked)
        && !is_repeated(headers, &TRANSFER_ENCODING)
}

/// Takes hop-by-hop lines out of a request and writes who asks; what a client says of that goes, all of it: one line
/// left over would be believed beside ours. `absolute` tells that the authority was in the request target.
///
/// No `Via` is added (RFC 9110 section 7.6.3): nginx answers a request that has one without compression by default, and
/// Envoy, HAProxy and nginx send none either.
pub(crate) fn clean_request(
    headers: &mut HeaderMap,
    found: Found,
    forwarded: &ForwardedHeaders,
    authority: &HeaderValue,
    absolute: bool,
) {
    // gRPC needs `te: trailers`; every other value is for this hop.
    let trailers = found.te
        && headers
            .get(TE)
            .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers, found);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if found.cookie {
        join_cookies(headers);
    }
    if found.about_client {
        remove_about_client(headers);
    }
    headers.insert(&X_FORWARDED_FOR, forwarded.client.clone());
    headers.insert(&X_FORWARDED_PROTO, forwarded.proto.clone());
    headers.insert(&X_FORWARDED_PORT, forwarded.port.clone());
    headers.insert(&X_FORWARDED_HOST, authority.clone());
    if absolute {
        headers.insert(HOST, authority.clone());
    }
}

/// HTTP/2 clients split cookies; servers of HTTP/1.1 expect one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if !is_repeated(headers, &COOKIE) {
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

/// Whether a line says who the client is or how it came; only a proxy is to say so.
fn is_about_client(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// Underscores in names are passed on, as RFC 9110 allows them, except in names that read like one of ours once `_` and
/// `-` are the same to the reader, as for CGI and its heirs: `X_Forwarded_For` would say there what a client must not.
fn remove_about_client(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            is_about_client(name)
                || name.contains('_')
                    && HeaderName::from_bytes(name.replace('_', "-").as_bytes())
                        .is_ok_and(|plain| is_protected(&plain) || plain == TRANSFER_ENCODING)
        })
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Takes hop-by-hop lines out of a response. Returns false when its framing is not to be trusted: the connection
/// that it came on must not be used again.
///
/// # Errors
/// [`Cause::UpstreamProtocol`] for a coding of the transfer other than `chunked`: nobody here would undo it.
pub(crate) fn clean_response(headers: &mut HeaderMap) -> Result<bool, Cause> {
    let found = survey(headers);
    let mut trusted = true;
    if found.transfer_encoding {
        if !is_chunked_alone(headers) {
            return Err(Cause::UpstreamProtocol);
        }
        // Both lengths given: the chunks count, and whoever wrote the other must not be reused (hyper keeps it).
        if headers.remove(CONTENT_LENGTH).is_some() {
            trusted = false;
        }
    }
    strip_hop_by_hop(headers, found);
    Ok(trusted)
}

fn strip_hop_by_hop(headers: &mut HeaderMap, found: Found) {
    if found.connection {
        remove_nominated(headers);
        headers.remove(CONNECTION);
    }
    if found.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
    }
    if found.upgrade {
        headers.remove(UPGRADE);
    }
    if found.te {
        headers.remove(TE);
    }
    if found.other_hop {
        for name in [
            &KEEP_ALIVE,
            &PROXY_CONNECTION,
            &HTTP2_SETTINGS,
            &PROXY_AUTHENTICATE,
            &PROXY_AUTHORIZATION,
        ] {
            headers.remove(name);
        }
    }
}

/// Takes out the lines that Connection names.
fn remove_nominated(headers: &mut HeaderMap) {
    let usual = headers.get(CONNECTION).is_some_and(|only| {
        only.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || only.as_bytes().eq_ignore_ascii_case(b"close")
    });
    if usual && !is_repeated(headers, &CONNECTION) {
        return; // nearly always; `Keep-Alive` is removed in any case
    }
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
        || is_about_client(name.as_str())
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
