//! Keeps what is allocated and plans what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{GatewayKey, ShardId};
use api_snapshot::facts::{Binding, Placement};
use api_snapshot::{DecodeError, EntrySet, Fact, FactKey, view};

use crate::address::AddressRange;
use crate::rendezvous::{port_seed, shards_of};

/// Target ports: below the ephemeral range, above the privileged one.
const TARGET_PORTS: std::ops::RangeInclusive<u16> = 2000..=32767;

/// How listener ports become public ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRules {
    /// Listener ports below this one may not be bound here (`net.ipv4.ip_unprivileged_port_start`, or 0 with
    /// CAP_NET_BIND_SERVICE); they move up by 10,000, or to the next free port.
    pub privileged_below: u16,
}

/// The address that a Gateway asks for.
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
    range: AddressRange,
    rules: PortRules,
    gateways: BTreeMap<GatewayKey, Held>,
    public: BTreeMap<(IpAddr, u16), GatewayKey>,
    addresses: BTreeMap<IpAddr, usize>,
    /// No address of the range below this position is free.
    full_below: u32,
    targets: BTreeMap<ShardId, BTreeSet<u16>>,
}

#[derive(Debug, Default, Clone)]
struct Held {
    shards: Vec<ShardId>,
    bindings: BTreeMap<u16, Binding>,
}

impl Allocator {
    /// An allocator for a pool of `pool` shards, `shards_per_gateway` of which serve each Gateway.
    pub fn new(
        pool: u32,
        shards_per_gateway: usize,
        range: AddressRange,
        rules: PortRules,
    ) -> Self {
        Self {
            pool: pool.max(1),
            shards_per_gateway: shards_per_gateway.max(1),
            range,
            rules,
            gateways: BTreeMap::new(),
            public: BTreeMap::new(),
            addresses: BTreeMap::new(),
            full_below: 0,
            targets: BTreeMap::new(),
        }
    }

    /// Takes over what is committed.
    ///
    /// # Errors
    /// [`DecodeError`] when a fact was written by a newer version.
    pub fn restore(&mut self, facts: &EntrySet) -> Result<(), DecodeError> {
        let mut held: BTreeMap<GatewayKey, Held> = BTreeMap::new();
        for (key, fact) in view::facts(facts)? {
            match (key, fact) {
                (FactKey::Placement(gateway), Fact::Placement(placement)) => {
                    held.entry(gateway).or_default().shards = placement.shards;
                }
                (FactKey::Binding(gateway, port), Fact::Binding(binding)) => {
                    held.entry(gateway)
                        .or_default()
                        .bindings
                        .insert(port, binding);
                }
                _ => {}
            }
        }
        for (gateway, held) in held {
            self.hold(gateway, held);
        }
        Ok(())
    }

    /// Plans a Gateway and keeps the plan. Cost: O(ports) look-ups; finding a new address goes on where the last
    /// search ended.
    pub fn plan(&mut self, gateway: &GatewayKey, request: &Request) -> Plan {
        let before = self.gateways.get(gateway).cloned().unwrap_or_default();
        self.release(gateway);
        let shards = shards_of(gateway, self.pool, self.shards_per_gateway);
        let mut held = Held {
            shards: shards.clone(),
            bindings: BTreeMap::new(),
        };
        let mut refused = BTreeMap::new();
        match self.addresses_for(&before, request) {
            Ok(addresses) => {
                let mut taken = BTreeSet::new();
                for port in &request.ports {
                    let old = before.bindings.get(port);
                    match self.bind(
                        gateway, *port, &addresses, &shards, old, request, &mut taken,
                    ) {
                        Ok(binding) => {
                            held.bindings.insert(*port, binding);
                        }
                        Err(error) => {
                            refused.insert(*port, error);
                        }
                    }
                }
            }
            Err(error) => {
                refused.extend(request.ports.iter().map(|port| (*port, error.clone())));
            }
        }
        let plan = Plan {
            placement: Placement { shards },
            bindings: held.bindings.clone(),
            refused,
        };
        self.hold(gateway.clone(), held);
        plan
    }

    /// Frees all that a Gateway holds.
    pub fn release(&mut self, gateway: &GatewayKey) {
        let Some(held) = self.gateways.remove(gateway) else {
            return;
        };
        for binding in held.bindings.values() {
            for address in &binding.addresses {
                self.public.remove(&(*address, binding.public_port));
                if let Some(count) = self.addresses.get_mut(address) {
                    *count -= 1;
                    if *count == 0 {
                        self.addresses.remove(address);
                        if let Some(position) = self.range.position(*address) {
                            self.full_below = self.full_below.min(position);
                        }
                    }
                }
            }
            for shard in &held.shards {
                if let Some(ports) = self.targets.get_mut(shard) {
                    ports.remove(&binding.target_port);
                }
            }
        }
    }

