//! One test for each step of the order, named as the sentence that it checks.

use http::Method;

use super::fixture::{
    self, Entries, Request, RuleOf, exact, gateway, get, listener, pair, prefix, rule,
};

/// Entries with a listener `l` on port 80 for all hosts.
pub(super) fn with(rules: Vec<RuleOf>) -> Entries {
    let mut entries = Entries::from([gateway(), listener("l", 80, None)]);
    entries.extend(rules.into_iter().map(RuleOf::entry));
    entries
}

/// Checks which route takes a request; none for 404.
#[track_caller]
fn check(rules: Vec<RuleOf>, request: &Request, expected: Option<&str>) {
    // The answer may not hang on the order of entries.
    let table = fixture::build(&with(rules));
    let found = match table.route(request.port, &request.view()) {
        crate::Outcome::Matched(found) => Some(found.rule.route.name.clone()),
        _ => None,
    };
    assert_eq!(found.as_deref(), expected);
}

#[test]
fn an_exact_host_goes_before_a_wildcard_and_a_longer_wildcard_before_a_shorter_one() {
    let rules = || {
        vec![
            rule("ns/any", None, vec![exact("/deep")]),
            rule("ns/short", Some("*.com"), vec![exact("/deep")]),
            rule("ns/long", Some("*.a.com"), vec![exact("/deep")]),
            rule("ns/plain", Some("b.a.com"), vec![prefix("/")]),
        ]
    };
    check(rules(), &get("b.a.com/deep"), Some("plain"));
    check(rules(), &get("c.a.com/deep"), Some("long"));
    check(rules(), &get("a.com/deep"), Some("short"));
    check(rules(), &get("a.org/deep"), Some("any"));
}

#[test]
fn a_wildcard_stands_for_one_label_or_several_but_not_for_none() {
    let rules = || vec![rule("ns/r", Some("*.a.com"), vec![prefix("/")])];
    check(rules(), &get("b.a.com/"), Some("r"));
    check(rules(), &get("c.b.a.com/"), Some("r"));
    check(rules(), &get("a.com/"), None);
    check(rules(), &get("ba.com/"), None);
}

#[test]
fn a_less_specific_host_is_tried_when_no_rule_of_the_most_specific_one_holds() {
    let rules = vec![
        rule("ns/plain", Some("b.a.com"), vec![exact("/only")]),
        rule("ns/wild", Some("*.a.com"), vec![prefix("/")]),
    ];
    check(rules, &get("b.a.com/other"), Some("wild"));
}

#[test]
fn among_equal_intersections_the_host_that_the_route_wrote_decides() {
    let rules = vec![
        rule("ns/a-none", Some("b.a.com"), vec![prefix("/long/path")]).written_as(None),
        rule("ns/b-wild", Some("b.a.com"), vec![prefix("/long")]).written_as(Some("*.a.com")),
        rule("ns/c-plain", Some("b.a.com"), vec![prefix("/")]),
    ];
    check(rules, &get("b.a.com/long/path"), Some("c-plain"));
}

#[test]
fn an_exact_path_goes_before_a_prefix() {
    let rules = vec![
        rule("ns/prefix", None, vec![prefix("/a")]),
        rule("ns/path", None, vec![exact("/a")]),
    ];
    check(rules, &get("h/a"), Some("path"));
}

#[test]
fn a_longer_prefix_goes_before_a_shorter_one_and_prefixes_end_at_elements() {
    let rules = || {
        vec![
            rule("ns/root", None, vec![prefix("/")]),
            rule("ns/a", None, vec![prefix("/a")]),
            rule("ns/ab", None, vec![prefix("/a/b")]),
        ]
    };
    for (url, expected) in [
        ("h/a/b/c", "ab"),
        ("h/a/b/", "ab"),
        ("h/a/bc", "a"),
        ("h/a", "a"),
        ("h/a/", "a"),
        ("h/ab", "root"),
        ("h/", "root"),
    ] {
        check(rules(), &get(url), Some(expected));
    }
}

#[test]
fn a_method_condition_goes_before_headers_and_headers_before_query_parameters() {
    let mut method = prefix("/");
    method.method = Some("GET".into());
    let mut headers = prefix("/");
    headers.headers = vec![pair("x-a", "1"), pair("x-b", "1")];
    let mut header = prefix("/");
    header.headers = vec![pair("x-a", "1")];
    let mut query = prefix("/");
    query.query = vec![pair("p", "1"), pair("q", "1")];
    let all = || {
        vec![
            rule("ns/1-plain", None, vec![prefix("/")]),
            rule("ns/2-query", None, vec![query.clone()]),
            rule("ns/3-header", None, vec![header.clone()]),
            rule("ns/4-headers", None, vec![headers.clone()]),
            rule("ns/5-method", None, vec![method.clone()]),
        ]
    };
    let request = get("h/?p=1&q=1");
    let post = request.clone().method(Method::POST);
    let one = post.clone().header("x-a", "1");
    let two = one.clone().header("x-b", "1");
    check(all(), &two.clone().method(Method::GET), Some("5-method"));
    check(all(), &two, Some("4-headers"));
    check(all(), &one, Some("3-header"));
    check(all(), &post, Some("2-query"));
    check(all(), &get("h/?p=1").method(Method::POST), Some("1-plain"));
}

