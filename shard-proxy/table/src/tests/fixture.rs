//! Short ways to write entries, tables and requests.

use std::collections::BTreeMap;

use api::{BackendKey, GatewayKey, Revision, RouteKey, TenantId, Timestamp};
use api_snapshot::config::{
    AttachedHost, Attachment, BackendTarget, GatewaySpec, ListenerProtocol, ListenerSpec,
    NameValue, PathMatch, RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use api_snapshot::{GatewayEntry, GatewayEntryKey, Op, SetHash, encode};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::{ApplyError, Outcome, RequestView, SubTable};

pub(super) type Table = SubTable<BackendKey>;
pub(super) type Entries = BTreeMap<GatewayEntryKey, GatewayEntry>;

/// The hash that the operator would name.
pub(super) fn hash_of(entries: &Entries) -> SetHash {
    let mut hash = SetHash::default();
    for (key, entry) in entries {
        hash.insert(&encode(key), &encode(entry));
    }
    hash
}

/// The delta between two sets, in order of keys.
pub(super) fn ops(old: &Entries, new: &Entries) -> Vec<Op> {
    let removed = old.keys().filter(|key| !new.contains_key(*key));
    let written = new
        .iter()
        .filter(|(key, entry)| old.get(*key) != Some(*entry));
    let mut ops: Vec<(&GatewayEntryKey, Op)> = removed
        .map(|key| (key, remove(key)))
        .chain(written.map(|(key, entry)| (key, Op::put(key, entry))))
        .collect();
    ops.sort_by_key(|(key, _)| *key);
    ops.into_iter().map(|(_, op)| op).collect()
}

fn remove(key: &GatewayEntryKey) -> Op {
    Op {
        key: encode(key),
        value: None,
    }
}

pub(super) fn empty() -> Table {
    SubTable::empty(GatewayKey {
        namespace: "ns".into(),
        name: "gw".into(),
    })
}

pub(super) fn build(entries: &Entries) -> Table {
    empty()
        .apply(
            Revision(0),
            Revision(1),
            true,
            &ops(&Entries::new(), entries),
            hash_of(entries),
            &mut BackendKey::clone,
        )
        .unwrap()
}

/// Applies what leads from one set to the next.
pub(super) fn step(table: &Table, old: &Entries, new: &Entries) -> Result<Table, ApplyError> {
    let base = table.revision();
    table.apply(
        base,
        Revision(base.0 + 1),
        false,
        &ops(old, new),
        hash_of(new),
        &mut BackendKey::clone,
    )
}

pub(super) fn gateway() -> (GatewayEntryKey, GatewayEntry) {
    let spec = GatewaySpec {
        tenant: TenantId("ns".into()),
        uid: "uid".into(),
        generation: 1,
    };
    (GatewayEntryKey::Gateway, GatewayEntry::Gateway(spec))
}

pub(super) fn listener(
    name: &str,
    port: u16,
    hostname: Option<&str>,
) -> (GatewayEntryKey, GatewayEntry) {
    let spec = ListenerSpec {
        port,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(str::to_owned),
        certificates: Vec::new(),
    };
    (
        GatewayEntryKey::Listener(name.into()),
        GatewayEntry::Listener(spec),
    )
}

/// A rule on listener `l`; the tests change the rest.
#[derive(Clone)]
pub(super) struct RuleOf {
    pub(super) route: RouteKey,
    pub(super) index: u16,
    pub(super) spec: RuleSpec,
}

/// `name` is `namespace/name`.
pub(super) fn rule(name: &str, host: Option<&str>, matches: Vec<RouteMatch>) -> RuleOf {
    let (namespace, name) = name.split_once('/').unwrap();
    let backend = BackendKey {
        namespace: namespace.into(),
        name: name.into(),
        port: 80,
    };
    RuleOf {
        route: RouteKey::http(namespace, name),
        index: 0,
        spec: RuleSpec {
            name: None,
            created_at: Timestamp(0),
            attachments: vec![Attachment {
                listener: "l".into(),
                hosts: vec![AttachedHost {
                    host: host.map(str::to_owned),
                    route_host: host.map(str::to_owned),
                }],
            }],
            matches,
            filters: Vec::new(),
            backends: vec![WeightedBackend {
                target: BackendTarget::Backend(backend),
                weight: 1,
                filters: Vec::new(),
            }],
            timeouts: Timeouts::default(),
        },
    }
}

impl RuleOf {
    pub(super) fn index(mut self, index: u16) -> Self {
        self.index = index;
        self
    }

    pub(super) fn age(mut self, created_at: i64) -> Self {
        self.spec.created_at = Timestamp(created_at);
        self
    }

    pub(super) fn on(mut self, listener: &str) -> Self {
        self.spec.attachments[0].listener = listener.into();
        self
    }

    pub(super) fn written_as(mut self, route_host: Option<&str>) -> Self {
        self.spec.attachments[0].hosts[0].route_host = route_host.map(str::to_owned);
        self
    }

    pub(super) fn entry(self) -> (GatewayEntryKey, GatewayEntry) {
        (
            GatewayEntryKey::Rule(self.route, self.index),
            GatewayEntry::Rule(self.spec),
        )
    }
}

fn all_of(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

pub(super) fn prefix(path: &str) -> RouteMatch {
    all_of(PathMatch::Prefix(path.into()))
}

pub(super) fn exact(path: &str) -> RouteMatch {
    all_of(PathMatch::Exact(path.into()))
}

pub(super) fn pair(name: &str, value: &str) -> NameValue {
    NameValue {
        name: name.into(),
        value: value.into(),
    }
}

/// A request that owns its parts.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) port: u16,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
}

/// `GET` on port 80 of `host/path?query`.
pub(super) fn get(url: &str) -> Request {
    let (host, rest) = url.split_at(url.find('/').unwrap());
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (rest, None),
    };
    Request {
        port: 80,
        host: host.into(),
        path: path.into(),
        query,
        method: Method::GET,
        headers: HeaderMap::new(),
    }
}

impl Request {
    pub(super) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
        self
    }

    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

/// `listener` or `listener: HTTPRoute ns/name rules[i].matches[j]`; `none` without listener.
pub(super) fn routed(table: &Table, request: &Request) -> String {
    match table.route(request.port, &request.view()) {
        Outcome::NoListener => "none".into(),
        Outcome::NoRoute { listener } => listener.name.clone(),
        Outcome::Matched(found) => format!(
            "{}: {} rules[{}].matches[{}]",
            found.listener.name, found.rule.route, found.rule.index, found.index
        ),
    }
}
