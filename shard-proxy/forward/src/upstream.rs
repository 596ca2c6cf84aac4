//! Backends, their endpoints, and connections to them.
//!
//! An endpoint is told apart by backend, address and port, so that its counters and connections survive updates of
//! the endpoints beside it. Pools are keyed by endpoint: connections are never shared between backends, and so never
//! between tenants.

mod connect;
mod pool;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use api::BackendKey;
use api_snapshot::facts::{Backend, BackendProtocol, EndpointAddress};
use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub(crate) use self::connect::ConnectError;
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

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) address: EndpointAddress,
    pub(crate) port: u16,
    pub(crate) protocol: BackendProtocol,
    in_flight: AtomicU32,
}

impl Endpoint {
    /// Address and port for the log.
    pub(crate) fn label(&self) -> String {
        match &self.address {
            EndpointAddress::Ip(ip) => std::net::SocketAddr::new(*ip, self.port).to_string(),
            EndpointAddress::Host(host) => format!("{host}:{}", self.port),
            other => format!("{other:?}:{}", self.port),
        }
    }
}

/// Counts a request at its endpoint while it lasts.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Endpoint>);

impl InFlight {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BackendHandle {
    /// Which backend it is.
    pub fn key(&self) -> &BackendKey {
        &self.0.key
    }

    /// Chooses the less loaded of two random endpoints (power of two choices, least request). `avoid` is one that just
    /// failed; it is taken only when there is no other.
    pub(crate) fn choose(&self, random: u64, avoid: Option<u64>) -> Option<InFlight> {
        let endpoints = self.0.endpoints.load();
        let usable = &endpoints.usable;
        let count = usable.len() as u64;
        let chosen = match count {
            0 => return None,
            1 => &usable[0],
            _ => {
                let first = (random >> 32) % count;
                // Any other than the first, evenly.
                let second = (first + 1 + (random & 0xffff_ffff) % (count - 1)) % count;
                let (a, b) = (&usable[first as usize], &usable[second as usize]);
                let load = |endpoint: &Endpoint| {
                    (
                        Some(endpoint.id) == avoid,
                        endpoint.in_flight.load(Ordering::Relaxed),
                    )
                };
                if load(b) < load(a) { b } else { a }
            }
        };
        Some(InFlight::new(Arc::clone(chosen)))
    }

    /// How many endpoints take requests.
    pub(crate) fn usable(&self) -> usize {
        self.0.endpoints.load().usable.len()
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
                Arc::new(Endpoint {
                    id: self.next_id.fetch_add(1, Ordering::Relaxed),
                    address: endpoint.address.clone(),
                    port: endpoint.port,
                    protocol: backend.protocol,
                    in_flight: AtomicU32::new(0),
                })
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
    use api_snapshot::facts::Endpoint as EndpointFact;

    use super::*;

    fn backend() -> Backend {
        Backend {
            protocol: BackendProtocol::Http1,
            endpoints: vec![EndpointFact {
                address: EndpointAddress::Ip("127.0.0.1".parse().unwrap()),
                port: 9000,
                ready: true,
                zone: None,
            }],
        }
    }

    #[test]
    fn a_request_that_holds_a_backend_still_finds_its_endpoints_after_the_fact_is_gone() {
        let backends = Backends::default();
        let key = BackendKey::new("team", "one", 80);
        backends.set(&key, &backend());
        let pinned = backends.handle(&key);
        backends.remove(&key);
        assert!(pinned.choose(7, None).is_some());
        // It comes back: whoever refers to it now sees new endpoints.
        backends.set(
            &key,
            &Backend {
                endpoints: Vec::new(),
                ..backend()
            },
        );
        assert!(backends.handle(&key).choose(7, None).is_none());
        drop(pinned);
        backends.remove(&key);
        assert!(backends.cells.lock().is_empty());
    }
}
