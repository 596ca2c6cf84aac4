//! What the shard holds, and what each message does to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::{GatewayKey, Revision};
use api_snapshot::facts::Binding;
use api_snapshot::{Fact, FactKey, Op, SetHash, decode};
use api_wire::delivery::{self, FromShard, ToShard, from_shard, to_shard};
use api_wire::{WireError, gateway_key, ops_from_wire, set_hash};
use shard_proxy_table::{ApplyError, SubTable};

use crate::Plane;
use crate::disk::{Change, Stored};

/// The shard's state. One task owns it.
pub struct Shard<P: Plane> {
    plane: Arc<P>,
    facts_revision: Revision,
    facts: HashMap<Vec<u8>, SetHash>,
    facts_hash: SetHash,
    bindings: HashMap<GatewayKey, BTreeMap<u16, Binding>>,
    gateways: HashMap<GatewayKey, Held<P>>,
    synced: bool,
    resyncs: u64,
}

struct Held<P: Plane> {
    active: SubTable<P::Backend>,
    serves: bool,
    /// Prepared or refused steps after the active table, oldest first.
    next: Vec<Next<P>>,
}

struct Next<P: Plane> {
    table: SubTable<P::Backend>,
    prepared: Option<P::Prepared>,
    removed: bool,
    replace: bool,
    ops: Vec<Op>,
}

/// What messages lead to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<FromShard>,
    pub(crate) changes: Vec<Change>,
}

/// Where the shard stands, for people and probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStatus {
    /// Whether a table was loaded, from disk or from an operator.
    pub ready: bool,
    /// Gateways that it serves, with their revisions and rules.
    pub gateways: BTreeMap<GatewayKey, (Revision, usize)>,
    /// Facts that it holds.
    pub facts: usize,
    /// Gaps and wrong hashes since the start.
    pub resyncs: u64,
}

impl<P: Plane> Shard<P> {
    /// An empty shard.
    pub fn new(plane: Arc<P>) -> Self {
        Self {
            plane,
            facts_revision: Revision(0),
            facts: HashMap::new(),
            facts_hash: SetHash::default(),
            bindings: HashMap::new(),
            gateways: HashMap::new(),
            synced: false,
            resyncs: 0,
        }
    }

    /// Serves what was stored; a Gateway that cannot be served is left out and comes anew from the operator.
    pub async fn boot(&mut self, stored: Stored) {
        let facts = delivery::Facts {
            base: 0,
            revision: stored.facts_revision.0,
            ops: api_wire::ops_to_wire(&stored.facts),
            replace: true,
            hash: stored
                .facts
                .iter()
                .fold(SetHash::default(), add)
                .to_bytes()
                .to_vec(),
        };
        let mut outcome = Outcome::default();
        // From the file of this shard itself; a part that is unreadable is logged within.
        let _ = self.facts(facts, &mut outcome).await;
        for gateway in stored.gateways {
            let key = gateway.gateway;
            let prepare = delivery::Prepare {
                gateway: Some((&key).into()),
                base: 0,
                revision: gateway.revision.0,
                ops: api_wire::ops_to_wire(&gateway.ops),
                replace: true,
                hash: gateway.hash.to_bytes().to_vec(),
                removed: false,
            };
            let _ = self.prepare(prepare, &mut outcome);
            let activate = delivery::Activate {
                gateway: Some((&key).into()),
                revision: gateway.revision.0,
            };
            let _ = self.activate(activate, &mut outcome).await;
        }
        let serving = self.gateways.values().filter(|held| held.serves).count();
        tracing::info!(
            gateways = serving,
            facts = self.facts.len(),
            "booted from disk"
        );
        self.synced = serving > 0;
    }

