//! Draining: what runs ends, what waits is told, nothing new is lost.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_snapshot::facts::BackendProtocol;
use support::{Scripted, Shard, WAIT, block_on, read_message, rule, status, wait_for};

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
    let mut fresh = shard.connect(); // has not sent anything yet
    wait_for(|| (shard.plane.load().connections == 2).then_some(()));
    let draining = Arc::clone(&shard);
    let drain = std::thread::spawn(move || block_on(draining.plane.drain(Duration::from_secs(8))));
    // The drain has reached the worker once an answer says so.
    let mut late = shard.connect();
    for _ in 0..3 {
        release.send(()).unwrap();
    }
    let answer = running.response();
    assert!(answer.ends_with("ok"), "{answer}");
    fresh.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&fresh.response()), 200);
    late.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = late.response();
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(late.is_closed());
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
