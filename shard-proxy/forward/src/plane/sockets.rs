//! Which sockets are open, for whom, and what must close and open so that it is what the active tables want.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use api::GatewayKey;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Type};

use crate::gateway::Gateway;
use crate::worker::{SocketId, SocketSpec};

/// What a socket was bound for; when it changes, the socket is bound anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BoundTo {
    pub(super) listener_port: u16,
    pub(super) public_port: u16,
    pub(super) tls: bool,
}

/// Sockets by address, one for each worker, that nobody listens on yet.
pub(super) type Spare = HashMap<SocketAddr, Vec<socket2::Socket>>;

/// Sockets that a Gateway's active table wants.
pub(super) struct Wanted {
    pub(super) gateway: Arc<Gateway>,
    pub(super) addresses: BTreeMap<SocketAddr, BoundTo>,
    /// By listener port.
    pub(super) tls: HashMap<u16, Arc<ServerConfig>>,
    pub(super) spare: Spare,
}

/// Makes the TLS settings of a Gateway's port.
pub(super) type MakeTls<'a> =
    dyn Fn(&Arc<Gateway>, u16) -> Result<Arc<ServerConfig>, rustls::Error> + 'a;

/// A socket that workers shall accept on; one listener for each.
pub(super) struct Opening {
    pub(super) id: SocketId,
    pub(super) spec: SocketSpec,
    pub(super) listeners: Vec<TcpListener>,
}

/// The sockets of all Gateways. What closes and what opens is computed from what is open now, not from what was open
/// when a table was prepared: other steps may have been activated since.
#[derive(Default)]
pub(super) struct Sockets {
    last_id: u64,
    wanted: HashMap<GatewayKey, Wanted>,
    open: HashMap<GatewayKey, BTreeMap<SocketAddr, (SocketId, BoundTo)>>,
    /// An address accepts for one Gateway at a time; with two, the kernel would deal connections out to both.
    owners: HashMap<SocketAddr, GatewayKey>,
    /// Wanted and not open: another Gateway has the address still, or it could not be opened. Tried again whenever
    /// sockets are settled. Bounded by what is wanted.
    waiting: BTreeMap<SocketAddr, BTreeSet<GatewayKey>>,
}

impl Sockets {
    /// Whether a Gateway's socket is open as it should be.
    pub(super) fn is_open(&self, key: &GatewayKey, address: &SocketAddr, to: &BoundTo) -> bool {
        self.open
            .get(key)
            .and_then(|open| open.get(address))
            .is_some_and(|(_, have)| have == to)
    }

    /// TLS settings of a port that are in use: its tickets stay good on sockets that open later.
    pub(super) fn tls(&self, key: &GatewayKey, port: u16) -> Option<Arc<ServerConfig>> {
        self.wanted.get(key)?.tls.get(&port).cloned()
    }

    /// Says what a Gateway wants from now on.
    pub(super) fn want(&mut self, mut wanted: Wanted) {
        let key = wanted.gateway.key.clone();
        self.forget_waiting(&key);
        if let Some(before) = self.wanted.remove(&key) {
            for (address, sockets) in before.spare {
                wanted.spare.entry(address).or_insert(sockets);
            }
            for (port, config) in before.tls {
                wanted.tls.insert(port, config);
            }
        }
        let Wanted {
            addresses,
            tls,
            spare,
            ..
        } = &mut wanted;
        tls.retain(|port, _| {
            addresses
                .values()
                .any(|to| to.tls && to.listener_port == *port)
        });
        let open = self.open.get(&key);
        spare.retain(|address, _| {
            let have = open.and_then(|open| open.get(address)).map(|(_, to)| to);
            addresses.get(address).is_some_and(|to| have != Some(to))
        });
        for address in addresses.keys() {
            self.waiting
                .entry(*address)
                .or_default()
                .insert(key.clone());
        }
        self.wanted.insert(key, wanted);
    }

    /// Says that a Gateway wants none.
    pub(super) fn forget(&mut self, key: &GatewayKey) {
        self.forget_waiting(key);
        self.wanted.remove(key);
    }

