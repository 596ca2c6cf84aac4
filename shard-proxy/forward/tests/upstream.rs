//! Endpoints: connections used again, stale ones, retries, limits of time, weights.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use api_snapshot::config::{BackendTarget, Filter, Timeouts};
use api_snapshot::facts::BackendProtocol;
use api_telemetry::names;
use support::{Scripted, Shard, read_message, rule, status, wait_for};

#[test]
fn connections_to_endpoints_are_used_again() {
    let backend = Scripted::ok();
    let shard = Shard::of(backend.address);
    let mut client = shard.connect();
    for _ in 0..50 {
        assert!(client.get("/").ends_with("\r\n\r\nok"));
    }
    drop(client);
    assert_eq!(status(&shard.connect().get("/")), 200);
    assert_eq!((backend.seen().len(), backend.connections()), (51, 1));
}

#[test]
fn a_stale_connection_costs_no_request() {
    // Each connection answers once, and closes on the second request without a byte.
    let backend = Scripted::new(|_, stream, seen| {
        let request = read_message(stream).unwrap();
        seen.lock().unwrap().push(request);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let shard = Shard::of(backend.address);
    let mut client = shard.connect();
    for _ in 0..20 {
        assert_eq!(status(&client.get("/")), 200);
    }
    assert_eq!(backend.seen().len(), 20);
    assert_eq!(shard.counter(names::UPSTREAM_RETRIES, ""), 19);
    // Not repeatable: the endpoint may have done it.
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(status(&client.response()), 502);
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "UC"), 1);
}

#[test]
fn an_endpoint_that_refuses_is_passed_over() {
    let good = Scripted::ok();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = closed.local_addr().unwrap();
    drop(closed);
    let shard = Shard::of(good.address);
    shard.backend("a", BackendProtocol::Http1, &[refusing, good.address]);
    let mut client = shard.connect();
    for _ in 0..40 {
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(status(&client.response()), 200);
    }
    shard.backend("a", BackendProtocol::Http1, &[refusing]);
    assert_eq!(status(&client.get("/")), 503);
    shard.backend("a", BackendProtocol::Http1, &[]);
    assert_eq!(status(&client.get("/")), 503);
    for (flag, count) in [("UF", 1), ("UH", 1)] {
        assert_eq!(
            shard.counter(names::REQUEST_FAILURES, flag),
            count,
            "{flag}"
        );
    }
}

#[test]
fn weights_divide_requests_and_invalid_ones_answer_500() {
    let (a, b) = (Scripted::ok(), Scripted::ok());
    let mut invalid = rule("/invalid", &[("a", 1)], vec![]);
    invalid.backends[0].target = BackendTarget::Invalid;
    let rules = vec![
        rule("/", &[("a", 80), ("b", 20)], vec![]),
        rule("/zero", &[("a", 0)], vec![]),
        invalid,
        rule("/fail", &[("a", 1)], vec![Filter::Fail(500)]),
    ];
    let shard = Shard::with(rules, |_| {});
    shard.backend("a", BackendProtocol::Http1, &[a.address]);
    shard.backend("b", BackendProtocol::Http1, &[b.address]);
    let mut client = shard.connect();
    for _ in 0..1000 {
        assert_eq!(status(&client.get("/")), 200);
    }
    let share = b.seen().len();
    // 200 expected, standard deviation 12.6.
    assert!((120..280).contains(&share), "{share} of 1000");
    for path in ["/zero", "/invalid", "/fail"] {
        assert_eq!(status(&client.get(path)), 500, "{path}");
    }
    shard.serve(
        vec![("web", support::listener(Some("b.test"), None))],
        vec![],
    );
    let answer = client.get("/");
    assert_eq!(status(&answer), 404, "{answer}");
}

fn silent() -> SocketAddr {
    Scripted::new(|_, stream, _| {
        let _ = read_message(stream);
        let _ = stream.read(&mut [0; 1]);
    })
    .address
}

#[test]
fn endpoints_that_do_not_answer_are_timed_out() {
    let timed = |request_ms, backend_request_ms| {
        let mut rule = rule("/", &[("a", 1)], vec![]);
        rule.timeouts = Timeouts {
            request_ms,
            backend_request_ms,
        };
        rule
    };
    for rule in [
        timed(Some(100), None),
        timed(None, Some(100)),
        timed(Some(0), Some(100)),
    ] {
        let shard = Shard::with(vec![rule], |_| {});
        shard.backend("a", BackendProtocol::Http1, &[silent()]);
        let begun = Instant::now();
        assert_eq!(status(&shard.connect().get("/")), 504);
        assert!(begun.elapsed() >= Duration::from_millis(95));
        assert_eq!(shard.counter(names::REQUEST_FAILURES, "UT"), 1);
    }
    let shard = Shard::with(vec![timed(None, None)], |config| {
        config.upstream_idle_timeout = Duration::from_millis(100);
    });
    shard.backend("a", BackendProtocol::Http1, &[silent()]);
    assert_eq!(status(&shard.connect().get("/")), 504);
}

#[test]
fn a_slow_upload_is_no_timeout_and_a_stalled_one_is() {
    let backend = Scripted::ok();
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
        config.upstream_idle_timeout = Duration::from_millis(150);
        config.client_idle_timeout = Duration::from_millis(300);
    });
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    let mut client = shard.connect();
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    let begun = Instant::now();
    for _ in 0..10 {
        // The pace of the client is what is tested.
        std::thread::sleep(Duration::from_millis(50));
        client.write(b"x");
    }
    assert!(begun.elapsed() > Duration::from_millis(450));
    assert_eq!(status(&client.response()), 200);
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx");
    assert_eq!(status(&client.response()), 408);
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "SI"), 1);
}

#[test]
fn causes_tell_who_broke_off() {
    // Chunked to its end: no failure. Cut within: the endpoint's.
    let whole = Scripted::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let shard = Shard::of(whole.address);
    assert!(shard.connect().get("/").ends_with("2\r\nok\r\n0\r\n\r\n"));
    let cut = Scripted::new(|_, stream, _| {
        let _ = read_message(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
    });
    shard.backend("a", BackendProtocol::Http1, &[cut.address]);
    assert!(shard.connect().get("/").ends_with("\r\n\r\nok"));
    wait_for(|| (shard.plane.load().requests_in_flight == 0).then_some(()));
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "UR"), 1);
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "DC"), 0);
    // The client leaves before the answer.
    shard.backend("a", BackendProtocol::Http1, &[silent()]);
    let mut client = shard.connect();
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for(|| (shard.plane.load().requests_in_flight == 1).then_some(()));
    drop(client);
    wait_for(|| (shard.plane.load().requests_in_flight == 0).then_some(()));
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "DC"), 1);
    assert_eq!(shard.counter(names::REQUESTS, "4xx"), 1);
}

#[test]
fn answers_without_a_body_keep_their_headers() {
    let backend = Scripted::answering("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n");
    let shard = Shard::of(backend.address);
    let mut client = shard.connect();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(status(&answer), 304);
        assert!(
            answer.contains("etag: x") && !answer.contains("content-length"),
            "{answer}"
        );
    }
    let backend = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    for _ in 0..2 {
        client.write(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut head = [0; 1024];
        let count = client.0.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..count]);
        assert!(
            head.contains("content-length: 1234\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }
    assert_eq!(backend.connections(), 1);
}
