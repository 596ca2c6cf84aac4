//! The control side of the data plane: what the shard's one control task calls.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{BackendKey, CertificateKey, GatewayKey};
use api_snapshot::facts::{Backend, Binding, Certificate};
use api_telemetry::metrics::Source;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use socket2::{Domain, Protocol, Type};
use tokio::sync::{mpsc, watch};

use crate::GatewayTable;
use crate::config::ForwardConfig;
use crate::gateway::Gateway;
use crate::metrics::{Load, PlaneMetrics, WorkerStats};
use crate::tls::{self, Certificates};
use crate::upstream::{BackendHandle, Backends};
use crate::worker::{self, Command, Phase, SocketId, SocketSpec};

/// Commands that wait for a worker.
const COMMANDS_MAX: usize = 4096;
/// Time that idle connections get at most when draining.
const DRAIN_IDLE_MAX: Duration = Duration::from_secs(2);

/// The data plane of one shard. One control task calls it; requests run on its workers.
pub struct DataPlane {
    config: Arc<ForwardConfig>,
    backends: Backends,
    certificates: Arc<Certificates>,
    provider: Arc<CryptoProvider>,
    gateways: Arc<Mutex<HashMap<GatewayKey, Arc<Gateway>>>>,
    sockets: Mutex<HashMap<GatewayKey, BTreeMap<SocketId, BoundTo>>>,
    workers: Vec<mpsc::Sender<Command>>,
    drain: watch::Sender<Phase>,
    metrics: Arc<PlaneMetrics>,
}

/// What a socket was bound for; when it changes, the socket is bound anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BoundTo {
    listener_port: u16,
    public_port: u16,
    tls: bool,
}

/// A sub-table whose sockets are bound, ready to be activated. Dropping it closes sockets that only it needs.
pub struct PreparedGateway {
    gateway: Arc<Gateway>,
    table: GatewayTable,
    wanted: BTreeMap<SocketId, BoundTo>,
    /// One bound socket for each worker.
    bound: Vec<(SocketId, SocketSpec, Vec<socket2::Socket>)>,
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

/// A certificate cannot be used; the one before, if any, stays.
#[derive(Debug, thiserror::Error)]
#[error("certificate {key}: {reason}")]
pub struct CertificateError {
    key: CertificateKey,
    reason: String,
}

impl DataPlane {
    /// Starts the workers.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(config: ForwardConfig) -> io::Result<Self> {
        let config = Arc::new(ForwardConfig {
            workers: config.workers.max(1),
            ..config
        });
        let (drain, draining) = watch::channel(Phase::Serving);
        let stats: Vec<Arc<WorkerStats>> = (0..config.workers).map(|_| Arc::default()).collect();
        let mut workers = Vec::new();
        for (index, stats) in stats.iter().enumerate() {
            let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
            // The thread ends with the sender; nobody needs to join it.
            worker::start(
                index,
                Arc::clone(&config),
                Arc::clone(stats),
                receiver,
                draining.clone(),
            )?;
            workers.push(commands);
        }
        let gateways = Arc::new(Mutex::new(HashMap::new()));
        Ok(Self {
            backends: Backends::default(),
            certificates: Arc::new(Certificates::from_pointee(HashMap::new())),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            metrics: Arc::new(PlaneMetrics {
                workers: stats,
                gateways: Arc::clone(&gateways),
            }),
            gateways,
            sockets: Mutex::default(),
            workers,
            drain,
            config,
        })
    }

    /// The cell of a backend, for tables. It has no endpoints until [`DataPlane::set_backend`].
    pub fn backend_handle(&self, key: &BackendKey) -> BackendHandle {
        self.backends.handle(key)
    }

    /// Swaps a backend's endpoints; requests begun from now on see them.
    pub fn set_backend(&self, key: &BackendKey, backend: &Backend) {
        self.backends.set(key, backend);
    }

    /// Takes a backend's endpoints away.
    pub fn remove_backend(&self, key: &BackendKey) {
        self.backends.remove(key);
    }