    /// The first message of a stream.
    pub(crate) fn hello(&self, shard: u32, admin: &str) -> FromShard {
        let gateways = self
            .gateways
            .iter()
            .filter(|(_, held)| held.serves)
            .map(|(key, held)| delivery::Held {
                gateway: Some(key.into()),
                active: held.active.revision().0,
                active_hash: held.active.hash().to_bytes().to_vec(),
            })
            .collect();
        wire(from_shard::Message::Hello(delivery::Hello {
            shard,
            version: env!("CARGO_PKG_VERSION").into(),
            admin: admin.into(),
            facts_revision: self.facts_revision.0,
            facts_hash: self.facts_hash.to_bytes().to_vec(),
            gateways,
        }))
    }

    /// What a new stream is told after the hello: what is served, and what is prepared.
    pub(crate) fn standing(&self) -> Vec<FromShard> {
        let mut answers = Vec::new();
        for (key, held) in &self.gateways {
            if held.serves {
                answers.push(acknowledged(key, held.active.revision()));
            }
        }
        answers
    }

    /// Forgets what is prepared: a new stream sends it again.
    pub(crate) fn forget_prepared(&mut self) {
        for held in self.gateways.values_mut() {
            held.next.clear();
        }
        self.gateways.retain(|_, held| held.serves);
    }

