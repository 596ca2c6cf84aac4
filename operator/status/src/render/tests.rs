#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use api::GatewayKey;
use operator_objects::spec::ParentRef;

use super::*;

fn parent(accepted: Condition) -> ParentStatus {
    ParentStatus {
        parent_ref: ParentRef {
            group: api::GATEWAY_GROUP.into(),
            kind: "Gateway".into(),
            namespace: None,
            name: "web".into(),
            section_name: None,
            port: None,
        },
        controller_name: api::CONTROLLER_NAME,
        conditions: vec![accepted],
        gateway: GatewayKey::new("team-a", "web"),
        served: true,
    }
}

/// Status and reason of the condition of a type.
fn found(conditions: &Value, type_: &str) -> Option<(String, String)> {
    let list = conditions.as_array()?;
    let condition = list.iter().find(|condition| condition["type"] == type_)?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason")))
}

fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

#[test]
fn a_generation_that_is_not_accepted_is_not_propagated_though_an_older_one_is_served() {
    let facts = |_: &ParentStatus| ParentFacts {
        revision: Some(Revision(7)),
        propagated: true,
        shards: (2, 2),
        took_ms: 3,
    };
    let of = |accepted: Condition| {
        let status = RouteStatus {
            parents: vec![parent(accepted)],
        };
        let value = route_status(&status, facts);
        found(&value["parents"][0]["conditions"], types::PROPAGATED)
    };
    let yes = Condition::yes(types::ACCEPTED, reasons::ACCEPTED, "yes", 2);
    assert_eq!(of(yes), pair("True", reasons::PROPAGATED));
    let no = Condition::no(types::ACCEPTED, reasons::UNSUPPORTED_VALUE, "no", 2);
    assert_eq!(of(no), pair("False", reasons::INVALID));
}

#[test]
fn addresses_are_assigned_or_not_and_nothing_is_said_before() {
    let status = GatewayStatus {
        conditions: vec![Condition::yes(types::ACCEPTED, reasons::ACCEPTED, "", 2)],
        listeners: Vec::new(),
    };
    let of = |facts: &GatewayFacts| {
        let value = gateway_status(&status, &BTreeMap::new(), facts, 2);
        found(&value["conditions"], types::ADDRESSES_ASSIGNED)
    };
    let mut facts = GatewayFacts::default();
    assert_eq!(of(&facts), None);
    facts.addresses = vec!["127.1.0.1".parse().unwrap()];
    assert_eq!(of(&facts), pair("True", reasons::ADDRESSES_ASSIGNED));
    facts.addresses.clear();
    facts.not_placed = Some("taken".into());
    assert_eq!(of(&facts), pair("False", reasons::NOT_ASSIGNED));
}
