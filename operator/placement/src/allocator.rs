//! Keeps what is allocated and plans what is not.

mod occupancy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{GatewayKey, ShardId};
use api_snapshot::facts::{Binding, Placement};
use api_snapshot::{DecodeError, EntrySet, Fact, FactKey, view};

use crate::address::AddressRange;
use crate::allocator::occupancy::Occupancy;
use crate::rendezvous::{port_seed, shards_of};

/// Target ports: below the ephemeral range, above the privileged one.
const TARGET_PORTS: std::ops::RangeInclusive<u16> = 2000..=32767;
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
    shards: Vec<ShardId>,
    /// Given from the range.
    address: Option<IpAddr>,
    bindings: BTreeMap<u16, Binding>,
    /// Bindings that it needs no more, with their shards. They are taken until [`Allocator::freed`]: shards may still
    /// serve by them.
    leaving: BTreeMap<u16, (Vec<ShardId>, Binding)>,
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
            for binding in held.bindings.values() {
                self.taken.bind(&gateway, &held.shards, binding);
            }
            self.gateways.insert(gateway, held);
        }
        Ok(())
    }

    /// Plans a Gateway and keeps the plan. Cost: O(ports) look-ups; finding a new address goes on where the last
    /// search ended.
    pub fn plan(&mut self, gateway: &GatewayKey, request: &Request) -> Plan {
        let before = self.gateways.remove(gateway).unwrap_or_default();
        for binding in before.bindings.values() {
            self.taken.unbind(&before.shards, binding);
        }
        let mut held = Held {
            shards: shards_of(gateway, self.pool, self.shards_per_gateway),
            address: before.address,
            leaving: before.leaving,
            avoided: before.avoided,
            ..Held::default()
        };
        let mut refused = BTreeMap::new();
        match self.addresses_for(gateway, &mut held.address, request) {
            Ok(addresses) => {
                for port in &request.ports {
                    let left = held.leaving.remove(port);
                    if let Some((shards, binding)) = &left {
                        self.taken.unbind(shards, binding);
                    }
                    let old = before.bindings.get(port).or(left.as_ref().map(|(_, b)| b));
                    match self.bind(gateway, *port, &addresses, &held, old, request) {
                        Ok(binding) => {
                            let mut had = before.bindings.get(port).into_iter();
                            let mut left = left.iter().map(|(_, binding)| binding);
                            let is_elsewhere = |old: &Binding| {
                                old.addresses != binding.addresses
                                    || old.public_port != binding.public_port
                            };
                            self.has_moved |= had.any(is_elsewhere) || left.any(is_elsewhere);
                            self.taken.bind(gateway, &held.shards, &binding);
                            held.bindings.insert(*port, binding);
                        }
                        Err(error) => {
                            if let Some((shards, binding)) = left {
                                self.taken.bind(gateway, &shards, &binding);
                                held.leaving.insert(*port, (shards, binding));
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
        for (port, binding) in before.bindings {
            if !held.bindings.contains_key(&port) {
                self.taken.bind(gateway, &before.shards, &binding);
                held.leaving.insert(port, (before.shards.clone(), binding));
            }
        }
        let plan = Plan {
            placement: Placement {
                shards: held.shards.clone(),
                address: held.address,
            },
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
        for (port, binding) in std::mem::take(&mut held.bindings) {
            held.leaving.insert(port, (held.shards.clone(), binding));
        }
        self.forget_released(gateway);
    }

    /// No shard serves by a binding any more: its address and ports may go to others. Returns whether that freed
    /// anything.
    pub fn freed(&mut self, gateway: &GatewayKey, port: u16) -> bool {
        let left = self
            .gateways
            .get_mut(gateway)
            .and_then(|held| held.leaving.remove(&port));
        let Some((shards, binding)) = left else {
            return false;
        };
        self.taken.unbind(&shards, &binding);
        self.forget_released(gateway);
        true
    }

    fn forget_released(&mut self, gateway: &GatewayKey) {
        let over = |held: &Held| held.released && held.leaving.is_empty();
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

    /// Shards that a Gateway is placed on.
    pub fn shards(&self, gateway: &GatewayKey) -> Option<&[ShardId]> {
        self.wanted(gateway).map(|held| held.shards.as_slice())
    }

    fn wanted(&self, gateway: &GatewayKey) -> Option<&Held> {
        self.gateways.get(gateway).filter(|held| !held.released)
    }

    /// Addresses of a Gateway; `given` is the one that it has from the range, which it keeps.
    fn addresses_for(
        &mut self,
        gateway: &GatewayKey,
        given: &mut Option<IpAddr>,
        request: &Request,
    ) -> Result<Vec<IpAddr>, PlanError> {
        let Rules::Addresses { range, .. } = self.rules else {
            if let Some(address) = given.take() {
                self.taken.take_back(address, None);
            }
            return Ok(Vec::new());
        };
        match &request.address {
            WantedAddress::Static(addresses) => {
                if let Some(address) = given.take_if(|given| !addresses.contains(given)) {
                    self.taken.take_back(address, range.position(address));
                }
                let port = request.ports.first().copied().unwrap_or_default();
                for address in addresses {
                    if let Some(holder) = self.taken.given_to(*address)
                        && holder != gateway
                    {
                        return Err(PlanError::Held {
                            address: *address,
                            port,
                            holder: holder.clone(),
                        });
                    }
                }
                Ok(addresses.clone())
            }
            WantedAddress::Any => {
                let address = match given.filter(|given| range.position(*given).is_some()) {
                    Some(address) => address,
                    None => {
                        let address = self.taken.next_free(&range).ok_or_else(|| {
                            PlanError::RangeExhausted {
                                range: range.to_string(),
                            }
                        })?;
                        if let Some(old) = given.replace(address) {
                            self.taken.take_back(old, None);
                        }
                        self.taken.give(address, gateway);
                        address
                    }
                };
                Ok(vec![address])
            }
        }
    }

    fn bind(
        &self,
        gateway: &GatewayKey,
        port: u16,
        addresses: &[IpAddr],
        held: &Held,
        old: Option<&Binding>,
        request: &Request,
    ) -> Result<Binding, PlanError> {
        let holder = |p: u16| {
            addresses
                .iter()
                .find_map(|a| self.taken.holder(*a, p).map(|g| (*a, g.clone())))
        };
        let privileged_below = match self.rules {
            Rules::Addresses { ports, .. } => ports.privileged_below,
            Rules::Services => 0,
        };
        let public_port = if port >= privileged_below {
            if let Some((address, holder)) = holder(port) {
                return Err(PlanError::Held {
                    address,
                    port,
                    holder,
                });
            }
            port
        } else {
            let free = |p: &u16| !request.ports.contains(p) && holder(*p).is_none();
            let kept = old.map(|binding| binding.public_port).filter(free);
            let first = port.saturating_add(10_000);
            kept.or_else(|| (first..=u16::MAX).find(free))
                .ok_or_else(|| PlanError::Held {
                    address: addresses[0], // without one, every port is free
                    port: first,
                    holder: gateway.clone(),
                })?
        };
        let free =
            |p: &u16| !held.avoided.contains(p) && self.taken.is_target_free(*p, &held.shards);
        let target_port = old
            .map(|binding| binding.target_port)
            .filter(free)
            .or_else(|| {
                let span = u64::from(TARGET_PORTS.end() - TARGET_PORTS.start()) + 1;
                let seed = port_seed(gateway, port);
                (0..span)
                    .map(|step| TARGET_PORTS.start() + ((seed.wrapping_add(step)) % span) as u16)
                    .find(free)
            })
            .ok_or_else(|| PlanError::TargetPortsExhausted {
                shards: held.shards.clone(),
            })?;
        Ok(Binding {
            addresses: addresses.to_vec(),
            public_port,
            target_port,
        })
    }
}

#[cfg(test)]
mod tests;