    /// Where it stands.
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            ready: self.synced,
            gateways: self
                .gateways
                .iter()
                .filter(|(_, held)| held.serves)
                .map(|(key, held)| {
                    (
                        key.clone(),
                        (held.active.revision(), held.active.rule_count()),
                    )
                })
                .collect(),
            facts: self.facts.len(),
            resyncs: self.resyncs,
        }
    }

    /// Takes one message. Cost: O(operations in it).
    pub(crate) async fn take(&mut self, message: ToShard) -> Outcome {
        let mut outcome = Outcome::default();
        let taken = match message.message {
            Some(to_shard::Message::Facts(facts)) => self.facts(facts, &mut outcome).await,
            Some(to_shard::Message::Prepare(prepare)) => {
                let span = tracing::info_span!("shard.prepare", revision = prepare.revision);
                api_telemetry::trace::set_parent(&span, &message.traceparent);
                let _inside = span.enter();
                self.prepare(prepare, &mut outcome)
            }
            Some(to_shard::Message::Activate(activate)) => {
                use tracing::Instrument;
                let span = tracing::info_span!("shard.activate", revision = activate.revision);
                api_telemetry::trace::set_parent(&span, &message.traceparent);
                self.activate(activate, &mut outcome).instrument(span).await
            }
            Some(to_shard::Message::Drop(drop)) => self.drop_gateway(drop, &mut outcome).await,
            Some(to_shard::Message::Synced(_)) => {
                self.synced = true;
                Ok(())
            }
            None => Ok(()), // of a newer version
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "message left out");
        }
        outcome
    }

    async fn facts(
        &mut self,
        message: delivery::Facts,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let expected = set_hash(&message.hash)?;
        if !message.replace && message.base != self.facts_revision.0 {
            let reason = format!(
                "facts build on {}, held are {}",
                message.base, self.facts_revision
            );
            self.resync(None, reason, outcome);
            return Ok(());
        }
        let mut ops = ops_from_wire(message.ops);
        if message.replace {
            let stay: HashSet<&[u8]> = ops.iter().map(|op| op.key.as_slice()).collect();
            let gone: Vec<Op> = self
                .facts
                .keys()
                .filter(|key| !stay.contains(key.as_slice()))
                .map(|key| Op {
                    key: key.clone(),
                    value: None,
                })
                .collect();
            ops.extend(gone);
        }
        let mut rebound = HashSet::new();
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
                self.fact(op, &mut rebound);
            }
        }
        self.facts_revision = Revision(message.revision);
        if self.facts_hash != expected {
            self.resync(None, "facts have another hash".into(), outcome);
            return Ok(());
        }
        outcome.changes.push(Change::Facts {
            revision: self.facts_revision,
            ops,
        });
        for gateway in rebound {
            self.rebind(&gateway).await;
        }
        Ok(())
    }

    fn fact(&mut self, op: &Op, rebound: &mut HashSet<GatewayKey>) {
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
                if let Err(error) = self.plane.set_certificate(&key, &certificate) {
                    tracing::error!(certificate = %key, error, "certificate cannot be used; the one before stays");
                }
            }
            (FactKey::Certificate(key), None) => self.plane.remove_certificate(&key),
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
                rebound.insert(gateway);
            }
            _ => {}
        }
    }

    /// Sockets of an active Gateway follow its bindings.
    async fn rebind(&mut self, gateway: &GatewayKey) {
        let Some(held) = self.gateways.get(gateway).filter(|held| held.serves) else {
            return;
        };
        let bindings = self.bindings.get(gateway).cloned().unwrap_or_default();
        // While a listener's removal is under way its binding may be gone before it.
        match self.plane.prepare(held.active.clone(), &bindings) {
            Ok(prepared) => self.plane.activate(prepared).await,
            Err(failure) => {
                tracing::warn!(%gateway, error = failure.message, "bindings changed and cannot be followed");
            }
        }
    }

    fn prepare(
        &mut self,
        message: delivery::Prepare,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let key = gateway_key(message.gateway)?;
        let expected = set_hash(&message.hash)?;
        let revision = Revision(message.revision);
        let ops = ops_from_wire(message.ops);
        let held = self.gateways.entry(key.clone()).or_insert_with(|| Held {
            active: SubTable::empty(key.clone()),
            serves: false,
            next: Vec::new(),
        });
        if message.replace {
            held.next.clear();
        }
        let base = held.next.last().map_or(&held.active, |next| &next.table);
        // Sent again after a reconnect, or older than what is held.
        if !message.replace && revision <= base.revision() {
            if held
                .next
                .last()
                .is_some_and(|n| n.table.revision() == revision && n.prepared.is_some())
            {
                outcome.answers.push(prepared(&key, revision));
            }
            return Ok(());
        }
        let plane = Arc::clone(&self.plane);
        let replace = message.replace || message.removed;
        let applied = if message.removed && base.revision() != Revision(message.base) {
            Err(ApplyError::Gap {
                base: Revision(message.base),
                have: base.revision(),
            })
        } else {
            base.apply(
                Revision(message.base),
                revision,
                replace,
                &ops,
                expected,
                &mut |key| plane.backend(key),
            )
        };
        let table = match applied {
            Ok(table) => table,
            Err(ApplyError::Unreadable(reason)) => {
                outcome
                    .answers
                    .push(refused(&key, revision, None, false, reason));
                return Ok(());
            }
            Err(error) => {
                self.resync(Some(&key), error.to_string(), outcome);
                return Ok(());
            }
        };
        let bindings = self.bindings.get(&key).cloned().unwrap_or_default();
        let ready = match self.plane.prepare(table.clone(), &bindings) {
            Ok(ready) => {
                outcome.answers.push(prepared(&key, revision));
                Some(ready)
            }
            Err(failure) => {
                let (listener, port) = (failure.listener, failure.port_unavailable);
                outcome
                    .answers
                    .push(refused(&key, revision, listener, port, failure.message));
                None
            }
        };
        let next = Next {
            table,
            prepared: ready,
            removed: message.removed,
            replace,
            ops,
        };
        if let Some(held) = self.gateways.get_mut(&key) {
            held.next.push(next);
        }
        Ok(())
    }

    async fn activate(
        &mut self,
        message: delivery::Activate,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let key = gateway_key(message.gateway)?;
        let revision = Revision(message.revision);
        let Some(held) = self.gateways.get_mut(&key) else {
            self.resync(
                Some(&key),
                format!("revision {revision} was never prepared"),
                outcome,
            );
            return Ok(());
        };
        if held.serves && held.active.revision() >= revision {
            outcome
                .answers
                .push(acknowledged(&key, held.active.revision()));
            return Ok(());
        }
        let Some(at) = held
            .next
            .iter()
            .position(|next| next.table.revision() == revision)
        else {
            self.resync(
                Some(&key),
                format!("revision {revision} was never prepared"),
                outcome,
            );
            return Ok(());
        };
        let mut steps: Vec<Next<P>> = held.next.drain(..=at).collect();
        let Some(mut last) = steps.pop() else {
            return Ok(());
        };
        if last.prepared.is_none() && !last.removed {
            // Refused before; the cause may be gone by now.
            let bindings = self.bindings.get(&key).cloned().unwrap_or_default();
            match self.plane.prepare(last.table.clone(), &bindings) {
                Ok(ready) => last.prepared = Some(ready),
                Err(failure) => {
                    let (listener, port) = (failure.listener, failure.port_unavailable);
                    outcome
                        .answers
                        .push(refused(&key, revision, listener, port, failure.message));
                    held.next.insert(0, last);
                    return Ok(());
                }
            }
        }
        for step in steps.iter().chain([&last]) {
            outcome.changes.push(Change::Gateway {
                gateway: key.clone(),
                revision: step.table.revision(),
                hash: step.table.hash(),
                replace: step.replace,
                removed: step.removed,
                ops: step.ops.clone(),
            });
        }
        held.active = last.table;
        held.serves = !last.removed;
        let gone = last.removed && held.next.is_empty();
        match last.prepared {
            Some(ready) if !last.removed => self.plane.activate(ready).await,
            _ => self.plane.remove(&key).await,
        }
        if gone {
            self.gateways.remove(&key);
        }
        outcome.answers.push(acknowledged(&key, revision));
        Ok(())
    }

    async fn drop_gateway(
        &mut self,
        message: delivery::Drop,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let key = gateway_key(message.gateway)?;
        if self.gateways.remove(&key).is_some() {
            self.plane.remove(&key).await;
            outcome.changes.push(Change::Gateway {
                gateway: key,
                revision: Revision(0),
                hash: SetHash::default(),
                replace: true,
                removed: true,
                ops: Vec::new(),
            });
        }
        Ok(())
    }

    fn resync(&mut self, gateway: Option<&GatewayKey>, reason: String, outcome: &mut Outcome) {
        self.resyncs += 1;
        tracing::warn!(
            gateway = gateway.map(ToString::to_string),
            reason,
            "asking for state anew"
        );
        if let Some(held) = gateway.and_then(|gateway| self.gateways.get_mut(gateway)) {
            held.next.clear();
        }
        outcome
            .answers
            .push(wire(from_shard::Message::Resync(delivery::Resync {
                gateway: gateway.map(Into::into),
                reason,
            })));
    }
}

