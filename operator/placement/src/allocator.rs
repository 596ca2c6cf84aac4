//! Keeps what is allocated and plans what is not.

mod moving;
mod occupancy;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{GatewayKey, ShardId};
use api_snapshot::facts::{Binding, Placement};
use api_snapshot::{DecodeError, EntrySet, Fact, FactKey, view};

use crate::address::AddressRange;
pub use crate::allocator::moving::Moved;
use crate::allocator::occupancy::Occupancy;

/// Target ports that a Gateway avoids, at most; the oldest is tried again.
const AVOIDED_MAX: usize = 64;

/// How listener ports become public ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRules {
    /// Listener ports below this one may not be bound here (`net.ipv4.ip_unprivileged_port_start`, or 0 with
    /// CAP_NET_BIND_SERVICE); they move up by 10,000, or to the next free port.
    pub privileged_below: u16,
}

/// How Gateways are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Shards bind a Gateway's own addresses themselves.
    Addresses {
        /// What Gateways without an address of their own take one from.
        range: AddressRange,
        /// Which ports may be bound there.
        ports: PortRules,
    },
    /// A Service for each Gateway leads to its target ports: bindings have no addresses, and the public port is the
    /// listener's.
    Services,
}

/// The address that a Gateway asks for. It says nothing by [`Rules::Services`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedAddress {
    /// Any of the range.
    Any,
    /// These, all of them (`spec.addresses`).
    Static(Vec<IpAddr>),
}

/// What a Gateway needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its address.
    pub address: WantedAddress,
    /// Ports of its servable listeners.
    pub ports: BTreeSet<u16>,
}

/// Where a Gateway is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its shards.
    pub placement: Placement,
    /// One for each port that could be placed.
    pub bindings: BTreeMap<u16, Binding>,
    /// Ports that could not, and why.
    pub refused: BTreeMap<u16, PlanError>,
}

/// A port or an address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Every address of the range is taken.
    #[error("no address is free in {range}; widen --address-range")]
    RangeExhausted {
        /// The range.
        range: String,
    },
    /// Another Gateway holds it.
    #[error("{address} port {port} is held by gateway {holder}; choose another address or port")]
    Held {
        /// Address that was asked for.
        address: IpAddr,
        /// Port that was asked for.
        port: u16,
        /// Who holds it.
        holder: GatewayKey,
    },
    /// No target port is free on the Gateway's shards.
    #[error("no target port is free on shards {shards:?}; add shards to the pool")]
    TargetPortsExhausted {
        /// The shards.
        shards: Vec<ShardId>,
    },
}

/// Allocations of all Gateways. One writer: the leader's pipeline.
#[derive(Debug)]
pub struct Allocator {
    pool: u32,
    shards_per_gateway: usize,
    rules: Rules,
    gateways: BTreeMap<GatewayKey, Held>,
    taken: Occupancy,
    /// A plan has let something go that was not leaving first.
    has_moved: bool,
}

/// What one Gateway holds.
#[derive(Debug, Default, Clone)]
struct Held {
    /// As in [`Placement`].
    shards: Vec<ShardId>,
    joining: Vec<ShardId>,
    leaving: Vec<ShardId>,
    /// Where a move that is under way leads.
    to: Vec<ShardId>,
    /// Given from the range.
    address: Option<IpAddr>,
    /// Their target ports are taken on all shards that hold the Gateway.
    bindings: BTreeMap<u16, Binding>,
    /// Bindings that it needs no more. They are taken until [`Allocator::freed`]: shards may still serve by them.
    retired: BTreeMap<u16, Binding>,
    /// Target ports that a shard could not bind, oldest first.
    avoided: Vec<u16>,
    /// Nobody wants the Gateway any more.
    released: bool,
}

impl Allocator {
    /// An allocator for a pool of `pool` shards, `shards_per_gateway` of which serve each Gateway.
    pub fn new(pool: u32, shards_per_gateway: usize, rules: Rules) -> Self {
        Self {
            pool: pool.max(1),
            shards_per_gateway: shards_per_gateway.max(1),
            rules,
            gateways: BTreeMap::new(),
            taken: Occupancy::default(),
            has_moved: false,
        }
    }

    /// One with the same settings that holds nothing.
    pub fn emptied(&self) -> Self {
        Self::new(self.pool, self.shards_per_gateway, self.rules)
    }

    /// Takes over what is committed. What no plan asks for again is to be released by the caller.
    ///
    /// # Errors
    /// [`DecodeError`] when a fact was written by a newer version.
    pub fn restore(&mut self, facts: &EntrySet) -> Result<(), DecodeError> {
        let mut all: BTreeMap<GatewayKey, Held> = BTreeMap::new();
        for (key, fact) in view::facts(facts)? {
            match (key, fact) {
                (FactKey::Placement(gateway), Fact::Placement(placement)) => {
                    let held = all.entry(gateway).or_default();
                    held.shards = placement.shards;
                    held.joining = placement.joining;
                    held.leaving = placement.leaving;
                    held.address = placement.address;
                }
                (FactKey::Binding(gateway, port), Fact::Binding(binding)) => {
                    let held = all.entry(gateway).or_default();
                    held.bindings.insert(port, binding);
                }
                _ => {}
            }
        }
        for (gateway, held) in all {
            if let Some(address) = held.address {
                self.taken.give(address, &gateway);
            }
            self.taken.hold(&gateway, &held);
            self.gateways.insert(gateway, held);
        }
        Ok(())
    }

