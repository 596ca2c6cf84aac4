//! What `shardway explain` says.

use super::fixture::{self, get, listener, pair, prefix, rule};
use super::precedence::with;

#[test]
fn an_explanation_names_the_first_thing_that_told_against_each_loser() {
    let mut header = prefix("/a");
    header.headers = vec![pair("x-a", "1")];
    let mut method = prefix("/a");
    method.method = Some("POST".into());
    let mut query = prefix("/a");
    query.query = vec![pair("q", "1")];
    let mut entries = with(vec![
        rule("ns/winner", Some("a.com"), vec![prefix("/a")]),
        rule("ns/header", Some("a.com"), vec![header]),
        rule("ns/method", Some("a.com"), vec![method]),
        rule("ns/query", Some("a.com"), vec![query]),
        rule("ns/path", Some("a.com"), vec![prefix("/b")]),
        rule("ns/host", Some("b.com"), vec![prefix("/a")]),
        rule("ns/wild", Some("*.com"), vec![prefix("/a")]),
        rule("ns/short", Some("a.com"), vec![prefix("/")]),
        rule("ns/younger", Some("a.com"), vec![prefix("/a")]).age(5),
        rule("ns/zzz", Some("a.com"), vec![prefix("/a")]),
        rule("ns/elsewhere", Some("a.com"), vec![prefix("/a")]).on("other"),
    ]);
    entries.extend([
        listener("other", 81, None),
        listener("narrow", 80, Some("b.com")),
    ]);
    let table = fixture::build(&entries);
    let request = get("a.com/a");
    let explained = table.explain(80, &request.view());
    assert_eq!(explained.listener.as_deref(), Some("l"));
    assert_eq!(
        explained.matched.as_deref(),
        Some("HTTPRoute ns/winner rules[0].matches[0]")
    );
    let reason = |name: &str| {
        let all = explained.near_misses.iter().chain(&explained.listeners);
        let found = all.clone().find(|miss| miss.candidate.contains(name));
        found.map(|miss| miss.reason.as_str()).unwrap_or_default()
    };
    for (name, expected) in [
        ("ns/header ", "header x-a is not sent, \"1\" is asked for"),
        ("ns/method ", "method GET is not POST"),
        ("ns/query ", "query parameter q is not \"1\""),
        ("ns/path ", "path /a does not match PathPrefix /b"),
        ("ns/host ", "host a.com is not among b.com"),
        ("ns/wild ", "its host name is less specific"),
        ("ns/short ", "its path is less specific"),
        ("ns/younger ", "its route is younger"),
        ("ns/zzz ", "its name or position is later"),
        ("ns/elsewhere ", "attached to other listeners: other"),
        ("listener other", "port 81 is not 80"),
        ("listener narrow", "host a.com is not b.com"),
    ] {
        assert!(reason(name).contains(expected), "{name}: {}", reason(name));
    }
}

#[test]
fn of_many_near_misses_the_closest_are_named_and_all_are_counted() {
    let far = |at: usize| rule(&format!("ns/far{at}"), Some("b.com"), vec![prefix("/")]);
    let mut rules: Vec<_> = (0..100).map(far).collect();
    rules.push(rule("ns/close", Some("a.com"), vec![prefix("/x")]));
    let table = fixture::build(&with(rules));
    let explained = table.explain(80, &get("a.com/").view());
    assert_eq!(
        (explained.considered, explained.near_misses.len()),
        (101, 16)
    );
    assert!(explained.near_misses[0].candidate.contains("ns/close"));
    assert_eq!(explained.matched, None);
}

#[test]
fn without_a_listener_each_one_says_why() {
    let table = fixture::build(&with(Vec::new()));
    let mut request = get("a.com/");
    request.port = 9;
    let explained = table.explain(9, &request.view());
    assert_eq!(explained.listener, None);
    assert_eq!(explained.listeners[0].reason, "port 80 is not 9");
}
