//! The way out for what this replica's shards say, while another replica leads. [pure but for its channel]

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::event::Event;

/// Events that wait beside those in the channel; with one more, everything that counts is said anew in their place.
const WAITING_MAX: usize = 16 * 1024;

/// Events on their way to a relay.
#[derive(Debug)]
pub(crate) struct Relay {
    sender: mpsc::Sender<Event>,
    /// Bounded by [`WAITING_MAX`] and all that counts.
    waiting: VecDeque<Event>,
    bound: usize,
}

impl Relay {
    /// A relay that hears everything first.
    pub(crate) fn new(sender: mpsc::Sender<Event>, everything: Vec<Event>) -> Self {
        let mut relay = Self {
            sender,
            waiting: VecDeque::new(),
            bound: WAITING_MAX,
        };
        relay.anew(everything);
        relay
    }

    /// Says everything in the place of what waits.
    pub(crate) fn anew(&mut self, everything: Vec<Event>) {
        self.bound = WAITING_MAX.max(2 * everything.len());
        self.waiting = everything.into();
    }

    /// Says nothing more, as this replica leads.
    pub(crate) fn stop(&mut self) {
        self.waiting.clear();
    }

    /// Says what comes; false when too much waits: then everything is to be said anew.
    pub(crate) fn say(&mut self, event: Event) -> bool {
        if self.waiting.len() >= self.bound {
            return false;
        }
        self.waiting.push_back(event);
        true
    }

    /// Whether something waits for room.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Where there will be room.
    pub(crate) fn sender(&self) -> mpsc::Sender<Event> {
        self.sender.clone()
    }

    /// Sends as much as there is room for. False when nobody listens any more.
    pub(crate) fn send(&mut self) -> bool {
        while let Some(event) = self.waiting.pop_front() {
            match self.sender.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    return true;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        !self.sender.is_closed()
    }
}
