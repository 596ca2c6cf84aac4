//! One member: a driver on a disk, and what it was asked.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::sync::oneshot;

use super::model::{Replica, content};
use super::network::Sent;
use crate::members::{Change, ChangeError};
use crate::metrics::Metrics;
use crate::node::driver::Driver;
use crate::node::mailbox::{Proposal, Request};
use crate::store::fake::FakeDisk;
use crate::{Committed, Config, Observed, Outbox, ProposeError};

type Observer = Box<dyn FnMut(Observed<u64>)>;

struct Letters {
    from: u64,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Letters {
    fn push(&self, to: u64, bytes: Vec<u8>, snapshot: bool) {
        let from = self.from;
        self.sent.lock().push(Sent {
            from,
            to,
            bytes,
            snapshot,
        });
    }
}

impl Outbox for Letters {
    fn send(&mut self, to: u64, message: Vec<u8>) {
        self.push(to, message, false);
    }

    fn send_snapshot(&mut self, to: u64, message: Vec<u8>) {
        self.push(to, message, true);
    }
}

/// What the member was asked and has not answered.
pub(super) enum Asked {
    Proposal {
        number: u64,
        term: u64,
        answer: oneshot::Receiver<Result<Committed<u64>, ProposeError>>,
    },
    /// With the index that was acknowledged when it was asked for.
    Barrier {
        through: u64,
        answer: oneshot::Receiver<Result<(), ProposeError>>,
    },
    Change {
        change: Change,
        answer: oneshot::Receiver<Result<(), ChangeError>>,
    },
}

/// From a start to a crash.
pub(super) struct Life {
    pub(super) driver: Driver<Replica, Observer>,
    pub(super) state: Arc<RwLock<Replica>>,
    pub(super) sent: Arc<Mutex<Vec<Sent>>>,
    pub(super) observed: Arc<Mutex<Vec<Observed<u64>>>>,
    pub(super) asked: Vec<Asked>,
    /// Index and hash as the model followed them.
    pub(super) followed: (u64, u64),
    /// Hands over and stops.
    pub(super) stopping: bool,
    /// Last term in which it said that it leads.
    pub(super) led: u64,
}

pub(super) struct Member {
    pub(super) id: u64,
    /// What its settings say; the same in each life.
    founders: Vec<u64>,
    pub(super) disk: FakeDisk,
    /// None while it is down.
    pub(super) life: Option<Life>,
    lives: u64,
    snapshot_after: u64,
}

impl Member {
    pub(super) fn new(id: u64, founders: Vec<u64>, snapshot_after: u64) -> Self {
        Self {
            id,
            founders,
            disk: FakeDisk::default(),
            life: None,
            lives: 0,
            snapshot_after,
        }
    }

    /// Starts it on its disk; it stays down when that crashes meanwhile.
    pub(super) fn start(&mut self, seed: u64) -> Result<(), String> {
        self.lives += 1;
        let mut config = Config::member("fake".into(), self.id, self.founders.clone());
        config.snapshot_after_entries = self.snapshot_after;
        config.keep_entries_max = 10;
        let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let observed: Arc<Mutex<Vec<Observed<u64>>>> = Arc::default();
        let state = Arc::new(RwLock::new(Replica::default()));
        let outbox = Letters {
            from: self.id,
            sent: Arc::clone(&sent),
        };
        let heard = Arc::clone(&observed);
        let opened = Driver::open(
            config,
            self.disk.boxed(),
            Arc::clone(&state),
            Box::new(move |event| heard.lock().push(event)) as Observer,
            Box::new(outbox),
            seed ^ (self.lives << 8),
        );
        self.life = match opened {
            Ok(driver) => Some(Life {
                driver,
                state,
                sent,
                observed,
                asked: Vec::new(),
                followed: (0, 0),
                stopping: false,
                led: 0,
            }),
            Err(_) if self.disk.crashed() => None,
            Err(error) => {
                let text = api_telemetry::Chain(&error).to_string();
                return Err(format!("{} does not start: {text}", self.id));
            }
        };
        Ok(())
    }
}

impl Life {
    pub(super) fn leads(&self) -> bool {
        self.driver.leadership().leads
    }

    /// Hands in a message. False when the disk failed.
    pub(super) fn deliver(&mut self, bytes: &[u8]) -> bool {
        let message = Message::decode(bytes);
        self.driver.message(message.unwrap_or_default()).is_ok()
    }

    pub(super) fn propose(&mut self, number: u64) {
        let (answer, answered) = oneshot::channel();
        let data = content(number);
        let metrics = Arc::new(Metrics::default());
        let Some(held) = Metrics::hold(&metrics, data.len(), usize::MAX) else {
            return;
        };
        self.asked.push(Asked::Proposal {
            number,
            term: self.driver.leadership().term,
            answer: answered,
        });
        self.driver.propose(Proposal {
            data,
            called: Instant::now(),
            answer,
            held,
        });
    }

    pub(super) fn barrier(&mut self, through: u64) {
        let (answer, answered) = oneshot::channel();
        self.asked.push(Asked::Barrier {
            through,
            answer: answered,
        });
        self.driver.request(Request::Barrier(answer));
    }

    pub(super) fn is_changing(&self) -> bool {
        let mut asked = self.asked.iter();
        asked.any(|asked| matches!(asked, Asked::Change { .. }))
    }

    pub(super) fn change(&mut self, change: Change) {
        let (answer, answered) = oneshot::channel();
        self.asked.push(Asked::Change {
            change,
            answer: answered,
        });
        self.driver.request(Request::Change(change, answer));
    }
}