    fn forget_waiting(&mut self, key: &GatewayKey) {
        let Some(wanted) = self.wanted.get(key) else {
            return;
        };
        for address in wanted.addresses.keys() {
            if let Some(keys) = self.waiting.get_mut(address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.waiting.remove(address);
                }
            }
        }
    }

    /// Takes out the sockets of a Gateway that are open and not wanted so.
    pub(super) fn closing(&mut self, key: &GatewayKey) -> Vec<SocketId> {
        let Some(open) = self.open.get_mut(key) else {
            return Vec::new();
        };
        let wanted = self.wanted.get(key).map(|wanted| &wanted.addresses);
        let mut closing = Vec::new();
        open.retain(|address, (id, to)| {
            let stays = wanted.is_some_and(|wanted| wanted.get(address) == Some(to));
            if !stays {
                closing.push(*id);
                self.owners.remove(address);
            }
            stays
        });
        if open.is_empty() {
            self.open.remove(key);
        }
        closing
    }

    /// Opens what is wanted and not open, as far as its address is free. To be called once what closes has closed.
    /// `fresh` are the Gateways whose troubles are news.
    pub(super) fn opening(
        &mut self,
        fresh: &[GatewayKey],
        workers: usize,
        backlog: i32,
        tls: &MakeTls<'_>,
    ) -> Vec<Opening> {
        let mut opening = Vec::new();
        let mut still = BTreeMap::new();
        for (address, mut keys) in std::mem::take(&mut self.waiting) {
            if let Some(owner) = self.owners.get(&address) {
                keys.remove(owner);
            } else if let Some(key) = keys.pop_first() {
                match self.open(&key, address, workers, backlog, tls) {
                    Ok(open) => {
                        self.owners.insert(address, key);
                        opening.extend(open);
                    }
                    Err(error) => {
                        if fresh.contains(&key) {
                            tracing::error!(gateway = %key, %address, %error, "socket cannot be opened; tried again with the next change");
                        }
                        keys.insert(key);
                    }
                }
            }
            if keys.is_empty() {
                continue;
            }
            if let Some(owner) = self.owners.get(&address) {
                for key in keys.iter().filter(|key| fresh.contains(key)) {
                    tracing::warn!(gateway = %key, %address, %owner, "address is still another gateway's; opened once that one leaves it");
                }
            }
            still.insert(address, keys);
        }
        self.waiting = still;
        opening
    }

    fn open(
        &mut self,
        key: &GatewayKey,
        address: SocketAddr,
        workers: usize,
        backlog: i32,
        tls: &MakeTls<'_>,
    ) -> io::Result<Option<Opening>> {
        let Some(wanted) = self.wanted.get_mut(key) else {
            return Ok(None);
        };
        let Some(to) = wanted.addresses.get(&address).copied() else {
            return Ok(None);
        };
        let port = to.listener_port;
        let tls = match wanted.tls.get(&port) {
            _ if !to.tls => None,
            Some(config) => Some(Arc::clone(config)),
            None => {
                let config = tls(&wanted.gateway, port).map_err(io::Error::other)?;
                wanted.tls.insert(port, Arc::clone(&config));
                Some(config)
            }
        };
        let sockets = match wanted.spare.remove(&address) {
            Some(sockets) => sockets,
            None => bind_all(address, workers)?,
        };
        let mut listeners = Vec::with_capacity(workers);
        for socket in sockets {
            socket.listen(backlog)?;
            listeners.push(TcpListener::from(socket));
        }
        self.last_id += 1;
        let id = SocketId(self.last_id);
        let spec = SocketSpec {
            gateway: Arc::clone(&wanted.gateway),
            address,
            listener_port: port,
            public_port: to.public_port,
            tls,
        };
        self.open
            .entry(key.clone())
            .or_default()
            .insert(address, (id, to));
        Ok(Some(Opening {
            id,
            spec,
            listeners,
        }))
    }

    /// Sockets that are wanted and not open.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.values().map(|keys| keys.len() as u64).sum()
    }

    /// Every open socket with its listener's port, sorted.
    pub(super) fn list(&self) -> Vec<(GatewayKey, SocketAddr, u16)> {
        let mut all: Vec<_> = self
            .open
            .iter()
            .flat_map(|(key, open)| {
                open.iter()
                    .map(|(address, (_, to))| (key.clone(), *address, to.listener_port))
            })
            .collect();
        all.sort();
        all
    }
}

/// Binds one socket for each worker, without listening: a connection that came now would wait for an activation that
/// may never be.
pub(super) fn bind_all(address: SocketAddr, workers: usize) -> io::Result<Vec<socket2::Socket>> {
    (0..workers).map(|_| bind(address)).collect()
}

/// `::` takes IPv4 clients as well, whatever the system's default; without IPv6 on this machine it is 0.0.0.0.
fn bind(address: SocketAddr) -> io::Result<socket2::Socket> {
    bind_by(address, &|domain| {
        socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
    })
}

fn bind_by(
    address: SocketAddr,
    make: &dyn Fn(Domain) -> io::Result<socket2::Socket>,
) -> io::Result<socket2::Socket> {
    let every = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let without_ipv6 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
    let socket = match make(Domain::for_address(address)) {
        Err(_) if every => return bind_by(without_ipv6, make),
        made => made?,
    };
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!every)?;
    }
    socket.set_nonblocking(true)?;
    match socket.bind(&address.into()) {
        Err(error) if every && error.kind() == io::ErrorKind::AddrNotAvailable => {
            bind_by(without_ipv6, make)
        }
        bound => bound.map(|()| socket),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[test]
    fn a_machine_without_ipv6_binds_ipv4_instead_of_every_address() {
        let without_ipv6 = |domain: Domain| match domain {
            Domain::IPV6 => Err(io::Error::from_raw_os_error(97)), // EAFNOSUPPORT
            domain => socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP)),
        };
        let socket = bind_by("[::]:0".parse().unwrap(), &without_ipv6).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        assert!(bound.is_ipv4() && bound.ip().is_unspecified(), "{bound}");
        // Another address of IPv6 stands for itself.
        assert!(bind_by("[::1]:0".parse().unwrap(), &without_ipv6).is_err());
        // What fails for another reason fails.
        let taken = TcpListener::bind("[::]:0").unwrap();
        let taken = taken.local_addr().unwrap();
        let error = bind(taken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
