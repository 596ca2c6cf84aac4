//! What the shard holds, and what each message does to it.

mod answers;
mod facts;
mod parts;
mod step;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::{GatewayKey, Revision};
use api_snapshot::facts::Binding;
use api_snapshot::{Epoch, SetHash};
use api_wire::delivery::{self, FromShard, ToShard, from_shard, to_shard};
use api_wire::{WireError, gateway_key};
use parking_lot::Mutex;

use crate::Plane;
use crate::disk::{Change, Stored};
use parts::Parts;
use step::Held;

/// Operations from which a step is said to take longer before it is begun.
const BUSY_OPS: usize = 1000;
/// Time asked for each of so many operations.
const BUSY_MS: u32 = 200;

/// The shard's state. One task owns it.
pub struct Shard<P: Plane> {
    plane: Arc<P>,
    /// The history that all revisions here are of.
    epoch: Epoch,
    facts_revision: Revision,
    facts: HashMap<Vec<u8>, SetHash>,
    facts_hash: SetHash,
    bindings: HashMap<GatewayKey, BTreeMap<u16, Binding>>,
    gateways: HashMap<GatewayKey, Held<P>>,
    served: ServedGateways,
    /// What was asked for anew on this stream, and has not come yet; none stands for the facts.
    asked: HashSet<Option<GatewayKey>>,
    parts: Parts,
    synced: bool,
    resyncs: u64,
}

/// What messages lead to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<FromShard>,
    pub(crate) changes: Vec<Change>,
}

/// Where the shard stands, for probes and metrics. Cheap: it is made after each message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardStatus {
    /// Whether a table was loaded, from disk or from an operator.
    pub ready: bool,
    /// Facts that it holds.
    pub facts: usize,
    /// Gaps and wrong hashes since the start.
    pub resyncs: u64,
}

/// The Gateways that a shard serves, with their revisions and rules. A handle: it shows what is true now.
#[derive(Debug, Clone, Default)]
pub struct ServedGateways(Arc<Mutex<BTreeMap<GatewayKey, (Revision, usize)>>>);

impl ServedGateways {
    /// All of them. Cost: O(Gateways).
    pub fn list(&self) -> BTreeMap<GatewayKey, (Revision, usize)> {
        self.0.lock().clone()
    }

    /// How many there are, and their highest revision. Cost: O(Gateways).
    pub fn count(&self) -> (usize, Revision) {
        let served = self.0.lock();
        let newest = served.values().map(|(revision, _)| *revision).max();
        (served.len(), newest.unwrap_or_default())
    }

    fn set(&self, gateway: &GatewayKey, to: Option<(Revision, usize)>) {
        let mut served = self.0.lock();
        match to {
            Some(to) => served.insert(gateway.clone(), to),
            None => served.remove(gateway),
        };
    }
}

impl<P: Plane> Shard<P> {
    /// An empty shard.
    pub fn new(plane: Arc<P>) -> Self {
        Self {
            plane,
            epoch: Epoch::NONE,
            facts_revision: Revision(0),
            facts: HashMap::new(),
            facts_hash: SetHash::default(),
            bindings: HashMap::new(),
            gateways: HashMap::new(),
            served: ServedGateways::default(),
            asked: HashSet::new(),
            parts: Parts::default(),
            synced: false,
            resyncs: 0,
        }
    }

    /// Serves what was stored; a Gateway that cannot be served is left out and comes anew from the operator.
    pub async fn boot(&mut self, stored: Stored) {
        self.epoch = stored.epoch;
        let facts = delivery::Facts {
            revision: stored.facts_revision.0,
            ops: api_wire::ops_to_wire(&stored.facts),
            replace: true,
            hash: stored.facts_hash().to_bytes().to_vec(),
            ..delivery::Facts::default()
        };
        let mut outcome = Outcome::default();
        // From the file of this shard itself; a part that is unreadable is logged within.
        let _ = self.facts(facts, &mut outcome).await;
        for gateway in stored.gateways {
            let key = gateway.gateway;
            let prepare = delivery::Prepare {
                gateway: Some((&key).into()),
                revision: gateway.revision.0,
                ops: api_wire::ops_to_wire(&gateway.ops),
                replace: true,
                hash: gateway.hash.to_bytes().to_vec(),
                ..delivery::Prepare::default()
            };
            let _ = self.prepare(prepare, &mut outcome);
            let activate = delivery::Activate {
                gateway: Some((&key).into()),
                revision: gateway.revision.0,
            };
            let _ = self.activate(activate, &mut outcome).await;
        }
        self.resyncs = 0;
        self.forget_prepared();
        let serving = self.served.count().0;
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
        answers::wire(from_shard::Message::Hello(delivery::Hello {
            shard,
            version: env!("CARGO_PKG_VERSION").into(),
            admin: admin.into(),
            facts_revision: self.facts_revision.0,
            facts_hash: self.facts_hash.to_bytes().to_vec(),
            gateways,
            epoch: self.epoch.0,
        }))
    }

    /// Forgets what is prepared, in parts or asked for: a new stream sends what is missing.
    pub(crate) fn forget_prepared(&mut self) {
        for held in self.gateways.values_mut() {
            held.forget_steps();
        }
        self.gateways.retain(|_, held| held.serves);
        self.asked.clear();
        self.parts = Parts::default();
    }

