//! A data plane on a loopback address of its own, clients that write raw bytes, and backends that do as told.
#![allow(dead_code, unreachable_pub)] // each test file uses its part
#![allow(clippy::unwrap_used, missing_docs)] // a failed unwrap is a failed test

pub mod access;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{BackendKey, CertificateKey, GatewayKey, Revision, RouteKey, TenantId, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, Filter, GatewayEntry, GatewayEntryKey, GatewaySpec,
    ListenerProtocol, ListenerSpec, PathMatch, RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use api_snapshot::facts::{Backend, BackendProtocol, Binding, Endpoint, EndpointAddress};
use api_snapshot::{Op, SetHash};
use api_telemetry::metrics::{Desc, HistogramValue, Labels, Sink};
use shard_proxy_forward::{DataPlane, ForwardConfig, GatewayTable};

pub const WAIT: Duration = Duration::from_secs(10);
pub const PORT: u16 = 8080;

/// A data plane that serves one Gateway.
pub struct Shard {
    pub plane: DataPlane,
    pub address: SocketAddr,
    pub gateway: GatewayKey,
}

/// A TLS client that trusts these and asks for HTTP/2.
pub fn http2_over_tls(roots: rustls::RootCertStore) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// An address that no other test of any process uses.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    let [_, _, high, low] = process.to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, 64 + (high & 63), low, last))
}

pub fn backend_key(name: &str) -> BackendKey {
    BackendKey::new("shop", name, 80)
}

pub fn listener(hostname: Option<&str>, certificate: Option<&str>) -> ListenerSpec {
    ListenerSpec {
        port: PORT,
        protocol: if certificate.is_some() {
            ListenerProtocol::Https
        } else {
            ListenerProtocol::Http
        },
        hostname: hostname.map(str::to_owned),
        certificates: certificate
            .map(|name| CertificateKey::new("shop", name))
            .into_iter()
            .collect(),
    }
}

/// A rule for a path prefix of all hosts of listener `web`.
pub fn rule(prefix: &str, backends: &[(&str, u32)], filters: Vec<Filter>) -> RuleSpec {
    RuleSpec {
        name: None,
        created_at: Timestamp(0),
        attachments: vec![Attachment {
            listener: "web".into(),
            hosts: vec![AttachedHost {
                host: None,
                route_host: None,
            }],
        }],
        matches: vec![RouteMatch {
            path: PathMatch::Prefix(prefix.into()),
            method: None,
            headers: vec![],
            query: vec![],
        }],
        filters,
        backends: backends
            .iter()
            .map(|(name, weight)| WeightedBackend {
                target: BackendTarget::Backend(backend_key(name)),
                weight: *weight,
                filters: vec![],
            })
            .collect(),
        timeouts: Timeouts::default(),
    }
}

impl Shard {
    /// Serves everything from one HTTP/1.1 backend.
    pub fn of(backend: SocketAddr) -> Self {
        let shard = Self::with(vec![rule("/", &[("a", 1)], vec![])], |_| {});
        shard.backend("a", BackendProtocol::Http1, &[backend]);
        shard
    }

    pub fn with(rules: Vec<RuleSpec>, configure: impl FnOnce(&mut ForwardConfig)) -> Self {
        Self::serving(
            vec![("web", listener(None, None))],
            rules,
            configure,
            |_| {},
        )
    }

    pub fn serving(
        listeners: Vec<(&str, ListenerSpec)>,
        rules: Vec<RuleSpec>,
        configure: impl FnOnce(&mut ForwardConfig),
        facts: impl FnOnce(&DataPlane),
    ) -> Self {
        let mut config = ForwardConfig::new(own_address());
        config.workers = 1;
        configure(&mut config);
        let address = SocketAddr::new(config.target_address, 18080);
        let plane = DataPlane::start(config).unwrap();
        facts(&plane);
        let gateway = GatewayKey::new("shop", "edge");
        let shard = Self {
            plane,
            address,
            gateway,
        };
        shard.serve(listeners, rules);
        shard
    }

    /// Replaces all that is served.
    pub fn serve(&self, listeners: Vec<(&str, ListenerSpec)>, rules: Vec<RuleSpec>) {
        let table = table(&self.plane, &self.gateway, 1, listeners, rules);
        // A privileged port is reached 10000 above, as where it may not be bound.
        let binding = |port: u16| Binding {
            addresses: vec![],
            public_port: if port < 1024 { port + 10_000 } else { port },
            target_port: self.address.port() - PORT + port,
        };
        let bindings: BTreeMap<_, _> = table.ports().map(|port| (port, binding(port))).collect();
        let prepared = self.plane.prepare(table, &bindings).unwrap();
        block_on(self.plane.activate(prepared));
    }

    pub fn backend(&self, name: &str, protocol: BackendProtocol, endpoints: &[SocketAddr]) {
        let endpoints = endpoints
            .iter()
            .map(|address| Endpoint::new(EndpointAddress::Ip(address.ip()), address.port()))
            .collect();
        self.plane.set_backend(
            &backend_key(name),
            &Backend {
                protocol,
                endpoints,
            },
        );
    }

