//! Settings of the request path, with their defaults.

use std::net::IpAddr;
use std::time::Duration;

/// Header lines that hyper parses on the stack; another limit costs an allocation for each request.
pub(crate) const HEADERS_WITHOUT_ALLOCATION: usize = 100;

/// Settings of the request path.
#[derive(Debug, Clone)]
pub struct ForwardConfig {
    /// Worker threads. Default: one for each core.
    pub workers: usize,
    /// Address on which target ports are bound: the shard's own.
    pub target_address: IpAddr,
    /// Connections that wait for `accept`, for each socket. Default: 4096.
    pub backlog: i32,
    /// Open client connections of the process; one more is closed at once. Default: 50,000.
    pub connections_max: usize,
    /// Bytes of a request's or response's head; a larger one gets 431 or 502. Default: 64 KiB.
    pub head_bytes_max: usize,
    /// Header lines of a request or of a response; more get 431 or 502. Default: 100, which is parsed without an
    /// allocation.
    pub headers_max: usize,
    /// Concurrent streams of a client's HTTP/2 connection. Default: 128.
    pub h2_streams_max: u32,
    /// Requests of one HTTP/2 connection that its client resets within 1 s of their start, in 10 s; one more closes the
    /// connection. Default: 200.
    pub h2_resets_max: u32,
    /// Time for a TLS handshake. Default: 10 s.
    pub tls_handshake_timeout: Duration,
    /// Time for a request's head, also that of an idle connection: HTTP/1.1 kept alive, HTTP/2 without a stream.
    /// Default: 60 s.
    pub head_timeout: Duration,
    /// Time without a byte of a request's body (then 408), or without the client taking a byte of what is written to
    /// it (then its connection is closed). Default: 60 s.
    pub client_idle_timeout: Duration,
    /// Time for one connect to an endpoint. Default: 3 s.
    pub connect_timeout: Duration,
    /// Time without a byte from the endpoint, before the head or within the body; what the client still sends counts as
    /// well. Default: 60 s.
    pub upstream_idle_timeout: Duration,
    /// Time that an unused connection to an endpoint is kept. Default: 30 s (below the 60 s of most servers).
    pub pool_idle_timeout: Duration,
    /// Connections to one endpoint, for each worker; a request beyond gets 503. Default: 1024.
    pub endpoint_connections_max: usize,
    /// Unused connections kept to one endpoint, for each worker. Default: 128.
    pub pool_idle_max: usize,
    /// Topology zone that the shard runs in, if known: endpoints that are for this zone come first. Default: none.
    pub zone: Option<String>,
    /// Name of the node that the shard runs on, if known: endpoints that are for this node come before those of the zone.
    /// Default: none.
    pub node: Option<String>,
    /// Whether each request is logged.
    pub access_log: bool,
}

impl ForwardConfig {
    /// Defaults, for a shard with the given address of its own.
    pub fn new(target_address: IpAddr) -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            target_address,
            backlog: 4096,
            connections_max: 50_000,
            head_bytes_max: 64 * 1024,
            headers_max: HEADERS_WITHOUT_ALLOCATION,
            h2_streams_max: 128,
            h2_resets_max: 200,
            tls_handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(60),
            client_idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(3),
            upstream_idle_timeout: Duration::from_secs(60),
            pool_idle_timeout: Duration::from_secs(30),
            endpoint_connections_max: 1024,
            pool_idle_max: 128,
            zone: None,
            node: None,
            access_log: true,
        }
    }
}
