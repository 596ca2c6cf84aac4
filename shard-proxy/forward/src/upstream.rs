//! Backends, their endpoints, and connections to them.
//!
//! An endpoint is told apart by backend, address and port, so that its counters and connections survive updates of
//! the endpoints beside it. Pools are keyed by endpoint: connections are never shared between backends, and so never
//! between tenants.

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

pub(crate) use self::connect::ConnectError;
pub(crate) use self::endpoint::{Endpoint, InFlight};
pub(crate) use self::pool::{Lease, Pools, SendError, Sent};

/// A backend as tables hold it: its endpoints are swapped in place.
#[derive(Debug, Clone)]
pub struct BackendHandle(Arc<BackendCell>);

#[derive(Debug)]
struct BackendCell {
    key: BackendKey,
    endpoints: ArcSwap<Endpoints>,
}

#[derive(Debug, Default)]
struct Endpoints {
    /// Those that take new requests: the ready ones, or, without any, those that still serve.
    usable: Vec<Arc<Endpoint>>,
    /// All, so that unchanged ones are taken over by the next update.
    all: Vec<Arc<Endpoint>>,
}

impl BackendHandle {
    /// Which backend it is.
    pub fn key(&self) -> &BackendKey {
        &self.0.key
    }

    /// Chooses the less loaded of two random endpoints (power of two choices, least request); none when all were tried.
    ///
    /// Those in `tried` are never chosen again. Endpoints whose last connect failed are passed over for a while, because
    /// one that refuses has the least in flight; when all that were not tried are such, they count as any other. No
    /// share of the endpoints bounds how many are passed over: what refuses connections serves nobody, and what is left
    /// is kept from overload by the limit of connections.
    ///
    /// Cost: O(1), unless both of the two are not to be had: then O(endpoints).
    pub(crate) fn choose(&self, random: u64, tried: &[u64]) -> Option<InFlight> {
        let endpoints = self.0.endpoints.load();
        let usable = &endpoints.usable;
        let count = usable.len() as u64;
        let fresh = |endpoint: &Endpoint| !tried.contains(&endpoint.id);
        let good = |endpoint: &Endpoint| fresh(endpoint) && !endpoint.is_ejected();
        if count == 0 {
            return None;
        }
        let first = (random >> 32) % count;
        let a = &usable[first as usize];
        let chosen = if count == 1 {
            good(a).then_some(a)
        } else {
            // Any other than the first, evenly.
            let second = (first + 1 + (random & 0xffff_ffff) % (count - 1)) % count;
            let b = &usable[second as usize];
            match (good(a), good(b)) {
                (true, true) => Some(if b.load() < a.load() { b } else { a }),
                (true, false) => Some(a),
                (false, true) => Some(b),
                (false, false) => None,
            }
        };
        let chosen = chosen.or_else(|| {
            // From the random one on, so that equal ones share what comes.
            let (before, after) = usable.split_at(first as usize);
            after
                .iter()
                .chain(before)
                .filter(|endpoint| fresh(endpoint))
                .min_by_key(|endpoint| (endpoint.is_ejected(), endpoint.load()))
        })?;
        Some(InFlight::new(Arc::clone(chosen)))
    }
}

/// All backends of this proxy. Written by the control side only.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    cells: Mutex<HashMap<BackendKey, BackendHandle>>,
    /// Backends without a fact that requests may still hold.
    retired: Mutex<HashSet<BackendKey>>,
    next_id: AtomicU64,
}

impl Backends {
    /// The cell of a backend, made without endpoints when its fact has not come yet.
    pub(crate) fn handle(&self, key: &BackendKey) -> BackendHandle {
        let mut cells = self.cells.lock();
        if let Some(handle) = cells.get(key) {
            return handle.clone();
        }
        let handle = BackendHandle(Arc::new(BackendCell {
            key: key.clone(),
            endpoints: ArcSwap::from_pointee(Endpoints::default()),
        }));
        cells.insert(key.clone(), handle.clone());
        handle
    }

    /// Swaps the endpoints of a backend. Endpoints that stay keep their counters and connections.
    pub(crate) fn set(&self, key: &BackendKey, backend: &Backend) {
        self.retired.lock().remove(key);
        let handle = self.handle(key);
        let old = handle.0.endpoints.load_full();
        let mut usable = Vec::new();
        let mut serving = Vec::new();
        for endpoint in &backend.endpoints {
            let known = old.all.iter().find(|known| {
                known.address == endpoint.address
                    && known.port == endpoint.port
                    && known.protocol == backend.protocol
            });
            let shared = known.cloned().unwrap_or_else(|| {
                Endpoint::new(
                    self.next_id.fetch_add(1, Ordering::Relaxed),
                    endpoint.address.clone(),
                    endpoint.port,
                    backend.protocol,
                )
            });
            if endpoint.ready {
                usable.push(Arc::clone(&shared));
            }
            serving.push(shared);
        }
        if usable.is_empty() {
            usable.clone_from(&serving);
        }
        handle.0.endpoints.store(Arc::new(Endpoints {
            usable,
            all: serving,
        }));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use api_snapshot::facts::{BackendProtocol, Endpoint as EndpointFact, EndpointAddress};

    use super::*;

    fn backend() -> Backend {
        of(1)
    }

    fn of(count: u16) -> Backend {
        let address = EndpointAddress::Ip("127.0.0.1".parse().unwrap());
        let endpoints = (0..count).map(|index| EndpointFact::new(address.clone(), 9000 + index));
        Backend {
            protocol: BackendProtocol::Http1,
            endpoints: endpoints.collect(),
        }
    }

    #[test]
    fn a_request_that_holds_a_backend_still_finds_its_endpoints_after_the_fact_is_gone() {
        let backends = Backends::default();
        let key = BackendKey::new("team", "one", 80);
        backends.set(&key, &backend());
        let pinned = backends.handle(&key);
        backends.remove(&key);
        assert!(pinned.choose(7, &[]).is_some());
        // It comes back: whoever refers to it now sees new endpoints.
        backends.set(
            &key,
            &Backend {
                endpoints: Vec::new(),
                ..backend()
            },
        );
        assert!(backends.handle(&key).choose(7, &[]).is_none());
        drop(pinned);
        backends.remove(&key);
        assert!(backends.cells.lock().is_empty());
    }

    #[test]
    fn the_one_endpoint_that_is_left_is_found_whatever_the_random_number() {
        let backends = Backends::default();
        let key = BackendKey::new("team", "one", 80);
        backends.set(&key, &of(10));
        let handle = backends.handle(&key);
        let all: Vec<_> = (0..10)
            .map(|n| handle.0.endpoints.load().usable[n].clone())
            .collect();
        let good = &all[7];
        let numbers = || (0..1000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for bad in all.iter().filter(|endpoint| endpoint.id != good.id) {
            bad.connect_failed();
        }
        for random in numbers() {
            assert_eq!(handle.choose(random, &[]).unwrap().0.id, good.id);
        }
        // It was tried: any other may be back.
        for random in numbers() {
            assert_ne!(handle.choose(random, &[good.id]).unwrap().0.id, good.id);
        }
        // All failed: none is passed over, and each gets a share.
        good.connect_failed();
        let chosen: HashSet<u64> = numbers()
            .map(|random| handle.choose(random, &[]).unwrap().0.id)
            .collect();
        assert_eq!(chosen.len(), 10);
        let tried: Vec<u64> = all.iter().map(|endpoint| endpoint.id).collect();
        assert!(handle.choose(1, &tried).is_none());
        // One is back.
        all[3].connected();
        assert_eq!(handle.choose(1, &[]).unwrap().0.id, all[3].id);
    }
}
