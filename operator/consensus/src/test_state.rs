//! A state machine for tests: the list of what was applied.

use std::collections::BTreeMap;

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
