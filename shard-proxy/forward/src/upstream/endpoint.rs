//! One endpoint: what is counted of it, and whether it is passed over for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use api_snapshot::facts::{BackendProtocol, EndpointAddress};

/// How long an endpoint is passed over after the first failed connect; doubled by each further one.
const EJECTION_MIN: Duration = Duration::from_secs(1);
/// Longest time that it is passed over. Short: one request finds out whether it is back.
const EJECTION_MAX: Duration = Duration::from_secs(10);

/// One endpoint. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) address: EndpointAddress,
    pub(crate) port: u16,
    pub(crate) protocol: BackendProtocol,
    in_flight: AtomicU32,
    /// Passive ejection: until when it is passed over, in milliseconds of [`now_ms`]; 0 for not at all.
    ejected_until_ms: AtomicU64,
    /// Failed connects in a row.
    failures: AtomicU32,
}

impl Endpoint {
    pub(super) fn new(
        id: u64,
        address: EndpointAddress,
        port: u16,
        protocol: BackendProtocol,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            port,
            protocol,
            in_flight: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        })
    }

    /// Address and port for the log.
    pub(crate) fn label(&self) -> String {
        match &self.address {
            EndpointAddress::Ip(ip) => std::net::SocketAddr::new(*ip, self.port).to_string(),
            EndpointAddress::Host(host) => format!("{host}:{}", self.port),
            other => format!("{other:?}:{}", self.port),
        }
    }

    pub(super) fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it is passed over now. The clock is read only for endpoints whose last connect failed.
    pub(super) fn is_ejected(&self) -> bool {
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        until > 0 && now_ms() < until
    }

    /// A connect failed: it is passed over for a time that doubles with each failure in a row.
    pub(super) fn connect_failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let time = EJECTION_MIN
            .saturating_mul(1 << failures.min(16))
            .min(EJECTION_MAX);
        let until = now_ms() + time.as_millis() as u64; // at most EJECTION_MAX
        self.ejected_until_ms.store(until, Ordering::Relaxed);
    }

    /// A connect succeeded.
    pub(super) fn connected(&self) {
        if self.ejected_until_ms.load(Ordering::Relaxed) > 0 {
            self.ejected_until_ms.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}

/// Milliseconds since this process first asked.
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Counts a request at its endpoint while it lasts.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Endpoint>);

impl InFlight {
    /// Takes the endpoint for one request. The time of an ejection that has run out starts again: this request finds
    /// out whether the endpoint is back, the others that come meanwhile go elsewhere.
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        if endpoint.ejected_until_ms.load(Ordering::Relaxed) > 0 && !endpoint.is_ejected() {
            let again = now_ms() + EJECTION_MIN.as_millis() as u64; // a second
            endpoint.ejected_until_ms.store(again, Ordering::Relaxed);
        }
        Self(endpoint)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
