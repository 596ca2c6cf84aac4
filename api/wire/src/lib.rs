//! Messages of the delta stream and their conversion to snapshot types; messages between replicas.
//!
//! **Invariants**
//! - Entries cross as the bytes that the snapshot holds; nothing here re-encodes them.
//! - A message that lacks a required part is a [`WireError`], never a default.

use api::{GatewayKey, Revision};
use api_snapshot::{Op, SetHash};

/// Generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod delivery {
    tonic::include_proto!("shardway.delivery.v1");
}

/// Generated messages, client and server of what shards get their certificates by.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod identity {
    tonic::include_proto!("shardway.identity.v1");
}

/// Generated messages, client and server of what replicas of the operator say to each other.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod peer {
    tonic::include_proto!("shardway.peer.v1");
}

/// Largest message either side accepts, bytes. What is larger comes in parts of about [`PART_BYTES`]; a part holds at
/// least one entry, and no entry is larger than an object may be.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of keys and values after which a message is continued by another.
pub const PART_BYTES: usize = 1024 * 1024;

/// A message lacks a part that the protocol requires.
#[derive(Debug, thiserror::Error)]
#[error("delta stream message without {0}")]
pub struct WireError(pub &'static str);

impl From<&GatewayKey> for delivery::GatewayKey {
    fn from(key: &GatewayKey) -> Self {
        Self {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

/// Reads a required Gateway key.
///
/// # Errors
/// [`WireError`] when it is absent.
pub fn gateway_key(key: Option<delivery::GatewayKey>) -> Result<GatewayKey, WireError> {
    let key = key.ok_or(WireError("gateway"))?;
    Ok(GatewayKey {
        namespace: key.namespace,
        name: key.name,
    })
}

/// Reads a required hash.
///
/// # Errors
/// [`WireError`] unless there are 32 bytes.
pub fn set_hash(bytes: &[u8]) -> Result<SetHash, WireError> {
    SetHash::from_bytes(bytes).ok_or(WireError("hash of 32 bytes"))
}

/// Snapshot operations to wire operations.
pub fn ops_to_wire(ops: &[Op]) -> Vec<delivery::Op> {
    ops.iter()
        .map(|op| delivery::Op {
            key: op.key.clone(),
            value: op.value.clone(),
        })
        .collect()
}

/// Wire operations to snapshot operations.
pub fn ops_from_wire(ops: Vec<delivery::Op>) -> Vec<Op> {
    ops.into_iter()
        .map(|op| Op {
            key: op.key,
            value: op.value,
        })
        .collect()
}

/// Cuts operations into parts of about [`PART_BYTES`]; always at least one part, which may be empty.
pub fn parts(ops: Vec<delivery::Op>) -> Vec<Vec<delivery::Op>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for op in ops {
        let size = op.key.len() + op.value.as_ref().map_or(0, Vec::len);
        if bytes > 0 && bytes + size > PART_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.push(op);
        }
    }
    parts
}

/// A revision as it travels.
pub fn revision(value: u64) -> Revision {
    Revision(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_keep_the_order() {
        let op = |n: u8, bytes: usize| delivery::Op {
            key: vec![n],
            value: Some(vec![n; bytes]),
        };
        assert_eq!(parts(Vec::new()), [Vec::new()]);
        let ops: Vec<_> = [PART_BYTES / 2, 10, PART_BYTES * 3, 10, 10]
            .into_iter()
            .zip(0..)
            .map(|(bytes, n)| op(n, bytes))
            .collect();
        let cut = parts(ops.clone());
        let sizes: Vec<usize> = cut.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 2]);
        assert_eq!(cut.concat(), ops);
    }
}
