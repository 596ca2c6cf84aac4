//! Limits of time and number as rules and settings give them.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use api_snapshot::config::{RuleSpec, Timeouts};
use api_snapshot::facts::BackendProtocol;
use api_telemetry::names;
use support::{Scripted, Shard, WAIT, read_message, rule, status, wait_for};

/// Idle limit of the shard in these tests, far below the endpoint's pauses.
const IDLE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(400);

fn timed(request_ms: Option<u64>, backend_request_ms: Option<u64>) -> RuleSpec {
    RuleSpec {
        timeouts: Timeouts {
            request_ms,
            backend_request_ms,
        },
        ..rule("/", &[("a", 1)], vec![])
    }
}

/// Waits before the head and within the body.
fn slow() -> Scripted {
    Scripted::new(|_, stream, _| {
        let _ = read_message(stream);
        // The pace of the endpoint is what is tested.
        std::thread::sleep(PAUSE);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
        std::thread::sleep(PAUSE);
        let _ = stream.write_all(b"k");
    })
}

#[test]
fn a_rule_with_limits_of_its_own_has_no_idle_limit_and_zero_is_none() {
    for timeouts in [
        timed(Some(0), None),
        timed(None, Some(0)),
        timed(Some(0), Some(0)),
        timed(Some(10_000), None),
        timed(None, Some(10_000)),
    ] {
        let backend = slow();
        let shard = Shard::with(vec![timeouts.clone()], |config| {
            config.upstream_idle_timeout = IDLE;
            config.client_idle_timeout = IDLE;
        });
        shard.backend("a", BackendProtocol::Http1, &[backend.address]);
        let answer = shard.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
            "{:?}: {answer:?}",
            timeouts.timeouts
        );
    }
    let backend = slow();
    let shard = Shard::with(vec![timed(None, None)], |config| {
        config.upstream_idle_timeout = IDLE;
    });
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    let answer = shard.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&answer), 504, "{answer}");
}

#[test]
fn a_stalled_upload_ends_also_without_any_limit_of_the_rule() {
    let backend = Scripted::ok();
    let shard = Shard::with(vec![timed(Some(0), None)], |config| {
        config.client_idle_timeout = IDLE;
    });
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    let answer = shard.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
    assert_eq!(status(&answer), 408, "{answer}");
}

#[test]
fn an_attempt_ends_in_time_also_within_its_response() {
    let backend = Scripted::new(|_, stream, _| {
        let _ = read_message(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
        let _ = stream.read(&mut [0; 1]);
    });
    for timeouts in [timed(None, Some(200)), timed(Some(60_000), Some(200))] {
        let shard = Shard::with(vec![timeouts], |_| {});
        shard.backend("a", BackendProtocol::Http1, &[backend.address]);
        let begun = Instant::now();
        // The connection is broken off: what came is not whole.
        let answer = shard.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(begun.elapsed() < WAIT / 2, "{:?}", begun.elapsed());
        wait_for(|| (shard.plane.load().requests_in_flight == 0).then_some(()));
        assert_eq!(shard.counter(names::REQUEST_FAILURES, "UT"), 1);
    }
}
