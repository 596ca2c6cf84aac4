//! Sockets as they are in a cluster: target ports alone, on every address, behind a Service that knows the listener's port.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};

use api::GatewayKey;
use api_snapshot::config::{Filter, ListenerSpec, Redirect};
use api_snapshot::facts::{Backend, BackendProtocol, Binding, Endpoint, EndpointAddress};
use shard_proxy_forward::{DataPlane, ForwardConfig};
use support::access::AccessLog;
use support::{
    Client, Scripted, WAIT, backend_key, block_on, listener, rule, status, table, wait_for,
};

#[test]
fn clients_and_ports_are_named_as_they_are_outside_of_the_pod() {
    let log = AccessLog::keep();
    let backend = Scripted::ok();
    let mut config = ForwardConfig::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    config.workers = 2;
    let plane = DataPlane::start(config).unwrap();
    let endpoint = Endpoint::new(
        EndpointAddress::Ip(backend.address.ip()),
        backend.address.port(),
    );
    let endpoints = Backend {
        protocol: BackendProtocol::Http1,
        endpoints: vec![endpoint],
    };
    plane.set_backend(&backend_key("a"), &endpoints);
    let redirect = |port| {
        Filter::Redirect(Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port,
            status: 302,
        })
    };
    let gateway = GatewayKey::new("shop", "edge");
    let on = |port| ListenerSpec {
        port,
        ..listener(None, None)
    };
    let mut rules = vec![
        rule("/", &[("a", 1)], vec![]),
        rule("/away", &[], vec![redirect(None)]),
        rule("/other", &[], vec![redirect(Some(8080))]),
    ];
    for rule in &mut rules {
        let mut alt = rule.attachments[0].clone();
        alt.listener = "alt".into();
        rule.attachments.push(alt);
    }
    let table = table(
        &plane,
        &gateway,
        1,
        vec![("web", on(80)), ("alt", on(8080))],
        rules,
    );
    // Ports that were free a moment ago.
    let ports = [80, 8080].map(|port| {
        let free = TcpListener::bind("[::]:0").unwrap();
        (port, free.local_addr().unwrap().port())
    });
    let bindings = ports.map(|(port, target_port)| {
        let binding = Binding {
            addresses: vec![],
            public_port: port,
            target_port,
        };
        (port, binding)
    });
    let prepared = plane.prepare(table, &bindings.into()).unwrap();
    block_on(plane.activate(prepared));

    for (port, target) in ports {
        for client in ["127.0.0.1", "::1"] {
            let to: IpAddr = client.parse().unwrap();
            let stream = wait_for(|| TcpStream::connect((to, target)).ok());
            stream.set_read_timeout(Some(WAIT)).unwrap();
            let local = stream.local_addr().unwrap();
            let mut connection = Client(stream);
            assert_eq!(status(&connection.get("/")), 200);
            let seen = backend.seen().pop().unwrap().to_ascii_lowercase();
            for line in [
                format!("x-forwarded-for: {client}\r\n"),
                format!("x-forwarded-port: {port}\r\n"),
            ] {
                assert!(seen.contains(&line), "{line} is not in {seen}");
            }
            log.has(&format!("peer={local} "));
            // The port of the connection and the one that a client's Host names are nobody's.
            let suffix = if port == 80 { "" } else { ":8080" };
            for (path, suffix) in [("/away", suffix), ("/other", ":8080")] {
                connection.write(
                    format!("GET {path} HTTP/1.1\r\nHost: a.test:{target}\r\n\r\n").as_bytes(),
                );
                let answer = connection.response();
                let expected = format!("location: http://a.test{suffix}{path}\r\n");
                assert!(answer.contains(&expected), "{answer}");
            }
        }
    }
}
