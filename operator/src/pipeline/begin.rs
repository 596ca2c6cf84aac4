//! Names the history of revisions.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::SystemTime;

use api_snapshot::{Command, Epoch};
use api_telemetry::Chain;
use operator_consensus::ProposeError;

use crate::pipeline::Pipeline;
use crate::pipeline::propose::PROPOSE_PAUSE;

impl Pipeline {
    /// Begins the history of revisions, once, when all that the source holds is committed. Streams to shards begin with
    /// it: a shard that serves by another history (this one's folder was moved aside) would lose everything to a state
    /// that is not there yet.
    pub(super) async fn begin(&self) {
        if self.astray || self.machine.snapshot.read().epoch() != Epoch::NONE {
            return;
        }
        // The hasher's keys come from the system's random numbers; the time is just what is hashed.
        let epoch = RandomState::new().hash_one(SystemTime::now()).max(1);
        let command = Command::Begin(Epoch(epoch)).to_bytes();
        while let Err(error) = self.node.propose(command.clone()).await {
            if !matches!(error, ProposeError::QueueFull | ProposeError::NoRoom(_)) {
                // The next leader begins it.
                return;
            }
            tracing::error!(error = %Chain(&error), "history of revisions waits to begin");
            tokio::time::sleep(PROPOSE_PAUSE).await;
        }
    }
}
