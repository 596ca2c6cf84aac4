//! Draining: what runs ends, what waits is told, nothing new is lost.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_snapshot::facts::BackendProtocol;
use support::{Client, Scripted, Shard, WAIT, block_on, read_message, rule, status, wait_for};

/// Whether nobody listens at an address. The answer comes late for a SYN that a closing socket dropped.
fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn a_request_in_flight_ends_and_its_connection_is_told_to_close() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let backend = Scripted::new(move |_, stream: &mut TcpStream, _| {
        while read_message(stream).is_some() {
            released.lock().unwrap().recv_timeout(WAIT).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
        }
    });
    let shard = Arc::new(Shard::with(vec![rule("/", &[("a", 1)], vec![])], |_| {}));
    shard.backend("a", BackendProtocol::Http1, &[backend.address]);
    let mut running = shard.connect();
    running.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for(|| (shard.plane.load().requests_in_flight == 1).then_some(()));
    let draining = Arc::clone(&shard);
    let drain = std::thread::spawn(move || block_on(draining.plane.drain(Duration::from_secs(8))));
    // The drain has reached the worker once nobody listens any more.
    wait_for(|| is_refused(shard.address).then_some(()));
    release.send(()).unwrap();
    let answer = running.response();
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(running.is_closed());
    assert!(drain.join().unwrap(), "all ended in time");
}

#[test]
fn a_deadline_ends_the_wait() {
    let backend = Scripted::new(|_, stream: &mut TcpStream, _| {
        let _ = read_message(stream);
        let _ = read_message(stream);
    });
    let shard = Shard::of(backend.address);
    let mut client = shard.connect();
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for(|| (shard.plane.load().requests_in_flight == 1).then_some(()));
    assert!(!block_on(shard.plane.drain(Duration::from_millis(100))));
}

#[test]
fn connections_that_wait_to_be_accepted_are_served() {
    let backend = Scripted::ok();
    let shard = Arc::new(Shard::of(backend.address));
    drop(shard.connect());
    // Made faster than one worker accepts: some of them wait in the socket when it closes.
    let mut clients: Vec<Client> = (0..200).map(|_| shard.connect()).collect();
    let draining = Arc::clone(&shard);
    let drain = std::thread::spawn(move || block_on(draining.plane.drain(Duration::from_secs(8))));
    for client in &mut clients {
        assert_eq!(status(&client.get("/")), 200);
    }
    assert!(drain.join().unwrap(), "all ended in time");
    assert!(is_refused(shard.address));
}

/// A connection gets a second for its first byte, also when idle ones are closed at once.
#[test]
fn a_fresh_connection_outlives_the_close_of_idle_ones() {
    let fresh_is_served = || {
        let backend = Scripted::ok();
        let shard = Arc::new(Shard::of(backend.address));
        let mut idle = shard.connect();
        assert_eq!(status(&idle.get("/")), 200);
        let mut fresh = shard.connect();
        let accepted = Instant::now();
        let draining = Arc::clone(&shard);
        let drain =
            std::thread::spawn(move || block_on(draining.plane.drain(Duration::from_millis(200))));
        assert!(idle.is_closed());
        let asked = fresh.0.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let served = asked.is_ok() && status(&fresh.response()) == 200;
        drain.join().unwrap();
        // A machine that was busy elsewhere for that long says nothing.
        (accepted.elapsed() < Duration::from_millis(900)).then_some(served)
    };
    assert!(wait_for(fresh_is_served));
}

#[test]
fn a_sibling_on_the_same_address_takes_over_without_a_failed_request() {
    let one = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let two = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
    let rules = || vec![rule("/", &[("a", 1)], vec![])];
    let leaving = Shard::with(rules(), |_| {});
    leaving.backend("a", BackendProtocol::Http1, &[one.address]);
    let address = leaving.address;
    let staying = Shard::with(rules(), |config| config.target_address = address.ip());
    staying.backend("a", BackendProtocol::Http1, &[two.address]);
    drop(leaving.connect());

    let counts = Arc::new([const { AtomicU64::new(0) }; 3]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = TcpStream::connect(address).ok().map(|stream| {
                        stream.set_read_timeout(Some(WAIT)).unwrap();
                        let mut client = Client(stream);
                        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
                        client.0.write_all(request).map(|()| client.response())
                    });
                    let who = match answer {
                        Some(Ok(answer)) if answer.ends_with("one") => 0,
                        Some(Ok(answer)) if answer.ends_with("two") => 1,
                        _ => 2,
                    };
                    counts[who].fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let reached = |who: usize, count: u64| {
        wait_for(|| (counts[who].load(Ordering::SeqCst) >= count).then_some(()));
    };
    reached(0, 100);
    reached(1, 100);
    assert!(block_on(leaving.plane.drain(Duration::from_secs(8))));
    let before = counts[1].load(Ordering::SeqCst);
    reached(1, before + 100);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let failed = counts[2].load(Ordering::SeqCst);
    assert_eq!(failed, 0, "requests failed while one shard left");
}