    /// Takes a certificate; handshakes begun from now on use it.
    ///
    /// # Errors
    /// [`CertificateError`] when it cannot be parsed or its key does not fit; the one before stays.
    pub fn set_certificate(
        &self,
        key: &CertificateKey,
        certificate: &Certificate,
    ) -> Result<(), CertificateError> {
        let held = tls::parse(certificate, &self.provider).map_err(|reason| CertificateError {
            key: key.clone(),
            reason,
        })?;
        let held = Arc::new(held);
        self.certificates.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.insert(key.clone(), Arc::clone(&held));
            all
        });
        Ok(())
    }

    /// Forgets a certificate.
    pub fn remove_certificate(&self, key: &CertificateKey) {
        self.certificates.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.remove(key);
            all
        });
    }

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
        let known = self.gateways.lock().get(&key).cloned();
        let gateway = known.unwrap_or_else(|| Gateway::new(key.clone(), self.config.workers));
        let mut wanted = BTreeMap::new();
        for port in table.ports() {
            let listener = || {
                let mut names: Vec<_> = table
                    .listeners()
                    .filter(|l| l.spec.port == port)
                    .map(|l| l.name.clone())
                    .collect();
                names.sort();
                names.into_iter().next().unwrap_or_default()
            };
            let Some(binding) = bindings.get(&port) else {
                return Err(PrepareError::NoBinding {
                    listener: listener(),
                    port,
                });
            };
            let tls = table.port_is_tls(port).unwrap_or_default();
            let bound_to = BoundTo {
                listener_port: port,
                public_port: binding.public_port,
                tls,
            };
            wanted.insert(
                SocketAddr::new(self.config.target_address, binding.target_port),
                bound_to,
            );
            for address in &binding.addresses {
                wanted.insert(SocketAddr::new(*address, binding.public_port), bound_to);
            }
        }
        let have = self.sockets.lock().get(&key).cloned().unwrap_or_default();
        let mut configs = HashMap::new();
        let mut bound = Vec::new();
        for (address, bound_to) in &wanted {
            if have.get(address) == Some(bound_to) {
                continue;
            }
            let port = bound_to.listener_port;
            let tls = if bound_to.tls {
                let config = match configs.get(&port) {
                    Some(config) => Arc::clone(config),
                    None => tls::server_config(
                        Arc::clone(&gateway),
                        port,
                        Arc::clone(&self.certificates),
                        Arc::clone(&self.provider),
                    )
                    .map_err(|source| PrepareError::Tls { port, source })?,
                };
                configs.insert(port, Arc::clone(&config));
                Some(config)
            } else {
                None
            };
            let sockets = (0..self.workers.len())
                .map(|_| bind(*address))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|source| PrepareError::Bind {
                    listener: table
                        .listeners()
                        .filter(|l| l.spec.port == port)
                        .map(|l| l.name.clone())
                        .min()
                        .unwrap_or_default(),
                    port,
                    address: *address,
                    source,
                })?;
            let spec = SocketSpec {
                gateway: Arc::clone(&gateway),
                listener_port: port,
                public_port: bound_to.public_port,
                tls,
            };
            bound.push((*address, spec, sockets));
        }
        Ok(PreparedGateway {
            gateway,
            table,
            wanted,
            bound,
        })
    }

    /// Swaps to a prepared table: requests begun from now on see it, its sockets accept, those it does not need close.
    /// Connections that are open stay; requests on them go by the new table.
    pub async fn activate(&self, prepared: PreparedGateway) {
        let PreparedGateway {
            gateway,
            table,
            wanted,
            bound,
        } = prepared;
        let key = gateway.key.clone();
        gateway.table.store(Arc::new(table));
        self.gateways.lock().insert(key.clone(), gateway);
        let old = self
            .sockets
            .lock()
            .insert(key, wanted.clone())
            .unwrap_or_default();
        for (id, spec, sockets) in bound {
            for (worker, socket) in self.workers.iter().zip(sockets) {
                if let Err(error) = socket.listen(self.config.backlog) {
                    tracing::error!(%id, gateway = spec.gateway.label, %error, "listen failed");
                    continue;
                }
                let listener = TcpListener::from(socket);
                // A worker ends with the process only.
                let _ = worker
                    .send(Command::Open {
                        id,
                        listener,
                        socket: spec.clone(),
                    })
                    .await;
            }
        }
        for id in old.into_keys().filter(|id| !wanted.contains_key(id)) {
            for worker in &self.workers {
                let _ = worker.send(Command::Close { id }).await;
            }
        }
    }

    /// Stops serving a Gateway: its sockets close, requests on connections that are open get 404.
    pub async fn remove(&self, key: &GatewayKey) {
        let gateway = self.gateways.lock().remove(key);
        if let Some(gateway) = gateway {
            gateway
                .table
                .store(Arc::new(GatewayTable::empty(key.clone())));
        }
        let sockets = self.sockets.lock().remove(key).unwrap_or_default();
        for id in sockets.into_keys() {
            for worker in &self.workers {
                let _ = worker.send(Command::Close { id }).await;
            }
        }
    }

    /// The table that serves a Gateway.
    pub fn table(&self, key: &GatewayKey) -> Option<GatewayTable> {
        self.gateways
            .lock()
            .get(key)
            .map(|gateway| GatewayTable::clone(&gateway.table.load()))
    }

    /// Sockets of all Gateways, for `/dump`.
    pub fn sockets(&self) -> Vec<(GatewayKey, SocketAddr, u16)> {
        let sockets = self.sockets.lock();
        let mut all: Vec<_> = sockets
            .iter()
            .flat_map(|(key, sockets)| {
                sockets
                    .iter()
                    .map(|(id, to)| (key.clone(), *id, to.listener_port))
            })
            .collect();
        all.sort();
        all
    }

    /// What the proxy is doing now.
    pub fn load(&self) -> Load {
        self.metrics.load()
    }

    /// All its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }

    /// Lets connections end: HTTP/1.1 ones with `Connection: close` on their next response, HTTP/2 ones by GOAWAY. New
    /// connections are still served until this returns, and told to close. Connections without a request are closed
    /// after a quarter of `deadline`, at most 2 s: sooner, a request might be on its way on them. Returns whether all
    /// ended in time.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.drain.send_replace(Phase::Draining);
        let begun = Instant::now();
        let close_idle = (deadline / 4).min(DRAIN_IDLE_MAX);
        let mut closing = false;
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while self.load().connections > 0 {
            if begun.elapsed() >= deadline {
                return false;
            }
            if !closing && begun.elapsed() >= close_idle {
                closing = true;
                self.drain.send_replace(Phase::Closing);
            }
            poll.tick().await;
        }
        true
    }
}

/// Binds, without listening: a connection that came now would wait for an activation that may never be.
fn bind(address: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = match address.ip() {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
