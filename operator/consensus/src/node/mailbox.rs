//! What waits for the node's thread: lanes of their own for messages, requests and proposals, so that a heartbeat never
//! stands behind a proposal. Each lane has a bound; one more is refused.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use raft::eraftpb::Message;
use tokio::sync::oneshot;

use crate::members::{Change, ChangeError};
use crate::metrics::Held;
use crate::{Committed, Config, ProposeError};

/// Proposals and bytes taken into one group: one append and one sync for all of them. A single larger proposal is a
/// group of its own.
const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages taken at a time.
const MESSAGES_MAX: usize = 256;
/// Requests that wait.
const REQUESTS_MAX: usize = 256;

pub(crate) struct Proposal<O> {
    pub(crate) data: Vec<u8>,
    pub(crate) called: Instant,
    pub(crate) answer: oneshot::Sender<Result<Committed<O>, ProposeError>>,
    /// Counts its bytes until it is answered.
    pub(crate) held: Held,
}

/// What is rare.
pub(crate) enum Request {
    Barrier(oneshot::Sender<Result<(), ProposeError>>),
    Change(Change, oneshot::Sender<Result<(), ChangeError>>),
    Unreachable(u64),
    SnapshotSent(u64, bool),
}

/// Whether the thread is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// After what waits, and after another voter leads.
    Orderly,
    Now,
}

/// Why something was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    Full,
    Stopped,
}

/// What was taken at a time, each lane in its order.
pub(super) struct Batch<O> {
    pub(super) messages: Vec<Message>,
    pub(super) requests: Vec<Request>,
    pub(super) proposals: Vec<Proposal<O>>,
    pub(super) stop: Stop,
    /// Nothing waits any more.
    pub(super) empty: bool,
}

pub(super) struct Mailbox<O> {
    lanes: Mutex<Lanes<O>>,
    bell: Condvar,
    proposals_max: usize,
    messages_max: usize,
    messages_bytes_max: usize,
}

struct Lanes<O> {
    /// Each with its size, bytes.
    messages: VecDeque<(Message, usize)>,
    messages_bytes: usize,
    requests: VecDeque<Request>,
    proposals: VecDeque<Proposal<O>>,
    stop: Stop,
}

impl<O> Mailbox<O> {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            lanes: Mutex::new(Lanes {
                messages: VecDeque::new(),
                messages_bytes: 0,
                requests: VecDeque::new(),
                proposals: VecDeque::new(),
                stop: Stop::No,
            }),
            bell: Condvar::new(),
            proposals_max: config.proposals_queue_max,
            messages_max: config.messages_queue_max,
            messages_bytes_max: config.messages_bytes_max,
        }
    }

    pub(super) fn propose(&self, proposal: Proposal<O>) -> Result<(), Refused> {
        self.put(|lanes| {
            let fits = lanes.proposals.len() < self.proposals_max;
            fits.then(|| lanes.proposals.push_back(proposal))
        })
    }

    pub(super) fn request(&self, request: Request) -> Result<(), Refused> {
        self.put(|lanes| {
            let fits = lanes.requests.len() < REQUESTS_MAX;
            fits.then(|| lanes.requests.push_back(request))
        })
    }

    /// Takes messages also while it stops: handing over needs them.
    pub(super) fn message(&self, message: Message, bytes: usize) -> Result<(), Refused> {
        let mut lanes = self.lanes.lock();
        if lanes.stop == Stop::Now {
            return Err(Refused::Stopped);
        }
        let first = lanes.messages.is_empty();
        let fits = lanes.messages.len() < self.messages_max
            && lanes.messages_bytes + bytes <= self.messages_bytes_max;
        if !first && !fits {
            return Err(Refused::Full);
        }
        lanes.messages_bytes += bytes;
        lanes.messages.push_back((message, bytes));
        self.bell.notify_one();
        Ok(())
    }

    /// Ends the thread; what is put in later is refused. A harder stop replaces a softer one.
    pub(super) fn stop(&self, stop: Stop) {
        let mut lanes = self.lanes.lock();
        if lanes.stop != Stop::Now {
            lanes.stop = stop;
        }
        self.bell.notify_one();
    }

    /// The thread has ended: who waits hears of it, since the answers' ends are dropped.
    pub(super) fn close(&self) {
        let mut lanes = self.lanes.lock();
        lanes.stop = Stop::Now;
        lanes.messages.clear();
        lanes.requests.clear();
        lanes.proposals.clear();
    }

    /// Waits until something is there or the deadline is over, and takes it.
    pub(super) fn take(&self, deadline: Instant) -> Batch<O> {
        let mut lanes = self.lanes.lock();
        while lanes.is_empty() && lanes.stop == Stop::No {
            if self.bell.wait_until(&mut lanes, deadline).timed_out() {
                break;
            }
        }
        // One that hands over has nothing to do but ticks: it must not spin.
        if lanes.is_empty() && lanes.stop == Stop::Orderly {
            self.bell.wait_until(&mut lanes, deadline);
        }
        let messages = lanes.messages.len().min(MESSAGES_MAX);
        let messages: Vec<_> = lanes.messages.drain(..messages).collect();
        lanes.messages_bytes -= messages.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let requests = lanes.requests.drain(..).collect();
        let mut proposals = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && proposals.len() < GROUP_MAX
            && let Some(proposal) = lanes.proposals.pop_front()
        {
            bytes += proposal.data.len();
            proposals.push(proposal);
        }
        Batch {
            messages: messages.into_iter().map(|(message, _)| message).collect(),
            requests,
            proposals,
            stop: lanes.stop,
            empty: lanes.is_empty(),
        }
    }

    fn put(&self, push: impl FnOnce(&mut Lanes<O>) -> Option<()>) -> Result<(), Refused> {
        let mut lanes = self.lanes.lock();
        if lanes.stop != Stop::No {
            return Err(Refused::Stopped);
        }
        push(&mut lanes).ok_or(Refused::Full)?;
        self.bell.notify_one();
        Ok(())
    }
}

impl<O> Lanes<O> {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.requests.is_empty() && self.proposals.is_empty()
    }
}
