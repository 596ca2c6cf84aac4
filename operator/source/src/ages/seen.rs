//! What is known of each object, for those who show it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use api::ObjectKey;
use serde::Serialize;
use serde_json::Value;

/// What is known of an object beside its manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SeenObject {
    /// Unique for this life of the object; one in the manifest wins.
    pub uid: String,
    /// Grows with each new [`spec_hash`].
    pub generation: i64,
    /// First sight, seconds since the epoch; a creationTimestamp in the manifest wins.
    pub created: i64,
    /// [`spec_hash`] of the newest form that was read, taken or refused.
    pub spec: String,
    /// File below the folder that it is taken from.
    pub file: String,
}

/// The objects that a source has seen. The source writes, others look.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<RwLock<BTreeMap<ObjectKey, SeenObject>>>);

impl Seen {
    /// What is known of an object; none when it is not in the folder.
    pub fn get(&self, key: &ObjectKey) -> Option<SeenObject> {
        self.read().get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn all(&self) -> Vec<(ObjectKey, SeenObject)> {
        let known = self.read();
        let pairs = known.iter();
        pairs
            .map(|(key, seen)| (key.clone(), seen.clone()))
            .collect()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ObjectKey, SeenObject>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<ObjectKey, SeenObject>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hash of what makes a new generation of an object: everything but metadata and status.
pub fn spec_hash(object: &Value) -> String {
    let mut spec = object.clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("metadata");
        fields.remove("status");
    }
    blake3::hash(spec.to_string().as_bytes())
        .to_hex()
        .to_string()
}
