//! Encoded entries: the bytes that replicas store, hash and send.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::Op;
use crate::hash::SetHash;

/// An entry could not be decoded: it was written by a newer version, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("decode snapshot {what}")]
pub struct DecodeError {
    what: &'static str,
    #[source]
    source: minicbor::decode::Error,
}

/// Canonical encoding of a key or a value. Equal values give equal bytes.
#[allow(clippy::unwrap_used)] // writing to a Vec cannot fail
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap()
}

/// Decodes a key or a value; `what` names it in the error.
///
/// # Errors
/// [`DecodeError`] when the bytes are not such a value. Unknown fields are ignored.
pub fn decode<'b, T: Decode<'b, ()>>(
    what: &'static str,
    bytes: &'b [u8],
) -> Result<T, DecodeError> {
    minicbor::decode(bytes).map_err(|source| DecodeError { what, source })
}

/// A set of encoded entries with its hash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntrySet {
    map: BTreeMap<Box<[u8]>, Arc<[u8]>>,
    hash: SetHash,
}

impl EntrySet {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Hash over all entries; O(1).
    pub fn hash(&self) -> SetHash {
        self.hash
    }

    /// Value of an encoded key.
    pub fn value(&self, key: &[u8]) -> Option<&Arc<[u8]>> {
        self.map.get(key)
    }

    /// Entries in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<[u8]>)> {
        self.map.iter().map(|(key, value)| (&**key, value))
    }

    /// Applies one operation. Removing what is absent, or writing what is there, changes nothing.
    pub fn apply(&mut self, op: &Op) {
        if let Some(old) = self.map.get(op.key.as_slice()) {
            self.hash.remove(&op.key, old);
        }
        match &op.value {
            Some(value) => {
                self.hash.insert(&op.key, value);
                self.map
                    .insert(op.key.clone().into(), value.as_slice().into());
            }
            None => {
                self.map.remove(op.key.as_slice());
            }
        }
    }

    /// The hash after `ops`, without applying them.
    pub fn hash_after<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> SetHash {
        let mut hash = self.hash;
        for op in ops {
            if let Some(old) = self.map.get(op.key.as_slice()) {
                hash.remove(&op.key, old);
            }
            if let Some(value) = &op.value {
                hash.insert(&op.key, value);
            }
        }
        hash
    }
}

impl<'a> FromIterator<&'a Op> for EntrySet {
    fn from_iter<I: IntoIterator<Item = &'a Op>>(ops: I) -> Self {
        let mut set = Self::default();
        for op in ops {
            set.apply(op);
        }
        set
    }
}
