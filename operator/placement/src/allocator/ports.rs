//! Which addresses and ports a Gateway gets.

use std::net::IpAddr;

use api::{GatewayKey, ShardId};
use api_snapshot::facts::Binding;

use super::{Allocator, Held, PlanError, Request, Rules, WantedAddress};
use crate::rendezvous::port_seed;

/// Target ports: below the ephemeral range, above the privileged one.
const TARGET_PORTS: std::ops::RangeInclusive<u16> = 2000..=32767;
/// Ports of that range that Shardway's own pods listen on.
const RESERVED_PORTS: std::ops::RangeInclusive<u16> = 7000..=7002;

impl Allocator {
    /// Addresses of a Gateway; `given` is the one that it has from the range, which it keeps.
    pub(super) fn addresses_for(
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

    /// A binding for a port; `old` is the one that it has.
    pub(super) fn bind(
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
        let everywhere = held.everywhere();
        let target_port = self
            .target_port(gateway, port, &everywhere, &held.avoided, old)
            .ok_or(PlanError::TargetPortsExhausted { shards: everywhere })?;
        Ok(Binding {
            addresses: addresses.to_vec(),
            public_port,
            target_port,
        })
    }
    /// A target port that is free on all these shards: the one that is there, if it can be; else one that is free in the
    /// whole pool, if there is one, so that it stays free wherever the Gateway moves.
    pub(super) fn target_port(
        &self,
        gateway: &GatewayKey,
        port: u16,
        shards: &[ShardId],
        avoided: &[u16],
        old: Option<&Binding>,
    ) -> Option<u16> {
        let is_reserved = |p: u16| match self.rules {
            Rules::Addresses { .. } => false,
            Rules::Services => RESERVED_PORTS.contains(&p),
        };
        let free = |p: &u16| {
            !avoided.contains(p) && !is_reserved(*p) && self.taken.is_target_free(*p, shards)
        };
        let span = u64::from(TARGET_PORTS.end() - TARGET_PORTS.start()) + 1;
        let seed = port_seed(gateway, port);
        let all = || {
            (0..span).map(|step| TARGET_PORTS.start() + ((seed.wrapping_add(step)) % span) as u16)
        };
        old.map(|binding| binding.target_port)
            .filter(free)
            .or_else(|| all().find(|p| self.taken.is_target_unused(*p) && free(p)))
            .or_else(|| all().find(free))
    }
}
