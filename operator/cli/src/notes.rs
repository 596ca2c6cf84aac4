//! References of Gateways and routes to what is not in the folder. The API gives them no status: nobody is there to write it.

use std::collections::BTreeSet;

use api::{GATEWAY_GROUP, ObjectKey};
use operator_source::Document;
use serde_json::Value;

/// One line for each Gateway whose class, and each parentRef of a route whose Gateway, is not in the folder.
pub(crate) fn notes(documents: &[Document]) -> Vec<String> {
    let keys: BTreeSet<ObjectKey> = documents.iter().map(Document::key).collect();
    let there = |kind: &str, namespace: &str, name: &str| {
        keys.contains(&ObjectKey::new(GATEWAY_GROUP, kind, namespace, name))
    };
    let mut notes = BTreeSet::new();
    for document in documents.iter().filter(|it| it.group == GATEWAY_GROUP) {
        let spec = &document.object["spec"];
        let key = document.key();
        match document.kind.as_str() {
            "Gateway" => {
                let class = text(&spec["gatewayClassName"]);
                if !class.is_empty() && !there("GatewayClass", "", class) {
                    notes.insert(format!(
                        "{key}: GatewayClass {class} does not exist; nobody serves it"
                    ));
                }
            }
            "HTTPRoute" => {
                for parent in spec["parentRefs"].as_array().into_iter().flatten() {
                    let is_gateway = |field: &str, of: &str| {
                        parent.get(field).is_none_or(|given| text(given) == of)
                    };
                    let namespace = match text(&parent["namespace"]) {
                        "" => document.namespace.as_str(),
                        given => given,
                    };
                    let name = text(&parent["name"]);
                    if is_gateway("group", GATEWAY_GROUP)
                        && is_gateway("kind", "Gateway")
                        && !there("Gateway", namespace, name)
                    {
                        notes.insert(format!(
                            "{key}: its parent Gateway {namespace}/{name} does not exist"
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    notes.into_iter().collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_classes_and_parents_are_named() {
        let gateway = "apiVersion: gateway.networking.k8s.io/v1";
        let text = format!(
            "{gateway}\nkind: GatewayClass\nmetadata: {{name: ours}}\nspec: {{controllerName: x.y/z}}\n---\n\
             {gateway}\nkind: Gateway\nmetadata: {{name: web, namespace: a}}\nspec: {{gatewayClassName: ours}}\n---\n\
             {gateway}\nkind: Gateway\nmetadata: {{name: lost, namespace: a}}\nspec: {{gatewayClassName: our}}\n---\n\
             {gateway}\nkind: HTTPRoute\nmetadata: {{name: r, namespace: b}}\n\
             spec: {{parentRefs: [{{name: web, namespace: a}}, {{name: web}}, {{kind: Service, group: '', name: s}}]}}\n"
        );
        let parsed = operator_objects::manifest::parse(&text);
        let documents: Vec<Document> = parsed.into_iter().filter_map(Result::ok).collect();
        assert_eq!(documents.len(), 4);
        assert_eq!(
            notes(&documents),
            [
                "Gateway a/lost: GatewayClass our does not exist; nobody serves it",
                "HTTPRoute b/r: its parent Gateway b/web does not exist",
            ]
        );
    }
}