fn add(sum: SetHash, op: &Op) -> SetHash {
    op.value
        .as_ref()
        .map_or(sum, |value| sum.plus(SetHash::of(&op.key, value)))
}

fn prepared(gateway: &GatewayKey, revision: Revision) -> FromShard {
    wire(from_shard::Message::Prepared(delivery::Prepared {
        gateway: Some(gateway.into()),
        revision: revision.0,
    }))
}

fn acknowledged(gateway: &GatewayKey, revision: Revision) -> FromShard {
    wire(from_shard::Message::Acknowledged(delivery::Acknowledged {
        gateway: Some(gateway.into()),
        revision: revision.0,
    }))
}

fn refused(
    gateway: &GatewayKey,
    revision: Revision,
    listener: Option<String>,
    port_unavailable: bool,
    message: String,
) -> FromShard {
    let reason = if port_unavailable {
        delivery::RefusedReason::PortUnavailable
    } else {
        delivery::RefusedReason::Unreadable
    };
    wire(from_shard::Message::Refused(delivery::Refused {
        gateway: Some(gateway.into()),
        revision: revision.0,
        listener: listener.unwrap_or_default(),
        reason: reason.into(),
        message,
    }))
}

fn wire(message: from_shard::Message) -> FromShard {
    FromShard {
        message: Some(message),
    }
}
