//! What Raft replicates: the routing snapshot, and the history of its revisions.

use std::collections::VecDeque;
use std::sync::Arc;

use api::{GatewayKey, ObjectKey, Revision};
use api_snapshot::{Applied, Command, RoutingSnapshot};
use minicbor::{Decode, Encode};
use operator_consensus::StateMachine;
use parking_lot::RwLock;
use serde::Serialize;

/// Revisions kept in history; older ones are forgotten.
pub(crate) const HISTORY_MAX: usize = 1000;

/// One revision, as `shardway revisions` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub(crate) struct Record {
    /// Its number.
    #[n(0)]
    pub(crate) revision: Revision,
    /// When the first change in it was seen, microseconds since the epoch.
    #[n(1)]
    pub(crate) seen_at_us: u64,
    /// Objects that changed, bounded.
    #[n(2)]
    pub(crate) objects: Vec<ObjectKey>,
    /// How many there were.
    #[n(3)]
    pub(crate) objects_total: u32,
    /// Gateways whose configuration it changes, bounded as the objects are.
    #[n(4)]
    pub(crate) gateways: Vec<GatewayKey>,
    /// Entries of the configuration lane that it writes or removes.
    #[n(5)]
    pub(crate) entries: u32,
    /// Facts that it writes or removes.
    #[n(6)]
    pub(crate) facts: u32,
}

/// History of revisions, newest last.
#[derive(Debug, Default, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct History(#[n(0)] pub(crate) VecDeque<Record>);

/// What applying an entry gave.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) applied: Applied,
}

/// The replicated state. Raft's thread is the one writer; everyone else reads through the locks.
#[derive(Debug, Default, Clone)]
pub(crate) struct Machine {
    pub(crate) snapshot: Arc<RwLock<RoutingSnapshot>>,
    pub(crate) history: Arc<RwLock<History>>,
}

#[derive(Encode, Decode)]
struct Stored {
    #[cbor(n(0), with = "minicbor::bytes")]
    snapshot: Vec<u8>,
    #[n(1)]
    history: History,
}

impl StateMachine for Machine {
    type Output = Output;

    /// # Panics
    /// When the entry is no command that this version knows: going on would let replicas diverge.
    fn apply(&mut self, index: u64, data: &[u8]) -> Output {
        let command = Command::from_bytes(data).unwrap_or_else(|error| {
            panic!("raft entry {index} is unreadable; run the version that wrote it: {error:?}")
        });
        let mut record = None;
        if let Command::Commit(delta) = &command {
            record = Some(Record {
                revision: Revision(index),
                seen_at_us: delta.origin.seen_at_us,
                objects: delta.origin.objects.clone(),
                objects_total: delta.origin.objects_total,
                gateways: delta
                    .gateways
                    .iter()
                    .take(api_snapshot::Origin::OBJECTS_MAX)
                    .map(|gateway| gateway.gateway.clone())
                    .collect(),
                entries: count(delta.gateways.iter().map(|gateway| gateway.ops.len()).sum()),
                facts: count(delta.facts.ops.len()),
            });
        }
        let applied = self.snapshot.write().apply(Revision(index), command);
        if let (Some(record), Applied::Committed { .. }) = (record, &applied) {
            let mut history = self.history.write();
            history.0.push_back(record);
            if history.0.len() > HISTORY_MAX {
                history.0.pop_front();
            }
        }
        Output { applied }
    }

    fn snapshot(&self) -> Vec<u8> {
        api_snapshot::encode(&Stored {
            snapshot: self.snapshot.read().to_bytes(),
            history: self.history.read().clone(),
        })
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let stored: Stored =
            api_snapshot::decode("state machine", bytes).map_err(|e| format!("{e:?}"))?;
        let snapshot = RoutingSnapshot::restore(&stored.snapshot).map_err(|e| e.to_string())?;
        *self.snapshot.write() = snapshot;
        *self.history.write() = stored.history;
        Ok(())
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
