//! The handle to a running node, and its start.

pub(crate) mod driver;
pub(crate) mod mailbox;
mod shared;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use api_telemetry::metrics::Source;
use parking_lot::{Mutex, RwLock};
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::sync::{oneshot, watch};

use self::driver::Driver;
use self::mailbox::{Mailbox, Proposal, Refused, Request, Stop};
use self::shared::Shared;
use crate::chunk::PROPOSAL_BYTES_MAX;
use crate::members::{Change, ChangeError, Members};
use crate::metrics::Metrics;
use crate::store::StoreError;
use crate::store::disk::{Disk, RealDisk};
use crate::{
    Applied, Committed, Config, Leadership, Observed, Outbox, ProposeError, StartError,
    StateMachine, Status, StepError,
};

/// A running node. Dropping it stops the thread without waiting for it.
pub struct Node<O> {
    mailbox: Arc<Mailbox<O>>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    proposal_bytes_max: usize,
    proposals_bytes_max: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Starts a lone voter on a folder: recovers snapshot and log into `state`, then leads and takes proposals.
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
    let disk = open_folder(&config)?;
    start_on(config, disk, state, alone(observer), Box::new(Nobody))
}

/// Starts a member of a group on a folder, as [`start`] does a lone voter.
///
/// What is known to be committed is applied to `state` before this returns; the rest, and what is new, when a leader
/// says so. The group is founded by `config.initial_voters` on empty folders; with none of these the node waits until a
/// leader adds it ([`Node::change`]). Messages leave by `outbox` and come in by [`Node::step`]. The node's thread owns the
/// outbox: one that holds the [`Node`] keeps it alive until [`Node::shutdown`].
///
/// # Errors
/// As [`start`].
pub fn start_with_peers<S: StateMachine + Sync>(
    config: Config,
    state: Arc<RwLock<S>>,
    outbox: impl Outbox,
    observer: impl FnMut(Observed<S::Output>) + Send + 'static,
) -> Result<Node<S::Output>, StartError> {
    let disk = open_folder(&config)?;
    start_on(config, disk, state, observer, Box::new(outbox))
}

/// A lone voter's observer: no leader replaces its state.
fn alone<O>(mut observer: impl FnMut(Applied<O>) + Send + 'static) -> impl FnMut(Observed<O>) {
    move |observed| {
        if let Observed::Applied(applied) = observed {
            observer(applied);
        }
    }
}

/// A lone voter has nobody to talk to. A folder of a group that is opened alone never elects anyone.
pub(crate) struct Nobody;

impl Outbox for Nobody {
    fn send(&mut self, to: u64, _: Vec<u8>) {
        tracing::debug!(peer = to, "no way to this member; the message is dropped");
    }
}

fn open_folder(config: &Config) -> Result<Box<dyn Disk>, StartError> {
    let disk = RealDisk::open(&config.data_dir).map_err(|source| StartError::Store {
        dir: config.data_dir.clone(),
        source: StoreError::Io {
            what: "lock the folder".into(),
            source,
        },
    })?;
    Ok(Box::new(disk))
}

pub(crate) fn start_on<S: StateMachine + Sync>(
    config: Config,
    disk: Box<dyn Disk>,
    state: Arc<RwLock<S>>,
    observer: impl FnMut(Observed<S::Output>) + Send + 'static,
    outbox: Box<dyn Outbox>,
) -> Result<Node<S::Output>, StartError> {
    let mailbox = Arc::new(Mailbox::new(&config));
    let proposal_bytes_max = config.proposal_bytes_max.min(PROPOSAL_BYTES_MAX);
    let proposals_bytes_max = config.proposals_bytes_max;
    let seed = std::hash::RandomState::new().build_hasher().finish();
    let driver = Driver::open(config, disk, state, observer, outbox, seed)?;
    let metrics = driver.metrics();
    let shared = Arc::new(Shared::new(driver.status(), driver.leadership()));
    let ending = Ending {
        mailbox: Arc::clone(&mailbox),
        shared: Arc::clone(&shared),
    };
    let thread = std::thread::Builder::new()
        .name("raft".into())
        .spawn(move || driver.run(&ending.mailbox, &ending.shared))
        .map_err(StartError::Thread)?;
    Ok(Node {
        mailbox,
        shared,
        metrics,
        proposal_bytes_max,
        proposals_bytes_max,
        thread: Mutex::new(Some(thread)),
    })
}

