//! The thread that connects core, store and state machine, and the handle to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use api_telemetry::Chain;
use api_telemetry::metrics::Source;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::chunk::{Assembly, split};
use crate::core::{CommittedEntry, Core};
use crate::metrics::Metrics;
use crate::store::disk::{Disk, RealDisk};
use crate::store::{SavedSnapshot, Store, StoreError};
use crate::{Applied, Committed, Config, ProposeError, StartError, StateMachine, Status};

/// Proposals taken into one group: one append and one sync for all of them.
const GROUP_MAX: usize = 256;

struct Proposal<O> {
    data: Vec<u8>,
    called: Instant,
    answer: oneshot::Sender<Result<Committed<O>, ProposeError>>,
}

enum Input<O> {
    Propose(Proposal<O>),
    Stop,
}

/// A running node. Dropping it stops the thread without waiting for it.
pub struct Node<O> {
    inputs: SyncSender<Input<O>>,
    status: Arc<RwLock<Status>>,
    metrics: Arc<Metrics>,
    proposal_bytes_max: usize,
    thread: Option<JoinHandle<()>>,
}

/// Starts a node on a folder: recovers snapshot and log into `state`, then leads (one voter) and takes proposals.
///
/// Entries that were committed before are applied to `state` before this returns; the observer is called, in order
/// and on the node's thread, with those that come after. It must not block for long: the log waits for it.
///
/// # Errors
/// [`StartError`] when the folder is held by another process, damaged or of another version. Nothing is changed then.
pub fn start<S: StateMachine + Sync>(
    config: Config,
    state: Arc<RwLock<S>>,
    observer: impl FnMut(Applied<S::Output>) + Send + 'static,
) -> Result<Node<S::Output>, StartError> {
    let disk = RealDisk::open(&config.data_dir).map_err(|source| StartError::Store {
        dir: config.data_dir.clone(),
        source: StoreError::Io {
            what: "lock the folder".into(),
            source,
        },
    })?;
    start_on(config, Box::new(disk), state, observer)
}

pub(crate) fn start_on<S: StateMachine + Sync>(
    config: Config,
    disk: Box<dyn Disk>,
    state: Arc<RwLock<S>>,
    observer: impl FnMut(Applied<S::Output>) + Send + 'static,
) -> Result<Node<S::Output>, StartError> {
    let refused = |source| StartError::Store {
        dir: config.data_dir.clone(),
        source,
    };
    let (mut store, recovered) = Store::open(disk).map_err(refused)?;
    // The first vote must find room.
    store.reserve(0).map_err(refused)?;
    if let Some(snapshot) = &recovered.snapshot {
        state
            .write()
            .restore(&snapshot.state)
            .map_err(|reason| StartError::Restore {
                index: snapshot.index,
                reason,
            })?;
    }
    let core = Core::new(config.id, vec![config.id], &recovered)?;
    let applied = recovered
        .snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.index);
    let metrics = Arc::new(Metrics::default());
    let mut driver = Driver {
        core,
        store,
        state,
        observer,
        replaying: true,
        waiting: HashMap::new(),
        next_id: 1,
        assembly: Assembly::default(),
        applied,
        applied_term: 0,
        snapshot_index: applied,
        log_bytes_at_snapshot: 0,
        metrics: Arc::clone(&metrics),
        config,
    };
    driver.core.campaign()?;
    // One voter elects itself and commits its whole log without waiting for anyone.
    driver.work().map_err(|source| StartError::Store {
        dir: driver.config.data_dir.clone(),
        source,
    })?;
    driver.replaying = false;
    driver.log_bytes_at_snapshot = driver.store.log_bytes();
    tracing::info!(
        applied = driver.applied,
        last = driver.core.last_index(),
        "raft state recovered"
    );
    let status = Arc::new(RwLock::new(driver.status()));
    let (sender, receiver) = sync_channel(driver.config.proposals_queue_max);
    let proposal_bytes_max = driver.config.proposal_bytes_max;
    let published = Arc::clone(&status);
    let thread = std::thread::Builder::new()
        .name("raft".into())
        .spawn(move || driver.run(&receiver, &published))
        .map_err(StartError::Thread)?;
    Ok(Node {
        inputs: sender,
        status,
        metrics,
        proposal_bytes_max,
        thread: Some(thread),
    })
}

impl<O: Send + Clone + 'static> Node<O> {
    /// Commits `data` and applies it.
    ///
    /// Cancel safety: a dropped future does not take the proposal back; it may still be committed.
    ///
    /// # Errors
    /// [`ProposeError`]; only after [`ProposeError::Stopped`] is it open whether the entry survives.
    pub async fn propose(&self, data: Vec<u8>) -> Result<Committed<O>, ProposeError> {
        if data.len() > self.proposal_bytes_max {
            return Err(ProposeError::TooLarge {
                bytes: data.len(),
                max: self.proposal_bytes_max,
            });
        }
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal {
            data,
            called: Instant::now(),
            answer,
        };
        match self.inputs.try_send(Input::Propose(proposal)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.metrics.refused.fetch_add(1, Ordering::Relaxed);
                return Err(ProposeError::QueueFull);
            }
            Err(TrySendError::Disconnected(_)) => return Err(ProposeError::Stopped),
        }
        answered.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Where the node stands, as of its last round.
    pub fn status(&self) -> Status {
        self.status.read().clone()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }

    /// Whether the thread has ended (a failed disk); the process should end as well.
    pub fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the thread after what it has begun, and waits for it.
    pub fn shutdown(mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn stop(&self) {
        // A full queue is drained by the thread, so this waits for a place only.
        let _ = self.inputs.send(Input::Stop);
    }
}

