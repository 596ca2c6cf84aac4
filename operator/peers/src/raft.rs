//! Raft's side of the transport.

use operator_consensus::{Node, Outbox};

use crate::transport::{Inbox, PeerOutbox};

impl Outbox for PeerOutbox {
    fn send(&mut self, to: u64, message: Vec<u8>) {
        PeerOutbox::send(self, to, message);
    }

    fn send_snapshot(&mut self, to: u64, message: Vec<u8>) {
        PeerOutbox::send_snapshot(self, to, message);
    }
}

impl<O: Send + Sync + Clone + 'static> Inbox for Node<O> {
    fn message(&self, message: Vec<u8>) -> bool {
        let taken = self.step(message);
        if let Err(error) = &taken {
            tracing::debug!(%error, "raft message not taken");
        }
        taken.is_ok()
    }

    fn unreachable(&self, id: u64) {
        Node::unreachable(self, id);
    }

    fn snapshot_sent(&self, id: u64, ok: bool) {
        Node::snapshot_sent(self, id, ok);
    }
}
