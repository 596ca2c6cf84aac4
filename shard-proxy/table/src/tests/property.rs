//! Random Gateways that change: the table answers as the specification, and as a table built anew.

use std::collections::BTreeMap;

use api::{BackendKey, RouteKey, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, NameValue, PathMatch, RouteMatch, RuleSpec, Timeouts,
    WeightedBackend,
};
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use http::Method;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::fixture::{self, Entries, Request};
use super::oracle;

const HOSTS: [Option<&str>; 7] = [
    None,
    Some("a.com"),
    Some("*.com"),
    Some("*.a.com"),
    Some("b.a.com"),
    Some("*.b.a.com"),
    Some("c.b.a.com"),
];

/// A rule before translation: hosts are the route's own.
#[derive(Debug, Clone)]
struct Draft {
    created_at: i64,
    listeners: Vec<usize>,
    hosts: Vec<Option<&'static str>>,
    matches: Vec<RouteMatch>,
}

/// Which listener has which port and host, and which rules are written or removed.
#[derive(Debug, Clone)]
struct Change {
    listeners: Option<Vec<(u16, Option<&'static str>)>>,
    rules: Vec<((RouteKey, u16), Option<Draft>)>,
}

fn matches() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        select(vec!["/", "/a", "/a/b", "/a/", "/ab"]).prop_map(|p| PathMatch::Exact(p.into())),
        select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab"]).prop_map(|p| PathMatch::Prefix(p.into())),
    ];
    let pairs = |names: Vec<&'static str>| {
        subsequence(names, 0..=2).prop_flat_map(|names| {
            let values = select(vec!["1", "2", "1,2"]);
            prop::collection::vec(values, names.len()).prop_map(move |values| {
                let pairs = names.iter().zip(values);
                pairs
                    .map(|(name, value)| fixture::pair(name, value))
                    .collect::<Vec<NameValue>>()
            })
        })
    };
    let method = prop::option::weighted(0.3, select(vec!["GET", "POST"]));
    (
        path,
        method,
        pairs(vec!["x-a", "x-b"]),
        pairs(vec!["q", "p"]),
    )
        .prop_map(|(path, method, headers, query)| RouteMatch {
            path,
            method: method.map(str::to_owned),
            headers,
            query,
        })
}

fn draft() -> impl Strategy<Value = Draft> {
    (
        0..3_i64,
        subsequence(vec![0, 1, 2, 3], 1..=3),
        subsequence(HOSTS.to_vec(), 1..=3),
        prop::collection::vec(matches(), 1..4),
    )
        .prop_map(|(created_at, listeners, hosts, matches)| Draft {
            created_at,
            listeners,
            hosts,
            matches,
        })
}

