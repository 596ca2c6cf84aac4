//! Endpoints that refuse, and HTTP/2 connections that requests share.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api_snapshot::facts::BackendProtocol;
use api_telemetry::names;
use bytes::Bytes;
use http::Response;
use support::{Client, Scripted, Shard, block_on, rule, status, wait_for};
use tokio::sync::Semaphore;

/// An address that refuses connections.
fn refusing() -> SocketAddr {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    closed.local_addr().unwrap()
}

#[test]
fn one_good_endpoint_among_many_that_refuse_serves_every_request() {
    let good = Scripted::ok();
    let mut endpoints: Vec<_> = (0..9).map(|_| refusing()).collect();
    endpoints.push(good.address);
    let shard = Shard::of(good.address);
    shard.backend("a", BackendProtocol::Http1, &endpoints);
    let mut client = shard.connect();
    // At most three attempts each; so the first may fail until the refusing ones are known.
    let mut failed = 0;
    for _ in 0..300 {
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        failed += usize::from(status(&client.response()) != 200);
    }
    assert!(failed <= 3, "{failed} failed");
    // Each is tried once, and again when its time has run out.
    let attempts = shard.counter(names::UPSTREAM_CONNECTS, "failed");
    assert!(
        attempts < 60,
        "{attempts} connects to endpoints that refuse"
    );
}

#[test]
fn three_attempts_find_the_third_endpoint() {
    let good = Scripted::ok();
    let shard = Shard::of(good.address);
    for _ in 0..20 {
        // New endpoints each time: nothing is known of them.
        shard.backend(
            "a",
            BackendProtocol::Http1,
            &[refusing(), refusing(), good.address],
        );
        let answer = shard.connect().get("/");
        assert_eq!(status(&answer), 200, "{answer}");
    }
    assert_eq!(shard.counter(names::REQUEST_FAILURES, ""), 0);
}

/// What an HTTP/2 endpoint does with a request, by its number.
type Act = fn(usize) -> Option<h2::Reason>;

/// An HTTP/2 endpoint that takes `streams` at once, and answers with a permit of `gate`.
struct H2Endpoint {
    address: SocketAddr,
    gate: Arc<Semaphore>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

impl H2Endpoint {
    fn start(streams: u32, permits: usize, act: Act) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let endpoint = Self {
            address: socket.local_addr().unwrap(),
            gate: Arc::new(Semaphore::new(permits)),
            connections: Arc::default(),
            open: Arc::default(),
            requests: Arc::default(),
            waiting: Arc::default(),
        };
        let (gate, connections, open) = (
            Arc::clone(&endpoint.gate),
            Arc::clone(&endpoint.connections),
            Arc::clone(&endpoint.open),
        );
        let (requests, waiting) = (
            Arc::clone(&endpoint.requests),
            Arc::clone(&endpoint.waiting),
        );
        std::thread::spawn(move || {
            block_on(async move {
                let socket = tokio::net::TcpListener::from_std(socket).unwrap();
                while let Ok((stream, _)) = socket.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    open.fetch_add(1, Ordering::SeqCst);
                    let (gate, requests, waiting, open) = (
                        gate.clone(),
                        requests.clone(),
                        waiting.clone(),
                        open.clone(),
                    );
                    tokio::spawn(async move {
                        let mut server = h2::server::Builder::new()
                            .max_concurrent_streams(streams)
                            .handshake::<_, Bytes>(stream)
                            .await
                            .unwrap();
                        while let Some(Ok((_, mut respond))) = server.accept().await {
                            let number = requests.fetch_add(1, Ordering::SeqCst);
                            if let Some(reason) = act(number) {
                                respond.send_reset(reason);
                                continue;
                            }
                            let (gate, waiting) = (gate.clone(), waiting.clone());
                            tokio::spawn(async move {
                                waiting.fetch_add(1, Ordering::SeqCst);
                                gate.acquire().await.unwrap().forget();
                                respond.send_response(Response::new(()), true).unwrap();
                            });
                        }
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        });
        endpoint
    }
}

fn serve(
    endpoint: &H2Endpoint,
    configure: impl FnOnce(&mut shard_proxy_forward::ForwardConfig),
) -> Shard {
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], configure);
    shard.backend("a", BackendProtocol::H2c, &[endpoint.address]);
    shard
}

#[test]
fn requests_beyond_what_a_connection_takes_get_another_up_to_the_limit() {
    let endpoint = H2Endpoint::start(4, 2, |_| None);
    let shard = serve(&endpoint, |config| config.endpoint_connections_max = 3);
    // The endpoint has told by then how many it takes.
    for _ in 0..2 {
        assert_eq!(status(&shard.connect().get("/")), 200);
    }
    assert_eq!(endpoint.connections.load(Ordering::SeqCst), 1);
    let mut clients: Vec<Client> = (0..12).map(|_| shard.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        // None waits for another to end: the endpoint holds all at once.
        wait_for(|| (endpoint.waiting.load(Ordering::SeqCst) == 2 + number + 1).then_some(()));
    }
    assert_eq!(endpoint.connections.load(Ordering::SeqCst), 3);
    let answer = shard.connect().get("/");
    assert_eq!(status(&answer), 503, "{answer}");
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "UO"), 1);
    endpoint.gate.add_permits(12);
    for client in &mut clients {
        assert_eq!(status(&client.response()), 200);
    }
}

