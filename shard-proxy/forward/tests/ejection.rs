//! Endpoints that are passed over, those that are preferred, and the budget of what is sent again.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_snapshot::config::Timeouts;
use api_snapshot::facts::{Backend, BackendProtocol, Endpoint, EndpointAddress};
use api_telemetry::names;
use support::{Client, Scripted, Shard, backend_key, read_message, rule, status, wait_for};

/// Reads a request and breaks off, until it is told to be well.
fn breaking(well: &Arc<AtomicBool>) -> Scripted {
    let well = Arc::clone(well);
    Scripted::new(move |_, stream, seen| {
        while let Some(request) = read_message(stream) {
            seen.lock().unwrap().push(request);
            if !well.load(Ordering::SeqCst) {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

fn ejected(shard: &Shard) -> u64 {
    shard.counter(names::UPSTREAM_ENDPOINTS_EJECTED, "")
}

#[test]
fn an_endpoint_that_gives_no_answer_is_ejected_and_one_request_finds_out_that_it_is_back() {
    let well = Arc::new(AtomicBool::new(false));
    let (bad, good) = (breaking(&well), Scripted::ok());
    let shard = Shard::of(good.address);
    let endpoints = [bad.address, good.address];
    shard.backend("a", BackendProtocol::Http1, &endpoints);
    let mut client = shard.connect();
    let failed = (0..60).filter(|_| status(&client.get("/")) != 200).count();
    assert_eq!((failed, bad.seen().len()), (5, 5));
    assert_eq!(shard.counter(names::UPSTREAM_EJECTIONS, "response"), 1);
    assert_eq!(ejected(&shard), 1);
    // Its time runs out, and it is still no better: one request pays for that.
    let failed = wait_for(|| {
        std::thread::sleep(Duration::from_millis(20)); // seconds of requests would tell no more
        (status(&client.get("/")) != 200).then_some(1)
    });
    let others = (0..60).filter(|_| status(&client.get("/")) != 200).count();
    assert_eq!((failed + others, bad.seen().len()), (1, 6));
    assert_eq!(shard.counter(names::UPSTREAM_EJECTIONS, "response"), 2);
    // An endpoint that comes keeps the others as they are; one that is new under the same name is another.
    let third = Scripted::ok();
    let with_third = [bad.address, good.address, third.address];
    shard.backend("a", BackendProtocol::Http1, &with_third);
    assert_eq!(ejected(&shard), 1);
    shard.backend("a", BackendProtocol::Http1, &[good.address]);
    wait_for(|| (ejected(&shard) == 0).then_some(()));
    well.store(true, Ordering::SeqCst);
    shard.backend("a", BackendProtocol::Http1, &endpoints);
    for _ in 0..200 {
        assert_eq!(status(&client.get("/")), 200);
    }
    assert!(bad.seen().len() > 6);
}

#[test]
fn the_only_endpoint_is_never_ejected() {
    let well = Arc::new(AtomicBool::new(false));
    let bad = breaking(&well);
    let shard = Shard::of(bad.address);
    for _ in 0..20 {
        assert_eq!(status(&shard.connect().get("/")), 502);
    }
    assert_eq!(ejected(&shard), 0);
    well.store(true, Ordering::SeqCst);
    assert_eq!(status(&shard.connect().get("/")), 200);
    // One that refuses is tried each time as well: nothing else is left.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    shard.backend("a", BackendProtocol::Http1, &[address]);
    for _ in 0..5 {
        assert_eq!(status(&shard.connect().get("/")), 503);
    }
    assert_eq!(shard.counter(names::UPSTREAM_CONNECTS, "failed"), 5);
    assert_eq!(shard.counter(names::UPSTREAM_EJECTIONS, "connect"), 1);
}

#[test]
fn clients_that_do_not_send_their_bodies_eject_no_endpoint() {
    let mut timed = rule("/", &[("a", 1)], vec![]);
    timed.timeouts = Timeouts {
        request_ms: Some(1000),
        backend_request_ms: None,
    };
    let shard = Shard::with(vec![timed], |_| {});
    let backends = [Scripted::ok(), Scripted::ok()];
    let endpoints = backends.each_ref().map(|backend| backend.address);
    shard.backend("a", BackendProtocol::Http1, &endpoints);
    let mut clients: Vec<Client> = (0..30).map(|_| shard.connect()).collect();
    for client in &mut clients {
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
    }
    for client in &mut clients {
        assert_eq!(status(&client.response()), 504);
    }
    assert_eq!(shard.counter(names::UPSTREAM_EJECTIONS, ""), 0);
}

/// An address at which connects time out: its queue is full.
fn deaf() -> (SocketAddr, socket2::Socket, Vec<std::net::TcpStream>) {
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
    (address, socket, queued)
}

#[test]
fn a_backend_that_is_down_gets_no_multiple_of_its_load() {
    let down = [deaf(), deaf(), deaf()];
    let endpoints = down.each_ref().map(|(address, ..)| *address);
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
        config.connect_timeout = Duration::from_secs(1);
    });
    shard.backend("a", BackendProtocol::Http1, &endpoints);
    let mut clients: Vec<Client> = (0..150).map(|_| shard.connect()).collect();
    for client in &mut clients {
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(status(&client.response()), 503);
    }
    // Some are sent again, twice at most, and the others are not.
    let refused = shard.counter(names::UPSTREAM_RETRIES_REFUSED, "");
    let retries = shard.counter(names::UPSTREAM_RETRIES, "");
    let connects = shard.counter(names::UPSTREAM_CONNECTS, "failed");
    assert_eq!(connects, 150 + retries);
    assert!(retries <= 2 * (150 - refused), "{refused} {retries}");
    assert!(refused > 0 && retries > 0, "{refused} {retries}");
}

/// Serves from endpoints, each for a zone.
fn serve_zones(shard: &Shard, endpoints: &[(SocketAddr, &str)]) {
    let endpoints = endpoints.iter().map(|(address, zone)| Endpoint {
        for_zones: vec![(*zone).into()],
        ..Endpoint::new(EndpointAddress::Ip(address.ip()), address.port())
    });
    let backend = Backend {
        protocol: BackendProtocol::Http1,
        endpoints: endpoints.collect(),
    };
    shard.plane.set_backend(&backend_key("a"), &backend);
}

#[test]
fn endpoints_of_the_own_zone_serve_until_none_of_them_does() {
    let backends: BTreeMap<_, _> = ["a", "b"].map(|zone| (zone, Scripted::ok())).into();
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
        config.zone = Some("a".into());
    });
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = closed.local_addr().unwrap();
    drop(closed);
    let mut client = shard.connect();
    let mut ask = |count: usize| {
        for _ in 0..count {
            assert_eq!(status(&client.get("/")), 200);
        }
        backends
            .values()
            .map(|of| of.seen().len())
            .collect::<Vec<_>>()
    };
    let far = backends["b"].address;
    serve_zones(&shard, &[(backends["a"].address, "a"), (far, "b")]);
    assert_eq!(ask(50), [50, 0]);
    // The near one refuses: a request that it got goes on to the far one, the others go there at once.
    serve_zones(&shard, &[(refusing, "a"), (far, "b")]);
    assert_eq!(ask(50), [50, 50]);
    assert_eq!(shard.counter(names::UPSTREAM_RETRIES, ""), 1);
    serve_zones(&shard, &[(backends["a"].address, "a"), (far, "b")]);
    assert_eq!(ask(50), [100, 50]);
}

#[test]
fn what_the_near_endpoint_has_no_connection_for_goes_to_the_far_one() {
    let holding = Scripted::new(|_, stream, seen| {
        while let Some(request) = read_message(stream) {
            seen.lock().unwrap().push(request);
        }
    });
    let far = Scripted::ok();
    let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
        config.zone = Some("a".into());
        config.endpoint_connections_max = 1;
    });
    serve_zones(&shard, &[(holding.address, "a"), (far.address, "b")]);
    let mut waiting = shard.connect();
    waiting.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for(|| (holding.seen().len() == 1).then_some(()));
    for _ in 0..10 {
        assert_eq!(status(&shard.connect().get("/")), 200);
    }
    assert_eq!((holding.seen().len(), far.seen().len()), (1, 10));
    serve_zones(&shard, &[(holding.address, "a")]);
    assert_eq!(status(&shard.connect().get("/")), 503);
    assert_eq!(shard.counter(names::REQUEST_FAILURES, "UO"), 1);
}

