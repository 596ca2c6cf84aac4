//! One endpoint: what is counted of it, and whether it is passed over for a while (passive ejection).
//!
//! ```text
//!   healthy --a connect fails, or five requests in a row get no answer--> ejected, for 5 s
//!   ejected --its time has run out--> due --one request takes it--> probed (as ejected to all others)
//!   probed  --no answer--> ejected, for twice the time, 60 s at most
//!   probed  --an answer, or a connect where connects had failed--> healthy
//! ```
//! All of it is relaxed atomics of the endpoint, which workers share; a request that ends well reads one and writes none.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use api_snapshot::facts::{BackendProtocol, EndpointAddress};

/// How long an endpoint is passed over at first; doubled by each probe that fails.
const EJECTION_MIN: Duration = Duration::from_secs(5);
/// Longest time that it is passed over.
const EJECTION_MAX: Duration = Duration::from_secs(60);
/// Requests in a row without an answer that eject it.
const UNANSWERED_MAX: u32 = 5;

/// One endpoint. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) address: EndpointAddress,
    pub(crate) port: u16,
    pub(crate) protocol: BackendProtocol,
    in_flight: AtomicU32,
    /// Requests in a row that got no answer: the connection broke, or the time ran out.
    unanswered: AtomicU32,
    /// Until when it is passed over, in milliseconds of [`now_ms`]; 0 for not at all.
    ejected_until_ms: AtomicU64,
    /// Ejections in a row.
    ejections: AtomicU32,
    counts: Arc<EjectionCounts>,
}

/// Ejections of all endpoints. Written when one is ejected or comes back, never by a request that ends well.
#[derive(Debug, Default)]
pub(crate) struct EjectionCounts {
    pub(crate) by_connect: AtomicU64,
    pub(crate) by_response: AtomicU64,
    /// Comings less goings, which two threads may write in the other order: below 0 for a moment at worst.
    now: AtomicI64,
}

impl EjectionCounts {
    /// Endpoints that are ejected now.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.now.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    Ejected,
    /// Its time has run out: one request finds out whether it is back.
    Due,
}

impl Endpoint {
    pub(super) fn new(
        id: u64,
        address: EndpointAddress,
        port: u16,
        protocol: BackendProtocol,
        counts: Arc<EjectionCounts>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            port,
            protocol,
            in_flight: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            counts,
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

    /// Whether it is passed over now.
    pub(super) fn is_ejected(&self) -> bool {
        state(self.ejected_until_ms.load(Ordering::Relaxed)) == State::Ejected
    }

    /// Whether it was ejected and is not back yet.
    pub(super) fn is_troubled(&self) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > 0
    }

