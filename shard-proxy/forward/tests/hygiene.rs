//! Bytes in, status out, and what the endpoint saw: what hyper lets pass and a gateway must not.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use api_telemetry::names;
use support::{Scripted, Shard, status};

#[test]
fn requests_that_two_readers_could_read_differently_are_refused() {
    let backend = Scripted::ok();
    let shard = Shard::of(backend.address);
    for (expected, request) in [
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (
            400,
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
        ),
        (
            400,
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        ),
        (400, "GET / HTTP/1.1\r\nHost: u@a.test\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: \r\n\r\n"),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        ),
        (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"),
        (400, "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a%5Cb HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
        (404, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            501,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            501,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            501,
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
        ),
    ] {
        assert_eq!(
            status(&shard.ask(request.as_bytes())),
            expected,
            "{request:?}"
        );
    }
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: y\r\n".repeat(200)
    );
    assert_eq!(status(&shard.ask(many.as_bytes())), 431);
    assert_eq!(backend.seen(), Vec::<String>::new());
    assert!(shard.counter(names::REQUEST_FAILURES, "DPE") > 0);
}

#[test]
fn what_passes_is_written_anew() {
    let backend = Scripted::ok();
    let shard = Shard::of(backend.address);
    for (request, has, has_not) in [
        // RFC 9112 section 3.2.2: the authority of an absolute target wins.
        (
            "GET http://a.test/x HTTP/1.1\r\nHost: b.test\r\n\r\n",
            &["GET /x HTTP/1.1\r\n", "\r\nhost: a.test\r\n"][..],
            &["b.test"][..],
        ),
        (
            "GET /a HTTP/1.1\nHost: a\n\n",
            &["GET /a HTTP/1.1\r\n"],
            &[],
        ),
        (
            "GET /a/./b/../%63?q=%2f HTTP/1.1\r\nHost: a\r\n\r\n",
            &["GET /a/c?q=%2f "],
            &[],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a:81\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: e\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nx_own: kept\r\n\r\n",
            &[
                "\r\nx-forwarded-for: 127.0.0.1\r\n",
                "\r\nx-forwarded-proto: http\r\n",
                "\r\nx-forwarded-host: a:81\r\n",
                "\r\nx-forwarded-port: 8080\r\n",
                "\r\nx_own: kept\r\n",
            ],
            &["6.6.6.6", "forwarded: for", "x_forwarded"],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-a, host, authorization, x-forwarded-for\r\nX-A: 1\r\nAuthorization: k\r\nKeep-Alive: 5\r\nProxy-Authorization: p\r\nTE: trailers\r\n\r\n",
            &[
                "\r\nhost: a\r\n",
                "\r\nauthorization: k\r\n",
                "\r\nx-forwarded-for: 127.0.0.1\r\n",
                "\r\nte: trailers\r\n",
            ],
            &["x-a", "keep-alive", "proxy-authorization"],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: upgrade, http2-settings\r\n\r\n",
            &[],
            &["\r\nte:", "upgrade", "http2-settings"],
        ),
        // Both lengths: the chunks count (RFC 9112 section 6.3).
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            &["\r\ntransfer-encoding: chunked\r\n", "\r\n2\r\nhi\r\n"],
            &["content-length"],
        ),
    ] {
        assert_eq!(status(&shard.ask(request.as_bytes())), 200, "{request:?}");
        let seen = backend.seen().pop().unwrap();
        for text in has {
            assert!(seen.contains(text), "{text:?} is not in {seen:?}");
        }
        for text in has_not {
            assert!(!seen.contains(text), "{text:?} is in {seen:?}");
        }
    }
}

#[test]
fn responses_are_checked_as_well() {
    for (response, expected, has_not) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            200,
            "content-length",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\nx",
            502,
            "gzip",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            502,
            "upgrade",
        ),
        ("HTTP/1.1 2x0 what\r\n\r\n", 502, "what"),
        ("junk\r\n\r\n", 502, "junk"),
        (
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 9\r\nContent-Length: 0\r\n\r\n",
            200,
            "x-hop",
        ),
    ] {
        let backend = Scripted::answering(response);
        let shard = Shard::of(backend.address);
        for _ in 0..2 {
            let got = shard.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(status(&got), expected, "{response:?}: {got:?}");
            assert!(!got.to_ascii_lowercase().contains(has_not), "{got:?}");
        }
        if response.contains("99") || expected == 502 {
            assert_eq!(backend.connections(), 2, "never used again: {response:?}");
        }
    }
}

#[test]
fn trailers_that_frame_or_authenticate_are_dropped() {
    let backend = Scripted::ok();
    let shard = Shard::of(backend.address);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, content-length, host\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\nhost: evil\r\nauthorization: k\r\n\r\n";
    assert_eq!(status(&shard.ask(request.as_bytes())), 200);
    let seen = backend.seen().pop().unwrap();
    let (_, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("x-sum: 7"), "{seen:?}");
    assert!(
        !body.contains("evil") && !body.contains("authorization"),
        "{seen:?}"
    );
}
