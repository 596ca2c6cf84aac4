//! What the installed CRDs let a status say. What they do not know is left out before statuses are compared and written: the
//! API server would take it out in silence, and each comparison would find it missing again.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::ObjectKey;
use operator_objects::spec::{Crd, Fields};
use parking_lot::RwLock;
use serde_json::Value;

use crate::kinds::Kind;
use crate::merge::merged;

/// Fields of statuses by kind, shared by the source that reads CRDs and the writer. A kind whose CRD is not known is taken to
/// hold everything.
#[derive(Debug, Clone, Default)]
pub struct Schemas(Arc<RwLock<BTreeMap<String, Fields>>>);

impl Schemas {
    /// Takes in a CRD. Whether its kind's statuses may say something else than before.
    pub(crate) fn apply(&self, crd: &Crd) -> bool {
        let version = Kind::named(&crd.kind).and_then(|kind| kind.versions.first());
        let fields = version.and_then(|version| crd.versions.get(*version));
        let mut schemas = self.0.write();
        match fields {
            // Without the subresource there is nothing that may be said.
            Some(fields) => {
                let none = Fields::Object(BTreeMap::new());
                let status = fields.field("status").cloned().unwrap_or(none);
                schemas.insert(crd.kind.clone(), status.clone()) != Some(status)
            }
            None => schemas.remove(&crd.kind).is_some(),
        }
    }

    /// Leaves out what the CRD of an object's kind does not know.
    pub fn cut(&self, object: &ObjectKey, status: &mut Value) {
        if let Some(fields) = self.0.read().get(&object.kind) {
            fields.cut(status);
        }
    }

    /// Whether our part of a status stands otherwise in the API server than we said.
    pub fn differs(&self, object: &ObjectKey, current: &Value, ours: &Value) -> bool {
        let mut ours = ours.clone();
        self.cut(object, &mut ours);
        merged(object, current, Some(&ours)).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use std::path::Path;

    use kube::core::DynamicObject;
    use operator_objects::spec::{Event, Object};
    use serde_json::json;

    use super::*;
    use crate::convert::item;
    use crate::kinds::CRD;

    fn set(name: &str) -> Vec<Crd> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../objects/testdata/crds");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let list: Vec<DynamicObject> = serde_json::from_str(&text).unwrap();
        let crds = list.into_iter().map(|object| {
            let item = item(&CRD, "v1", object);
            assert_eq!(item.status, None);
            match item.event {
                Some(Event::Apply(Object::Crd(crd))) => crd,
                other => panic!("no CRD: {other:?}"),
            }
        });
        crds.collect()
    }

    const SETS: [&str; 4] = [
        "v1.6.3-standard",
        "v1.6.3-experimental",
        "v1.7.0-standard",
        "v1.7.0-experimental",
    ];

    fn key(kind: &str) -> ObjectKey {
        ObjectKey::new(api::GATEWAY_GROUP, kind, "team-a", "x")
    }

    fn conditions() -> Value {
        json!([{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    /// Everything that we say.
    fn statuses() -> [(&'static str, Value); 3] {
        let class = json!({"conditions": conditions(), "supportedFeatures": [{"name": "Gateway"}]});
        let gateway = json!({
            "conditions": conditions(),
            "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
            "listeners": [{"name": "http", "attachedRoutes": 1, "conditions": conditions(),
                "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]}],
        });
        let parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "a", "name": "web",
            "sectionName": "http", "port": 80});
        let route = json!({"parents": [
            {"parentRef": parent, "controllerName": api::CONTROLLER_NAME, "conditions": conditions()},
        ]});
        [
            ("GatewayClass", class),
            ("Gateway", gateway),
            ("HTTPRoute", route),
        ]
    }

    #[test]
    fn what_we_say_passes_each_set_of_crds_and_what_none_knows_is_left_out() {
        for name in SETS {
            let schemas = Schemas::default();
            for crd in set(name) {
                let is_ours = ["GatewayClass", "Gateway", "HTTPRoute"].contains(&crd.kind.as_str());
                assert!(schemas.apply(&crd) || !is_ours, "{name}: {}", crd.kind);
                assert!(!schemas.apply(&crd), "{name}: {} again", crd.kind);
            }
            for (kind, said) in statuses() {
                let mut status = said.clone();
                status["ofTheFuture"] = json!([1]);
                match kind {
                    "HTTPRoute" => status["parents"][0]["ofTheFuture"] = json!({}),
                    _ => status["conditions"][0]["ofTheFuture"] = json!(1),
                }
                assert!(
                    !schemas.differs(&key(kind), &said, &status),
                    "{name}: {kind}"
                );
                schemas.cut(&key(kind), &mut status);
                assert_eq!(status, said, "{name}: {kind}");
            }
        }
    }

    #[test]
    fn a_field_that_a_crd_does_not_have_yet_is_said_once_it_has() {
        let schemas = Schemas::default();
        let mut crd = set("v1.6.3-standard").remove(0);
        assert_eq!(crd.kind, "GatewayClass");
        let Some(Fields::Object(fields)) = crd.versions.get_mut("v1") else {
            panic!("no v1");
        };
        let Some(Fields::Object(status)) = fields.get_mut("status") else {
            panic!("no status");
        };
        status.remove("supportedFeatures");
        assert!(schemas.apply(&crd));
        let (_, said) = statuses()[0].clone();
        let current = json!({"conditions": conditions()});
        assert!(!schemas.differs(&key("GatewayClass"), &current, &said));
        assert!(schemas.apply(&set("v1.6.3-standard").remove(0)));
        assert!(schemas.differs(&key("GatewayClass"), &current, &said));
        // One that is not known holds everything.
        assert!(Schemas::default().differs(&key("GatewayClass"), &current, &said));
    }
}
