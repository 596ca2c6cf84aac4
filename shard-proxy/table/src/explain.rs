//! Why a request goes where it goes: `shardway explain`.

use std::sync::Arc;

use api_snapshot::config::{AttachedHost, PathMatch};
use serde::Serialize;

use crate::host::suffixes;
use crate::order::{host_rank, path_rank, same_path};
use crate::path::path_matches;
use crate::rule::{CompiledMatch, Rule};
use crate::table::{Listener, Outcome, RequestView, SubTable};

/// Near misses that are named; more are counted.
const NEAR_MISSES_MAX: usize = 16;

/// Where a request goes, and why not elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The listener that takes it.
    pub listener: Option<String>,
    /// The other listeners and why they do not, closest first.
    pub listeners: Vec<NearMiss>,
    /// The rule that takes it: `HTTPRoute ns/name rules[0].matches[1]`.
    pub matched: Option<String>,
    /// Those that came closest, closest first.
    pub near_misses: Vec<NearMiss>,
    /// How many matches were looked at.
    pub considered: usize,
}

/// A listener or a match that did not take the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NearMiss {
    /// Which.
    pub candidate: String,
    /// The first thing that told against it.
    pub reason: String,
}

impl<B> SubTable<B> {
    /// Explains [`SubTable::route`]. Cost: O(rules); for people, not for the request path.
    pub fn explain(&self, port: u16, request: &RequestView<'_>) -> Explanation {
        let (listener, winner) = match self.route(port, request) {
            Outcome::NoListener => (None, None),
            Outcome::NoRoute { listener } => (Some(listener), None),
            Outcome::Matched(found) => (Some(found.listener), Some((found.rule, found.index))),
        };
        let won_host = winner.zip(listener).and_then(|((rule, _), listener)| {
            let own = rule
                .attachments
                .iter()
                .filter(|a| a.listener == listener.name);
            own.filter_map(|a| best_host(&a.hosts, request.host)).max()
        });
        let mut misses: Vec<(u8, NearMiss)> = Vec::new();
        let mut considered = 0;
        for rule in self.rules() {
            let attached = rule
                .attachments
                .iter()
                .find(|a| Some(&a.listener) == listener.map(|l| &l.name));
            for (index, m) in (0_u16..).zip(&rule.matches) {
                considered += 1;
                if winner.is_some_and(|(won, at)| Arc::ptr_eq(won, rule) && at == index) {
                    continue;
                }
                let (closeness, reason) = match attached {
                    None => {
                        let names: Vec<&str> =
                            rule.attachments.iter().map(|a| &*a.listener).collect();
                        (
                            0,
                            format!("attached to other listeners: {}", names.join(", ")),
                        )
                    }
                    Some(attached) => why_not(
                        rule,
                        index,
                        m,
                        &attached.hosts,
                        request,
                        winner.zip(won_host).map(|((r, i), host)| (&**r, i, host)),
                    ),
                };
                misses.push((
                    closeness,
                    NearMiss {
                        candidate: name(rule, index),
                        reason,
                    },
                ));
            }
        }
        closest(&mut misses);
        Explanation {
            listener: listener.map(|listener| listener.name.clone()),
            listeners: self.other_listeners(port, request.host, listener),
            matched: winner.map(|(rule, index)| name(rule, index)),
            near_misses: misses.into_iter().map(|(_, miss)| miss).collect(),
            considered,
        }
    }

    /// Why each other listener does not take the host, closest first.
    fn other_listeners(
        &self,
        port: u16,
        host: &str,
        winner: Option<&Arc<Listener>>,
    ) -> Vec<NearMiss> {
        let others = self
            .listeners()
            .filter(|other| winner.is_none_or(|winner| !Arc::ptr_eq(winner, other)));
        let mut misses: Vec<(u8, NearMiss)> = others
            .map(|other| {
                let pattern = other.spec.hostname.as_deref();
                let (closeness, reason) = if other.spec.port != port {
                    (0, format!("port {} is not {port}", other.spec.port))
                } else if !host_matches(pattern, host) {
                    (1, format!("host {host} is not {}", pattern.unwrap_or("*")))
                } else {
                    let name = winner.map_or("none", |winner| &winner.name);
                    (
                        2,
                        format!("its host name is less specific than that of {name}"),
                    )
                };
                let candidate = format!("listener {}", other.name);
                (closeness, NearMiss { candidate, reason })
            })
            .collect();
        closest(&mut misses);
        misses.into_iter().map(|(_, miss)| miss).collect()
    }
}

