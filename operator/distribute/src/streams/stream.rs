//! What one connected shard was sent of facts.

use std::collections::{BTreeSet, HashMap};

use api::{GatewayKey, Revision, ShardId};
use api_snapshot::{Op, RoutingSnapshot, SetHash};
use api_wire::delivery::{self, ToShard};
use tokio::sync::mpsc;

use super::messages;
use crate::interest::{FactBytes, Interest};

/// One open stream.
pub(crate) struct Stream {
    pub(crate) session: u64,
    pub(crate) out: mpsc::Sender<Vec<ToShard>>,
    /// Gateways that the shard serves by another history, until one of this is active.
    pub(crate) foreign: BTreeSet<GatewayKey>,
    /// What it serves of Gateways that it asks for anew.
    pub(crate) serves: HashMap<GatewayKey, Revision>,
    revision: Revision,
    facts: HashMap<FactBytes, SetHash>,
    hash: SetHash,
}

impl Stream {
    pub(crate) fn new(session: u64, out: mpsc::Sender<Vec<ToShard>>) -> Self {
        Self {
            session,
            out,
            foreign: BTreeSet::new(),
            serves: HashMap::new(),
            revision: Revision(0),
            facts: HashMap::new(),
            hash: SetHash::default(),
        }
    }

    /// The messages that change the shard's facts by `ops`.
    pub(crate) fn facts(&mut self, revision: Revision, ops: &[Op]) -> Vec<ToShard> {
        self.take(ops);
        let base = std::mem::replace(&mut self.revision, revision);
        self.messages(base, ops, false)
    }

    /// The messages that give the shard all facts that it needs, whatever it holds.
    pub(crate) fn all_facts(
        &mut self,
        snapshot: &RoutingSnapshot,
        interest: &Interest,
        shard: ShardId,
    ) -> Vec<ToShard> {
        self.facts.clear();
        self.hash = SetHash::default();
        let ops = facts_for(snapshot, interest, shard);
        self.take(&ops);
        self.revision = snapshot.revision();
        self.messages(Revision(0), &ops, true)
    }

    /// As [`Stream::all_facts`], and nothing if the shard holds them.
    pub(crate) fn begin(
        &mut self,
        snapshot: &RoutingSnapshot,
        interest: &Interest,
        shard: ShardId,
        hello: &delivery::Hello,
    ) -> Vec<ToShard> {
        let messages = self.all_facts(snapshot, interest, shard);
        if hello.facts_hash != self.hash.to_bytes() {
            return messages;
        }
        self.revision = Revision(hello.facts_revision);
        Vec::new()
    }

    fn take(&mut self, ops: &[Op]) {
        for op in ops {
            let new = op.value.as_ref().map(|value| SetHash::of(&op.key, value));
            let old = match new {
                Some(hash) => self.facts.insert(op.key.clone(), hash),
                None => self.facts.remove(&op.key),
            };
            self.hash = self
                .hash
                .minus(old.unwrap_or_default())
                .plus(new.unwrap_or_default());
        }
    }

    fn messages(&self, base: Revision, ops: &[Op], replace: bool) -> Vec<ToShard> {
        let message = delivery::Facts {
            base: base.0,
            revision: self.revision.0,
            replace,
            hash: self.hash.to_bytes().to_vec(),
            ..delivery::Facts::default()
        };
        messages::facts(&message, ops)
    }
}

fn facts_for(snapshot: &RoutingSnapshot, interest: &Interest, shard: ShardId) -> Vec<Op> {
    let mut ops: Vec<Op> = interest
        .facts_of(shard)
        .filter_map(|key| {
            let value = snapshot.facts().value(key)?;
            Some(Op {
                key: key.clone(),
                value: Some(value.to_vec()),
            })
        })
        .collect();
    ops.sort_by(|a, b| a.key.cmp(&b.key));
    ops
}
