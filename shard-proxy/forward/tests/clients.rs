//! Clients that would hold a connection, a stream or an endpoint without end, or that ask for too much.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use api::CertificateKey;
use api_snapshot::config::RuleSpec;
use api_snapshot::facts::{BackendProtocol, Certificate};
use api_telemetry::names;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use shard_proxy_forward::ForwardConfig;
use support::access::AccessLog;
use support::{Scripted, Shard, http2_over_tls, listener, read_message, rule, status, wait_for};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// A limit that a test can wait for.
fn hasty() -> Shard {
    Shard::with(vec![], |config| {
        config.head_timeout = Duration::from_millis(300);
    })
}

fn all_closed(shard: &Shard) {
    wait_for(|| (shard.plane.load().connections == 0).then_some(()));
}

#[test]
fn a_preface_has_to_come_in_time() {
    let shard = hasty();
    for begun in [&PREFACE[..4], &PREFACE[..23], b""] {
        let mut client = shard.connect();
        client.write(begun);
        assert!(client.is_closed());
    }
    all_closed(&shard);
    assert_eq!(shard.counter(names::CONNECTION_FAILURES, "no_request"), 3);
}

/// TLS for `a.test`, and a client's settings that offer HTTP/2.
fn tls(configure: impl FnOnce(&mut ForwardConfig)) -> (Shard, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let certificate = Certificate {
        chain: vec![made.cert.der().to_vec()],
        key: made.signing_key.serialize_der(),
        dns_names: vec!["a.test".into()],
        not_after: i64::MAX,
    };
    let shard = Shard::serving(
        vec![("web", listener(None, Some("a.test")))],
        vec![],
        configure,
        |plane| {
            let key = CertificateKey::new("shop", "a.test");
            plane.set_certificate(&key, &certificate).unwrap();
        },
    );
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (shard, http2_over_tls(roots))
}

#[test]
fn a_preface_has_to_come_in_time_within_tls_too() {
    let (shard, config) = tls(|config| config.head_timeout = Duration::from_millis(300));
    let mut client = shard.connect();
    let name = "a.test".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut client.0);
    stream.write_all(b"P").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    all_closed(&shard);
    assert_eq!(shard.counter(names::CONNECTION_FAILURES, "no_request"), 1);
}

#[test]
fn a_wrong_preface_ends_the_connection() {
    let shard = Shard::with(vec![], |_| {});
    let mut client = shard.connect();
    client.write(b"PRI * HTTP/9.9\r\n\r\nSM\r\n\r\n");
    client.0.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = client.0.read_to_end(&mut rest);
    all_closed(&shard);
}

/// Reads frames to the end of the connection; answers PINGs or not. Returns the kinds that came.
fn stay(stream: &mut TcpStream, answers: bool) -> Vec<u8> {
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return kinds;
        }
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return kinds;
        }
        let (kind, flags) = (head[3], head[4]);
        kinds.push(kind);
        if kind == PING && flags & ACK == 0 && answers {
            head[4] = ACK;
            let _ = stream.write_all(&[&head[..], &payload].concat());
        }
    }
}

#[test]
fn an_http2_connection_without_streams_is_told_to_go_and_then_closed() {
    for answers in [true, false] {
        let shard = hasty();
        let mut client = shard.connect();
        client.write(PREFACE);
        client.write(SETTINGS);
        let kinds = stay(&mut client.0, answers);
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
        all_closed(&shard);
    }
}

type Sender = http2::SendRequest<Empty<Bytes>>;