#[test]
fn those_who_wait_for_a_connection_that_fails_fail_with_it() {
    // Takes no connection: its queue is full, and connects time out.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let queued: Vec<_> = (0..8)
        .map_while(|_| {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()
        })
        .collect();
    assert!(queued.len() < 8);
    let limit = Duration::from_secs(1);
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
        config.connect_timeout = limit;
    });
    shard.backend("a", BackendProtocol::H2c, &[address]);
    let begun = std::time::Instant::now();
    let mut clients: Vec<Client> = (0..8).map(|_| shard.connect()).collect();
    for client in &mut clients {
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(status(&client.response()), 503);
    }
    assert!(begun.elapsed() < limit * 4, "{:?}", begun.elapsed());
}

#[test]
fn shared_connections_close_when_unused_or_when_their_endpoint_has_left() {
    let endpoint = H2Endpoint::start(10, 1000, |_| None);
    let shard = serve(&endpoint, |config| {
        config.pool_idle_timeout = Duration::from_millis(50);
    });
    assert_eq!(status(&shard.connect().get("/")), 200);
    wait_for(|| (endpoint.open.load(Ordering::SeqCst) == 0).then_some(()));
    drop(shard);

    let shard = serve(&endpoint, |config| {
        config.pool_idle_timeout = Duration::from_secs(3600);
    });
    let backend = Scripted::ok();
    shard.backend("b", BackendProtocol::Http1, &[backend.address]);
    assert_eq!(status(&shard.connect().get("/")), 200);
    assert_eq!(endpoint.open.load(Ordering::SeqCst), 1);
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    wait_for(|| (endpoint.open.load(Ordering::SeqCst) == 0).then_some(()));
}

#[test]
fn a_request_that_the_endpoint_did_not_look_at_is_sent_again_whatever_its_method() {
    let endpoint = H2Endpoint::start(10, 1000, |number| {
        (number == 0).then_some(h2::Reason::REFUSED_STREAM)
    });
    let shard = serve(&endpoint, |_| {});
    let answer = shard.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(endpoint.requests.load(Ordering::SeqCst), 2);
    // It did look: a POST is not sent twice.
    let endpoint = H2Endpoint::start(10, 1000, |number| {
        (number == 0).then_some(h2::Reason::INTERNAL_ERROR)
    });
    let shard = serve(&endpoint, |_| {});
    let answer = shard.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status(&answer), 502, "{answer}");
    // Refused again and again: an end, and no loop.
    let endpoint = H2Endpoint::start(10, 1000, |_| Some(h2::Reason::REFUSED_STREAM));
    let shard = serve(&endpoint, |_| {});
    let answer = shard.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&answer), 502, "{answer}");
    assert_eq!(endpoint.requests.load(Ordering::SeqCst), 3);
}

#[test]
fn a_request_above_the_last_of_a_graceful_goaway_is_sent_again_elsewhere() {
    let endpoint = Scripted::new(|number, stream, _| {
        if number > 0 {
            stream.set_nonblocking(true).unwrap();
            let stream = stream.try_clone().unwrap();
            block_on(async {
                let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                let mut server = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            });
            return;
        }
        let frame = |kind: u8, body: &[u8]| {
            let mut bytes = vec![0, 0, body.len() as u8, kind, 0, 0, 0, 0, 0];
            bytes.extend_from_slice(body);
            bytes
        };
        stream.write_all(&frame(4, &[])).unwrap(); // SETTINGS
        stream.read_exact(&mut [0; 24]).unwrap(); // the preface
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize]).unwrap();
            if head[3] == 1 {
                break; // HEADERS: the request
            }
        }
        // GOAWAY, NO_ERROR: no stream was processed.
        stream.write_all(&frame(7, &[0; 8])).unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |_| {});
    shard.backend("a", BackendProtocol::H2c, &[endpoint.address]);
    let answer = shard.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(endpoint.connections(), 2);
}