fn change() -> impl Strategy<Value = Change> {
    let ports = [80_u16, 81];
    let all: Vec<(u16, Option<&'static str>)> = ports
        .iter()
        .flat_map(|port| HOSTS.iter().map(|host| (*port, *host)))
        .collect();
    let listeners = subsequence(all, 1..=4).prop_shuffle();
    // `a-b/x` and `a/x` differ in order by text and by part.
    let key = (
        select(vec!["a", "a-b"]),
        select(vec!["r", "s", "t", "u"]),
        0..3_u16,
    )
        .prop_map(|(namespace, name, index)| (RouteKey::http(namespace, name), index));
    let rule = (key, prop::option::weighted(0.75, draft()));
    (
        prop::option::weighted(0.4, listeners),
        prop::collection::vec(rule, 0..20),
    )
        .prop_map(|(listeners, rules)| Change { listeners, rules })
}

fn request() -> impl Strategy<Value = Request> {
    let line = (select(vec!["x-a", "x-b"]), select(vec!["1", "2"]));
    (
        select(vec![80_u16, 81, 82]),
        select(vec![
            "a.com",
            "b.a.com",
            "c.b.a.com",
            "d.c.b.a.com",
            "x.com",
            "com",
            "xa.com",
            ".a.com",
        ]),
        select(vec![
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/a/b/c",
            "/a/bc",
            "/ab",
            "/a/b/c/d/",
        ]),
        select(vec![
            None,
            Some("q=1"),
            Some("q=2&q=1"),
            Some("p=1&q=1"),
            Some("p&q=1,2"),
        ]),
        select(vec![Method::GET, Method::POST]),
        prop::collection::vec(line, 0..3),
    )
        .prop_map(|(port, host, path, query, method, lines)| {
            let mut request = fixture::get(&format!("{host}{path}")).method(method);
            request.port = port;
            request.query = query.map(str::to_owned);
            for (name, value) in lines {
                request = request.header(name, value);
            }
            request
        })
}

/// Intersection of host names as the operator writes it.
fn intersection(listener: Option<&str>, route: Option<&str>) -> Option<AttachedHost> {
    let narrower = match (listener, route) {
        (None, route) => route,
        (listener, None) => listener,
        (Some(one), Some(other)) => {
            let within = |inner: &str, outer: &str| {
                inner == outer
                    || outer
                        .strip_prefix('*')
                        .is_some_and(|end| inner.trim_start_matches('*').ends_with(end))
            };
            if within(one, other) {
                Some(one)
            } else if within(other, one) {
                Some(other)
            } else {
                return None;
            }
        }
    };
    Some(AttachedHost {
        host: narrower.map(str::to_owned),
        route_host: route.map(str::to_owned),
    })
}

fn entries(
    listeners: &[(u16, Option<&'static str>)],
    rules: &BTreeMap<(RouteKey, u16), Draft>,
) -> Entries {
    let name = |at: usize| format!("l{at}");
    let mut entries = Entries::from([fixture::gateway()]);
    for (at, (port, host)) in listeners.iter().enumerate() {
        entries.extend([fixture::listener(&name(at), *port, *host)]);
    }
    for ((route, index), draft) in rules {
        let attach = |at: &usize| {
            let (_, listener) = listeners.get(*at)?;
            let hosts: Vec<AttachedHost> = draft
                .hosts
                .iter()
                .filter_map(|host| intersection(*listener, *host))
                .collect();
            (!hosts.is_empty()).then(|| Attachment {
                listener: name(*at),
                hosts,
            })
        };
        let attachments: Vec<Attachment> = draft.listeners.iter().filter_map(attach).collect();
        if attachments.is_empty() {
            continue;
        }
        let backend = BackendKey {
            namespace: route.namespace.clone(),
            name: route.name.clone(),
            port: 80,
        };
        let spec = RuleSpec {
            name: None,
            created_at: Timestamp(draft.created_at),
            attachments,
            matches: draft.matches.clone(),
            filters: Vec::new(),
            backends: vec![WeightedBackend {
                target: BackendTarget::Backend(backend),
                weight: 1,
                filters: Vec::new(),
            }],
            timeouts: Timeouts::default(),
        };
        entries.insert(
            GatewayEntryKey::Rule(route.clone(), *index),
            GatewayEntry::Rule(spec),
        );
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_that_changes_answers_as_the_specification_and_as_one_built_anew(
        changes in prop::collection::vec(change(), 1..6),
        requests in prop::collection::vec(request(), 24),
    ) {
        let mut listeners = vec![(80, None)];
        let mut rules = BTreeMap::new();
        let mut old = Entries::new();
        let mut table = fixture::empty();
        for change in changes {
            if let Some(new) = change.listeners {
                listeners = new;
            }
            for (key, draft) in change.rules {
                match draft {
                    Some(draft) => { rules.insert(key, draft); }
                    None => { rules.remove(&key); }
                }
            }
            let new = entries(&listeners, &rules);
            table = fixture::step(&table, &old, &new).unwrap();
            let fresh = fixture::build(&new);
            prop_assert_eq!(table.hash(), fresh.hash());
            prop_assert_eq!(table.rule_count(), fresh.rule_count());
            prop_assert_eq!(table.ports().collect::<Vec<_>>(), fresh.ports().collect::<Vec<_>>());
            prop_assert_eq!(table.0.routes.len(), fresh.0.routes.len(), "nothing is left of removed listeners");
            for request in &requests {
                let answer = fixture::routed(&table, request);
                prop_assert_eq!(&answer, &oracle::routed(&new, request), "specification, {:?}", request);
                prop_assert_eq!(&answer, &fixture::routed(&fresh, request), "built anew, {:?}", request);
                let explained = table.explain(request.port, &request.view());
                let lost = explained.near_misses.iter().filter(|miss| miss.reason.contains("it has lower precedence"));
                prop_assert_eq!(lost.count(), 0, "every loser has a reason: {:?}", explained);
            }
            old = new;
        }
        // Taking everything out leaves nothing.
        let nothing = Entries::new();
        let table = fixture::step(&table, &old, &nothing).unwrap();
        prop_assert_eq!(table.hash(), fixture::empty().hash());
        prop_assert_eq!((table.0.routes.len(), table.0.ports.len(), table.rule_count()), (0, 0, 0));
    }
}
