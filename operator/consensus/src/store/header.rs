//! The first bytes of each file: what it is, and whose.

use super::StoreError;

/// Format of segments and snapshots. 2 added members and commit indices; 1 is still read.
pub(super) const VERSION: u32 = 2;
const OLDEST: u32 = 1;
/// Bytes of a header: `magic 16 | version u32 | crc u32 | log id u64 | node u64 | number u64`.
pub(super) const HEADER: usize = 16 + 4 + 4 + 8 + 8 + 8;
/// A segment; its number is the sequence of its first frame.
pub(super) const SEGMENT: &[u8; 16] = b"shardway raftlog";
/// A snapshot; its number is the index.
pub(super) const SNAPSHOT: &[u8; 16] = b"shardway rftsnap";

/// Whose files these are. Each folder draws its log id once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Number of the node.
    pub node: u64,
    /// Drawn when the log was made.
    pub log_id: u64,
}

/// A header's bytes.
pub(super) fn encode(magic: &[u8; 16], identity: Identity, number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&identity.log_id.to_le_bytes());
    bytes.extend_from_slice(&identity.node.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a header: whose file it is, its number, and its format.
///
/// # Errors
/// [`StoreError::Damaged`], or [`StoreError::Format`] of another version.
pub(super) fn decode(
    magic: &[u8; 16],
    file: &str,
    bytes: &[u8],
) -> Result<(Identity, u64, u32), StoreError> {
    let damaged = |what| StoreError::damaged(file, 0, what);
    let header = bytes.get(..HEADER).ok_or(damaged("the header is cut"))?;
    if header[..16] != *magic {
        return Err(damaged("the header is none of ours"));
    }
    let version = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
    // No version was ever 0: those are zeros that were never overwritten.
    if version != 0 && !(OLDEST..=VERSION).contains(&version) {
        return Err(StoreError::Format {
            file: file.to_owned(),
            found: version,
            expected: VERSION,
        });
    }
    if checksum(header).to_le_bytes() != header[20..24] {
        return Err(damaged("the header's checksum is wrong"));
    }
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let identity = Identity {
        log_id: number(24),
        node: number(32),
    };
    Ok((identity, number(40), version))
}

/// Checks that a file is `ours`.
pub(super) fn check(file: &str, found: Identity, ours: Identity) -> Result<(), StoreError> {
    if found == ours {
        return Ok(());
    }
    Err(StoreError::Foreign {
        file: file.to_owned(),
        found: found.node,
        expected: ours.node,
    })
}

fn checksum(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..20]);
    crc.update(&header[24..HEADER]);
    crc.finalize()
}

/// Turns the header of a file into one of format 1.
#[cfg(test)]
pub(super) fn set_format_1(bytes: &mut [u8]) {
    bytes[16..20].copy_from_slice(&1_u32.to_le_bytes());
    let crc = checksum(&bytes[..HEADER]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
}
