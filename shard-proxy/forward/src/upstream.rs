//! Backends, their endpoints, and connections to them.
//!
//! An endpoint is told apart by backend, address, port and protocol, so that its counters, its connections and whether it
//! is ejected survive updates of the endpoints beside it. Pools are keyed by endpoint: connections are never shared between
//! backends, and so never between tenants.

mod budget;
mod choose;
mod connect;
mod endpoint;
mod http2;
mod pool;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::BackendKey;
use api_snapshot::facts::Backend;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::budget::RetryBudget;
use self::choose::{Endpoints, Place};
use crate::config::ForwardConfig;

pub(crate) use self::budget::Retry;
pub(crate) use self::connect::ConnectError;
pub(crate) use self::endpoint::{EjectionCounts, Endpoint, InFlight};
pub(crate) use self::pool::{Lease, Pools, SendError, Sent};

/// A backend as tables hold it: its endpoints are swapped in place.
#[derive(Debug, Clone)]
pub struct BackendHandle(Arc<BackendCell>);

#[derive(Debug)]
struct BackendCell {
    key: BackendKey,
    endpoints: ArcSwap<Endpoints>,
    retries: RetryBudget,
}

impl BackendHandle {
    /// Which backend it is.
    pub fn key(&self) -> &BackendKey {
        &self.0.key
    }

    /// Chooses an endpoint; see [`Endpoints::choose`].
    pub(crate) fn choose(&self, random: u64, tried: &[u64]) -> Option<InFlight> {
        self.0.endpoints.load().choose(random, tried)
    }

    /// Lets a request be sent again, within the backend's budget.
    pub(crate) fn retry(&self) -> Option<Retry<'_>> {
        self.0.retries.take(|| self.0.endpoints.load().in_flight())
    }

    /// An endpoint could not be connected to.
    ///
    /// No share of the endpoints bounds how many are ejected for this: what refuses connections serves nobody, and half of
    /// the requests would wait for it in vain. What is left is kept from overload by the limit of connections. Cost of this
    /// and of [`BackendHandle::unanswered`]: O(endpoints).
    pub(crate) fn connect_failed(&self, endpoint: u64, probe: bool) {
        if let Some(endpoint) = self.0.endpoints.load().find(endpoint)
            && endpoint.connect_failed(probe)
        {
            self.tell_ejected(endpoint, "connect");
        }
    }

    /// An endpoint took a request and gave no answer: it broke the connection off, or did not answer in time. This may be the
    /// request's fault, so that at most half of the endpoints are ejected for it.
    pub(crate) fn unanswered(&self, endpoint: u64, probe: bool) {
        let endpoints = self.0.endpoints.load();
        if let Some(endpoint) = endpoints.find(endpoint)
            && endpoint.unanswered(probe, || endpoints.may_eject())
        {
            self.tell_ejected(endpoint, "response");
        }
    }

    /// One line for each time that an endpoint was well before; that it stays as it is is not told.
    fn tell_ejected(&self, endpoint: &Endpoint, cause: &str) {
        tracing::info!(backend = %self.key(), endpoint = endpoint.label(), cause, "endpoint ejected");
    }
}

/// All backends of this proxy. Written by the control side only.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    cells: Mutex<HashMap<BackendKey, BackendHandle>>,
    /// Backends without a fact that requests may still hold.
    retired: Mutex<HashSet<BackendKey>>,
    next_id: AtomicU64,
    place: Place,
    ejections: Arc<EjectionCounts>,
}

impl Backends {
    pub(crate) fn new(config: &ForwardConfig) -> Self {
        Self {
            place: Place {
                zone: known(&config.zone),
                node: known(&config.node),
            },
            ..Self::default()
        }
    }

    /// What is counted of all their endpoints.
    pub(crate) fn ejections(&self) -> &Arc<EjectionCounts> {
        &self.ejections
    }

    /// The cell of a backend, made without endpoints when its fact has not come yet.
    pub(crate) fn handle(&self, key: &BackendKey) -> BackendHandle {
        let mut cells = self.cells.lock();
        if let Some(handle) = cells.get(key) {
            return handle.clone();
        }
        let handle = BackendHandle(Arc::new(BackendCell {
            key: key.clone(),
            endpoints: ArcSwap::from_pointee(Endpoints::default()),
            retries: RetryBudget::default(),
        }));
        cells.insert(key.clone(), handle.clone());
        handle
    }

