//! Cuts large proposals into entries and puts them together again.
//!
//! The first byte of an entry's data says what it is: a whole proposal, or a chunk `id u64 | number u32 | total u32`.
//! A leader hands in a proposal's chunks one behind the other, so at most one is unfinished; only a change of leaders
//! leaves one so, and the new leader's first entry, which is empty, drops it.

use std::borrow::Cow;

/// Largest data of one entry.
pub(crate) const ENTRY_DATA_MAX: usize = if cfg!(test) { 8 * 1024 } else { 960 * 1024 };
/// Most chunks of a proposal. Part of the format: replicas must agree on what they drop.
const CHUNKS_MAX: usize = 1024;
/// Largest proposal that can be cut at all.
pub(crate) const PROPOSAL_BYTES_MAX: usize = CHUNKS_MAX * (ENTRY_DATA_MAX - CHUNK_HEADER);

const WHOLE: u8 = 0;
const CHUNK: u8 = 1;
const CHUNK_HEADER: usize = 1 + 8 + 4 + 4;

/// Data of the entries that carry a proposal of at most [`PROPOSAL_BYTES_MAX`], in order. `id` is unique among the
/// proposals of a term.
pub(crate) fn split(id: u64, data: &[u8]) -> Vec<Vec<u8>> {
    if data.len() < ENTRY_DATA_MAX {
        let mut entry = Vec::with_capacity(data.len() + 1);
        entry.push(WHOLE);
        entry.extend_from_slice(data);
        return vec![entry];
    }
    let pieces = data.chunks(ENTRY_DATA_MAX - CHUNK_HEADER);
    let total = pieces.len() as u32; // at most CHUNKS_MAX
    pieces
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

#[derive(Debug)]
struct Partial {
    id: u64,
    next: u32,
    total: u32,
    data: Vec<u8>,
}

/// The proposal that is being put together. Bounded by [`PROPOSAL_BYTES_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    partial: Option<Partial>,
}

impl Assembly {
    /// Takes the data of one committed entry; gives a proposal when it is whole.
    ///
    /// # Panics
    /// When the entry is not one that [`split`] made: the log is not ours, and going on would let replicas diverge.
    pub(crate) fn push<'a>(&mut self, entry: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        // Whatever comes, a proposal that it does not continue was left unfinished and will stay so.
        let partial = self.partial.take();
        match entry.split_first() {
            None => None,
            Some((&WHOLE, data)) => Some(Cow::Borrowed(data)),
            Some((&CHUNK, rest)) => {
                let (id, rest) = rest.split_first_chunk::<8>()?;
                let (number, rest) = rest.split_first_chunk::<4>()?;
                let (total, data) = rest.split_first_chunk::<4>()?;
                self.push_chunk(
                    partial,
                    u64::from_le_bytes(*id),
                    u32::from_le_bytes(*number),
                    u32::from_le_bytes(*total),
                    data,
                )
            }
            Some((kind, _)) => {
                panic!("raft entry of unknown framing {kind}; run the version that wrote it")
            }
        }
    }

    fn push_chunk(
        &mut self,
        partial: Option<Partial>,
        id: u64,
        number: u32,
        total: u32,
        data: &[u8],
    ) -> Option<Cow<'static, [u8]>> {
        let mut partial = match partial {
            _ if total as usize > CHUNKS_MAX => return None,
            _ if number == 0 => Partial {
                id,
                next: 0,
                total,
                data: Vec::new(),
            },
            // A chunk whose start was dropped is dropped as well.
            Some(partial) if (partial.id, partial.next, partial.total) == (id, number, total) => {
                partial
            }
            _ => return None,
        };
        partial.data.extend_from_slice(data);
        partial.next += 1;
        if partial.next == total {
            return Some(Cow::Owned(partial.data));
        }
        self.partial = Some(partial);
        None
    }

    /// Whether no proposal is unfinished. A snapshot stands for an index at which this is so: it does not hold chunks,
    /// and whoever starts from it must get all of a proposal's from the log.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// Forgets what is unfinished: the state was replaced by a snapshot.
    pub(crate) fn clear(&mut self) {
        self.partial = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> Vec<u8> {
        (0..3 * ENTRY_DATA_MAX).map(|n| n as u8).collect()
    }

    #[test]
    fn a_large_proposal_comes_together_at_its_last_chunk_only() {
        let data = large();
        let entries = split(7, &data);
        assert_eq!(entries.len(), 4);
        assert!(entries.iter().all(|entry| entry.len() <= ENTRY_DATA_MAX));
        let mut assembly = Assembly::default();
        for entry in &entries[..3] {
            assert_eq!(assembly.push(entry), None);
            assert!(!assembly.is_empty());
        }
        assert_eq!(assembly.push(&entries[3]).as_deref(), Some(&data[..]));
        assert!(assembly.is_empty());
    }

    #[test]
    fn sizes_around_the_limit_survive() {
        for len in [
            0,
            1,
            ENTRY_DATA_MAX - 1,
            ENTRY_DATA_MAX,
            2 * (ENTRY_DATA_MAX - CHUNK_HEADER),
            2 * (ENTRY_DATA_MAX - CHUNK_HEADER) + 1,
        ] {
            let data = vec![9; len];
            let entries = split(1, &data);
            let mut assembly = Assembly::default();
            let (last, before) = entries.split_last().expect("there is always one entry");
            assert!(before.iter().all(|entry| assembly.push(entry).is_none()));
            assert_eq!(assembly.push(last).as_deref(), Some(&data[..]), "{len}");
        }
    }

    #[test]
    fn a_new_leader_drops_what_the_old_one_left_unfinished() {
        let entries = split(7, &large());
        let mut assembly = Assembly::default();
        assembly.push(&entries[0]);
        assert_eq!(assembly.push(&[]), None);
        assert!(assembly.is_empty());
        assert_eq!(assembly.push(&entries[1]), None);
        assert_eq!(
            assembly.push(&split(8, b"small")[0]).as_deref(),
            Some(&b"small"[..])
        );
    }

    #[test]
    fn a_second_leader_with_the_same_id_does_not_continue_the_first() {
        let (one, two) = (split(1, &large()), split(1, &vec![5; 2 * ENTRY_DATA_MAX]));
        let mut assembly = Assembly::default();
        assembly.push(&one[0]);
        assembly.push(&[]);
        let whole: Vec<_> = two
            .iter()
            .filter_map(|entry| assembly.push(entry).map(Cow::into_owned))
            .collect();
        assert_eq!(whole, [vec![5; 2 * ENTRY_DATA_MAX]]);
    }
}