    /// Takes the endpoint for one request. None when it is due and another request was faster: that one finds out, and all
    /// others pass the endpoint over meanwhile.
    pub(super) fn take(self: &Arc<Self>) -> Option<InFlight> {
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        let probe = state(until) == State::Due;
        if probe {
            let again = now_ms() + millis(EJECTION_MIN);
            self.ejected_until_ms
                .compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed)
                .ok()?;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight {
            endpoint: Arc::clone(self),
            probe,
        })
    }

    /// A connect failed. It is passed over at once: one that refuses has the least in flight, and would be chosen again.
    /// Returns whether that is news.
    pub(super) fn connect_failed(&self, probe: bool) -> bool {
        self.eject(probe, &self.counts.by_connect)
    }

    /// A connect succeeded: that ends an ejection, unless it was for answers that did not come.
    pub(super) fn connected(&self) {
        if self.is_troubled() && self.unanswered.load(Ordering::Relaxed) < UNANSWERED_MAX {
            self.restore();
        }
    }

    /// A request got no answer. `may_eject` is asked when it was one too many. Returns whether it is ejected, and that is
    /// news.
    pub(super) fn unanswered(&self, probe: bool, may_eject: impl FnOnce() -> bool) -> bool {
        let count = self.unanswered.fetch_add(1, Ordering::Relaxed);
        let probe = probe && self.is_troubled();
        let too_many = count.saturating_add(1) >= UNANSWERED_MAX;
        (probe || too_many && !self.is_troubled() && may_eject())
            && self.eject(probe, &self.counts.by_response)
    }

    fn answered(&self, probe: bool) {
        if self.unanswered.load(Ordering::Relaxed) > 0 {
            self.unanswered.store(0, Ordering::Relaxed);
        }
        if probe {
            self.restore();
        }
    }

    /// Ejects it, for longer after each probe that fails; returns whether it was healthy before. What else fails while it
    /// is ejected says nothing new.
    fn eject(&self, probe: bool, count: &AtomicU64) -> bool {
        let before = self.ejected_until_ms.load(Ordering::Relaxed);
        if before > 0 && !probe {
            return false;
        }
        let ejections = self.ejections.load(Ordering::Relaxed);
        let time = EJECTION_MIN
            .saturating_mul(1 << ejections.min(16))
            .min(EJECTION_MAX);
        let until = now_ms() + millis(time);
        let ejected = self
            .ejected_until_ms
            .compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if !ejected {
            return false;
        }
        self.ejections
            .store(ejections.saturating_add(1), Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            self.counts.now.fetch_add(1, Ordering::Relaxed);
        }
        before == 0
    }

    /// Ends its ejection.
    pub(super) fn restore(&self) {
        if self.ejected_until_ms.swap(0, Ordering::Relaxed) > 0 {
            self.counts.now.fetch_sub(1, Ordering::Relaxed);
            tracing::info!(endpoint = self.label(), "endpoint is back");
        }
        self.ejections.store(0, Ordering::Relaxed);
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Lets the time of its ejection run out.
    #[cfg(test)]
    pub(super) fn let_time_pass(&self) {
        if self.is_troubled() {
            self.ejected_until_ms.store(1, Ordering::Relaxed);
            while now_ms() < 1 {
                std::hint::spin_loop();
            }
        }
    }

    /// How long it is passed over from now on.
    #[cfg(test)]
    fn ejected_for(&self) -> Duration {
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        Duration::from_millis(until.saturating_sub(now_ms()))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if *self.ejected_until_ms.get_mut() > 0 {
            self.counts.now.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The clock is read only for endpoints that were ejected.
fn state(ejected_until_ms: u64) -> State {
    match ejected_until_ms {
        0 => State::Healthy,
        until if now_ms() < until => State::Ejected,
        _ => State::Due,
    }
}

/// Milliseconds since this process first asked.
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64 // at most EJECTION_MAX
}

/// Counts a request at its endpoint while it lasts.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) endpoint: Arc<Endpoint>,
    /// It finds out whether an ejected endpoint is back.
    pub(crate) probe: bool,
}

impl InFlight {
    /// The head of a response has come, whatever it says.
    pub(super) fn answered(&self) {
        self.endpoint.answered(self.probe);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn endpoint() -> (Arc<Endpoint>, Arc<EjectionCounts>) {
        let counts = Arc::new(EjectionCounts::default());
        let address = EndpointAddress::Ip("127.0.0.1".parse().unwrap());
        let endpoint = Endpoint::new(1, address, 80, BackendProtocol::Http1, Arc::clone(&counts));
        (endpoint, counts)
    }

    fn of(counts: &EjectionCounts) -> (u64, u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (
            load(&counts.by_connect),
            load(&counts.by_response),
            counts.now(),
        )
    }

    /// Whether it is ejected for this many seconds, or a moment less.
    fn ejected_for(endpoint: &Endpoint, seconds: u64) -> bool {
        let left = endpoint.ejected_for();
        left <= Duration::from_secs(seconds)
            && left + Duration::from_secs(1) > Duration::from_secs(seconds)
    }

    #[test]
    fn the_time_doubles_with_each_probe_that_fails_and_one_that_succeeds_ends_it() {
        let (endpoint, counts) = endpoint();
        endpoint.connect_failed(false);
        assert!(ejected_for(&endpoint, 5));
        // Others that fail with it count once.
        for _ in 0..20 {
            endpoint.connect_failed(false);
        }
        for seconds in [10, 20, 40, 60, 60] {
            assert!(endpoint.is_ejected());
            endpoint.let_time_pass();
            assert!(!endpoint.is_ejected());
            let probe = endpoint.take().unwrap();
            assert!(probe.probe && endpoint.is_ejected());
            endpoint.connect_failed(true);
            assert!(ejected_for(&endpoint, seconds), "{seconds}");
        }
        assert_eq!(of(&counts), (6, 0, 1));
        endpoint.let_time_pass();
        let probe = endpoint.take().unwrap();
        endpoint.connected();
        probe.answered();
        assert_eq!(of(&counts), (6, 0, 0));
        assert!(!endpoint.take().unwrap().probe);
        // From the start again.
        endpoint.connect_failed(false);
        assert!(ejected_for(&endpoint, 5));
        drop(probe);
        drop(endpoint);
        assert_eq!(of(&counts), (7, 0, 0));
    }

    #[test]
    fn one_request_probes_and_the_next_only_when_that_one_is_not_heard_of() {
        let (endpoint, _) = endpoint();
        endpoint.connect_failed(false);
        endpoint.let_time_pass();
        let probes: Vec<_> = (0..8)
            .map(|_| {
                let endpoint = Arc::clone(&endpoint);
                std::thread::spawn(move || endpoint.take().is_some_and(|taken| taken.probe))
            })
            .collect();
        let probes = probes.into_iter().map(|thread| thread.join().unwrap());
        assert_eq!(probes.filter(|probe| *probe).count(), 1);
        assert!(ejected_for(&endpoint, 5));
        endpoint.let_time_pass();
        assert!(endpoint.take().unwrap().probe);
    }

    #[test]
    fn five_requests_in_a_row_without_an_answer_eject_and_only_an_answer_brings_it_back() {
        let (endpoint, counts) = endpoint();
        for _ in 0..3 {
            for _ in 0..4 {
                endpoint.unanswered(false, || true);
            }
            endpoint.take().unwrap().answered();
        }
        for _ in 0..4 {
            endpoint.unanswered(false, || true);
        }
        assert_eq!(of(&counts), (0, 0, 0));
        // Too many of its kind are ejected already.
        endpoint.unanswered(false, || false);
        assert!(!endpoint.is_ejected());
        endpoint.unanswered(false, || true);
        assert!(endpoint.is_ejected());
        assert_eq!(of(&counts), (0, 1, 1));
        endpoint.let_time_pass();
        let probe = endpoint.take().unwrap();
        endpoint.connected();
        assert!(endpoint.is_ejected());
        endpoint.unanswered(true, || false);
        assert!(ejected_for(&endpoint, 10));
        endpoint.let_time_pass();
        endpoint.take().unwrap().answered();
        assert!(!endpoint.is_ejected());
        assert_eq!(of(&counts), (0, 2, 0));
        drop(probe);
    }
}