    /// Swaps the endpoints of a backend. Endpoints that stay keep their counters and connections, and stay ejected; one that
    /// has become ready meanwhile is not: its own probe says more than the last request. Cost: O(endpoints).
    pub(crate) fn set(&self, key: &BackendKey, backend: &Backend) {
        self.retired.lock().remove(key);
        let handle = self.handle(key);
        let old = handle.0.endpoints.load_full();
        let known: HashMap<_, _> = old
            .all
            .iter()
            .filter(|(endpoint, _)| endpoint.protocol == backend.protocol)
            .map(|(endpoint, ready)| ((&endpoint.address, endpoint.port), (endpoint, *ready)))
            .collect();
        let endpoint = |fact: &api_snapshot::facts::Endpoint| {
            if let Some((endpoint, ready)) = known.get(&(&fact.address, fact.port)) {
                if fact.ready && !ready {
                    endpoint.restore();
                }
                return Arc::clone(endpoint);
            }
            Endpoint::new(
                self.next_id.fetch_add(1, Ordering::Relaxed),
                fact.address.clone(),
                fact.port,
                backend.protocol,
                Arc::clone(&self.ejections),
            )
        };
        let all = backend.endpoints.iter().map(endpoint).collect();
        let endpoints = Endpoints::new(&backend.endpoints, all, &self.place);
        handle.0.endpoints.store(Arc::new(endpoints));
    }

    /// A backend's fact is gone: no table that serves refers to it any more. Requests that were routed by an earlier table
    /// and have not chosen an endpoint yet still find the last ones; the cell is forgotten when nobody holds it.
    pub(crate) fn remove(&self, key: &BackendKey) {
        let mut cells = self.cells.lock();
        let mut retired = self.retired.lock();
        retired.insert(key.clone());
        retired.retain(|key| {
            let held = cells
                .get(key)
                .is_some_and(|handle| Arc::strong_count(&handle.0) > 1);
            if !held {
                cells.remove(key);
            }
            held
        });
    }
}

/// A label that a pod does not have comes as an empty variable.
fn known(place: &Option<String>) -> Option<String> {
    place.clone().filter(|place| !place.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use api_snapshot::facts::{BackendProtocol, Endpoint as EndpointFact, EndpointAddress};

    use super::*;

    fn of(ports: impl IntoIterator<Item = u16>) -> Backend {
        let address = EndpointAddress::Ip("127.0.0.1".parse().unwrap());
        let endpoints = ports
            .into_iter()
            .map(|port| EndpointFact::new(address.clone(), port));
        Backend {
            protocol: BackendProtocol::Http1,
            endpoints: endpoints.collect(),
        }
    }

    #[test]
    fn a_request_that_holds_a_backend_still_finds_its_endpoints_after_the_fact_is_gone() {
        let backends = Backends::default();
        let key = BackendKey::new("team", "one", 80);
        backends.set(&key, &of([9000]));
        let pinned = backends.handle(&key);
        backends.remove(&key);
        assert!(pinned.choose(7, &[]).is_some());
        // It comes back: whoever refers to it now sees new endpoints.
        backends.set(&key, &of([]));
        assert!(backends.handle(&key).choose(7, &[]).is_none());
        drop(pinned);
        backends.remove(&key);
        assert!(backends.cells.lock().is_empty());
    }

    #[test]
    fn an_endpoint_stays_ejected_when_others_come_and_go_until_its_own_probe_calls_it_ready() {
        let backends = Backends::default();
        let key = BackendKey::new("team", "one", 80);
        let ejected = || backends.ejections().now();
        let chosen = |backend: &BackendHandle| backend.choose(0, &[]).unwrap().endpoint.clone();
        backends.set(&key, &of([9000]));
        let handle = backends.handle(&key);
        let first = chosen(&handle);
        handle.connect_failed(first.id, false);
        for ports in [vec![9000, 9001], vec![9001, 9000, 9002]] {
            backends.set(&key, &of(ports));
            assert_eq!(ejected(), 1);
            assert!(first.is_ejected());
            assert_ne!(chosen(&handle).id, first.id);
        }
        let mut not_ready = of([9000, 9001]);
        not_ready.endpoints[0].ready = false;
        backends.set(&key, &not_ready);
        assert!(first.is_ejected());
        backends.set(&key, &of([9000, 9001]));
        assert!(!first.is_ejected());
        // One that leaves is counted no more.
        handle.connect_failed(first.id, false);
        assert_eq!(ejected(), 1);
        backends.set(&key, &of([9001]));
        handle.connect_failed(first.id, false);
        drop(first);
        assert_eq!(ejected(), 0);
    }
}
