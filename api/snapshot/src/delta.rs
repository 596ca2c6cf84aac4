//! What a Raft entry carries.

use api::{GatewayKey, ObjectKey, Revision};
use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::{DecodeError, SetHash, decode, encode};

/// Writes or removes one encoded entry.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Op {
    /// Encoded [`crate::GatewayEntryKey`] or [`crate::FactKey`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// Encoded [`crate::GatewayEntry`] or [`crate::Fact`]; none removes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Option<Vec<u8>>,
}

impl Op {
    /// Writes an entry.
    pub fn put<K: Encode<()>, V: Encode<()>>(key: &K, value: &V) -> Self {
        Self {
            key: encode(key),
            value: Some(encode(value)),
        }
    }

    /// Removes an entry.
    pub fn remove<K: Encode<()>>(key: &K) -> Self {
        Self {
            key: encode(key),
            value: None,
        }
    }
}

/// Next step in the chain of one Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GatewayDelta {
    /// Whose chain.
    #[n(0)]
    pub gateway: GatewayKey,
    /// The chain's newest revision before this one; 0 for a new Gateway.
    #[n(1)]
    pub base: Revision,
    /// At most one operation for each key.
    #[n(2)]
    pub ops: Vec<Op>,
    /// Hash of the Gateway's entries after `ops`.
    #[n(3)]
    pub hash: SetHash,
    /// The Gateway is gone once this is activated; `ops` is empty.
    #[n(4)]
    pub removed: bool,
}

/// Facts that count from this revision on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct FactsDelta {
    /// At most one operation for each key.
    #[n(0)]
    pub ops: Vec<Op>,
}

/// Where a change came from, for history, logs and traces. Not part of any hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// When the first of the objects was seen to change, microseconds since the epoch.
    #[n(0)]
    pub seen_at_us: u64,
    /// Objects that changed, at most [`Origin::OBJECTS_MAX`].
    #[n(1)]
    pub objects: Vec<ObjectKey>,
    /// How many there were.
    #[n(2)]
    pub objects_total: u32,
    /// W3C `traceparent` of the span that saw the change, or empty.
    #[n(3)]
    pub traceparent: String,
}

impl Origin {
    /// Objects named in one revision; more are counted only.
    pub const OBJECTS_MAX: usize = 16;
}

/// Tells one history of revisions from another: revisions compare only where epochs are equal. A folder that was moved
/// aside or lost begins another one, at revision 1.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize,
)]
#[cbor(transparent)]
pub struct Epoch(#[n(0)] pub u64);

impl Epoch {
    /// Before any has begun.
    pub const NONE: Self = Self(0);
}

/// One commit: facts first, then the Gateways that may refer to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Delta {
    /// Facts lane.
    #[n(0)]
    pub facts: FactsDelta,
    /// Configuration lane; at most one for each Gateway.
    #[n(1)]
    pub gateways: Vec<GatewayDelta>,
    /// Provenance.
    #[n(2)]
    pub origin: Origin,
}

impl Delta {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.facts.ops.is_empty() && self.gateways.is_empty()
    }
}

/// A Raft entry.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Command {
    /// Commits a delta. Its revision is the index of the entry.
    #[n(0)]
    Commit(#[n(0)] Delta),
    /// Activates, for each Gateway, all of its chain up to the revision.
    #[n(1)]
    Activate(#[n(0)] Vec<(GatewayKey, Revision)>),
    /// Names the history; the first one counts. The number is drawn at random by who proposes it.
    #[n(2)]
    Begin(#[n(0)] Epoch),
}

impl Command {
    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no command this version knows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode("command", bytes)
    }
}
