//! A worker: one thread with its own runtime, sockets, connections and pools.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::config::ForwardConfig;
use crate::gateway::Gateway;
use crate::listening::{Listening, Socket};
use crate::metrics::WorkerStats;
use crate::timer;
use crate::upstream::Pools;

/// Names an opened socket. An address is no name: it may move from one Gateway to another and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SocketId(pub(crate) u64);

/// What a worker is told. The channel is bounded; the control side waits for room.
pub(crate) enum Command {
    /// Accept on a bound socket.
    Open {
        id: SocketId,
        listener: std::net::TcpListener,
        spec: SocketSpec,
    },
    /// Stop accepting.
    Close {
        ids: Vec<SocketId>,
        after: After,
        done: oneshot::Sender<()>,
    },
    /// The end has come so far. All sockets close, and none opens any more.
    Phase {
        phase: Phase,
        done: oneshot::Sender<()>,
    },
}

/// What becomes of the connections of a socket that closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// They go on.
    Serve,
    /// Others serve their Gateway: each ends with its next response, or by GOAWAY, and when it is idle for long.
    Leave,
    /// Their Gateway is removed: they end at once.
    Remove,
}

/// Whose connections a socket accepts.
#[derive(Clone)]
pub(crate) struct SocketSpec {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) listener_port: u16,
    pub(crate) public_port: u16,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Nothing is accepted any more; each response ends its connection.
    Draining,
    /// Connections that wait for a request are closed.
    Closing,
    /// The Gateway is removed; so for its own connections alone.
    Removed,
}

/// What the tasks of a worker share; never crosses threads.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) config: Arc<ForwardConfig>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) pools: Rc<Pools>,
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
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("traffic-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            let worker = Rc::new(Worker {
                index,
                pools: Pools::new(Arc::clone(&config), Arc::clone(&stats)),
                config,
                stats,
                phase: Cell::new(Phase::Serving),
                connections_open: Cell::new(0),
                seed: Cell::new(std::hash::BuildHasher::hash_one(
                    &std::hash::RandomState::new(),
                    index,
                )),
            });
            runtime.block_on(local.run_until(run(worker, commands)));
        })
}

async fn run(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>) {
    let mut sockets: HashMap<SocketId, Listening> = HashMap::new();
    let mut served = Served::default();
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Open { .. }) if worker.phase.get() != Phase::Serving => {}
                Some(Command::Open { id, listener, spec }) => {
                    let address = spec.address;
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            let listening = Listening::start(&worker, listener, spec);
                            served.add(listening.socket());
                            sockets.insert(id, listening);
                        }
                        Err(error) => tracing::error!(%address, %error, "socket cannot be polled"),
                    }
                }
                Some(Command::Close { ids, after, done }) => {
                    for listening in ids.iter().filter_map(|id| sockets.remove(id)) {
                        listening.stop(&worker, after).await;
                    }
                    let _ = done.send(());
                }
                Some(Command::Phase { phase, done }) => {
                    worker.phase.set(phase);
                    for (_, listening) in sockets.drain() {
                        listening.stop(&worker, After::Serve).await;
                    }
                    served.tell(phase);
                    let _ = done.send(());
                }
            },
            _ = sweep.tick() => {
                worker.pools.sweep();
                timer::fire();
            }
        }
    }
}

/// Sockets with connections, closed ones too.
#[derive(Default)]
struct Served {
    sockets: Vec<Weak<Socket>>,
    prune_at: usize,
}

impl Served {
    fn add(&mut self, socket: &Rc<Socket>) {
        if self.sockets.len() >= self.prune_at {
            self.sockets.retain(|socket| socket.strong_count() > 0);
            self.prune_at = (2 * self.sockets.len()).max(64);
        }
        self.sockets.push(Rc::downgrade(socket));
    }

    fn tell(&self, phase: Phase) {
        for socket in self.sockets.iter().filter_map(Weak::upgrade) {
            socket.reach(phase);
        }
    }
}
