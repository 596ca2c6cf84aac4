//! What waits for a replica: raft's messages, bounded by number and bytes, and at most one snapshot.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Messages that wait for a replica. One more is dropped: raft sends again what still counts.
pub(crate) const MESSAGES_MAX: usize = 1024;
/// Bytes of messages that wait for a replica; what does not fit is dropped.
pub(crate) const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest message that is no snapshot: raft cuts its appends at 1 MiB, and no entry is larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages in the order of their sending. One reader.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    held: Mutex<Held>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Held {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    /// Adds a message; false when there is no room.
    pub(crate) fn push(&self, message: Bytes) -> bool {
        {
            let mut held = self.held.lock();
            let bytes = held.bytes + message.len();
            if held.messages.len() >= MESSAGES_MAX || bytes > BYTES_MAX {
                return false;
            }
            held.bytes = bytes;
            held.messages.push_back(message);
        }
        self.came.notify_one();
        true
    }

    /// Waits for the next message. Cancel safety: nothing is lost.
    pub(crate) async fn pop(&self) -> Bytes {
        loop {
            let came = self.came.notified();
            if let Some(message) = self.take() {
                return message;
            }
            came.await;
        }
    }

    fn take(&self) -> Option<Bytes> {
        let mut held = self.held.lock();
        let message = held.messages.pop_front()?;
        held.bytes -= message.len();
        Some(message)
    }

    /// Throws away all that waits, and says how much that was.
    pub(crate) fn clear(&self) -> usize {
        std::mem::take(&mut *self.held.lock()).messages.len()
    }

    /// Messages and bytes that wait.
    pub(crate) fn size(&self) -> (usize, usize) {
        let held = self.held.lock();
        (held.messages.len(), held.bytes)
    }
}

/// At most one of something; a newer one takes the place of one that waits. One reader.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    held: Mutex<Option<Bytes>>,
    came: Notify,
}

impl Slot {
    pub(crate) fn put(&self, message: Bytes) {
        *self.held.lock() = Some(message);
        self.came.notify_one();
    }

    /// Waits for one. Cancel safety: nothing is lost.
    pub(crate) async fn take(&self) -> Bytes {
        loop {
            let came = self.came.notified();
            if let Some(message) = self.held.lock().take() {
                return message;
            }
            came.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_takes_nothing_more_until_there_is_room() {
        let queue = Queue::default();
        for _ in 0..MESSAGES_MAX {
            assert!(queue.push(Bytes::from_static(b"m")));
        }
        assert!(!queue.push(Bytes::from_static(b"m")));
        assert_eq!(queue.clear(), MESSAGES_MAX);
        let large = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
        let fit = BYTES_MAX / MESSAGE_BYTES_MAX;
        for _ in 0..fit {
            assert!(queue.push(large.clone()));
        }
        assert!(!queue.push(Bytes::from_static(b"m")));
        assert_eq!(queue.size(), (fit, BYTES_MAX));
        assert_eq!(queue.take(), Some(large));
        assert!(queue.push(Bytes::from_static(b"m")));
    }
}