#[test]
fn an_attempt_that_cannot_connect_in_its_time_leaves_the_request_to_another_endpoint() {
    let (down, ..) = &deaf();
    let good = Scripted::ok();
    let mut timed = rule("/", &[("a", 1)], vec![]);
    timed.timeouts.backend_request_ms = Some(500);
    let mut short = rule("/short", &[("a", 1)], vec![]);
    short.timeouts.request_ms = Some(500);
    let shard = Shard::with(vec![timed, short], |_| {});
    shard.backend("a", BackendProtocol::Http1, &[*down, good.address]);
    let mut client = shard.connect();
    wait_for(|| {
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(status(&client.response()), 200);
        (shard.counter(names::UPSTREAM_RETRIES, "") == 1).then_some(())
    });
    // The request's own time is not exceeded for it.
    shard.backend("a", BackendProtocol::Http1, &[*down]);
    assert_eq!(status(&client.get("/short")), 504);
    assert_eq!(shard.counter(names::UPSTREAM_RETRIES, ""), 1);
}

#[test]
fn an_endpoint_that_answers_nonsense_is_ejected_on_kept_connections_too() {
    // Its first answer on each connection is sound.
    let bad = Scripted::new(|_, stream, seen| {
        let sound = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for answer in [sound, "nonsense\r\n\r\n"] {
            let Some(request) = read_message(stream) else {
                return;
            };
            seen.lock().unwrap().push(request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let good = Scripted::ok();
    let shard = Shard::of(bad.address);
    let mut clients: Vec<Client> = (0..6).map(|_| shard.connect()).collect();
    // Each request holds a connection of its own until all of them have one.
    for client in &mut clients {
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    }
    wait_for(|| (shard.counter(names::UPSTREAM_CONNECTIONS_ACTIVE, "") == 6).then_some(()));
    for client in &mut clients {
        client.write(b"x");
        assert_eq!(status(&client.response()), 200);
    }
    shard.backend("a", BackendProtocol::Http1, &[bad.address, good.address]);
    let mut client = shard.connect();
    wait_for(|| {
        let _ = client.get("/");
        (shard.counter(names::UPSTREAM_EJECTIONS, "response") == 1).then_some(())
    });
    assert!(shard.counter(names::REQUEST_FAILURES, "UPE") >= 5);
}