/// Tells everyone that the thread has ended, by a panic as well.
struct Ending<O> {
    mailbox: Arc<Mailbox<O>>,
    shared: Arc<Shared>,
}

impl<O> Drop for Ending<O> {
    fn drop(&mut self) {
        self.mailbox.close();
        self.shared.end();
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
        match self.mailbox.propose(proposal) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(self.refused()),
            Err(Refused::Stopped) => return Err(ProposeError::Stopped),
        }
        answered.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Returns once this node is known to lead still, and everything that was acknowledged before the call is applied
    /// here. Costs one entry of the log.
    ///
    /// Cancel safety: nothing is lost.
    ///
    /// # Errors
    /// As [`Node::propose`].
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        let (answer, answered) = oneshot::channel();
        match self.mailbox.request(Request::Barrier(answer)) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(self.refused()),
            Err(Refused::Stopped) => return Err(ProposeError::Stopped),
        }
        answered.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Changes the members and returns once a majority of the new ones goes by the change, also after a restart: the next
    /// one may be made, or a volume be lost. One at a time, by the leader. What is so already is a success.
    ///
    /// Cancel safety: a dropped future does not take the change back.
    ///
    /// # Errors
    /// [`ChangeError`]; after [`ChangeError::LeadershipLost`] and [`ChangeError::Stopped`] the change may still come.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let (answer, answered) = oneshot::channel();
        match self.mailbox.request(Request::Change(change, answer)) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(ChangeError::Busy),
            Err(Refused::Stopped) => return Err(ChangeError::Stopped),
        }
        answered.await.unwrap_or(Err(ChangeError::Stopped))
    }

    /// Takes a message of another member, as its [`Outbox`] got it. Never blocks. The caller has checked who sent it.
    ///
    /// # Errors
    /// [`StepError`]; a message that was not taken counts as lost, and raft sends anew.
    pub fn step(&self, message: Vec<u8>) -> Result<(), StepError> {
        let bytes = message.len();
        let decoded = Message::decode(&message[..]).map_err(|_| StepError::Malformed)?;
        drop(message);
        self.mailbox
            .message(decoded, bytes)
            .map_err(|refused| match refused {
                Refused::Full => {
                    self.metrics
                        .messages_dropped
                        .fetch_add(1, Ordering::Relaxed);
                    StepError::QueueFull
                }
                Refused::Stopped => StepError::Stopped,
            })
    }

    /// A member was not reached. Raft finds out by itself as well, with more messages.
    pub fn unreachable(&self, id: u64) {
        let _ = self.mailbox.request(Request::Unreachable(id));
    }

    /// Says whether a message that was given to [`Outbox::send_snapshot`] arrived. Without this, the member gets nothing
    /// for 300 ticks.
    pub fn snapshot_sent(&self, to: u64, arrived: bool) {
        let _ = self.mailbox.request(Request::SnapshotSent(to, arrived));
    }

    /// Who leads, as of the last round of the node's thread.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The members, as of the last applied entry.
    pub fn members(&self) -> Members {
        let status = self.shared.status.read();
        let ids = |voter| {
            let members = status.members.iter();
            let members = members.filter(move |member| member.voter == voter);
            members.map(|member| member.id).collect()
        };
        Members {
            voters: ids(true),
            learners: ids(false),
        }
    }

    fn refused(&self) -> ProposeError {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        ProposeError::QueueFull
    }

    /// Where the node stands, as of its last round.
    pub fn status(&self) -> Status {
        self.shared.status.read().clone()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.metrics) as Arc<dyn Source>
    }

    /// Whether the thread has ended (a failed disk); the process must end as well.
    pub fn has_stopped(&self) -> bool {
        *self.shared.stopped.borrow()
    }

    /// Waits until the thread has ended. When nobody called [`Node::shutdown`], the log has failed or the state machine
    /// panicked: the process must exit with an error, so that the next one reads what the disk really has.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn stopped(&self) {
        let mut stopped = self.shared.stopped.subscribe();
        // An error means that the sender is gone, and the thread with it.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Ends the thread after what it has begun, and waits for it. A leader hands over first when other voters are heard
    /// of, so that nobody waits for an election time-out: messages must still come and go. Blocks for the rounds that
    /// are queued, and for at most 40 ticks when nobody takes over.
    pub fn shutdown(&self) {
        self.mailbox.stop(Stop::Orderly);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl<O> Drop for Node<O> {
    fn drop(&mut self) {
        self.mailbox.stop(Stop::Now);
    }
}
