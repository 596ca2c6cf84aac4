//! Sockets follow what is active, whatever was prepared in between, and whoever had the address before.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};

use api::GatewayKey;
use api_snapshot::config::ListenerSpec;
use api_snapshot::facts::{Backend, BackendProtocol, Binding, Endpoint, EndpointAddress};
use api_telemetry::names;
use shard_proxy_forward::{DataPlane, ForwardConfig, PreparedGateway};
use support::{
    Client, Scripted, WAIT, backend_key, block_on, counter, listener, own_address, read_message,
    rule, status, table, wait_for,
};

/// A data plane with two workers and backends that answer with their names.
struct Pool {
    plane: DataPlane,
    config: ForwardConfig,
    _backends: Vec<Scripted>,
}

impl Pool {
    fn new(backends: &[&'static str]) -> Self {
        let mut config = ForwardConfig::new(own_address());
        config.workers = 2;
        let plane = DataPlane::start(config.clone()).unwrap();
        let backends = backends.iter().map(|name| {
            let text = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
                name.len()
            );
            let backend = Scripted::answering(text.leak());
            let endpoint = Endpoint::new(
                EndpointAddress::Ip(backend.address.ip()),
                backend.address.port(),
            );
            let endpoints = Backend {
                protocol: BackendProtocol::Http1,
                endpoints: vec![endpoint],
            };
            plane.set_backend(&backend_key(name), &endpoints);
            backend
        });
        Self {
            _backends: backends.collect(),
            config,
            plane,
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.config.target_address, port)
    }

    /// A revision of a Gateway that answers from one backend on some ports; each is bound as the port beside it.
    fn prepare(
        &self,
        gateway: &str,
        revision: u64,
        backend: &str,
        ports: &[(u16, u16)],
    ) -> PreparedGateway {
        let names: Vec<String> = ports.iter().map(|(port, _)| format!("p{port}")).collect();
        let mut rule = rule("/", &[(backend, 1)], vec![]);
        let attachment = rule.attachments[0].clone();
        rule.attachments.clear();
        let mut listeners = Vec::new();
        for (name, (port, _)) in names.iter().zip(ports) {
            let mut attachment = attachment.clone();
            attachment.listener = name.as_str().into();
            rule.attachments.push(attachment);
            let spec = ListenerSpec {
                port: *port,
                ..listener(None, None)
            };
            listeners.push((name.as_str(), spec));
        }
        let key = GatewayKey::new("shop", gateway);
        let table = table(&self.plane, &key, revision, listeners, vec![rule]);
        let bindings: BTreeMap<u16, Binding> = ports
            .iter()
            .map(|(port, target)| {
                let binding = Binding {
                    addresses: vec![],
                    public_port: *port,
                    target_port: *target,
                };
                (*port, binding)
            })
            .collect();
        self.plane.prepare(table, &bindings).unwrap()
    }

    fn activate(&self, prepared: PreparedGateway) {
        block_on(self.plane.activate(prepared));
    }

    fn remove(&self, gateway: &str) {
        block_on(self.plane.remove(&GatewayKey::new("shop", gateway)));
    }

    fn leave(&self, gateway: &str) {
        block_on(self.plane.leave(&GatewayKey::new("shop", gateway)));
    }

    fn connect(&self, port: u16) -> Client {
        let stream = TcpStream::connect(self.at(port)).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        Client(stream)
    }

    /// Who answers at a port, on connections that reach both workers.
    fn answers(&self, port: u16) -> Vec<String> {
        let mut names: Vec<String> = (0..20)
            .map(|_| name(&self.connect(port).get("/")))
            .collect();
        names.dedup();
        names
    }

    fn is_refused(&self, port: u16) -> bool {
        TcpStream::connect(self.at(port)).is_err()
    }
}

