//! A worker: one thread with its own runtime, sockets, connections and pools.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, LocalSet};

use crate::config::ForwardConfig;
use crate::connection;
use crate::gateway::Gateway;
use crate::metrics::WorkerStats;
use crate::upstream::Pools;

/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Names a socket: what it is bound to.
pub(crate) type SocketId = SocketAddr;

/// What a worker is told. The channel is bounded; the control side waits for room.
pub(crate) enum Command {
    /// Accept on a bound socket.
    Open {
        id: SocketId,
        listener: std::net::TcpListener,
        socket: SocketSpec,
    },
    /// Stop accepting; connections go on.
    Close { id: SocketId },
}

/// Whose connections a socket accepts.
#[derive(Clone)]
pub(crate) struct SocketSpec {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) listener_port: u16,
    pub(crate) public_port: u16,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// A socket as connections see it.
pub(crate) type Socket = SocketSpec;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Each response ends its connection.
    Draining,
    /// Connections that wait for a request are closed.
    Closing,
}

/// What the tasks of a worker share; never crosses threads.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) config: Arc<ForwardConfig>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) pools: Rc<Pools>,
    /// This worker's own channel: connections of other workers share nothing with it.
    pub(crate) drain: watch::Receiver<Phase>,
    pub(crate) phase: Cell<Phase>,
    pub(crate) connections_open: Cell<usize>,
    seed: Cell<u64>,
}

impl Worker {
    /// A number for load balancing (SplitMix64); not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let seed = self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed.set(seed);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn logs_access(&self) -> bool {
        self.config.access_log && tracing::enabled!(target: "access", tracing::Level::INFO)
    }
}

/// Runs tasks on this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Starts the thread of a worker; it ends when the commands' sender is dropped.
pub(crate) fn start(
    index: usize,
    config: Arc<ForwardConfig>,
    stats: Arc<WorkerStats>,
    commands: mpsc::Receiver<Command>,
    drain: watch::Receiver<Phase>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("traffic-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            let (own_drain, draining) = watch::channel(Phase::Serving);
            let worker = Rc::new(Worker {
                index,
                pools: Pools::new(Arc::clone(&config), Arc::clone(&stats)),
                config,
                stats,
                drain: draining,
                phase: Cell::new(Phase::Serving),
                connections_open: Cell::new(0),
                seed: Cell::new(std::hash::BuildHasher::hash_one(
                    &std::hash::RandomState::new(),
                    index,
                )),
            });
            runtime.block_on(local.run_until(run(worker, commands, drain, own_drain)));
        })
}

async fn run(
    worker: Rc<Worker>,
    mut commands: mpsc::Receiver<Command>,
    mut drain: watch::Receiver<Phase>,
    own_drain: watch::Sender<Phase>,
) {
    let mut sockets: HashMap<SocketId, AbortHandle> = HashMap::new();
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Open { id, listener, socket }) => {
                    let listener = match TcpListener::from_std(listener) {
                        Ok(listener) => listener,
                        Err(error) => {
                            tracing::error!(%id, %error, "socket cannot be polled");
                            continue;
                        }
                    };
                    let task = tokio::task::spawn_local(accept(Rc::clone(&worker), listener, Rc::new(socket)));
                    if let Some(old) = sockets.insert(id, task.abort_handle()) {
                        old.abort();
                    }
                }
                Some(Command::Close { id }) => {
                    if let Some(task) = sockets.remove(&id) {
                        task.abort();
                    }
                }
            },
            Ok(()) = drain.changed() => {
                let phase = *drain.borrow_and_update();
                worker.phase.set(phase);
                own_drain.send_replace(phase);
            }
            _ = sweep.tick() => worker.pools.sweep(),
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, socket: Rc<Socket>) {
    let limit = worker.config.connections_max / worker.config.workers.max(1);
    loop {
        match listener.accept().await {
            // Over the limit: closed at once, so that those that are open keep their memory.
            Ok(_) if worker.connections_open.get() >= limit.max(1) => {}
            Ok((stream, peer)) => {
                tokio::task::spawn_local(connection::serve(
                    Rc::clone(&worker),
                    Rc::clone(&socket),
                    stream,
                    peer,
                ));
            }
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                tracing::warn!(gateway = socket.gateway.label, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