    pub fn connect(&self) -> Client {
        // The worker opens its socket a moment after `activate`.
        let stream = wait_for(|| TcpStream::connect(self.address).ok());
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &[u8]) -> String {
        let mut client = self.connect();
        client.write(request);
        client.response()
    }

    /// Sum of a counter over the series that have `value` as a label's value; over all for an empty one.
    pub fn counter(&self, desc: &'static Desc, value: &str) -> u64 {
        counter(&self.plane, desc, value)
    }
}

/// As [`Shard::counter`], and the same for a gauge.
pub fn counter(plane: &DataPlane, desc: &'static Desc, value: &str) -> u64 {
    struct Sum<'a>(&'static Desc, &'a str, u64);
    impl Sink for Sum<'_> {
        fn counter(&mut self, desc: &'static Desc, labels: Labels<'_>, value: u64) {
            let wanted = self.1.is_empty() || labels.iter().any(|(_, of)| *of == self.1);
            if desc.name == self.0.name && wanted {
                self.2 += value;
            }
        }
        fn gauge(&mut self, desc: &'static Desc, labels: Labels<'_>, value: f64) {
            self.counter(desc, labels, value as u64);
        }
        fn histogram(&mut self, _: &'static Desc, _: Labels<'_>, _: &HistogramValue) {}
    }
    let mut sum = Sum(desc, value, 0);
    plane.metrics().collect(&mut sum);
    sum.2
}

/// A Gateway's table as the operator would send it whole.
pub fn table(
    plane: &DataPlane,
    gateway: &GatewayKey,
    revision: u64,
    listeners: Vec<(&str, ListenerSpec)>,
    rules: Vec<RuleSpec>,
) -> GatewayTable {
    let spec = GatewaySpec {
        tenant: TenantId("shop".into()),
        uid: "1".into(),
        generation: 1,
    };
    let mut ops = vec![Op::put(
        &GatewayEntryKey::Gateway,
        &GatewayEntry::Gateway(spec),
    )];
    for (name, spec) in listeners {
        ops.push(Op::put(
            &GatewayEntryKey::Listener(name.into()),
            &GatewayEntry::Listener(spec),
        ));
    }
    for (index, rule) in (0..).zip(rules) {
        ops.push(Op::put(
            &GatewayEntryKey::Rule(RouteKey::http("shop", "route"), index),
            &GatewayEntry::Rule(rule),
        ));
    }
    let hash = ops.iter().fold(SetHash::default(), |hash, op| {
        hash.plus(SetHash::of(&op.key, op.value.as_deref().unwrap()))
    });
    GatewayTable::empty(gateway.clone())
        .apply(
            Revision(0),
            Revision(revision),
            true,
            &ops,
            hash,
            &mut |key| plane.backend_handle(key),
        )
        .unwrap()
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Asks until there is an answer.
pub fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WAIT;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain");
        std::thread::yield_now();
    }
}

pub struct Client(pub TcpStream);

impl Client {
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn get(&mut self, path: &str) -> String {
        self.write(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes());
        self.response()
    }

    /// One response, to its end.
    pub fn response(&mut self) -> String {
        read_message(&mut self.0).unwrap_or_default()
    }

    /// Whether the proxy closes the connection.
    pub fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 64]), Ok(count) if count > 0)
    }
}

pub fn status(response: &str) -> u16 {
    response
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

/// Reads one message, byte by byte; none at the end of the stream.
pub fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut one = [0];
    let ended = |bytes: &[u8]| -> bool {
        let text = String::from_utf8_lossy(bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return false;
        };
        let head = head.to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            return body.starts_with("0\r\n") && body.ends_with("\r\n\r\n")
                || body.contains("\r\n0\r\n") && body.ends_with("\r\n\r\n");
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.trim().parse().ok())
            .unwrap_or(0);
        body.len() >= length
    };
    while !ended(&bytes) {
        match stream.read(&mut one) {
            Ok(1) => bytes.push(one[0]),
            _ if bytes.is_empty() => return None,
            _ => break,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A backend of which each connection runs a function of its own, told the connection's number.
pub struct Scripted {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicU8>,
}

impl Scripted {
    pub fn new(
        run: impl Fn(u8, &mut TcpStream, &Mutex<Vec<String>>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicU8::new(0));
        let (shared, count, run) = (Arc::clone(&seen), Arc::clone(&connections), Arc::new(run));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (shared, run) = (Arc::clone(&shared), Arc::clone(&run));
                std::thread::spawn(move || run(number, &mut stream, &shared));
            }
        });
        Self {
            address,
            seen,
            connections,
        }
    }

    /// Answers every request with the same bytes, and keeps what it was sent.
    pub fn answering(response: &'static str) -> Self {
        Self::new(move |_, stream, seen| {
            while let Some(request) = read_message(stream) {
                seen.lock().unwrap().push(request);
                if stream.write_all(response.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    pub fn ok() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u8 {
        self.connections.load(Ordering::SeqCst)
    }
}
