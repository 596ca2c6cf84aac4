//! The order in which matches are tried.
//!
//! Hosts first (gateway-api v1 `HTTPRouteSpec.hostnames`): rules of the route with the most characters in a matching
//! host name without wildcard, then in a matching host name; among equal intersections with the listener, by the
//! route's own host name. The specification says that "precedence must be given to rules from the HTTPRoute" with the more
//! specific host; it speaks of precedence, as it does of paths, and not of exclusion as it does of listeners. So, when
//! no rule under the most specific host matches, less specific hosts *of the same listener* are tried; another listener
//! never is (gateway-api v1 `GatewaySpec.listeners`, listener isolation).
//!
//! Then (gateway-api v1 `HTTPRouteRule.matches`): exact path, longest prefix, method, most headers, most query
//! parameters, oldest route, `namespace/name` in alphabetical order, first rule, first match. A rule whose path fits and
//! whose other conditions do not hold leaves the request to the next in this order.
//!
//! What the specification leaves open is decided at [`RequestView`](crate::RequestView): headers of several lines,
//! repeated query parameters, percent-encoding.

use std::cmp::{Ordering, Reverse};

use crate::rule::{CompiledMatch, Rule};

/// Compares two matches on the same host and path: the one that is tried first is less.
pub(crate) fn same_path<B>(a: (&Rule<B>, u16), b: (&Rule<B>, u16)) -> Ordering {
    let key = |(rule, index): (&Rule<B>, u16)| {
        let m = &rule.matches[usize::from(index)];
        (
            Reverse(m.method.is_some()),
            Reverse(m.headers.len()),
            Reverse(m.query.len()),
            rule.created_at,
        )
    };
    let position = |(rule, index): (&Rule<B>, u16)| (rule.index, index);
    key(a)
        .cmp(&key(b))
        .then_with(|| full_name(a.0).cmp(full_name(b.0)))
        // Kinds share no names by chance alone: without this two different routes could compare as equal.
        .then_with(|| a.0.route.cmp(&b.0.route))
        .then_with(|| position(a).cmp(&position(b)))
}

/// The bytes of `namespace/name`. Compared as one text, not part by part: `-` and `.` sort before `/`, so that
/// `a-b/x` comes before `a/x`.
fn full_name<B>(rule: &Rule<B>) -> impl Iterator<Item = u8> {
    let route = &rule.route;
    route
        .namespace
        .bytes()
        .chain([b'/'])
        .chain(route.name.bytes())
}

/// Rank of a host name among others that match the same request: exact names, then wildcards by length, then none.
pub(crate) fn host_rank(host: Option<&str>) -> (u8, usize) {
    match host {
        None => (0, 0),
        Some(name) if name.starts_with("*.") => (1, name.len()),
        Some(name) => (2, name.len()),
    }
}

/// Rank of a path condition among others that match the same path.
pub(crate) fn path_rank(m: &CompiledMatch) -> (u8, usize) {
    match &m.path {
        api_snapshot::config::PathMatch::Exact(path) => (2, path.len()),
        api_snapshot::config::PathMatch::Prefix(path) => (1, path.len()),
        _ => (0, 0),
    }
}
