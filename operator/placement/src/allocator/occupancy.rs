//! Who has which address and port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use api::{GatewayKey, ShardId};
use api_snapshot::facts::Binding;

use super::Held;
use crate::address::AddressRange;

/// What is taken, by whom.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    public: BTreeMap<(IpAddr, u16), GatewayKey>,
    /// Bindings at each address.
    addresses: BTreeMap<IpAddr, usize>,
    /// Addresses given from the range: nobody else's, whatever port.
    given: BTreeMap<IpAddr, GatewayKey>,
    /// No address of the range below this position is free.
    full_below: u32,
    targets: BTreeMap<ShardId, BTreeSet<u16>>,
    /// On how many shards a target port is taken.
    spread: HashMap<u16, u32>,
}

impl Occupancy {
    /// Takes all that a Gateway's bindings need.
    pub(super) fn hold(&mut self, gateway: &GatewayKey, held: &Held) {
        let shards = held.everywhere();
        for binding in held.bindings.values().chain(held.retired.values()) {
            self.bind(gateway, &shards, binding);
        }
    }

    /// Undoes [`Occupancy::hold`].
    pub(super) fn let_go(&mut self, held: &Held) {
        let shards = held.everywhere();
        for binding in held.bindings.values().chain(held.retired.values()) {
            self.unbind(&shards, binding);
        }
    }

    /// Takes a binding's addresses and ports.
    pub(super) fn bind(&mut self, gateway: &GatewayKey, shards: &[ShardId], binding: &Binding) {
        for address in &binding.addresses {
            self.public
                .insert((*address, binding.public_port), gateway.clone());
            *self.addresses.entry(*address).or_default() += 1;
        }
        for shard in shards {
            let targets = self.targets.entry(*shard).or_default();
            if targets.insert(binding.target_port) {
                *self.spread.entry(binding.target_port).or_default() += 1;
            }
        }
    }

    /// Undoes [`Occupancy::bind`].
    pub(super) fn unbind(&mut self, shards: &[ShardId], binding: &Binding) {
        for address in &binding.addresses {
            self.public.remove(&(*address, binding.public_port));
            if let Some(count) = self.addresses.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(address);
                    // One that was given is taken back by `take_back`.
                    if !self.given.contains_key(address) {
                        self.full_below = 0;
                    }
                }
            }
        }
        for shard in shards {
            if let Some(targets) = self.targets.get_mut(shard)
                && targets.remove(&binding.target_port)
                && let Some(count) = self.spread.get_mut(&binding.target_port)
            {
                *count -= 1;
                if *count == 0 {
                    self.spread.remove(&binding.target_port);
                }
            }
        }
    }

    /// Gives an address to a Gateway alone.
    pub(super) fn give(&mut self, address: IpAddr, gateway: &GatewayKey) {
        self.given.insert(address, gateway.clone());
    }

    /// Takes an address back; `position` is its place in the range, if it is in there.
    pub(super) fn take_back(&mut self, address: IpAddr, position: Option<u32>) {
        self.given.remove(&address);
        if let Some(position) = position {
            self.full_below = self.full_below.min(position);
        }
    }

    /// Who was given an address.
    pub(super) fn given_to(&self, address: IpAddr) -> Option<&GatewayKey> {
        self.given.get(&address)
    }

    /// Who has a port of an address.
    pub(super) fn holder(&self, address: IpAddr, port: u16) -> Option<&GatewayKey> {
        self.public.get(&(address, port))
    }

    /// Whether none of the shards has the target port in use.
    pub(super) fn is_target_free(&self, port: u16, shards: &[ShardId]) -> bool {
        let taken = |shard| {
            self.targets
                .get(shard)
                .is_some_and(|ports: &BTreeSet<u16>| ports.contains(&port))
        };
        !shards.iter().any(taken)
    }

    /// Whether no shard at all has the target port in use.
    pub(super) fn is_target_unused(&self, port: u16) -> bool {
        !self.spread.contains_key(&port)
    }

    /// The first address of the range that nobody has.
    pub(super) fn next_free(&mut self, range: &AddressRange) -> Option<IpAddr> {
        let taken = |address: &IpAddr| {
            self.given.contains_key(address) || self.addresses.contains_key(address)
        };
        let free = (self.full_below..range.size()).find(|n| !taken(&range.nth(*n)));
        self.full_below = free.unwrap_or(range.size());
        free.map(|n| range.nth(n))
    }
}
