//! What a status that was written tells people: the text of Events. [pure]

use api::condition::{reasons, types};
use api::{ObjectKey, controller_name};
use serde_json::Value;

/// One thing that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// Somebody should look at it.
    pub(crate) is_warning: bool,
    /// The condition's reason.
    pub(crate) reason: String,
    /// Its message.
    pub(crate) note: String,
}

/// What differs between the status that stood in the API server and the one that was written. What is still on its way is no
/// news.
pub(crate) fn news(object: &ObjectKey, before: &Value, after: &Value) -> Vec<News> {
    let mut news = Vec::new();
    match object.kind.as_str() {
        "HTTPRoute" => {
            for parent in list(after, "parents") {
                if parent["controllerName"] != controller_name() {
                    continue;
                }
                let old = list(before, "parents").iter().find(|old| {
                    old["parentRef"] == parent["parentRef"]
                        && old["controllerName"] == controller_name()
                });
                let at = format!("{}: ", parent_name(&parent["parentRef"]));
                changes(old.unwrap_or(&Value::Null), parent, &at, &mut news);
            }
        }
        _ => {
            changes(before, after, "", &mut news);
            for listener in list(after, "listeners") {
                let old = list(before, "listeners")
                    .iter()
                    .find(|old| old["name"] == listener["name"]);
                let at = format!(
                    "listener {}: ",
                    listener["name"].as_str().unwrap_or_default()
                );
                let mut of_listener = Vec::new();
                changes(old.unwrap_or(&Value::Null), listener, &at, &mut of_listener);
                // That it is well is said of the Gateway.
                news.extend(of_listener.into_iter().filter(|one| one.is_warning));
            }
            if let Some(programmed) = news
                .iter_mut()
                .find(|one| one.reason == reasons::PROGRAMMED)
            {
                programmed.note.push_str(&addresses(after));
            }
        }
    }
    news
}

/// Conditions whose status or reason is another one, in the order of the status. Propagated is told for each generation.
fn changes(before: &Value, after: &Value, at: &str, news: &mut Vec<News>) {
    for condition in list(after, "conditions") {
        let of_type = |other: &&Value| other["type"] == condition["type"];
        let old = list(before, "conditions").iter().find(of_type);
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        let same = |field: &str| old.is_some_and(|old| old[field] == condition[field]);
        let holds = condition["status"] == "True";
        let held = old.is_some_and(|old| old["status"] == "True");
        let was_bad = old.is_some_and(|old| old["status"] == "False");
        let changed = !same("status") || !same("reason");
        let on_its_way = [reasons::WAITING, reasons::PENDING].contains(&text("reason"));
        let (is_news, is_warning) = match text("type") {
            types::ACCEPTED | types::PROGRAMMED => (changed && !on_its_way, !holds),
            types::PROPAGATED => (holds && (!held || !same("observedGeneration")), false),
            // Well from the start is no news.
            types::RESOLVED_REFS | types::SUPPORTED_VERSION => {
                (changed && (!holds || was_bad), !holds)
            }
            types::PARTIALLY_INVALID => (changed && holds, true),
            _ => (false, false),
        };
        if is_news {
            news.push(News {
                is_warning,
                reason: text("reason").to_owned(),
                note: format!("{at}{}", text("message")),
            });
        }
    }
}

fn addresses(status: &Value) -> String {
    let addresses = list(status, "addresses").iter();
    let values: Vec<&str> = addresses.filter_map(|of| of["value"].as_str()).collect();
    match values.as_slice() {
        [] => String::new(),
        values => format!("; address {}", values.join(", ")),
    }
}

fn parent_name(parent: &Value) -> String {
    let text = |field: &str| parent[field].as_str();
    let mut name = match text("namespace") {
        Some(namespace) => format!("Gateway {namespace}/{}", text("name").unwrap_or_default()),
        None => format!("Gateway {}", text("name").unwrap_or_default()),
    };
    if let Some(section) = text("sectionName") {
        name.push_str(&format!(" listener {section}"));
    }
    name
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use api::CONTROLLER_NAME;
    use serde_json::json;

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str, generation: i64) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": format!("of {type_}"),
            "observedGeneration": generation})
    }

    fn told(kind: &str, before: &Value, after: &Value) -> Vec<String> {
        let object = ObjectKey::new(api::GATEWAY_GROUP, kind, "a", "x");
        let lines = news(&object, before, after).into_iter().map(|one| {
            let mark = if one.is_warning { "!" } else { "" };
            format!("{mark}{}: {}", one.reason, one.note)
        });
        lines.collect()
    }

    #[test]
    fn a_gateway_tells_when_it_is_accepted_and_when_it_has_an_address() {
        // As the CRD has it from the start.
        let new = json!({"conditions": [condition("Accepted", "Unknown", "Pending", 0)]});
        let accepted = json!({"conditions": [
            condition("Accepted", "True", "Accepted", 1),
            condition("ResolvedRefs", "True", "ResolvedRefs", 1),
            condition("Programmed", "False", "Pending", 1),
        ]});
        assert_eq!(told("Gateway", &new, &accepted), ["Accepted: of Accepted"]);
        let mut programmed = accepted.clone();
        programmed["conditions"][2] = condition("Programmed", "True", "Programmed", 1);
        programmed["addresses"] = json!([{"type": "IPAddress", "value": "10.0.0.1"}]);
        assert_eq!(
            told("Gateway", &accepted, &programmed),
            ["Programmed: of Programmed; address 10.0.0.1"]
        );
        assert!(told("Gateway", &programmed, &programmed).is_empty());
        let mut broken = programmed.clone();
        broken["conditions"][0] = condition("Accepted", "False", "InvalidParameters", 2);
        broken["listeners"] = json!([{"name": "http", "conditions": [
            condition("ResolvedRefs", "False", "InvalidCertificateRef", 2),
            condition("Accepted", "True", "Accepted", 2),
        ]}]);
        assert_eq!(
            told("Gateway", &programmed, &broken),
            [
                "!InvalidParameters: of Accepted",
                "!InvalidCertificateRef: listener http: of ResolvedRefs"
            ]
        );
    }

    #[test]
    fn a_route_tells_of_our_parents_alone_and_of_each_generation_once() {
        let parent = |controller: &str, conditions: Value| {
            json!({"parentRef": {"name": "web", "sectionName": "http"}, "controllerName": controller,
                "conditions": conditions})
        };
        let of = |generation, propagated: &str| {
            let reason = if propagated == "True" {
                "Propagated"
            } else {
                "Waiting"
            };
            json!([
                condition("Accepted", "True", "Accepted", generation),
                condition(types::PROPAGATED, propagated, reason, generation),
            ])
        };
        let route = |conditions: Value| {
            json!({"parents": [
                parent("other.test/c", json!([condition("Accepted", "False", "No", 1)])),
                parent(CONTROLLER_NAME, conditions),
            ]})
        };
        let first = route(of(1, "False"));
        assert_eq!(
            told("HTTPRoute", &json!({}), &first),
            ["Accepted: Gateway web listener http: of Accepted"]
        );
        let second = route(of(1, "True"));
        let propagated = "Propagated: Gateway web listener http: of shardway.dev/Propagated";
        assert_eq!(told("HTTPRoute", &first, &second), [propagated]);
        assert_eq!(
            told("HTTPRoute", &second, &route(of(2, "True"))),
            [propagated]
        );
        let refused = route(json!([condition(
            "Accepted",
            "False",
            "NoMatchingParent",
            3
        )]));
        assert_eq!(
            told("HTTPRoute", &second, &refused),
            ["!NoMatchingParent: Gateway web listener http: of Accepted"]
        );
    }
}
