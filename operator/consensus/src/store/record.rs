//! Records of the log: `length u32 | crc32 u32 | sequence u64 | kind u8 | payload`, little-endian. The checksum covers
//! sequence, kind and payload; the sequence grows by one with each record over all segments.

/// Bytes before a record's payload.
pub(super) const HEADER: usize = 4 + 4 + 8 + 1;

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A raft entry.
    Entry = 1,
    /// A raft hard state: term, vote, commit.
    HardState = 2,
}

/// A record as it lies in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) sequence: u64,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    /// Bytes with header.
    pub(super) size: usize,
}

/// Appends a record to `buffer`.
pub(super) fn encode(buffer: &mut Vec<u8>, sequence: u64, kind: Kind, payload: &[u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&sequence.to_le_bytes());
    crc.update(&[kind as u8]);
    crc.update(payload);
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes()); // entries are below 1 MiB
    buffer.extend_from_slice(&crc.finalize().to_le_bytes());
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.push(kind as u8);
    buffer.extend_from_slice(payload);
}

/// Reads the record at the start of `bytes`; none when it is not a whole and undamaged one.
pub(super) fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = word(0)? as usize;
    let crc = word(4)?;
    let sequence = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let kind = match bytes.get(16)? {
        1 => Kind::Entry,
        2 => Kind::HardState,
        _ => return None,
    };
    let payload = bytes.get(HEADER..HEADER.checked_add(length)?)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[8..HEADER]);
    hasher.update(payload);
    (hasher.finalize() == crc).then_some(Record {
        sequence,
        kind,
        payload,
        size: HEADER + length,
    })
}
