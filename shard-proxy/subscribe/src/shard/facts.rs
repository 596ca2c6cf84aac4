//! The facts lane: what counts at once.

use std::collections::HashSet;

use api::{CertificateKey, GatewayKey, Revision};
use api_snapshot::facts::Certificate;
use api_snapshot::{Fact, FactKey, Op, SetHash, decode};
use api_wire::delivery;
use api_wire::{WireError, ops_from_wire, set_hash};

use super::{Outcome, Shard};
use crate::Plane;
use crate::disk::Change;

/// What is done once for all facts of a message.
#[derive(Default)]
struct Together {
    certificates: Vec<(CertificateKey, Option<Certificate>)>,
    rebound: HashSet<GatewayKey>,
}

impl<P: Plane> Shard<P> {
    pub(super) async fn facts(
        &mut self,
        message: delivery::Facts,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let expected = set_hash(&message.hash)?;
        let base = self.facts_revision;
        if message.replace {
            self.asked.remove(&None);
        } else if message.base != base.0 {
            let reason = format!("facts build on {}, held are {base}", message.base);
            self.resync(None, reason, outcome);
            return Ok(());
        }
        let mut ops = ops_from_wire(message.ops);
        if message.replace {
            ops.extend(self.gone_without(&ops));
        }
        let mut together = Together::default();
        for op in &ops {
            let new = op.value.as_ref().map(|value| SetHash::of(&op.key, value));
            let old = match new {
                Some(hash) => self.facts.insert(op.key.clone(), hash),
                None => self.facts.remove(&op.key),
            };
            self.facts_hash = self
                .facts_hash
                .minus(old.unwrap_or_default())
                .plus(new.unwrap_or_default());
            if old != new {
                self.fact(op, &mut together);
            }
        }
        self.facts_revision = Revision(message.revision);
        for error in self.plane.change_certificates(together.certificates) {
            tracing::error!(error, "certificate cannot be used; the one before stays");
        }
        // Whatever the hash says, the sockets follow the bindings that are held.
        self.rebind(together.rebound, outcome).await;
        if self.facts_hash != expected {
            // Nothing is known to be right of them.
            self.facts_revision = Revision(0);
            self.resync(None, "facts have another hash".into(), outcome);
            return Ok(());
        }
        outcome.changes.push(Change::Facts {
            base: (!message.replace).then_some(base),
            revision: self.facts_revision,
            hash: self.facts_hash,
            ops,
        });
        Ok(())
    }

    /// Removals of all facts that are not among these.
    fn gone_without(&self, ops: &[Op]) -> Vec<Op> {
        let stay: HashSet<&[u8]> = ops.iter().map(|op| op.key.as_slice()).collect();
        let gone = self
            .facts
            .keys()
            .filter(|key| !stay.contains(key.as_slice()));
        gone.map(|key| Op {
            key: key.clone(),
            value: None,
        })
        .collect()
    }

    fn fact(&mut self, op: &Op, together: &mut Together) {
        let key: FactKey = match decode("fact key", &op.key) {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(%error, "fact of an unknown kind left out");
                return;
            }
        };
        let fact = match op
            .value
            .as_deref()
            .map(|value| decode::<Fact>("fact", value))
            .transpose()
        {
            Ok(fact) => fact,
            Err(error) => {
                tracing::error!(?key, %error, "fact is not readable; what it replaces stays");
                return;
            }
        };
        match (key, fact) {
            (FactKey::Backend(key), Some(Fact::Backend(backend))) => {
                self.plane.set_backend(&key, &backend);
            }
            (FactKey::Backend(key), None) => self.plane.remove_backend(&key),
            (FactKey::Certificate(key), Some(Fact::Certificate(certificate))) => {
                together.certificates.push((key, Some(certificate)));
            }
            (FactKey::Certificate(key), None) => together.certificates.push((key, None)),
            (FactKey::Binding(gateway, port), fact) => {
                let bindings = self.bindings.entry(gateway.clone()).or_default();
                match fact {
                    Some(Fact::Binding(binding)) => {
                        bindings.insert(port, binding);
                    }
                    _ => {
                        bindings.remove(&port);
                        if bindings.is_empty() {
                            self.bindings.remove(&gateway);
                        }
                    }
                }
                together.rebound.insert(gateway);
            }
            _ => {}
        }
    }

    /// Sockets of Gateways follow their bindings: those of active tables at once and together, so that an address may
    /// go from one Gateway to another; those of prepared ones when they are activated.
    async fn rebind(&mut self, gateways: HashSet<GatewayKey>, outcome: &mut Outcome) {
        let mut ready = Vec::new();
        for gateway in gateways {
            let Some(held) = self.gateways.get_mut(&gateway) else {
                continue;
            };
            let bindings = self.bindings.get(&gateway).cloned().unwrap_or_default();
            if held.serves {
                // While a listener's removal is under way its binding may be gone before it.
                match self.plane.prepare(held.active.clone(), &bindings) {
                    Ok(prepared) => ready.push(prepared),
                    Err(failure) => {
                        tracing::warn!(%gateway, error = failure.message, "bindings changed and cannot be followed");
                    }
                }
            }
            held.rebind(&gateway, &*self.plane, &bindings, outcome);
        }
        if !ready.is_empty() {
            self.plane.activate(ready).await;
        }
    }
}
