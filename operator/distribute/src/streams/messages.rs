//! Messages to shards, made from the snapshot and from applied entries. [pure]

use api::{GatewayKey, Revision};
use api_snapshot::{Epoch, GatewayChain, GatewayDelta, Op, PendingDelta, RoutingSnapshot, SetHash};
use api_wire::delivery::{self, ToShard, to_shard};
use api_wire::{ops_to_wire, parts};

/// What a Gateway whole is for a shard.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) messages: Vec<ToShard>,
    /// The revision that the shard serves already, as its hello says.
    pub(crate) served: Option<Revision>,
}

/// What a shard holds of a Gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holds<'a> {
    Nothing,
    /// Something of another history, which serves until there is something to take its place.
    Foreign,
    /// Something that it lost the thread of.
    Unknown,
    /// A revision of this history.
    Revision(&'a delivery::Held),
}

pub(crate) fn wire(message: to_shard::Message, traceparent: &str) -> ToShard {
    ToShard {
        message: Some(message),
        traceparent: traceparent.to_owned(),
    }
}

pub(crate) fn welcome(epoch: Epoch) -> ToShard {
    wire(
        to_shard::Message::Welcome(delivery::Welcome { epoch: epoch.0 }),
        "",
    )
}

pub(crate) fn drop_gateway(gateway: &GatewayKey) -> ToShard {
    let gateway = Some(gateway.into());
    wire(to_shard::Message::Drop(delivery::Drop { gateway }), "")
}

pub(crate) fn synced(revision: Revision) -> ToShard {
    let revision = revision.0;
    wire(to_shard::Message::Synced(delivery::Synced { revision }), "")
}

pub(crate) fn activate(gateway: &GatewayKey, revision: Revision, traceparent: &str) -> ToShard {
    let message = delivery::Activate {
        gateway: Some(gateway.into()),
        revision: revision.0,
    };
    wire(to_shard::Message::Activate(message), traceparent)
}

/// Facts in as many messages as it takes; `message` says all but the operations.
pub(crate) fn facts(message: &delivery::Facts, ops: &[Op]) -> Vec<ToShard> {
    let parts = parts(ops_to_wire(ops));
    let last = parts.len() - 1;
    let message = |(part, ops)| delivery::Facts {
        ops,
        more: part < last,
        ..message.clone()
    };
    let messages = parts.into_iter().enumerate().map(message);
    messages
        .map(|message| wire(to_shard::Message::Facts(message), ""))
        .collect()
}

/// One step of a Gateway.
pub(crate) fn delta(delta: &GatewayDelta, revision: Revision, traceparent: &str) -> Vec<ToShard> {
    let message = delivery::Prepare {
        gateway: Some((&delta.gateway).into()),
        base: delta.base.0,
        revision: revision.0,
        hash: delta.hash.to_bytes().to_vec(),
        removed: delta.removed,
        ..delivery::Prepare::default()
    };
    prepare(&message, ops_to_wire(&delta.ops), traceparent)
}

fn prepare(message: &delivery::Prepare, ops: Vec<delivery::Op>, traceparent: &str) -> Vec<ToShard> {
    let parts = parts(ops);
    let last = parts.len() - 1;
    let message = |(part, ops)| delivery::Prepare {
        ops,
        more: part < last,
        ..message.clone()
    };
    let messages = parts.into_iter().enumerate().map(message);
    messages
        .map(|message| wire(to_shard::Message::Prepare(message), traceparent))
        .collect()
}

/// What brings a shard from what it holds of a Gateway to what is committed: nothing, the pending deltas, or all.
pub(crate) fn whole(snapshot: &RoutingSnapshot, gateway: &GatewayKey, holds: Holds<'_>) -> Whole {
    let mut whole = Whole::default();
    let Some(chain) = snapshot.gateway(gateway) else {
        // Placed, and gone.
        whole.messages.push(drop_gateway(gateway));
        return whole;
    };
    let (active, entries) = (chain.active(), chain.entries());
    let mut after = active;
    match holds {
        Holds::Revision(held)
            if held.active == active.0 && held.active_hash == entries.hash().to_bytes() =>
        {
            whole.served = Some(active);
        }
        // Another replica has sent it more than this one has applied so far.
        Holds::Revision(held) if is_ahead(snapshot, chain, Revision(held.active)) => {
            after = Revision(held.active);
        }
        _ if active != Revision(0) => {
            whole.messages = replace(gateway, active, entries.hash(), ops(entries));
            whole.messages.push(self::activate(gateway, active, ""));
        }
        // Nothing is active and nothing is held: the pending deltas start from nothing.
        Holds::Nothing => {}
        Holds::Foreign => {
            whole.messages = tip(gateway, chain);
            return whole;
        }
        // If it serves a Gateway of this name, then one that was removed since.
        Holds::Revision(_) | Holds::Unknown => whole.messages.push(drop_gateway(gateway)),
    }
    for pending in chain.pending().iter().filter(|p| p.revision > after) {
        let (revision, trace) = (pending.revision, &pending.traceparent);
        let messages = self::delta(&pending.delta, revision, trace);
        whole.messages.extend(messages);
    }
    whole
}

/// Whether a shard serves a revision that is not active here yet. One that is active nowhere any more is of a Gateway
/// that was removed, and created anew since.
fn is_ahead(snapshot: &RoutingSnapshot, chain: &GatewayChain, revision: Revision) -> bool {
    let waits = |pending: &PendingDelta| pending.revision == revision;
    revision > snapshot.revision() || chain.pending().iter().any(waits)
}

/// The newest committed revision as one step from nothing; it serves once it is activated, and not before.
fn tip(gateway: &GatewayKey, chain: &GatewayChain) -> Vec<ToShard> {
    let last = chain.pending().last();
    let traceparent = last.map_or("", |last| last.traceparent.as_str());
    let entries = chain.tip_entries();
    let message = delivery::Prepare {
        gateway: Some(gateway.into()),
        revision: chain.tip().0,
        replace: true,
        hash: entries.hash().to_bytes().to_vec(),
        removed: chain.removed_at_tip(),
        ..delivery::Prepare::default()
    };
    prepare(&message, ops(&entries), traceparent)
}

fn replace(
    gateway: &GatewayKey,
    revision: Revision,
    hash: SetHash,
    ops: Vec<delivery::Op>,
) -> Vec<ToShard> {
    let message = delivery::Prepare {
        gateway: Some(gateway.into()),
        revision: revision.0,
        replace: true,
        hash: hash.to_bytes().to_vec(),
        ..delivery::Prepare::default()
    };
    prepare(&message, ops, "")
}

fn ops(entries: &api_snapshot::EntrySet) -> Vec<delivery::Op> {
    entries
        .iter()
        .map(|(key, value)| delivery::Op {
            key: key.to_vec(),
            value: Some(value.to_vec()),
        })
        .collect()
}