/// A client whose streams have a window of this size, and that takes only what the test asks for.
async fn http2_to(shard: &Shard, window: u32) -> Sender {
    let stream = tokio::net::TcpStream::connect(shard.address).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn ask(method: &str, path: &str) -> Request<Empty<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://a.test{path}"))
        .body(Empty::new())
        .unwrap()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A shard that sends everything to one backend, and accepts.
async fn serving(
    backend: SocketAddr,
    change: impl FnOnce(&mut RuleSpec) + Send + 'static,
    configure: impl FnOnce(&mut ForwardConfig) + Send + 'static,
) -> Shard {
    blocking(move || {
        let mut rule = rule("/", &[("a", 1)], vec![]);
        change(&mut rule);
        let shard = Shard::with(vec![rule], configure);
        shard.backend("a", BackendProtocol::Http1, &[backend]);
        drop(shard.connect());
        shard
    })
    .await
}

/// A backend with a body that never ends.
fn endless() -> Scripted {
    Scripted::new(|_, stream: &mut TcpStream, _| {
        let Some(request) = read_message(stream) else {
            return;
        };
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        let _ = stream.write_all(head);
        while !request.starts_with("HEAD") && stream.write_all(&[7; 4096]).is_ok() {}
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_window_stays_shut_is_reset_and_lets_go_of_its_endpoint() {
    let backend = endless();
    let address = backend.address;
    let shard = serving(
        address,
        |_| {},
        |config| config.client_idle_timeout = Duration::from_millis(300),
    )
    .await;
    let mut client = http2_to(&shard, 0).await;
    let stalled = client.send_request(ask("GET", "/")).await.unwrap();
    assert_eq!(stalled.status(), 200);
    assert!(stalled.into_body().collect().await.is_err(), "it was reset");
    let shard = blocking(move || {
        wait_for(|| (shard.plane.load().requests_in_flight == 0).then_some(()));
        assert_eq!(shard.counter(names::REQUEST_FAILURES, "SI"), 1);
        shard
    })
    .await;
    // The connection itself goes on.
    let answer = client.send_request(ask("HEAD", "/")).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(shard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shut_window_does_not_suspend_the_time_limit_of_a_request() {
    let backend = endless();
    let address = backend.address;
    let within = |rule: &mut RuleSpec| rule.timeouts.request_ms = Some(300);
    let shard = serving(address, within, |_| {}).await;
    let mut client = http2_to(&shard, 0).await;
    let stalled = client.send_request(ask("GET", "/")).await.unwrap();
    let body = tokio::time::timeout(support::WAIT, stalled.into_body().collect());
    assert!(body.await.unwrap().is_err(), "it was reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_its_time_within_the_limit_gets_everything() {
    const LENGTH: usize = 64 * 1024;
    let backend = Scripted::new(|_, stream: &mut TcpStream, _| {
        while read_message(stream).is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&[7; LENGTH]);
        }
    });
    let address = backend.address;
    let shard = serving(
        address,
        |_| {},
        |config| config.client_idle_timeout = Duration::from_secs(2),
    )
    .await;
    let mut client = http2_to(&shard, 4096).await;
    let answer = client.send_request(ask("GET", "/")).await.unwrap();
    let mut body = answer.into_body();
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        taken += frame.unwrap().into_data().map_or(0, |data| data.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(taken, LENGTH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_what_it_has_just_asked_for_has_a_budget() {
    let backend = Scripted::new(|_, stream: &mut TcpStream, seen| {
        while let Some(request) = read_message(stream) {
            seen.lock().unwrap().push(request); // and no answer
        }
    });
    let address = backend.address;
    let shard = serving(address, |_| {}, |config| config.h2_resets_max = 20).await;
    let shard = Arc::new(shard);
    let mut client = http2_to(&shard, 65_535).await;
    for round in 0..=20 {
        assert!(client.ready().await.is_ok(), "closed after {round} resets");
        let asking = tokio::spawn(client.send_request(ask("GET", "/")));
        let watched = Arc::clone(&shard);
        blocking(move || wait_for(|| (watched.plane.load().requests_in_flight == 1).then_some(())))
            .await;
        asking.abort();
        let watched = Arc::clone(&shard);
        blocking(move || wait_for(|| (watched.plane.load().requests_in_flight == 0).then_some(())))
            .await;
    }
    let watched = Arc::clone(&shard);
    blocking(move || all_closed(&watched)).await;
    // The client hears of it when its own task has read it.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while client.ready().await.is_ok() {
        assert!(std::time::Instant::now() < until, "the client is not told");
        tokio::task::yield_now().await;
    }
    assert_eq!(shard.counter(names::CONNECTION_FAILURES, "resets"), 1);
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "DC"), 21);
}

#[test]
fn connections_beyond_the_limit_are_counted() {
    let backend = Scripted::ok();
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
        config.connections_max = 1;
    });
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    let lines = AccessLog::keep();
    let mut first = shard.connect();
    assert_eq!(status(&first.get("/")), 200);
    let mut second = shard.connect();
    assert!(second.is_closed());
    let peer = second.0.local_addr().unwrap();
    lines.has(&format!("flag=limit gateway=shop/edge peer={peer}"));
    assert_eq!(status(&first.get("/")), 200);
    assert_eq!(shard.counter(names::CONNECTION_FAILURES, "limit"), 1);
}

#[test]
fn failed_handshakes_and_heads_that_cannot_be_read_have_a_cause() {
    let lines = AccessLog::keep();
    let (shard, _) = tls(|_| {});
    let mut plain = shard.connect();
    let peer = plain.0.local_addr().unwrap();
    plain.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    while !plain.is_closed() {} // an alert comes first
    all_closed(&shard);
    assert_eq!(shard.counter(names::CONNECTION_FAILURES, "tls"), 1);
    lines.has(&format!("flag=tls gateway=shop/edge peer={peer}"));
    drop(shard.connect()); // as a load balancer probes
    wait_for(|| (shard.counter(names::CONNECTION_FAILURES, "tls_left") == 1).then_some(()));

    let shard = Shard::with(vec![], |config| config.head_bytes_max = 8192);
    let large = format!("GET / HTTP/1.1\r\nX-A: {}\r\n\r\n", "a".repeat(9000));
    for (head, expected, flag) in [
        (large.as_str(), 431, "HTL"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400, "DPE"),
    ] {
        let mut client = shard.connect();
        let peer = client.0.local_addr().unwrap();
        client.write(head.as_bytes());
        assert_eq!(status(&client.response()), expected);
        wait_for(|| (shard.counter(names::REQUEST_FAILURES, flag) == 1).then_some(()));
        lines.has(&format!(
            "flag={flag} gateway=shop/edge peer={peer} status={expected}"
        ));
    }
}
