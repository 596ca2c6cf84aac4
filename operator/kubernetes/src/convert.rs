//! From what the API server sends to our own objects.

use std::hash::{DefaultHasher, Hash, Hasher};

use api::{ObjectKey, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
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
    // Who changed which field is of no use here, and is often most of an object. Who was last is, but is no change by itself.
    let managers = newest(std::mem::take(object.managed_fields_mut()));
    let mut value = serde_json::to_value(&object).unwrap_or_default();
    let mut content = DefaultHasher::new();
    value.hash(&mut content);
    if let (Some(manager), Some(metadata)) = (managers, value["metadata"].as_object_mut()) {
        metadata.insert("managedFields".to_owned(), manager);
    }
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
        status: status.filter(|status| kind.has_status() && !status.is_null()),
    }
}

/// The newest entry that is not of a status, without its fields.
fn newest(entries: Vec<ManagedFieldsEntry>) -> Option<Value> {
    let of_spec = entries
        .into_iter()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    let mut newest = of_spec.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    newest.fields_v1 = None;
    serde_json::to_value([newest]).ok()
}

#[cfg(test)]
mod tests {
    use operator_objects::spec::Object;
    use serde_json::json;

    use super::*;
    use crate::kinds::WATCHED;

    fn gateway(manager: &str) -> Item {
        let entry = |manager: &str, time: &str, subresource: &str| {
            json!({"manager": manager, "operation": "Apply", "apiVersion": "v1", "time": time,
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}, "subresource": subresource})
        };
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "u", "resourceVersion": "7", "managedFields": [
                entry(manager, "2026-01-02T00:00:00Z", ""),
                entry("first", "2026-01-01T00:00:00Z", ""),
                entry("shardway", "2026-01-03T00:00:00Z", "status"),
            ]},
            "spec": {"gatewayClassName": "shardway", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
            "status": {"conditions": []},
        });
        let kind = &WATCHED[1];
        item(
            kind,
            "v1",
            serde_json::from_value(object).unwrap_or_else(|_| panic!("no object")),
        )
    }

    #[test]
    fn who_changed_an_object_last_is_kept_and_is_no_change_by_itself() {
        let one = gateway("kubectl");
        let Some(Event::Apply(Object::Gateway(object))) = &one.event else {
            panic!("not applied: {one:?}");
        };
        let by = object.meta.changed_by.as_ref();
        assert_eq!(
            by.map(|by| (by.manager.as_str(), by.at)),
            Some(("kubectl", Timestamp(1_767_312_000)))
        );
        assert_eq!(one.content, gateway("argocd").content);
        assert_eq!(one.status, Some(json!({"conditions": []})));
    }
}
