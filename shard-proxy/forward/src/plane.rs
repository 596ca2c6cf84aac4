//! The control side of the data plane: what the shard's one control task calls.

mod prepare;
mod sockets;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{BackendKey, CertificateKey, GatewayKey};
use api_snapshot::facts::{Backend, Certificate};
use api_telemetry::metrics::Source;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio::sync::{mpsc, oneshot};

use crate::GatewayTable;
use crate::config::ForwardConfig;
use crate::gateway::Gateway;
use crate::metrics::{Load, PlaneMetrics, WorkerStats};
use crate::tls::{self, Certificates};
use crate::upstream::{BackendHandle, Backends};
use crate::worker::{self, After, Command, Phase};

use self::prepare::PendingGateways;
pub use self::prepare::{PrepareError, PreparedGateway};
use self::sockets::Sockets;

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
    pending: PendingGateways,
    sockets: Mutex<Sockets>,
    workers: Vec<mpsc::Sender<Command>>,
    draining: AtomicBool,
    metrics: Arc<PlaneMetrics>,
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
        let stats: Vec<Arc<WorkerStats>> = (0..config.workers).map(|_| Arc::default()).collect();
        let mut workers = Vec::new();
        for (index, stats) in stats.iter().enumerate() {
            let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
            // The thread ends with the sender; nobody needs to join it.
            worker::start(index, Arc::clone(&config), Arc::clone(stats), receiver)?;
            workers.push(commands);
        }
        let gateways = Arc::new(Mutex::new(HashMap::new()));
        let backends = Backends::new(&config);
        Ok(Self {
            certificates: Arc::new(Certificates::from_pointee(HashMap::new())),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            metrics: Arc::new(PlaneMetrics {
                workers: stats,
                gateways: Arc::clone(&gateways),
                sockets_waiting: AtomicU64::new(0),
                ejections: Arc::clone(backends.ejections()),
            }),
            backends,
            gateways,
            pending: PendingGateways::default(),
            sockets: Mutex::default(),
            workers,
            draining: AtomicBool::new(false),
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
        let errors = self.change_certificates([(key, Some(certificate))]);
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Forgets a certificate.
    pub fn remove_certificate(&self, key: &CertificateKey) {
        self.change_certificates([(key, None)]);
    }

    /// Takes and forgets (`None`) many certificates; handshakes begun from now on see all the changes. Returns those
    /// that cannot be used; what they replace stays. Cost: O(certificates held) once, however many change.
    pub fn change_certificates<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a CertificateKey, Option<&'a Certificate>)>,
    ) -> Vec<CertificateError> {
        let mut errors = Vec::new();
        let mut held = Vec::new();
        for (key, certificate) in changes {
            let parsed = certificate.map(|certificate| tls::parse(certificate, &self.provider));
            match parsed.transpose() {
                Ok(certificate) => held.push((key, certificate.map(Arc::new))),
                Err(reason) => errors.push(CertificateError {
                    key: key.clone(),
                    reason,
                }),
            }
        }
        if !held.is_empty() {
            self.certificates.rcu(|all| {
                let mut all = HashMap::clone(all);
                for (key, certificate) in &held {
                    match certificate {
                        Some(certificate) => {
                            all.insert((*key).clone(), Arc::clone(certificate));
                        }
                        None => {
                            all.remove(*key);
                        }
                    }
                }
                all
            });
        }
        errors
    }

    /// Stops serving a Gateway: its sockets close, connections that are open are told to end, and requests on them get
    /// 404.
    pub async fn remove(&self, key: &GatewayKey) {
        let gateway = self.gateways.lock().remove(key);
        if let Some(gateway) = gateway {
            gateway
                .table
                .store(Arc::new(GatewayTable::empty(key.clone())));
            gateway.set_removed(true);
        }
        self.sockets.lock().forget(key);
        self.settle(std::slice::from_ref(key), After::Remove).await;
    }

    /// Lets a Gateway go that others serve: its sockets close, and connections that are open serve on by the table that they
    /// have. HTTP/1.1 ones end with their next response, HTTP/2 ones by GOAWAY; those without a request within 5 s are
    /// closed.
    pub async fn leave(&self, key: &GatewayKey) {
        if let Some(gateway) = self.gateways.lock().remove(key) {
            gateway.set_removed(true);
        }
        self.sockets.lock().forget(key);
        self.settle(std::slice::from_ref(key), After::Leave).await;
    }

    /// Makes sockets follow what active tables want. First close those that some of `keys` no longer want so, on every
    /// worker; only then open, what other Gateways waited for as well.
    async fn settle(&self, keys: &[GatewayKey], after: After) {
        let closing: Vec<_> = {
            let mut sockets = self.sockets.lock();
            keys.iter().flat_map(|key| sockets.closing(key)).collect()
        };
        if !closing.is_empty() {
            self.tell(|done| Command::Close {
                ids: closing.clone(),
                after,
                done,
            })
            .await;
        }
        if self.draining.load(Ordering::Relaxed) {
            return; // nobody would accept
        }
        let opening = {
            let mut sockets = self.sockets.lock();
            let opening = sockets.opening(
                keys,
                self.workers.len(),
                self.config.backlog,
                &|gateway, port| self.tls(gateway, port),
            );
            let waiting = sockets.waiting();
            let metric = &self.metrics.sockets_waiting;
            metric.store(waiting, Ordering::Relaxed);
            opening
        };
        for open in opening {
            for (worker, listener) in self.workers.iter().zip(open.listeners) {
                let command = Command::Open {
                    id: open.id,
                    listener,
                    spec: open.spec.clone(),
                };
                // A worker ends with the process only.
                let _ = worker.send(command).await;
            }
        }
    }

    /// Tells all workers, and waits until each has done it.
    async fn tell(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        let mut doing = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, is_done) = oneshot::channel();
            if worker.send(command(done)).await.is_ok() {
                doing.push(is_done);
            }
        }
        for is_done in doing {
            let _ = is_done.await; // a worker that is gone has no sockets
        }
    }

    fn tls(&self, gateway: &Arc<Gateway>, port: u16) -> Result<Arc<ServerConfig>, rustls::Error> {
        tls::server_config(
            Arc::clone(gateway),
            port,
            Arc::clone(&self.certificates),
            Arc::clone(&self.provider),
        )
    }

    /// The table that serves a Gateway.
    pub fn table(&self, key: &GatewayKey) -> Option<GatewayTable> {
        self.gateways
            .lock()
            .get(key)
            .map(|gateway| GatewayTable::clone(&gateway.table.load()))
    }

    /// Open sockets of all Gateways, for `/dump`.
    pub fn sockets(&self) -> Vec<(GatewayKey, SocketAddr, u16)> {
        self.sockets.lock().list()
    }

    /// What the proxy is doing now.
    pub fn load(&self) -> Load {
        self.metrics.load()
    }

    /// All its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }

    /// Lets connections end. Sockets close first, once what waits in them has been accepted: whoever shares their
    /// addresses takes new connections over. HTTP/1.1 connections end with `Connection: close` on their next response,
    /// HTTP/2 ones by GOAWAY. Connections without a request are closed after a quarter of `deadline`, at most 2 s
    /// (sooner, a request might be on its way on them), but never within 1 s of being accepted. Returns whether all
    /// ended in time.
    ///
    /// A load balancer that still sends connections here is to be waited for before.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let begun = Instant::now();
        self.draining.store(true, Ordering::Relaxed);
        self.phase(Phase::Draining).await;
        let close_idle = (deadline / 4).min(DRAIN_IDLE_MAX);
        let mut closing = false;
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while self.load().connections > 0 {
            if begun.elapsed() >= deadline {
                return false;
            }
            if !closing && begun.elapsed() >= close_idle {
                closing = true;
                self.phase(Phase::Closing).await;
            }
            poll.tick().await;
        }
        true
    }

    async fn phase(&self, phase: Phase) {
        self.tell(|done| Command::Phase { phase, done }).await;
    }
}
