//! Cuts large proposals into entries and puts them together again.

use std::collections::BTreeMap;

/// Largest data of one entry.
pub(crate) const ENTRY_DATA_MAX: usize = 960 * 1024;

const WHOLE: u8 = 0;
const CHUNK: u8 = 1;
const CHUNK_HEADER: usize = 1 + 8 + 4 + 4;

/// Data of the entries that carry a proposal, in order. `id` is unique among the proposals of a term.
pub(crate) fn split(id: u64, data: &[u8]) -> Vec<Vec<u8>> {
    if data.len() < ENTRY_DATA_MAX {
        let mut entry = Vec::with_capacity(data.len() + 1);
        entry.push(WHOLE);
        entry.extend_from_slice(data);
        return vec![entry];
    }
    let pieces: Vec<&[u8]> = data.chunks(ENTRY_DATA_MAX - CHUNK_HEADER).collect();
    let total = pieces.len() as u32; // bounded by the largest proposal
    pieces
        .iter()
        .zip(0_u32..)
        .map(|(piece, number)| {
            let mut entry = Vec::with_capacity(piece.len() + CHUNK_HEADER);
            entry.push(CHUNK);
            entry.extend_from_slice(&id.to_le_bytes());
            entry.extend_from_slice(&number.to_le_bytes());
            entry.extend_from_slice(&total.to_le_bytes());
            entry.extend_from_slice(piece);
            entry
        })
        .collect()
}

/// Chunks seen so far. Deterministic: a function of the entries alone.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    partial: BTreeMap<u64, Vec<u8>>,
    next: BTreeMap<u64, u32>,
}

impl Assembly {
    /// Takes the data of one committed entry; gives a proposal when it is whole.
    ///
    /// # Panics
    /// When the entry is not one that [`split`] made: the log is not ours.
    pub(crate) fn push(&mut self, entry: &[u8]) -> Option<Vec<u8>> {
        match entry.first() {
            // The empty entry of a new leader: what an earlier one left unfinished will never be finished.
            None => {
                self.partial.clear();
                self.next.clear();
                None
            }
            Some(&WHOLE) => Some(entry[1..].to_vec()),
            Some(&CHUNK) if entry.len() >= CHUNK_HEADER => {
                let number = |at: usize| {
                    u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
                };
                let mut id = [0; 8];
                id.copy_from_slice(&entry[1..9]);
                let id = u64::from_le_bytes(id);
                let (sequence, total) = (number(9), number(13));
                if sequence == 0 {
                    self.partial.insert(id, Vec::new());
                    self.next.insert(id, 0);
                }
                // A chunk whose start was dropped is dropped as well.
                if self.next.get(&id) != Some(&sequence) {
                    return None;
                }
                let data = self.partial.entry(id).or_default();
                data.extend_from_slice(&entry[CHUNK_HEADER..]);
                if sequence + 1 == total {
                    self.next.remove(&id);
                    return self.partial.remove(&id);
                }
                self.next.insert(id, sequence + 1);
                None
            }
            Some(kind) => {
                panic!("raft entry of unknown framing {kind}; run the version that wrote it")
            }
        }
    }

    /// Whether a proposal is unfinished; no snapshot may be taken then.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_proposal_comes_together_at_its_last_chunk_only() {
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let entries = split(7, &data);
        assert_eq!(entries.len(), 4);
        assert!(entries.iter().all(|entry| entry.len() <= ENTRY_DATA_MAX));
        let mut assembly = Assembly::default();
        for entry in &entries[..3] {
            assert_eq!(assembly.push(entry), None);
            assert!(!assembly.is_empty());
        }
        assert_eq!(assembly.push(&entries[3]), Some(data));
        assert!(assembly.is_empty());
    }

    #[test]
    fn a_new_leader_drops_what_the_old_one_left_unfinished() {
        let entries = split(7, &vec![1; 2_000_000]);
        let mut assembly = Assembly::default();
        assembly.push(&entries[0]);
        assert_eq!(assembly.push(&[]), None);
        assert!(assembly.is_empty());
        assert_eq!(assembly.push(&entries[1]), None);
        assert_eq!(
            assembly.push(&split(8, b"small")[0]),
            Some(b"small".to_vec())
        );
    }
}
