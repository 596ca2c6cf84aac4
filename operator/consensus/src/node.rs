//! The handle to a running node, and its start.

mod driver;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use api_telemetry::metrics::Source;
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};

use self::driver::{Driver, Input, Proposal};
use crate::chunk::PROPOSAL_BYTES_MAX;
use crate::core::Core;
use crate::metrics::Metrics;
use crate::store::disk::{Disk, RealDisk};
use crate::store::{Store, StoreError};
use crate::{Applied, Committed, Config, ProposeError, StartError, StateMachine, Status};

/// A running node. Dropping it stops the thread without waiting for it.
pub struct Node<O> {
    inputs: SyncSender<Input<O>>,
    status: Arc<RwLock<Status>>,
    stopped: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    proposal_bytes_max: usize,
    proposals_bytes_max: usize,
    thread: Option<JoinHandle<()>>,
}

/// Starts a node on a folder: recovers snapshot and log into `state`, then leads (one voter) and takes proposals.
///
/// Entries that were committed before are applied to `state` before this returns; the observer is called, in order
/// and on the node's thread, with those that come after. It must not block for long: the log waits for it.
///
/// Blocks for the time of reading the folder and applying its log.
///
/// # Errors
/// [`StartError`] when the folder is held by another process, damaged or of another version. Nothing is changed then,
/// but for files that a crash left half made and a torn last record.
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
    let dir = config.data_dir.clone();
    let refused = |source| StartError::Store {
        dir: dir.clone(),
        source,
    };
    let (store, mut recovered) = Store::open(disk, config.id).map_err(refused)?;
    if let Some(snapshot) = &mut recovered.snapshot {
        // Moved out: two copies of the state are one too many.
        let bytes = std::mem::take(&mut snapshot.state);
        state
            .write()
            .restore(&bytes)
            .map_err(|reason| StartError::Restore {
                index: snapshot.index,
                reason,
            })?;
    }
    let seed = std::hash::RandomState::new().build_hasher().finish();
    let snapshot = recovered.snapshot.as_ref();
    let applied = snapshot.map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
    let core = Core::new(config.id, vec![config.id], recovered, seed)?;
    let metrics = Arc::new(Metrics::default());
    let (queue, proposal_bytes_max, proposals_bytes_max) = (
        config.proposals_queue_max,
        config.proposal_bytes_max.min(PROPOSAL_BYTES_MAX),
        config.proposals_bytes_max,
    );
    let mut driver = Driver::new(
        config,
        core,
        store,
        state,
        observer,
        applied,
        Arc::clone(&metrics),
    );
    driver.lead()?;
    let status = Arc::new(RwLock::new(driver.status()));
    let (inputs, receiver) = sync_channel(queue);
    let (stop, stopped) = watch::channel(false);
    let published = Arc::clone(&status);
    let thread = std::thread::Builder::new()
        .name("raft".into())
        .spawn(move || {
            let _ending = Ending {
                status: Arc::clone(&published),
                stop,
            };
            driver.run(&receiver, &published);
        })
        .map_err(StartError::Thread)?;
    Ok(Node {
        inputs,
        status,
        stopped,
        metrics,
        proposal_bytes_max,
        proposals_bytes_max,
        thread: Some(thread),
    })
}

/// Tells everyone that the thread has ended, by a panic as well.
struct Ending {
    status: Arc<RwLock<Status>>,
    stop: watch::Sender<bool>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.status.write().role = "stopped";
        self.stop.send_replace(true);
    }
}

impl<O: Send + Clone + 'static> Node<O> {
    /// Commits `data` and applies it.
    ///
    /// Cancel safety: a dropped future does not take the proposal back; it may still be committed.
    ///
    /// # Errors
    /// [`ProposeError`]; only after [`ProposeError::Stopped`] and [`ProposeError::LeadershipLost`] is it open whether
    /// the entry survives.
    pub async fn propose(&self, data: Vec<u8>) -> Result<Committed<O>, ProposeError> {
        let bytes = data.len();
        if bytes > self.proposal_bytes_max {
            return Err(ProposeError::TooLarge {
                bytes,
                max: self.proposal_bytes_max,
            });
        }
        let Some(held) = Metrics::hold(&self.metrics, bytes, self.proposals_bytes_max) else {
            return Err(self.refused());
        };
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal {
            data,
            called: Instant::now(),
            answer,
            held,
        };
        match self.inputs.try_send(Input::Propose(proposal)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(self.refused()),
            Err(TrySendError::Disconnected(_)) => return Err(ProposeError::Stopped),
        }
        answered.await.unwrap_or(Err(ProposeError::Stopped))
    }

    fn refused(&self) -> ProposeError {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        ProposeError::QueueFull
    }

    /// Where the node stands, as of its last round.
    pub fn status(&self) -> Status {
        self.status.read().clone()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }

    /// Whether the thread has ended (a failed disk); the process must end as well.
    pub fn has_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits until the thread has ended. When nobody called [`Node::shutdown`], the log has failed or the state machine
    /// panicked: the process must exit with an error, so that the next one reads what the disk really has.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // An error means that the sender is gone, and the thread with it.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Ends the thread after what it has begun, and waits for it. Blocks for at most the rounds that are queued.
    pub fn shutdown(mut self) {
        // A full queue is drained by the thread, so this waits for a place only.
        let _ = self.inputs.send(Input::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<O> Drop for Node<O> {
    fn drop(&mut self) {
        // When the queue is full, the closed channel ends the thread behind what is queued.
        let _ = self.inputs.try_send(Input::Stop);
    }
}
