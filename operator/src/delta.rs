//! From what translate wants to what is proposed: the difference to what is committed. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{GatewayKey, RouteKey};
use api_snapshot::{
    Fact, FactKey, FactsDelta, GatewayChain, GatewayDelta, GatewayEntry, GatewayEntryKey, Op,
    RoutingSnapshot, SetHash, decode, encode,
};
use operator_index::Index;
use operator_placement::{Allocator, Plan, Request, WantedAddress};
use operator_translate::Translation;

/// Entries of a Gateway as they are wanted: translate's, without listeners whose port cannot be bound.
pub(crate) fn wanted(
    translation: &Translation,
    gateway: &GatewayKey,
    unbound: &BTreeSet<u16>,
) -> BTreeMap<GatewayEntryKey, GatewayEntry> {
    let mut entries = translation.entries(gateway);
    if !unbound.is_empty() {
        entries.retain(|_, entry| match entry {
            GatewayEntry::Listener(listener) => !unbound.contains(&listener.port),
            _ => true,
        });
    }
    entries
}

/// The step that brings a Gateway's chain to `ops`; operations that change nothing are left out. None when nothing is
/// left.
pub(crate) fn gateway_delta(
    snapshot: &RoutingSnapshot,
    gateway: &GatewayKey,
    ops: impl IntoIterator<Item = (GatewayEntryKey, Option<GatewayEntry>)>,
) -> Option<GatewayDelta> {
    let none = GatewayChain::default();
    let chain = snapshot.gateway(gateway).unwrap_or(&none);
    let ops: Vec<Op> = ops
        .into_iter()
        .map(|(key, entry)| Op {
            key: encode(&key),
            value: entry.as_ref().map(encode),
        })
        .filter(|op| chain.tip_value(&op.key) != op.value.as_deref())
        .collect();
    if ops.is_empty() {
        return None;
    }
    let hash = chain.tip_hash_after(&ops);
    Some(GatewayDelta {
        gateway: gateway.clone(),
        base: chain.tip(),
        ops,
        hash,
        removed: false,
    })
}

/// The step that brings a Gateway's chain to exactly these entries. Cost: O(entries).
pub(crate) fn gateway_delta_to(
    snapshot: &RoutingSnapshot,
    gateway: &GatewayKey,
    entries: BTreeMap<GatewayEntryKey, GatewayEntry>,
) -> Option<GatewayDelta> {
    let none = GatewayChain::default();
    let chain = snapshot.gateway(gateway).unwrap_or(&none);
    let ops = api_snapshot::diff_typed(&chain.tip_entries(), entries);
    if ops.is_empty() {
        return None;
    }
    let hash = chain.tip_hash_after(&ops);
    Some(GatewayDelta {
        gateway: gateway.clone(),
        base: chain.tip(),
        ops,
        hash,
        removed: false,
    })
}

/// The step that removes a Gateway; none when it is not there or already on its way out.
pub(crate) fn removal(snapshot: &RoutingSnapshot, gateway: &GatewayKey) -> Option<GatewayDelta> {
    let chain = snapshot
        .gateway(gateway)
        .filter(|chain| !chain.removed_at_tip())?;
    Some(GatewayDelta {
        gateway: gateway.clone(),
        base: chain.tip(),
        ops: Vec::new(),
        hash: SetHash::default(),
        removed: true,
    })
}

/// Adds a fact to a delta unless it is committed as it is.
pub(crate) fn put_fact(
    snapshot: &RoutingSnapshot,
    facts: &mut FactsDelta,
    key: &FactKey,
    fact: &Fact,
) {
    let op = Op::put(key, fact);
    if snapshot.facts().value(&op.key).map(|value| &**value) != op.value.as_deref() {
        facts.ops.push(op);
    }
}

/// Adds the removal of a fact to a delta if it is committed.
pub(crate) fn remove_fact(snapshot: &RoutingSnapshot, facts: &mut FactsDelta, key: &FactKey) {
    let op = Op::remove(key);
    if snapshot.facts().value(&op.key).is_some() {
        facts.ops.push(op);
    }
}

/// Places a Gateway and adds its placement and bindings to a delta. Gives the plan, and the bindings that it no longer
/// needs.
pub(crate) fn place(
    snapshot: &RoutingSnapshot,
    allocator: &mut Allocator,
    index: &Index,
    translation: &Translation,
    gateway: &GatewayKey,
    facts: &mut FactsDelta,
) -> (Plan, Vec<FactKey>) {
    let listeners = translation.listeners(gateway);
    let ports: BTreeSet<u16> = listeners
        .iter()
        .map(|(_, listener)| listener.port)
        .collect();
    let before: Vec<u16> = allocator
        .bindings(gateway)
        .into_iter()
        .flat_map(BTreeMap::keys)
        .copied()
        .collect();
    let address = index
        .gateway(gateway)
        .map_or(WantedAddress::Any, |gateway| {
            let wanted: Vec<IpAddr> = gateway
                .addresses
                .iter()
                .filter_map(|address| address.value.as_deref()?.parse().ok())
                .collect();
            if wanted.is_empty() {
                WantedAddress::Any
            } else {
                WantedAddress::Static(wanted)
            }
        });
    let plan = allocator.plan(gateway, &Request { address, ports });
    put_fact(
        snapshot,
        facts,
        &FactKey::Placement(gateway.clone()),
        &Fact::Placement(plan.placement.clone()),
    );
    for (port, binding) in &plan.bindings {
        put_fact(
            snapshot,
            facts,
            &FactKey::Binding(gateway.clone(), *port),
            &Fact::Binding(binding.clone()),
        );
    }
    let gone = before
        .into_iter()
        .filter(|port| !plan.bindings.contains_key(port))
        .map(|port| FactKey::Binding(gateway.clone(), port))
        .collect();
    (plan, gone)
}

/// Routes whose rules a step writes or removes.
pub(crate) fn routes_of(delta: &GatewayDelta) -> BTreeSet<RouteKey> {
    delta
        .ops
        .iter()
        .filter_map(|op| match decode("entry key", &op.key) {
            Ok(GatewayEntryKey::Rule(route, _)) => Some(route),
            _ => None,
        })
        .collect()
}