    /// Bindings that a Gateway holds.
    pub fn bindings(&self, gateway: &GatewayKey) -> Option<&BTreeMap<u16, Binding>> {
        self.gateways.get(gateway).map(|held| &held.bindings)
    }

    /// Shards that a Gateway is placed on.
    pub fn shards(&self, gateway: &GatewayKey) -> Option<&[ShardId]> {
        self.gateways
            .get(gateway)
            .map(|held| held.shards.as_slice())
    }

    fn hold(&mut self, gateway: GatewayKey, held: Held) {
        for binding in held.bindings.values() {
            for address in &binding.addresses {
                self.public
                    .insert((*address, binding.public_port), gateway.clone());
                *self.addresses.entry(*address).or_default() += 1;
            }
            for shard in &held.shards {
                self.targets
                    .entry(*shard)
                    .or_default()
                    .insert(binding.target_port);
            }
        }
        self.gateways.insert(gateway, held);
    }

    fn addresses_for(
        &mut self,
        before: &Held,
        request: &Request,
    ) -> Result<Vec<IpAddr>, PlanError> {
        match &request.address {
            WantedAddress::Static(addresses) => Ok(addresses.clone()),
            WantedAddress::Any => {
                let kept = before.bindings.values().find_map(|binding| {
                    let [address] = binding.addresses.as_slice() else {
                        return None;
                    };
                    let in_range = self.range.position(*address).is_some();
                    (in_range && !self.addresses.contains_key(address)).then_some(*address)
                });
                if let Some(address) = kept {
                    return Ok(vec![address]);
                }
                let free = (self.full_below..self.range.size())
                    .find(|n| !self.addresses.contains_key(&self.range.nth(*n)));
                self.full_below = free.unwrap_or(self.range.size());
                free.map(|n| vec![self.range.nth(n)])
                    .ok_or_else(|| PlanError::RangeExhausted {
                        range: self.range.to_string(),
                    })
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // one port's whole question
    fn bind(
        &self,
        gateway: &GatewayKey,
        port: u16,
        addresses: &[IpAddr],
        shards: &[ShardId],
        old: Option<&Binding>,
        request: &Request,
        taken: &mut BTreeSet<(u16, u16)>,
    ) -> Result<Binding, PlanError> {
        let taken_public =
            |p: u16, taken: &BTreeSet<(u16, u16)>| taken.iter().any(|(public, _)| *public == p);
        let taken_target =
            |p: u16, taken: &BTreeSet<(u16, u16)>| taken.iter().any(|(_, target)| *target == p);
        let holder = |p: u16| {
            addresses
                .iter()
                .find_map(|a| self.public.get(&(*a, p)).map(|g| (*a, g.clone())))
        };
        let public_port = if port >= self.rules.privileged_below {
            match holder(port) {
                Some((address, holder)) => {
                    return Err(PlanError::Held {
                        address,
                        port,
                        holder,
                    });
                }
                None => port,
            }
        } else {
            let free = |p: &u16| {
                !request.ports.contains(p) && !taken_public(*p, taken) && holder(*p).is_none()
            };
            let kept = old.map(|binding| binding.public_port).filter(free);
            let first = port.saturating_add(10_000);
            kept.or_else(|| (first..=u16::MAX).find(free))
                .ok_or_else(|| PlanError::Held {
                    address: addresses[0],
                    port: first,
                    holder: gateway.clone(),
                })?
        };
        let target_free = |p: &u16| {
            !taken_target(*p, taken)
                && shards.iter().all(|shard| {
                    !self
                        .targets
                        .get(shard)
                        .is_some_and(|ports| ports.contains(p))
                })
        };
        let target_port = old
            .map(|binding| binding.target_port)
            .filter(target_free)
            .or_else(|| {
                let span = u64::from(TARGET_PORTS.end() - TARGET_PORTS.start()) + 1;
                let seed = port_seed(gateway, port);
                (0..span)
                    .map(|step| TARGET_PORTS.start() + ((seed.wrapping_add(step)) % span) as u16)
                    .find(target_free)
            })
            .ok_or_else(|| PlanError::TargetPortsExhausted {
                shards: shards.to_vec(),
            })?;
        taken.insert((public_port, target_port));
        Ok(Binding {
            addresses: addresses.to_vec(),
            public_port,
            target_port,
        })
    }
}

#[cfg(test)]
mod tests;