    /// Where it stands. Cost: O(1).
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            ready: self.synced,
            facts: self.facts.len(),
            resyncs: self.resyncs,
        }
    }

    /// What it serves, now and later.
    pub fn served(&self) -> ServedGateways {
        self.served.clone()
    }

    /// What to say before a message is taken that takes longer than the operator waits, or that waits behind others.
    pub(crate) fn busy(message: &ToShard, waits: bool) -> Option<FromShard> {
        let Some(to_shard::Message::Prepare(prepare)) = &message.message else {
            return None;
        };
        let thousands = u32::try_from(prepare.ops.len() / BUSY_OPS).unwrap_or(u32::MAX);
        if thousands == 0 && !waits && !prepare.more {
            return None;
        }
        Some(answers::wire(from_shard::Message::Busy(delivery::Busy {
            gateway: prepare.gateway.clone(),
            revision: prepare.revision,
            extend_ms: BUSY_MS.saturating_mul(thousands.max(3)),
        })))
    }

    /// Takes one message. Cost: O(operations in it).
    pub(crate) async fn take(&mut self, message: ToShard) -> Outcome {
        let mut outcome = Outcome::default();
        let taken = match message.message {
            Some(to_shard::Message::Facts(facts)) => match self.parts.facts(facts) {
                Some(facts) => self.facts(facts, &mut outcome).await,
                None => Ok(()),
            },
            Some(to_shard::Message::Prepare(prepare)) => match self.parts.prepare(prepare) {
                Some(prepare) => {
                    let span = tracing::info_span!("shard.prepare", revision = prepare.revision);
                    api_telemetry::trace::set_parent(&span, &message.traceparent);
                    let _inside = span.enter();
                    self.prepare(prepare, &mut outcome)
                }
                None => Ok(()),
            },
            Some(to_shard::Message::Activate(activate)) => {
                use tracing::Instrument;
                let span = tracing::info_span!("shard.activate", revision = activate.revision);
                api_telemetry::trace::set_parent(&span, &message.traceparent);
                self.activate(activate, &mut outcome).instrument(span).await
            }
            Some(to_shard::Message::Drop(drop)) => self.drop_gateway(drop, &mut outcome).await,
            Some(to_shard::Message::Welcome(welcome)) => {
                self.welcome(Epoch(welcome.epoch), &mut outcome);
                Ok(())
            }
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

    /// All revisions from here on are of this history. What is held of another one serves on, at revision 0: whatever is
    /// sent is newer.
    fn welcome(&mut self, epoch: Epoch, outcome: &mut Outcome) {
        if epoch == self.epoch {
            return;
        }
        // The first one that a new shard hears of is no news.
        if self.epoch != Epoch::NONE {
            tracing::warn!(
                from = self.epoch.0,
                to = epoch.0,
                gateways = self.gateways.len(),
                "the operator's history of revisions is another one; serving on until it has sent its own"
            );
        }
        self.epoch = epoch;
        for (key, held) in &mut self.gateways {
            held.renumber();
            if held.serves {
                let to = (held.active.revision(), held.active.rule_count());
                self.served.set(key, Some(to));
            }
        }
        outcome.changes.push(Change::Epoch(epoch));
    }

    async fn drop_gateway(
        &mut self,
        message: delivery::Drop,
        outcome: &mut Outcome,
    ) -> Result<(), WireError> {
        let key = gateway_key(message.gateway)?;
        self.asked.remove(&Some(key.clone()));
        if self.gateways.remove(&key).is_some() {
            // Its facts go with the next message; what is open has the endpoints that it had.
            self.plane.leave(&key).await;
            self.served.set(&key, None);
            outcome.changes.push(Change::dropped(key));
        }
        Ok(())
    }

    /// Asks for a Gateway, or the facts, anew; once, until it comes.
    fn resync(&mut self, gateway: Option<&GatewayKey>, reason: String, outcome: &mut Outcome) {
        let mut active = Revision(0);
        if let Some(held) = gateway.and_then(|gateway| self.gateways.get_mut(gateway)) {
            held.forget_steps();
            if held.serves {
                active = held.active.revision();
            }
        }
        if self.asked.insert(gateway.cloned()) {
            self.resyncs += 1;
            tracing::warn!(
                gateway = gateway.map(ToString::to_string),
                reason,
                "asking for state anew"
            );
            outcome
                .answers
                .push(answers::resync(gateway, active, reason));
        }
    }

    /// Asks for what the copy on disk has lost: a Gateway, or (none) the facts.
    pub(crate) fn ask_for_copy(&mut self, lost: Option<&GatewayKey>) -> Outcome {
        let mut outcome = Outcome::default();
        if lost.is_none_or(|gateway| self.gateways.contains_key(gateway)) {
            let reason = "the copy on disk lost it".to_owned();
            self.resync(lost, reason, &mut outcome);
        }
        outcome
    }

    /// All that the copy on disk should hold.
    pub(crate) fn all_held(&self) -> Vec<Option<GatewayKey>> {
        let served = self.gateways.iter().filter(|(_, held)| held.serves);
        let gateways = served.map(|(key, _)| Some(key.clone()));
        std::iter::once(None).chain(gateways).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