fn name(answer: &str) -> String {
    assert_eq!(status(answer), 200, "{answer}");
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

#[test]
fn a_port_that_one_prepared_step_removes_and_the_next_brings_back_serves() {
    let pool = Pool::new(&["a"]);
    pool.activate(pool.prepare("edge", 4, "a", &[(80, 18080), (81, 18081)]));
    let without = pool.prepare("edge", 5, "a", &[(80, 18080)]);
    let with = pool.prepare("edge", 6, "a", &[(80, 18080), (81, 18081)]);
    pool.activate(without);
    assert!(pool.is_refused(18081));
    pool.activate(with);
    assert_eq!(pool.answers(18081), ["a"]);
    let again = pool.prepare("edge", 8, "a", &[(80, 18080), (81, 18081)]);
    pool.remove("edge");
    assert!(pool.is_refused(18080) && pool.is_refused(18081));
    pool.activate(again);
    assert_eq!(pool.answers(18080), ["a"]);
    assert_eq!(pool.answers(18081), ["a"]);
}

#[test]
fn a_connection_let_in_by_one_prepared_step_is_served_by_the_next() {
    let pool = Pool::new(&["a", "b"]);
    let first = pool.prepare("edge", 1, "a", &[(80, 18080)]);
    let second = pool.prepare("edge", 2, "b", &[(80, 18080)]);
    pool.activate(first);
    let mut client = pool.connect(18080);
    assert_eq!(name(&client.get("/")), "a");
    pool.activate(second);
    assert_eq!(name(&client.get("/")), "b");
}

#[test]
fn an_address_moves_to_another_gateway_in_any_order() {
    for together in [false, true] {
        for a_first in [false, true] {
            let pool = Pool::new(&["a", "b"]);
            pool.activate(pool.prepare("a", 1, "a", &[(80, 18080)]));
            pool.activate(pool.prepare("b", 2, "b", &[(80, 18082)]));
            let a = pool.prepare("a", 3, "a", &[(80, 18081)]);
            let b = pool.prepare("b", 4, "b", &[(80, 18080)]);
            match (together, a_first) {
                (true, true) => block_on(pool.plane.activate_all(vec![a, b])),
                (true, false) => block_on(pool.plane.activate_all(vec![b, a])),
                (false, true) => {
                    pool.activate(a);
                    pool.activate(b);
                }
                (false, false) => {
                    pool.activate(b);
                    // Nobody's connections reach another's Gateway meanwhile.
                    assert_eq!(pool.answers(18080), ["a"]);
                    pool.activate(a);
                }
            }
            assert_eq!(pool.answers(18080), ["b"], "{together} {a_first}");
            assert_eq!(pool.answers(18081), ["a"], "{together} {a_first}");
            assert!(pool.is_refused(18082));
            assert_eq!(pool.plane.sockets().len(), 2);
            pool.remove("a");
            assert_eq!(pool.answers(18080), ["b"]);
        }
    }
}

#[test]
fn an_address_that_waits_for_a_gateway_that_is_removed_opens_then() {
    let pool = Pool::new(&["a", "b"]);
    pool.activate(pool.prepare("a", 1, "a", &[(80, 18080)]));
    pool.activate(pool.prepare("b", 2, "b", &[(80, 18080)]));
    assert_eq!(pool.answers(18080), ["a"]);
    assert_eq!(counter(&pool.plane, names::SOCKETS_WAITING, ""), 1);
    pool.remove("a");
    assert_eq!(pool.answers(18080), ["b"]);
    assert_eq!(counter(&pool.plane, names::SOCKETS_WAITING, ""), 0);
}

#[test]
fn a_socket_whose_listener_changes_is_bound_anew() {
    let pool = Pool::new(&["a"]);
    pool.activate(pool.prepare("edge", 1, "a", &[(80, 18080)]));
    pool.activate(pool.prepare("edge", 2, "a", &[(90, 18080)]));
    assert_eq!(pool.answers(18080), ["a"]);
    let sockets = pool.plane.sockets();
    assert_eq!(sockets.len(), 1);
    assert_eq!(sockets[0].2, 90);
}

#[test]
fn connections_of_a_removed_gateway_are_told_to_end() {
    let pool = Pool::new(&["a"]);
    pool.activate(pool.prepare("edge", 1, "a", &[(80, 18080)]));
    let mut idle = pool.connect(18080);
    assert_eq!(name(&idle.get("/")), "a");
    pool.remove("edge");
    assert_eq!(read_message(&mut idle.0), None);
    wait_for(|| (pool.plane.load().connections == 0).then_some(()));
}

#[test]
fn a_gateway_that_leaves_serves_the_connections_that_are_open_to_their_end() {
    let pool = Pool::new(&["a"]);
    pool.activate(pool.prepare("edge", 1, "a", &[(80, 18080)]));
    let mut client = pool.connect(18080);
    assert_eq!(name(&client.get("/")), "a");
    let mut silent = pool.connect(18080);
    wait_for(|| (pool.plane.load().connections == 2).then_some(()));
    pool.leave("edge");
    // What it needs is taken away with it.
    pool.plane.remove_backend(&backend_key("a"));
    assert!(pool.is_refused(18080));
    let answer = client.get("/");
    assert_eq!(name(&answer), "a");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(client.is_closed());
    assert_eq!(
        read_message(&mut silent.0),
        None,
        "it is waited for no longer"
    );
    wait_for(|| (pool.plane.load().connections == 0).then_some(()));
    // It may come back.
    pool.activate(pool.prepare("edge", 1, "a", &[(80, 18080)]));
    assert!(pool.connect(18080).get("/").starts_with("HTTP/1.1 "));
}

#[test]
fn a_connection_from_a_socket_that_closed_before_ends_with_its_next_answer() {
    let pool = Pool::new(&["a"]);
    pool.activate(pool.prepare("edge", 1, "a", &[(80, 18080)]));
    let mut client = pool.connect(18080);
    assert_eq!(name(&client.get("/")), "a");
    pool.activate(pool.prepare("edge", 2, "a", &[(81, 18081)]));
    pool.remove("edge");
    let answer = client.get("/");
    assert_eq!(status(&answer), 404);
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(client.is_closed());
}