    /// Plans a Gateway and keeps the plan. It stays on the shards that it is on; see [`Allocator::resize`]. Cost: O(ports)
    /// look-ups; finding a new address goes on where the last search ended.
    pub fn plan(&mut self, gateway: &GatewayKey, request: &Request) -> Plan {
        let mut held = self.gateways.remove(gateway).unwrap_or_default();
        held.released = false;
        if held.shards.is_empty() {
            held.shards = self.chosen(gateway, &held);
        }
        let everywhere = held.everywhere();
        let before = std::mem::take(&mut held.bindings);
        for binding in before.values() {
            self.taken.unbind(&everywhere, binding);
        }
        let mut refused = BTreeMap::new();
        match self.addresses_for(gateway, &mut held.address, request) {
            Ok(addresses) => {
                // What has a target port keeps it: no new one may take it.
                let has_one =
                    |port: &u16| before.contains_key(port) || held.retired.contains_key(port);
                let (old, new): (Vec<u16>, Vec<u16>) =
                    request.ports.iter().partition(|p| has_one(p));
                for port in old.iter().chain(&new) {
                    let left = held.retired.remove(port);
                    if let Some(binding) = &left {
                        self.taken.unbind(&everywhere, binding);
                    }
                    let old = before.get(port).or(left.as_ref());
                    match self.bind(gateway, *port, &addresses, &held, old, request) {
                        Ok(binding) => {
                            let had = before.get(port).into_iter().chain(&left);
                            self.has_moved |= had.into_iter().any(|old| {
                                old.addresses != binding.addresses
                                    || old.public_port != binding.public_port
                            });
                            self.taken.bind(gateway, &everywhere, &binding);
                            held.bindings.insert(*port, binding);
                        }
                        Err(error) => {
                            if let Some(binding) = left {
                                self.taken.bind(gateway, &everywhere, &binding);
                                held.retired.insert(*port, binding);
                            }
                            refused.insert(*port, error);
                        }
                    }
                }
            }
            Err(error) => {
                refused.extend(request.ports.iter().map(|port| (*port, error.clone())));
            }
        }
        for (port, binding) in before {
            if !held.bindings.contains_key(&port) {
                self.taken.bind(gateway, &everywhere, &binding);
                held.retired.insert(port, binding);
            }
        }
        let plan = Plan {
            placement: held.placement(),
            bindings: held.bindings.clone(),
            refused,
        };
        self.gateways.insert(gateway.clone(), held);
        plan
    }

    /// Whether a plan since the last call has moved a port of a Gateway elsewhere: others may have been refused the place that it
    /// had.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// A Gateway is not wanted any more. What it holds is taken until [`Allocator::freed`].
    pub fn release(&mut self, gateway: &GatewayKey) {
        let Some(held) = self.gateways.get_mut(gateway) else {
            return;
        };
        held.released = true;
        held.retired.append(&mut held.bindings);
        self.forget_released(gateway);
    }

    /// No shard serves by a binding any more: its address and ports may go to others. Returns whether that freed
    /// anything.
    pub fn freed(&mut self, gateway: &GatewayKey, port: u16) -> bool {
        let Some(held) = self.gateways.get_mut(gateway) else {
            return false;
        };
        let Some(binding) = held.retired.remove(&port) else {
            return false;
        };
        self.taken.unbind(&held.everywhere(), &binding);
        self.forget_released(gateway);
        true
    }

    fn forget_released(&mut self, gateway: &GatewayKey) {
        let over = |held: &Held| held.released && held.retired.is_empty();
        if self.gateways.get(gateway).is_some_and(over)
            && let Some(address) = self.gateways.remove(gateway).and_then(|held| held.address)
        {
            self.taken.take_back(address, self.position(address));
        }
    }

    /// Which of the range an address is, if there is a range and it is in there.
    fn position(&self, address: IpAddr) -> Option<u32> {
        match self.rules {
            Rules::Addresses { range, .. } => range.position(address),
            Rules::Services => None,
        }
    }

    /// A shard could not bind the target port of a Gateway's port: the next plan takes another.
    pub fn avoid_target(&mut self, gateway: &GatewayKey, port: u16) {
        if let Some(held) = self.gateways.get_mut(gateway)
            && let Some(binding) = held.bindings.get(&port)
        {
            if held.avoided.len() == AVOIDED_MAX {
                held.avoided.remove(0);
            }
            held.avoided.push(binding.target_port);
        }
    }

    /// Bindings that a Gateway holds.
    pub fn bindings(&self, gateway: &GatewayKey) -> Option<&BTreeMap<u16, Binding>> {
        self.wanted(gateway).map(|held| &held.bindings)
    }

    /// Shards that a Gateway's clients are led to.
    pub fn shards(&self, gateway: &GatewayKey) -> Option<&[ShardId]> {
        self.wanted(gateway).map(|held| held.shards.as_slice())
    }

    /// Where a Gateway is, and where it moves.
    pub fn placement(&self, gateway: &GatewayKey) -> Option<Placement> {
        self.wanted(gateway).map(Held::placement)
    }

    /// Whether anything of a Gateway is held, wanted or not.
    pub fn holds(&self, gateway: &GatewayKey) -> bool {
        self.gateways.contains_key(gateway)
    }

    /// The highest shard that holds a Gateway: the pool may not lose it yet. Cost: O(Gateways).
    pub fn highest_shard(&self) -> Option<ShardId> {
        let all = self.gateways.values();
        all.flat_map(|held| held.everywhere()).max()
    }

    fn wanted(&self, gateway: &GatewayKey) -> Option<&Held> {
        self.gateways.get(gateway).filter(|held| !held.released)
    }
}

impl Held {
    fn placement(&self) -> Placement {
        Placement {
            shards: self.shards.clone(),
            address: self.address,
            joining: self.joining.clone(),
            leaving: self.leaving.clone(),
        }
    }

    /// All shards that hold the Gateway.
    fn everywhere(&self) -> Vec<ShardId> {
        self.placement().everywhere()
    }
}

#[cfg(test)]
mod tests;
