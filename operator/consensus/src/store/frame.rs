//! Frames of the log: `length u32 | crc u32 | sequence u64 | items`, little-endian; an item is
//! `kind u8 | length u32 | bytes`.
//!
//! A frame is what one append writes and one sync makes durable. Its checksum covers all of it, so whichever of its
//! pages reach the disk in whatever order, a crash leaves a whole frame or a bad one, and never a good one behind a bad
//! one. The checksum starts from the log's id: bytes of a proposal cannot pass for a frame, nor can another log's.

/// Bytes before a frame's items.
const HEADER: usize = 4 + 4 + 8;
/// Bytes before an item's own.
const ITEM_HEADER: usize = 1 + 4;

/// Items that become durable together.
#[derive(Debug, Clone)]
pub struct Batch {
    buffer: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffer: vec![0; HEADER],
        }
    }
}

impl Batch {
    /// Bytes that an item of `len` bytes takes, with a frame of its own at worst.
    pub const fn cost(len: usize) -> usize {
        HEADER + ITEM_HEADER + len
    }

    /// Adds an item. Items stay far below 4 GiB: the largest is a raft entry of less than 1 MiB.
    pub fn push(&mut self, kind: u8, bytes: &[u8]) {
        self.buffer.push(kind);
        self.buffer
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == HEADER
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// The frame's bytes.
    pub(super) fn seal(&mut self, log_id: u64, sequence: u64) -> &[u8] {
        let length = (self.buffer.len() - HEADER) as u32; // the store closes a batch at a few MiB
        self.buffer[8..HEADER].copy_from_slice(&sequence.to_le_bytes());
        let crc = checksum(log_id, &self.buffer[8..]);
        self.buffer[..4].copy_from_slice(&length.to_le_bytes());
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.buffer
    }
}

/// A frame as it lies in a segment.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    items: &'a [u8],
    /// Bytes with header.
    pub(super) size: usize,
}

impl<'a> Frame<'a> {
    /// Its items: kind and bytes. None when they are cut wrongly, which the checksum excludes.
    pub(super) fn items(&self) -> Option<Vec<(u8, &'a [u8])>> {
        let mut rest = self.items;
        let mut items = Vec::new();
        while let Some((&kind, tail)) = rest.split_first() {
            let (length, tail) = tail.split_first_chunk::<4>()?;
            let (bytes, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            items.push((kind, bytes));
            rest = tail;
        }
        Some(items)
    }
}

/// Reads the frame at the start of `bytes`; none when it is not whole, damaged, or its sequence is not `wanted`.
///
/// Cost: O(frame) when the sequence fits, else O(1).
pub(super) fn decode(bytes: &[u8], log_id: u64, wanted: impl Fn(u64) -> bool) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let sequence = u64::from_le_bytes([
        header[8], header[9], header[10], header[11], header[12], header[13], header[14],
        header[15],
    ]);
    let items = rest.get(..length)?;
    if items.is_empty() || !wanted(sequence) {
        return None;
    }
    (checksum(log_id, &bytes[8..HEADER + length]) == crc).then_some(Frame {
        items,
        size: HEADER + length,
    })
}

fn checksum(log_id: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&log_id.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}
