//! From what the API server sends to our own objects.

use std::hash::{DefaultHasher, Hash, Hasher};

use api::{ObjectKey, Timestamp};
use kube::ResourceExt;
use kube::core::DynamicObject;
use operator_objects::spec::Event;
use operator_objects::{Decoded, Document, Provenance, decode_admitted};
use serde_json::Value;

use crate::kinds::Kind;
use crate::watched::Item;

/// The id of an object.
pub(crate) fn key(kind: &Kind, object: &DynamicObject) -> ObjectKey {
    let namespace = object.namespace().unwrap_or_default();
    ObjectKey::new(kind.group, kind.kind, &namespace, &object.name_any())
}

/// An object as the index takes it, and its status as it stands there. An object that cannot be decoded is one rejected
/// object.
pub(crate) fn item(kind: &Kind, version: &str, mut object: DynamicObject) -> Item {
    // Who changed which field is of no use here, and is often most of an object.
    object.managed_fields_mut().clear();
    let key = key(kind, &object);
    let (uid, revision) = (
        object.uid().unwrap_or_default(),
        object.resource_version().unwrap_or_default(),
    );
    let status = object
        .data
        .as_object_mut()
        .and_then(|fields| fields.remove("status"));
    let provenance = Provenance {
        uid: uid.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
        created_at: Timestamp(0),
    };
    // It changes with each write, of statuses too.
    object.metadata.resource_version = None;
    let value = serde_json::to_value(&object).unwrap_or_default();
    let mut content = DefaultHasher::new();
    value.hash(&mut content);
    let document = Document {
        line: 0,
        group: kind.group.to_owned(),
        version: version.to_owned(),
        kind: kind.kind.to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        object: value,
    };
    let event = match decode_admitted(&document, &provenance) {
        Decoded::Object(object) => Some(Event::Apply(object)),
        Decoded::Rejected(rejected) => Some(Event::Reject(rejected)),
        Decoded::Ignored { .. } => None,
    };
    Item {
        key,
        uid,
        revision,
        content: content.finish(),
        event,
        status: status.filter(|status| !matches!(status, Value::Null)),
    }
}
