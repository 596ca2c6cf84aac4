//! What a change costs, and what refuses to apply.

use std::sync::Arc;

use api::{BackendKey, Revision};
use api_snapshot::{Op, SetHash};

use super::fixture::{self, Entries, RuleOf, exact, get, pair, prefix, rule};
use super::precedence::with;
use crate::ApplyError;
use crate::path::PathTable;

fn host(at: usize) -> String {
    format!("h{at}.example.com")
}

#[test]
fn a_change_of_one_rule_keeps_what_other_hosts_have() {
    let rules = |changed: Option<usize>| {
        let one = |at: usize| {
            let path = if changed == Some(at) { "/new" } else { "/" };
            rule(&format!("ns/r{at}"), Some(&host(at)), vec![prefix(path)])
        };
        with((0..500).map(one).collect())
    };
    let (old, new) = (rules(None), rules(Some(7)));
    let before = fixture::build(&old);
    let after = fixture::step(&before, &old, &new).unwrap();
    let hosts = |table: &fixture::Table| {
        let listener = table.0.routes.get("l").unwrap();
        (0..500)
            .map(|at| Arc::clone(listener.exact.get(host(at).as_str()).unwrap()))
            .collect::<Vec<_>>()
    };
    for (at, (one, other)) in hosts(&before).iter().zip(hosts(&after)).enumerate() {
        assert_eq!(Arc::ptr_eq(one, &other), at != 7, "{at}");
    }
    // A request that began on the old table goes on with it.
    let old_path = get("h7.example.com/");
    assert_ne!(
        fixture::routed(&before, &old_path),
        fixture::routed(&after, &old_path)
    );
}

#[test]
fn a_host_goes_from_a_list_to_maps_and_back() {
    let rules = |count: usize| {
        let one = |at: usize| {
            // All share two paths and differ by a header.
            let mut m = if at.is_multiple_of(2) {
                exact("/p")
            } else {
                prefix("/p")
            };
            m.headers = vec![pair("x-at", &at.to_string())];
            rule(&format!("ns/r{at}"), Some("a.com"), vec![m])
        };
        with((0..count).map(one).collect())
    };
    let mut old = Entries::new();
    let mut table = fixture::empty();
    for (count, few) in [
        (3, true),
        (16, true),
        (17, false),
        (400, false),
        (9, false),
        (8, true),
        (17, false),
        (1, true),
    ] {
        let new = rules(count);
        table = fixture::step(&table, &old, &new).unwrap();
        old = new;
        let listener = table.0.routes.get("l").unwrap();
        let host = listener.exact.get("a.com").unwrap();
        assert_eq!(matches!(host.0[0].1, PathTable::Few(_)), few, "{count}");
        for at in 0..count + 1 {
            let request = get("a.com/p").header("x-at", &at.to_string());
            let expected = if at < count {
                format!("l: HTTPRoute ns/r{at} rules[0].matches[0]")
            } else {
                "l".to_owned()
            };
            assert_eq!(fixture::routed(&table, &request), expected);
        }
    }
}

fn one_rule() -> Entries {
    with(vec![rule("ns/r", None, vec![prefix("/")])])
}

#[test]
fn a_delta_on_another_base_is_a_gap() {
    let table = fixture::build(&one_rule());
    let applied = table.apply(
        Revision(7),
        Revision(8),
        false,
        &[],
        table.hash(),
        &mut BackendKey::clone,
    );
    assert!(matches!(
        applied,
        Err(ApplyError::Gap {
            base: Revision(7),
            have: Revision(1)
        })
    ));
}

#[test]
fn entries_that_do_not_have_the_named_hash_are_refused() {
    let table = fixture::build(&one_rule());
    let wrong = SetHash::of(b"other", b"entry");
    let applied = table.apply(
        Revision(1),
        Revision(2),
        false,
        &[],
        wrong,
        &mut BackendKey::clone,
    );
    assert!(
        matches!(applied, Err(ApplyError::HashMismatch { expected, have })
        if expected == wrong && have == table.hash())
    );
}

#[test]
fn an_entry_that_cannot_be_read_is_refused_and_named() {
    let table = fixture::empty();
    let apply = |ops: &[Op]| {
        let hash = SetHash::default();
        let applied = table.apply(
            Revision(0),
            Revision(1),
            false,
            ops,
            hash,
            &mut BackendKey::clone,
        );
        applied.unwrap_err().to_string()
    };
    let damaged = Op {
        key: vec![0xff],
        value: None,
    };
    assert!(apply(&[damaged]).contains("entry key"));
    let mut bad = rule("ns/bad", None, vec![prefix("/")]);
    bad.spec.matches[0].headers = vec![pair("no spaces", "1")];
    let (key, entry) = RuleOf::entry(bad);
    let text = apply(&[Op::put(&key, &entry)]);
    assert!(
        text.contains("HTTPRoute ns/bad rules[0]") && text.contains("no spaces"),
        "{text}"
    );
    let (other, _) = fixture::gateway();
    let text = apply(&[Op::put(&other, &entry)]);
    assert!(text.contains("Gateway"), "{text}");
}

#[test]
fn replacing_forgets_what_was_there() {
    let old = with(vec![rule("ns/old", None, vec![prefix("/")])]);
    let new = with(vec![rule("ns/new", None, vec![prefix("/")])]);
    let table = fixture::build(&old)
        .apply(
            Revision(0),
            Revision(9),
            true,
            &fixture::ops(&Entries::new(), &new),
            fixture::hash_of(&new),
            &mut BackendKey::clone,
        )
        .unwrap();
    assert_eq!(table.revision(), Revision(9));
    assert_eq!(table.rule_count(), 1);
    let answer = fixture::routed(&table, &get("h/"));
    assert_eq!(answer, "l: HTTPRoute ns/new rules[0].matches[0]");
}
