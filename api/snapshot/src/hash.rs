//! Order-free incremental hash of a set of entries.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Serialize, Serializer};

/// Sum, in four lanes of 64 bits, of the BLAKE3 hashes of all entries.
///
/// It finds divergence between replicas and shards that trust each other; it is no defence against a replica
/// that forges entries (who can do that owns the log).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct SetHash(#[n(0)] [u64; 4]);

impl SetHash {
    /// Hash of a set with one entry.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        Self(entry_lanes(key, value))
    }

    /// Hash of the union with a set that shares no entry.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane].wrapping_add(other.0[lane])
        }))
    }

    /// Hash without the entries of a subset.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane].wrapping_sub(other.0[lane])
        }))
    }

    /// Adds an entry; O(bytes of the entry).
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        let entry = entry_lanes(key, value);
        for (lane, add) in self.0.iter_mut().zip(entry) {
            *lane = lane.wrapping_add(add);
        }
    }

    /// Takes an entry out; the inverse of [`SetHash::insert`].
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        let entry = entry_lanes(key, value);
        for (lane, sub) in self.0.iter_mut().zip(entry) {
            *lane = lane.wrapping_sub(sub);
        }
    }

    /// 32 bytes, little-endian lanes, for the wire.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// Inverse of [`SetHash::to_bytes`]; none unless there are 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        let mut lanes = [0; 4];
        for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            *lane = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        Some(Self(lanes))
    }
}

fn entry_lanes(key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let digest = *hasher.finalize().as_bytes();
    let mut lanes = [0; 4];
    for (lane, chunk) in lanes.iter_mut().zip(digest.chunks_exact(8)) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        *lane = u64::from_le_bytes(bytes);
    }
    lanes
}

impl fmt::Display for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}

impl Serialize for SetHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
