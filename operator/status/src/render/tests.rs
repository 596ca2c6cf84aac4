#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use api::GatewayKey;
use operator_objects::spec::ParentRef;

use operator_translate::status::ListenerStatus;

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
        ..ParentFacts::default()
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
    facts.addresses = vec![StatusAddress::ip("127.1.0.1".parse().unwrap())];
    assert_eq!(of(&facts), pair("True", reasons::ADDRESSES_ASSIGNED));
    facts.addresses.clear();
    facts.not_placed = Some((reasons::ADDRESS_NOT_USABLE, "taken".into()));
    assert_eq!(of(&facts), pair("False", reasons::NOT_ASSIGNED));
}

#[test]
fn what_was_propagated_before_a_restart_keeps_its_words_until_the_generation_changes() {
    let inherited = json!({"type": "Propagated", "status": "True", "observedGeneration": 3,
        "reason": "Propagated", "message": "2/2 shards, revision 5, 4 ms"});
    let message = |generation, propagated| {
        let accepted = Condition::yes(types::ACCEPTED, reasons::ACCEPTED, "", generation);
        let status = RouteStatus {
            parents: vec![parent(accepted)],
        };
        let facts = |_: &ParentStatus| ParentFacts {
            revision: Some(Revision(8)),
            propagated,
            inherited: Some(inherited.clone()),
            waiting: (!propagated).then(|| "too few shards".to_owned()),
            ..ParentFacts::default()
        };
        let status = route_status(&status, facts);
        status["parents"][0]["conditions"][1]["message"].clone()
    };
    assert_eq!(message(3, true), "2/2 shards, revision 5, 4 ms");
    assert_eq!(message(4, true), "0/0 shards, revision 8, 0 ms");
    assert_eq!(message(3, false), "too few shards");
}

#[test]
fn the_reason_of_programmed_says_what_the_address_lacks() {
    let status = GatewayStatus {
        conditions: vec![Condition::yes(types::ACCEPTED, reasons::ACCEPTED, "", 1)],
        listeners: Vec::new(),
    };
    let reason = |facts: &GatewayFacts| {
        let status = gateway_status(&status, &BTreeMap::new(), facts, 1);
        found(&status["conditions"], types::PROGRAMMED)
    };
    let mut facts = GatewayFacts::default();
    for wanted in [reasons::ADDRESS_NOT_ASSIGNED, reasons::NO_RESOURCES] {
        facts.not_placed = Some((wanted, "no".into()));
        assert_eq!(reason(&facts), pair("False", wanted));
    }
    facts.not_placed = None;
    facts.ports.entry(80).or_default().is_address_unusable = true;
    assert_eq!(reason(&facts), pair("False", reasons::ADDRESS_NOT_USABLE));
}

#[test]
fn a_gateway_whose_service_has_no_address_is_not_programmed_until_it_has_one() {
    let status = GatewayStatus {
        conditions: vec![Condition::yes(types::ACCEPTED, reasons::ACCEPTED, "", 1)],
        listeners: vec![ListenerStatus {
            name: "http".into(),
            supported_kinds: Vec::new(),
            attached_routes: 0,
            conditions: Vec::new(),
            servable: true,
        }],
    };
    let of = |facts: &GatewayFacts| {
        let status = gateway_status(&status, &BTreeMap::new(), facts, 1);
        let conditions = &status["conditions"];
        let assigned = found(conditions, types::ADDRESSES_ASSIGNED);
        let addresses = status["addresses"].clone();
        (found(conditions, types::PROGRAMMED), assigned, addresses)
    };
    let mut facts = GatewayFacts {
        has_service: true,
        committed: Revision(7),
        propagated: Revision(7),
        ..GatewayFacts::default()
    };
    assert_eq!(
        of(&facts),
        (
            pair("False", reasons::ADDRESS_NOT_ASSIGNED),
            pair("False", reasons::NOT_ASSIGNED),
            json!([])
        )
    );
    facts.addresses = vec![
        StatusAddress::ip("2001:db8::1".parse().unwrap()),
        StatusAddress::hostname("lb.example.com"),
    ];
    let given = json!([
        {"type": "IPAddress", "value": "2001:db8::1"},
        {"type": "Hostname", "value": "lb.example.com"},
    ]);
    assert_eq!(
        of(&facts),
        (
            pair("True", reasons::PROGRAMMED),
            pair("True", reasons::ADDRESSES_ASSIGNED),
            given.clone()
        )
    );
    // One of two is not to be had.
    facts.not_placed = Some((reasons::ADDRESS_NOT_USABLE, "192.0.2.1 is not ours".into()));
    assert_eq!(
        of(&facts),
        (
            pair("False", reasons::ADDRESS_NOT_USABLE),
            pair("False", reasons::NOT_ASSIGNED),
            given
        )
    );
}

/// An API server refuses a status with a word or a number of things that its CRD does not take, and with it all of it.
#[test]
fn what_we_say_is_what_the_crds_take() {
    for reason in reasons::ALL {
        let time = |mut status: Value| {
            crate::keep_transition_times(None, &mut status, "2026-01-01T00:00:00Z");
            status
        };
        let condition = Condition::no(types::ACCEPTED, reason, "why", 1);
        let class = ClassStatus {
            conditions: vec![condition.clone()],
            supported_features: operator_translate::FEATURES
                .iter()
                .map(|feature| feature.name)
                .collect(),
        };
        let gateway = GatewayStatus {
            conditions: vec![
                condition.clone(),
                Condition::yes(types::RESOLVED_REFS, reason, "", 1),
            ],
            listeners: vec![ListenerStatus {
                name: "http".into(),
                supported_kinds: vec![operator_objects::spec::GroupKind {
                    group: api::GATEWAY_GROUP.into(),
                    kind: "HTTPRoute".into(),
                }],
                attached_routes: 7,
                conditions: vec![condition.clone()],
                servable: false,
            }],
        };
        let facts = GatewayFacts {
            addresses: vec![StatusAddress::hostname("lb.example.com")],
            not_placed: Some((reason, "why".into())),
            ..GatewayFacts::default()
        };
        let route = RouteStatus {
            parents: vec![parent(condition)],
        };
        let ports = BTreeMap::new();
        for (kind, status) in [
            ("GatewayClass", class_status(&class)),
            ("Gateway", gateway_status(&gateway, &ports, &facts, 1)),
            (
                "HTTPRoute",
                route_status(&route, |_| ParentFacts::default()),
            ),
        ] {
            let violations = operator_objects::schema::check_status(kind, "v1", &time(status));
            assert!(violations.is_empty(), "{kind} {reason}: {violations:?}");
        }
    }
    let bad = json!({"conditions": [{"type": "Accepted", "status": "Perhaps"}]});
    let violations = operator_objects::schema::check_status("Gateway", "v1", &bad);
    assert!(!violations.is_empty());
}
