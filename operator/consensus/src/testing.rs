//! What the crate's tests share: a state machine that lists what was applied, and the seeds of simulations.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::ops::Range;

use crate::StateMachine;

/// Index and content of each proposal, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) applied: BTreeMap<u64, Vec<u8>>,
}

impl Ledger {
    pub(crate) fn contents(&self) -> Vec<Vec<u8>> {
        self.applied.values().cloned().collect()
    }
}

impl StateMachine for Ledger {
    type Output = u64;

    fn apply(&mut self, index: u64, data: &[u8]) -> u64 {
        let newest = self.applied.last_key_value().map_or(0, |(index, _)| *index);
        assert!(newest < index, "{index} was applied after {newest}");
        self.applied.insert(index, data.to_vec());
        index
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, content) in &self.applied {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
            bytes.extend_from_slice(content);
        }
        bytes
    }

    fn restore(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        self.applied.clear();
        while let Some((index, rest)) = bytes.split_first_chunk::<8>() {
            let (len, rest) = rest.split_first_chunk::<8>().ok_or("cut in a length")?;
            let (content, rest) = rest
                .split_at_checked(u64::from_le_bytes(*len) as usize)
                .ok_or("cut in a content")?;
            self.applied
                .insert(u64::from_le_bytes(*index), content.to_vec());
            bytes = rest;
        }
        Ok(())
    }
}

/// Seeds to run: `CONSENSUS_SEED` alone (to replay one), the first `CONSENSUS_SEEDS`, or the first `usual`.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    match number("CONSENSUS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CONSENSUS_SEEDS").unwrap_or(usual),
    }
}
