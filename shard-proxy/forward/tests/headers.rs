//! Header lines: what clients may not say, what filters may not do, how many there may be.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use api_snapshot::config::{Filter, HeaderChanges, ListenerSpec, NameValue, Redirect};
use api_snapshot::facts::BackendProtocol;
use api_telemetry::names;
use bytes::Bytes;
use http::{Request, StatusCode};
use support::{Scripted, Shard, block_on, listener, rule, status};
use tokio::net::TcpStream;

fn pair(name: &str, value: &str) -> NameValue {
    NameValue {
        name: name.into(),
        value: value.into(),
    }
}

#[test]
fn what_a_client_says_of_itself_is_neither_matched_nor_forwarded() {
    let backend = Scripted::ok();
    let mut inner = rule("/", &[("a", 1)], vec![]);
    inner.matches[0].headers = vec![pair("x-forwarded-proto", "https")];
    let mut own = rule("/own", &[("a", 1)], vec![]);
    own.matches[0].headers = vec![pair("x-forwarded-for", "127.0.0.1")];
    let shard = Shard::with(vec![inner, own], |_| {});
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    let spoofed = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nX-Forwarded-User: root\r\nX-Real-IP: 6.6.6.6\r\nx_forwarded_user: root\r\nX_Real_IP: 6.6.6.6\r\n";
    for (path, expected) in [("/", 404), ("/own", 200)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{spoofed}\r\n");
        assert_eq!(status(&shard.ask(request.as_bytes())), expected, "{path}");
    }
    let seen = backend.seen().pop().unwrap().to_ascii_lowercase();
    for text in ["6.6.6.6", "evil", "root", "https"] {
        assert!(!seen.contains(text), "{text} is in {seen}");
    }
    assert_eq!(seen.matches("x-forwarded-").count(), 4, "{seen}");
}

#[test]
fn a_request_has_one_host_whatever_filters_say() {
    let backend = Scripted::ok();
    let changes = |changes| vec![Filter::RequestHeaders(changes)];
    let shard = Shard::with(
        vec![
            rule(
                "/add",
                &[("a", 1)],
                changes(HeaderChanges {
                    add: vec![pair("host", "in.test")],
                    ..HeaderChanges::default()
                }),
            ),
            rule(
                "/remove",
                &[("a", 1)],
                changes(HeaderChanges {
                    remove: vec!["host".into()],
                    ..HeaderChanges::default()
                }),
            ),
        ],
        |_| {},
    );
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    for (path, host) in [("/add", "in.test"), ("/remove", "a.test")] {
        assert_eq!(status(&shard.connect().get(path)), 200);
        let seen = backend.seen().pop().unwrap();
        assert_eq!(seen.matches("\r\nhost: ").count(), 1, "{seen}");
        assert!(seen.contains(&format!("\r\nhost: {host}\r\n")), "{seen}");
    }
}

#[test]
fn what_a_rule_says_of_responses_holds_for_redirects_and_failures() {
    let headers = || {
        Filter::ResponseHeaders(HeaderChanges {
            set: vec![pair("strict-transport-security", "max-age=1")],
            ..HeaderChanges::default()
        })
    };
    let redirect = Filter::Redirect(Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: None,
        port: None,
        status: 301,
    });
    let shard = Shard::with(
        vec![
            rule("/redirect", &[], vec![redirect, headers()]),
            rule("/none", &[("a", 1)], vec![headers()]),
            rule("/fail", &[("a", 1)], vec![Filter::Fail(500), headers()]),
        ],
        |_| {},
    );
    for (path, expected) in [("/redirect", 301), ("/none", 503), ("/fail", 500)] {
        let answer = shard.connect().get(path);
        assert_eq!(status(&answer), expected, "{answer}");
        let line = "\r\nstrict-transport-security: max-age=1\r\n";
        assert!(answer.contains(line), "{answer}");
    }
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "UH"), 1);
}

#[test]
fn a_redirect_to_a_listener_of_the_gateway_names_the_port_that_is_bound() {
    let redirect = |hostname: Option<&str>| {
        Filter::Redirect(Redirect {
            scheme: Some("https".into()),
            hostname: hostname.map(str::to_owned),
            path: None,
            port: None,
            status: 301,
        })
    };
    let secure = ListenerSpec {
        port: 443,
        ..listener(Some("a.test"), Some("none"))
    };
    let shard = Shard::serving(
        vec![("web", listener(None, None)), ("secure", secure)],
        vec![
            rule("/", &[], vec![redirect(None)]),
            rule("/other", &[], vec![redirect(Some("elsewhere.test"))]),
        ],
        |_| {},
        |_| {},
    );
    for (path, location) in [
        ("/x", "https://a.test:10443/x"),
        ("/other", "https://elsewhere.test/other"),
    ] {
        let answer = shard.connect().get(path);
        let line = format!("\r\nlocation: {location}\r\n");
        assert!(answer.contains(&line), "{answer}");
    }
}

#[test]
fn a_body_of_any_method_crosses_also_without_its_length() {
    let backend = Scripted::ok();
    let shard = Shard::of(backend.address);
    for method in ["GET", "DELETE", "POST"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        );
        assert_eq!(status(&shard.ask(request.as_bytes())), 200);
        let seen = backend.seen().pop().unwrap();
        assert!(
            seen.starts_with(&format!("{method} / "))
                && seen.contains("\r\ntransfer-encoding: chunked\r\n")
                && seen.ends_with("\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
            "{seen:?}"
        );
    }
    // The same from HTTP/2, which has no such framing.
    let answer = over_http2(&shard, Request::get("http://a.test/"), Some("hi"));
    assert_eq!(answer, StatusCode::OK);
    let seen = backend.seen().pop().unwrap();
    assert!(seen.ends_with("\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), "{seen:?}");
    // And without a body there is none.
    let answer = over_http2(&shard, Request::get("http://a.test/"), None);
    assert_eq!(answer, StatusCode::OK);
    let seen = backend.seen().pop().unwrap();
    assert!(
        seen.ends_with("\r\n\r\n") && !seen.contains("transfer-encoding"),
        "{seen:?}"
    );
}

#[test]
fn http2_requests_have_as_many_lines_as_others() {
    let backend = Scripted::ok();
    let shard = Shard::of(backend.address);
    for (lines, expected) in [
        (90, StatusCode::OK),
        (101, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    ] {
        let mut request = Request::get("http://a.test/");
        for _ in 0..lines {
            request = request.header("x", "y");
        }
        assert_eq!(over_http2(&shard, request, None), expected, "{lines}");
    }
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "HTL"), 1);
    assert_eq!(backend.seen().len(), 1);
}

fn over_http2(
    shard: &Shard,
    request: http::request::Builder,
    body: Option<&'static str>,
) -> StatusCode {
    drop(shard.connect());
    block_on(async {
        let stream = TcpStream::connect(shard.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (response, mut sender) = client.send_request(request, body.is_none()).unwrap();
        if let Some(body) = body {
            sender
                .send_data(Bytes::from_static(body.as_bytes()), true)
                .unwrap();
        }
        response.await.unwrap().status()
    })
}