/// Rank of a host where a rule is served, then of the host that its route wrote.
type HostRank = ((u8, usize), (u8, usize));

/// The most specific of a rule's hosts that a request's host fits.
fn best_host(hosts: &[AttachedHost], host: &str) -> Option<HostRank> {
    hosts
        .iter()
        .filter(|attached| host_matches(attached.host.as_deref(), host))
        .map(|attached| {
            (
                host_rank(attached.host.as_deref()),
                host_rank(attached.route_host.as_deref()),
            )
        })
        .max()
}

/// Sorts by closeness and keeps [`NEAR_MISSES_MAX`].
fn closest(misses: &mut Vec<(u8, NearMiss)>) {
    misses.sort_by(|a, b| {
        b.0.cmp(&a.0)
            .then_with(|| a.1.candidate.cmp(&b.1.candidate))
    });
    misses.truncate(NEAR_MISSES_MAX);
}

fn name<B>(rule: &Rule<B>, index: u16) -> String {
    format!("{} rules[{}].matches[{index}]", rule.route, rule.index)
}

/// How close it came (more is closer), and what told against it.
fn why_not<B>(
    rule: &Rule<B>,
    index: u16,
    m: &CompiledMatch,
    hosts: &[AttachedHost],
    request: &RequestView<'_>,
    winner: Option<(&Rule<B>, u16, HostRank)>,
) -> (u8, String) {
    let Some(host) = best_host(hosts, request.host) else {
        let names: Vec<&str> = hosts
            .iter()
            .map(|host| host.host.as_deref().unwrap_or("*"))
            .collect();
        return (
            1,
            format!("host {} is not among {}", request.host, names.join(", ")),
        );
    };
    if !path_matches(&m.path, request.path) {
        return (
            2,
            format!(
                "path {} does not match {}",
                request.path,
                path_text(&m.path)
            ),
        );
    }
    if let Some(method) = m.method.as_ref().filter(|method| *method != request.method) {
        return (3, format!("method {} is not {method}", request.method));
    }
    if let Some((name, value)) = m
        .headers
        .iter()
        .find(|(name, value)| !request.header_is(name, value))
    {
        return match request.headers.contains_key(name) {
            true => (4, format!("header {name} is not {value:?}")),
            false => (
                4,
                format!("header {name} is not sent, {value:?} is asked for"),
            ),
        };
    }
    if let Some(pair) = m
        .query
        .iter()
        .find(|pair| !request.query_is(&pair.name, &pair.value))
    {
        return (
            4,
            format!("query parameter {} is not {:?}", pair.name, pair.value),
        );
    }
    let Some((won, at, won_host)) = winner else {
        return (5, "matches, and is not served".to_owned());
    };
    let won_match = &won.matches[usize::from(at)];
    let reason = if host < won_host {
        "its host name is less specific"
    } else if path_rank(m) < path_rank(won_match) {
        "its path is less specific"
    } else if m.method.is_none() && won_match.method.is_some() {
        "it has no method condition"
    } else if m.headers.len() < won_match.headers.len() {
        "it has fewer header conditions"
    } else if m.query.len() < won_match.query.len() {
        "it has fewer query conditions"
    } else if rule.created_at > won.created_at {
        "its route is younger"
    } else if same_path((rule, index), (won, at)).is_gt() {
        "its name or position is later"
    } else {
        "it has lower precedence"
    };
    (6, format!("matches, but {reason} than {}", name(won, at)))
}

fn host_matches(pattern: Option<&str>, host: &str) -> bool {
    match pattern {
        None => true,
        Some(pattern) => match pattern.strip_prefix('*') {
            Some(suffix) => suffixes(host).any(|s| s == suffix),
            None => pattern == host,
        },
    }
}

fn path_text(pattern: &PathMatch) -> String {
    match pattern {
        PathMatch::Exact(path) => format!("Exact {path}"),
        PathMatch::Prefix(path) => format!("PathPrefix {path}"),
        other => format!("{other:?}"),
    }
}