impl<O> Drop for Node<O> {
    fn drop(&mut self) {
        let _ = self.inputs.try_send(Input::Stop);
    }
}

struct Driver<S: StateMachine, F> {
    core: Core,
    store: Store,
    state: Arc<RwLock<S>>,
    observer: F,
    replaying: bool,
    waiting: HashMap<u64, Proposal<S::Output>>,
    next_id: u64,
    assembly: Assembly,
    applied: u64,
    applied_term: u64,
    snapshot_index: u64,
    log_bytes_at_snapshot: u64,
    metrics: Arc<Metrics>,
    config: Config,
}

impl<S: StateMachine, F: FnMut(Applied<S::Output>)> Driver<S, F> {
    fn run(mut self, inputs: &Receiver<Input<S::Output>>, status: &RwLock<Status>) {
        let mut next_tick = Instant::now() + self.config.tick;
        let result = loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let mut stop = false;
            match inputs.recv_timeout(wait) {
                Ok(first) => {
                    let more = inputs.try_iter().take(GROUP_MAX - 1);
                    for input in std::iter::once(first).chain(more) {
                        match input {
                            Input::Propose(proposal) => self.propose(proposal),
                            Input::Stop => stop = true,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            if Instant::now() >= next_tick {
                self.core.tick();
                next_tick += self.config.tick;
                // After a pause (suspend, overload) ticks are not caught up with.
                next_tick = next_tick.max(Instant::now());
            }
            if let Err(error) = self.work() {
                break Err(error);
            }
            *status.write() = self.status();
            if stop {
                break Ok(());
            }
        };
        status.write().role = "stopped";
        if let Err(error) = result {
            tracing::error!(error = %Chain(&error), "raft node stops; the log can no longer be trusted to grow");
        }
        for (_, proposal) in self.waiting.drain() {
            let _ = proposal.answer.send(Err(ProposeError::Stopped));
        }
    }

    fn propose(&mut self, proposal: Proposal<S::Output>) {
        if !self.core.leads() {
            let leader = self.core.status(0, 0).leader;
            let _ = proposal
                .answer
                .send(Err(ProposeError::NotLeader { leader }));
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let entries = split(id, &proposal.data);
        let bytes: usize = entries.iter().map(|entry| entry.len() + 64).sum();
        if let Err(error) = self.store.reserve(bytes as u64) {
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            let _ = proposal
                .answer
                .send(Err(ProposeError::NoRoom(Chain(&error).to_string())));
            return;
        }
        let last = entries.len() - 1;
        for (position, data) in entries.into_iter().enumerate() {
            let context = if position == last {
                id.to_le_bytes().to_vec()
            } else {
                Vec::new()
            };
            if !self.core.propose(context, data) {
                let _ = proposal
                    .answer
                    .send(Err(ProposeError::NotLeader { leader: None }));
                return;
            }
        }
        self.waiting.insert(id, proposal);
    }

    /// Persists and applies until there is nothing left to do.
    fn work(&mut self) -> Result<(), StoreError> {
        while let Some((persist, committed)) = self.core.ready() {
            self.apply(committed);
            self.store
                .append(&persist.entries, persist.hard_state.as_ref())?;
            if persist.must_sync {
                let before = Instant::now();
                self.store.sync()?;
                self.metrics.fsync.record(before.elapsed());
            }
            let committed = self.core.persisted(&persist);
            self.apply(committed);
            self.core.applied();
        }
        self.metrics
            .log_bytes
            .store(self.store.log_bytes(), Ordering::Relaxed);
        self.compact();
        Ok(())
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>) {
        for entry in entries {
            self.applied = entry.index;
            self.applied_term = entry.term;
            let Some(data) = self.assembly.push(&entry.data) else {
                continue;
            };
            let output = self.state.write().apply(entry.index, &data);
            if self.replaying {
                continue;
            }
            (self.observer)(Applied {
                index: entry.index,
                output: output.clone(),
            });
            let id = entry.context.as_slice().try_into().map(u64::from_le_bytes);
            if let Some(proposal) = id.ok().and_then(|id| self.waiting.remove(&id)) {
                let took = proposal.called.elapsed();
                self.metrics.commit.record(took);
                let _ = proposal.answer.send(Ok(Committed {
                    index: entry.index,
                    output,
                    took,
                }));
            }
        }
        self.metrics.applied.store(self.applied, Ordering::Relaxed);
    }

    /// Takes a snapshot when the log has grown enough. A snapshot that cannot be written is tried again later; the
    /// log keeps everything until then.
    fn compact(&mut self) {
        let entries = self.applied - self.snapshot_index;
        let grown = self
            .store
            .log_bytes()
            .saturating_sub(self.log_bytes_at_snapshot);
        let due = entries >= self.config.snapshot_after_entries
            || (entries > 0 && grown >= self.config.snapshot_after_bytes);
        if !due || !self.assembly.is_empty() {
            return;
        }
        let before = Instant::now();
        let state = self.state.read().snapshot();
        let snapshot = SavedSnapshot {
            index: self.applied,
            term: self.applied_term,
            state,
        };
        // Whether it worked or not: the next try is after as many entries again.
        self.snapshot_index = self.applied;
        match self.store.save_snapshot(&snapshot) {
            Ok(()) => {
                self.core.compact(snapshot.index);
                let bytes = snapshot.state.len();
                tracing::info!(index = snapshot.index, bytes, took = ?before.elapsed(), "raft snapshot taken");
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "no raft snapshot taken; the log grows on");
            }
        }
        self.log_bytes_at_snapshot = self.store.log_bytes();
    }

    fn status(&self) -> Status {
        self.core.status(self.applied, self.store.log_bytes())
    }
}