#[test]
fn the_older_route_goes_first_then_the_alphabet_of_namespace_and_name_as_one_text() {
    let rules = vec![
        rule("a/young", None, vec![prefix("/")]).age(2),
        rule("z/old", None, vec![prefix("/")]).age(1),
    ];
    check(rules, &get("h/"), Some("old"));
    // "a-b/second" is before "a/first": `-` is before `/`.
    let rules = vec![
        rule("a/first", None, vec![prefix("/")]),
        rule("a-b/second", None, vec![prefix("/")]),
    ];
    check(rules, &get("h/"), Some("second"));
}

#[test]
fn the_first_rule_goes_first_then_the_first_match() {
    let entries = with(vec![
        rule("ns/r", None, vec![prefix("/")]).index(1),
        rule(
            "ns/r",
            None,
            vec![exact("/other"), prefix("/"), prefix("/")],
        ),
    ]);
    let answer = fixture::routed(&fixture::build(&entries), &get("h/"));
    assert_eq!(answer, "l: HTTPRoute ns/r rules[0].matches[1]");
}

#[test]
fn a_rule_whose_header_does_not_hold_leaves_the_request_to_the_next() {
    let mut canary = exact("/a");
    canary.headers = vec![pair("x-canary", "yes")];
    let rules = || {
        vec![
            rule("ns/canary", None, vec![canary.clone()]),
            rule("ns/main", None, vec![prefix("/")]),
        ]
    };
    check(rules(), &get("h/a"), Some("main"));
    check(rules(), &get("h/a").header("x-canary", "no"), Some("main"));
    check(
        rules(),
        &get("h/a").header("X-Canary", "yes"),
        Some("canary"),
    );
}

#[test]
fn several_lines_of_a_header_are_one_list_and_cookies_are_cut_at_semicolons() {
    let with_header = |name: &str, value: &str| {
        let mut m = prefix("/");
        m.headers = vec![pair(name, value)];
        vec![rule("ns/r", None, vec![m])]
    };
    let lines = get("h/").header("x-a", "1").header("x-a", "2");
    check(with_header("x-a", "1,2"), &lines, Some("r"));
    check(with_header("x-a", "1, 2"), &lines, Some("r"));
    check(with_header("x-a", "1"), &lines, None);
    check(with_header("x-a", "2"), &lines, None);
    check(with_header("x-a", "1,2,3"), &lines, None);
    let crumbs = get("h/").header("cookie", "a=1").header("cookie", "b=2");
    check(with_header("cookie", "a=1; b=2"), &crumbs, Some("r"));
    check(with_header("cookie", "a=1,b=2"), &crumbs, None);
}

#[test]
fn the_first_of_repeated_query_parameters_counts_and_names_are_case_sensitive() {
    let rules = || {
        let mut m = prefix("/");
        m.query = vec![pair("q", "1")];
        vec![rule("ns/r", None, vec![m])]
    };
    check(rules(), &get("h/?q=1&q=2"), Some("r"));
    check(rules(), &get("h/?q=2&q=1"), None);
    check(rules(), &get("h/?Q=1"), None);
    check(rules(), &get("h/?q"), None);
    check(rules(), &get("h/"), None);
    check(rules(), &get("h/?x=2&q=1"), Some("r"));
}

#[test]
fn listeners_are_isolated_the_most_specific_one_takes_the_request_or_nobody() {
    let mut entries = with(vec![
        rule("ns/wide", None, vec![prefix("/")]),
        rule("ns/narrow", Some("a.com"), vec![exact("/only")]).on("narrow"),
    ]);
    entries.extend([
        listener("wild", 80, Some("*.com")),
        listener("narrow", 80, Some("a.com")),
        listener("other", 81, Some("a.com")),
    ]);
    let table = fixture::build(&entries);
    for (port, url, expected) in [
        (
            80,
            "a.com/only",
            "narrow: HTTPRoute ns/narrow rules[0].matches[0]",
        ),
        (80, "a.com/other", "narrow"),
        (80, "b.com/", "wild"),
        (80, "b.org/", "l: HTTPRoute ns/wide rules[0].matches[0]"),
        (81, "a.com/only", "other"),
        (81, "b.com/only", "none"),
        (82, "a.com/only", "none"),
    ] {
        let mut request = get(url);
        request.port = port;
        assert_eq!(fixture::routed(&table, &request), expected, "{port} {url}");
    }
}

#[test]
fn weights_share_the_requests_and_zero_gets_none() {
    let mut shared = rule("ns/r", None, vec![prefix("/")]);
    let backend = shared.spec.backends[0].clone();
    let weighted = |weight| {
        let mut backend = backend.clone();
        backend.weight = weight;
        backend
    };
    shared.spec.backends = vec![weighted(1), weighted(0), weighted(3)];
    let idle = {
        let mut idle = rule("ns/idle", None, vec![prefix("/idle")]);
        idle.spec.backends = vec![weighted(0)];
        idle
    };
    let table = fixture::build(&with(vec![shared, idle]));
    let picks = |name: &str| {
        let rule = table.rules().find(|rule| rule.route.name == name).unwrap();
        let mut counts = vec![0_u32; rule.backends.len()];
        for slice in 0..4_000_u64 {
            if let Some(backend) = rule.pick(slice * (u64::MAX / 4_000)) {
                let at = rule.backends.iter().position(|b| std::ptr::eq(b, backend));
                counts[at.unwrap()] += 1;
            }
        }
        counts
    };
    let counts = picks("r");
    assert!(
        counts[0].abs_diff(1_000) <= 1 && counts[1] == 0 && counts[2].abs_diff(3_000) <= 1,
        "{counts:?}"
    );
    assert_eq!(picks("idle"), [0]);
}
