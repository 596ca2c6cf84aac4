//! From a table and its bindings to sockets that are bound: what can go wrong goes wrong before anything changes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use api::GatewayKey;
use api_snapshot::facts::Binding;
use parking_lot::Mutex;

use super::DataPlane;
use super::sockets::{BoundTo, Spare, Wanted, bind_all};
use crate::GatewayTable;
use crate::gateway::Gateway;
use crate::worker::After;

/// A sub-table whose sockets are bound, ready to be activated. Dropping it closes sockets that only it needs.
pub struct PreparedGateway {
    pending: Pending,
    table: GatewayTable,
    wanted: Wanted,
}

/// A Gateway cannot be served as it is; the current table serves on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A socket cannot be bound.
    #[error("bind {address} for listener {listener} (port {port})")]
    Bind {
        /// Name of a listener of the port.
        listener: String,
        /// The listener's port.
        port: u16,
        /// What was to be bound.
        address: SocketAddr,
        /// Why it cannot.
        #[source]
        source: io::Error,
    },
    /// No binding fact says where a port is bound.
    #[error("listener {listener} (port {port}) has no binding")]
    NoBinding {
        /// Name of a listener of the port.
        listener: String,
        /// The listener's port.
        port: u16,
    },
    /// TLS cannot be set up.
    #[error("set up tls for port {port}")]
    Tls {
        /// The listener's port.
        port: u16,
        /// Why it cannot.
        #[source]
        source: rustls::Error,
    },
}

impl PrepareError {
    /// The listener at fault, if it is one.
    pub fn listener(&self) -> Option<&str> {
        match self {
            Self::Bind { listener, .. } | Self::NoBinding { listener, .. } => Some(listener),
            Self::Tls { .. } => None,
        }
    }
}

/// Gateways with prepared tables, and how many. Tables that are prepared one upon the other share the Gateway: a
/// connection that one of them let in sees the next.
pub(super) type PendingGateways = Arc<Mutex<HashMap<GatewayKey, (Arc<Gateway>, usize)>>>;

/// One prepared table's share of a Gateway.
struct Pending {
    gateway: Arc<Gateway>,
    all: PendingGateways,
}

impl Pending {
    fn new(all: &PendingGateways, key: &GatewayKey, make: impl FnOnce() -> Arc<Gateway>) -> Self {
        let mut pending = all.lock();
        let (gateway, count) = pending.entry(key.clone()).or_insert_with(|| (make(), 0));
        *count += 1;
        Self {
            gateway: Arc::clone(gateway),
            all: Arc::clone(all),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.all.lock();
        if let Some((_, count)) = pending.get_mut(&self.gateway.key) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.gateway.key);
            }
        }
    }
}

impl DataPlane {
    /// Binds what a table needs and is not bound yet. Nothing serves differently until [`DataPlane::activate`].
    ///
    /// # Errors
    /// [`PrepareError`] naming the listener; whatever was bound for this table is closed again.
    pub fn prepare(
        &self,
        table: GatewayTable,
        bindings: &BTreeMap<u16, Binding>,
    ) -> Result<PreparedGateway, PrepareError> {
        let key = table.gateway().clone();
        let pending = Pending::new(&self.pending, &key, || {
            let active = self.gateways.lock().get(&key).cloned();
            active.unwrap_or_else(|| Gateway::new(key.clone(), self.config.workers))
        });
        let mut addresses = BTreeMap::new();
        for port in table.ports() {
            let Some(binding) = bindings.get(&port) else {
                return Err(PrepareError::NoBinding {
                    listener: listener_of(&table, port),
                    port,
                });
            };
            let to = BoundTo {
                listener_port: port,
                public_port: binding.public_port,
                tls: table.port_is_tls(port).unwrap_or_default(),
            };
            addresses.insert(
                SocketAddr::new(self.config.target_address, binding.target_port),
                to,
            );
            for address in &binding.addresses {
                addresses.insert(SocketAddr::new(*address, binding.public_port), to);
            }
        }
        let mut tls = HashMap::new();
        let mut spare = Spare::new();
        for (address, to) in &addresses {
            if self.sockets.lock().is_open(&key, address, to) {
                continue;
            }
            let port = to.listener_port;
            let known = self.sockets.lock().tls(&key, port);
            if to.tls && known.is_none() && !tls.contains_key(&port) {
                let config = self
                    .tls(&pending.gateway, port)
                    .map_err(|source| PrepareError::Tls { port, source })?;
                tls.insert(port, config);
            }
            let sockets = bind_all(*address, self.workers.len()).map_err(|source| {
                let listener = listener_of(&table, port);
                PrepareError::Bind {
                    listener,
                    port,
                    address: *address,
                    source,
                }
            })?;
            spare.insert(*address, sockets);
        }
        let wanted = Wanted {
            gateway: Arc::clone(&pending.gateway),
            addresses,
            tls,
            spare,
        };
        Ok(PreparedGateway {
            pending,
            table,
            wanted,
        })
    }

    /// Swaps to a prepared table: requests begun from now on see it, its sockets accept, those it does not need close.
    /// Connections that are open stay; requests on them go by the new table.
    pub async fn activate(&self, prepared: PreparedGateway) {
        self.activate_all(vec![prepared]).await;
    }

    /// Swaps to several prepared tables at once, in the order given. Sockets of all of them close before any opens, so
    /// that an address moves from one Gateway to another without ever being both's.
    pub async fn activate_all(&self, prepared: Vec<PreparedGateway>) {
        let mut keys = Vec::with_capacity(prepared.len());
        for PreparedGateway {
            pending,
            table,
            wanted,
        } in prepared
        {
            let gateway = Arc::clone(&pending.gateway);
            keys.push(gateway.key.clone());
            gateway.table.store(Arc::new(table));
            gateway.set_removed(false);
            let ports = wanted.addresses.values();
            gateway.set_public_ports(ports.map(|to| (to.listener_port, to.public_port)));
            self.gateways.lock().insert(gateway.key.clone(), gateway);
            self.sockets.lock().want(wanted);
        }
        self.settle(&keys, After::Serve).await;
    }
}

/// Name of a listener of a port, the first by name.
fn listener_of(table: &GatewayTable, port: u16) -> String {
    table
        .listeners()
        .filter(|listener| listener.spec.port == port)
        .map(|listener| listener.name.clone())
        .min()
        .unwrap_or_default()
}
