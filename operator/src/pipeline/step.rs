//! What changes lead to, against what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::GatewayKey;
use api_snapshot::{Delta, Fact, FactKey, RoutingSnapshot};
use operator_translate::Changes;

use crate::delta;
use crate::pipeline::Pipeline;

/// What one batch leads to before it is proposed.
#[derive(Default)]
pub(super) struct Step {
    pub(super) delta: Delta,
    /// Facts that nothing refers to any more.
    pub(super) retired: BTreeSet<FactKey>,
}

impl Pipeline {
    pub(super) fn step(&mut self, changes: &Changes) -> Step {
        let snapshot = Arc::clone(&self.machine.snapshot);
        let snapshot = snapshot.read();
        let mut step = Step::default();
        // First what goes: whoever takes its place is planned after it.
        for (gateway, _) in changes.gateways.iter().filter(|(_, c)| c.removed) {
            self.remove(&snapshot, gateway, &mut step);
        }
        for (gateway, change) in changes.gateways.iter().filter(|(_, c)| !c.removed) {
            let left_out = !self.left_out(gateway).is_empty();
            let structural = change
                .ops
                .iter()
                .any(|(key, _)| !matches!(key, api_snapshot::GatewayEntryKey::Rule(..)));
            if structural || self.allocator.shards(gateway).is_none() {
                self.place(&snapshot, gateway, &mut step);
            }
            // A listener that was left out is not among the changes when it comes back.
            if left_out || !self.left_out(gateway).is_empty() {
                self.whole(&snapshot, gateway, &mut step);
            } else {
                let ops = change.ops.iter().cloned();
                let delta = delta::gateway_delta(&snapshot, gateway, ops);
                step.delta.gateways.extend(delta);
            }
        }
        for (key, backend) in &changes.backends {
            let fact = backend.clone().map(Fact::Backend);
            step.fact(&snapshot, FactKey::Backend(key.clone()), fact);
        }
        for (key, certificate) in &changes.certificates {
            let fact = certificate.clone().map(Fact::Certificate);
            step.fact(&snapshot, FactKey::Certificate(key.clone()), fact);
        }
        step
    }

    /// Brings a Gateway to exactly what is wanted of it now. Cost: O(its entries).
    pub(super) fn whole(&self, snapshot: &RoutingSnapshot, gateway: &GatewayKey, step: &mut Step) {
        let mut entries = delta::wanted(&self.translation, gateway, &self.left_out(gateway));
        self.kept.add_to(gateway, &mut entries);
        let delta = delta::gateway_delta_to(snapshot, gateway, entries);
        step.delta.gateways.extend(delta);
    }

    /// Gives a Gateway its place. Ports whose place has changed are tried anew.
    pub(super) fn place(
        &mut self,
        snapshot: &RoutingSnapshot,
        gateway: &GatewayKey,
        step: &mut Step,
    ) {
        let before = self.allocator.bindings(gateway).cloned();
        let before = before.unwrap_or_default();
        let (plan, gone) = delta::place(
            snapshot,
            &mut self.allocator,
            &self.index,
            &self.translation,
            gateway,
            &mut step.delta.facts,
        );
        step.retired.extend(gone);
        if let Some(ports) = self.unavailable.get_mut(gateway) {
            ports.retain(|port, _| {
                let binding = plan.bindings.get(port);
                binding.is_some() && binding == before.get(port)
            });
            if ports.is_empty() {
                self.unavailable.remove(gateway);
            }
        }
        if plan.refused.is_empty() {
            self.refused.remove(gateway);
        } else {
            self.refused.insert(gateway.clone(), plan.refused);
        }
    }

    pub(super) fn remove(
        &mut self,
        snapshot: &RoutingSnapshot,
        gateway: &GatewayKey,
        step: &mut Step,
    ) {
        let delta = delta::removal(snapshot, gateway);
        step.delta.gateways.extend(delta);
        let ports = self.allocator.bindings(gateway);
        for port in ports.into_iter().flat_map(BTreeMap::keys) {
            step.retired
                .insert(FactKey::Binding(gateway.clone(), *port));
        }
        step.retired.insert(FactKey::Placement(gateway.clone()));
        self.allocator.release(gateway);
        self.unavailable.remove(gateway);
        self.refused.remove(gateway);
    }

    /// Ports that are left out of what is served: not bound by a shard, or not placed.
    pub(crate) fn left_out(&self, gateway: &GatewayKey) -> BTreeSet<u16> {
        let unavailable = self.unavailable.get(gateway);
        let refused = self.refused.get(gateway);
        let unavailable = unavailable
            .into_iter()
            .flatten()
            .filter_map(|(port, unavailable)| (!unavailable.is_tried).then_some(port));
        let refused = refused.into_iter().flat_map(BTreeMap::keys);
        unavailable.chain(refused).copied().collect()
    }

    pub(super) fn is_wanted(&self, fact: &FactKey) -> bool {
        match fact {
            FactKey::Backend(key) => {
                self.translation.backend(key).is_some() || !self.kept.is_empty()
            }
            FactKey::Certificate(key) => {
                self.translation.certificate(key).is_some() || !self.kept.is_empty()
            }
            FactKey::Placement(gateway) => self.allocator.shards(gateway).is_some(),
            FactKey::Binding(gateway, port) => self
                .allocator
                .bindings(gateway)
                .is_some_and(|bindings| bindings.contains_key(port)),
            _ => true,
        }
    }
}

impl Step {
    /// Writes a fact, or lets it retire.
    fn fact(&mut self, snapshot: &RoutingSnapshot, key: FactKey, fact: Option<Fact>) {
        match fact {
            Some(fact) => delta::put_fact(snapshot, &mut self.delta.facts, &key, &fact),
            None => {
                self.retired.insert(key);
            }
        }
    }
}
