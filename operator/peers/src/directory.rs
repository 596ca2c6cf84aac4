//! Where replicas are.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// A replica as others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The number at the end of its pod's name; its certificate names it.
    pub ordinal: u64,
    /// `host:port`; a name is resolved anew for each connection.
    pub address: String,
}

/// Replicas by raft id, this one among them or not. Clones share what they hold; connections follow a change.
#[derive(Debug, Clone)]
pub struct Directory {
    peers: watch::Sender<Arc<BTreeMap<u64, Peer>>>,
}

impl Directory {
    /// With these replicas.
    pub fn new(peers: BTreeMap<u64, Peer>) -> Self {
        Self {
            peers: watch::Sender::new(Arc::new(peers)),
        }
    }

    /// Puts `peers` in place of all that were there. Connections to those that are gone or elsewhere end.
    pub fn replace(&self, peers: BTreeMap<u64, Peer>) {
        self.peers.send_if_modified(|held| {
            let differs = **held != peers;
            if differs {
                *held = Arc::new(peers);
            }
            differs
        });
    }

    /// The replica with a raft id.
    pub fn peer(&self, id: u64) -> Option<Peer> {
        self.peers.borrow().get(&id).cloned()
    }

    /// All replicas.
    pub fn peers(&self) -> Arc<BTreeMap<u64, Peer>> {
        Arc::clone(&self.peers.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<BTreeMap<u64, Peer>>> {
        self.peers.subscribe()
    }
}
