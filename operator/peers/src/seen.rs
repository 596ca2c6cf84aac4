//! Where replicas have called from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;

use crate::directory::{Directory, Peer};

/// Addresses that replicas have called from, by raft id. A pod that is started anew has another address; it calls at once,
/// while its name leads to the old one for some seconds more. Whoever is dialled there must show its certificate all the same.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<BTreeMap<u64, IpAddr>>);

impl Seen {
    /// A replica has called. One that is not in the directory is not remembered, and those that left it are forgotten.
    pub(crate) fn called(&self, id: u64, from: IpAddr, directory: &Directory) {
        let peers = directory.peers();
        let mut seen = self.0.lock();
        seen.retain(|id, _| peers.contains_key(id));
        if peers.contains_key(&id) {
            seen.insert(id, from.to_canonical());
        }
    }

    /// Where to try first.
    pub(crate) fn address(&self, id: u64, peer: &Peer) -> Option<SocketAddr> {
        let (_, port) = peer.address.rsplit_once(':')?;
        let from = self.0.lock().get(&id).copied()?;
        Some(SocketAddr::new(from, port.parse().ok()?))
    }

    /// It was not reached there.
    pub(crate) fn forget(&self, id: u64, address: SocketAddr) {
        let mut seen = self.0.lock();
        if seen.get(&id) == Some(&address.ip()) {
            seen.remove(&id);
        }
    }
}
