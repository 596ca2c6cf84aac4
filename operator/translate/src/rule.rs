//! The rules of an HTTPRoute, the same for every Gateway that serves them.

use std::collections::BTreeSet;

use api::BackendKey;
use api::condition::reasons;
use api::path::normalise;
use api_snapshot::config::{
    BackendTarget, NameValue, PathMatch, RouteMatch, RuleSpec, Timeouts, WeightedBackend,
};
use http::{HeaderName, Method};
use operator_index::Index;
use operator_objects::spec::{
    HttpFilter, HttpMatch, HttpPathMatch, HttpRoute, HttpRouteRule, HttpValueMatch,
};

use crate::backend_ref::{resolve, target};
use crate::filter::filters;
use crate::problem::Problem;

/// All rules of a route.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Those that can be served, by their place in the route; attachments are still empty.
    pub(crate) served: Vec<(u16, RuleSpec)>,
    /// Those that are left out, by their place, and why.
    pub(crate) dropped: Vec<(usize, Problem)>,
    /// References that were not resolved, in order, those of dropped rules too.
    pub(crate) unresolved: Vec<Problem>,
    /// Backends that the served rules lead to.
    pub(crate) backends: BTreeSet<BackendKey>,
}

/// Translates all rules; a rule that cannot be served is left out and the others stay.
///
/// Source: gateway-api v1 `Listener.allowedRoutes`: the rest of the rules within a route must still be supported.
pub(crate) fn rules(view: &Index, route: &HttpRoute) -> Rules {
    let mut rules = Rules::default();
    for (index, rule) in route.rules.iter().enumerate() {
        let at = u16::try_from(index).map_err(|_| too_many());
        match at.and_then(|at| {
            Ok((
                at,
                translate(view, route, rule, index, &mut rules.unresolved)?,
            ))
        }) {
            Ok(served) => rules.served.push(served),
            Err(problem) => rules.dropped.push((index, problem)),
        }
    }
    let targets = rules.served.iter().flat_map(|(_, rule)| &rule.backends);
    rules.backends = targets
        .filter_map(|backend| match &backend.target {
            BackendTarget::Backend(key) => Some(key.clone()),
            _ => None,
        })
        .collect();
    rules
}

fn too_many() -> Problem {
    Problem::new(
        reasons::UNSUPPORTED_VALUE,
        "spec.rules: more than 65,536 rules in one route",
    )
}

fn translate(
    view: &Index,
    route: &HttpRoute,
    rule: &HttpRouteRule,
    index: usize,
    unresolved: &mut Vec<Problem>,
) -> Result<RuleSpec, Problem> {
    let at = format!("spec.rules[{index}]");
    // References are told even when the rule is left out: both are to be mended.
    let backends = backends(view, route, rule, &at, unresolved);
    let unsupported = |message: String| Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
    if !rule.unsupported.is_empty() {
        return unsupported(format!(
            "{at}: not served yet: {}; remove it",
            rule.unsupported.join(", ")
        ));
    }
    let redirects = rule
        .filters
        .iter()
        .any(|filter| matches!(filter, HttpFilter::RequestRedirect(_)));
    if redirects && !rule.backend_refs.is_empty() {
        return unsupported(format!(
            "{at}: RequestRedirect must not be used together with backendRefs"
        ));
    }
    if let (Some(request), Some(backend)) =
        (rule.request_timeout_ms, rule.backend_request_timeout_ms)
        && request != 0
        && backend > request
    {
        return unsupported(format!(
            "{at}.timeouts: backendRequest must be no more than request"
        ));
    }
    Ok(RuleSpec {
        name: rule.name.clone(),
        created_at: route.meta.created_at,
        attachments: Vec::new(),
        matches: matches(&rule.matches, &at)?,
        filters: filters(
            &rule.filters,
            &rule.matches,
            &format!("{at}.filters"),
            unresolved,
        )?,
        backends: backends?,
        timeouts: Timeouts {
            request_ms: rule.request_timeout_ms,
            backend_request_ms: rule.backend_request_timeout_ms,
        },
    })
}

fn backends(
    view: &Index,
    route: &HttpRoute,
    rule: &HttpRouteRule,
    at: &str,
    unresolved: &mut Vec<Problem>,
) -> Result<Vec<WeightedBackend>, Problem> {
    let mut out = Vec::with_capacity(rule.backend_refs.len());
    let mut first_problem = None;
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let resolved = resolve(view, &route.meta.namespace, backend).map_err(|problem| {
            Problem::new(
                problem.reason,
                format!("{at}.backendRefs[{index}]: {}", problem.message),
            )
        });
        let target = target(resolved, unresolved);
        let at = format!("{at}.backendRefs[{index}].filters");
        match filters(&backend.filters, &rule.matches, &at, unresolved) {
            Ok(filters) => out.push(WeightedBackend {
                target,
                weight: backend.weight,
                filters,
            }),
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    first_problem.map_or(Ok(out), Err)
}

/// Source: gateway-api v1 `HTTPRouteRule.matches`: none is a prefix match on `/`.
fn matches(list: &[HttpMatch], at: &str) -> Result<Vec<RouteMatch>, Problem> {
    if list.is_empty() {
        let path = PathMatch::Prefix("/".into());
        return Ok(vec![RouteMatch {
            path,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }]);
    }
    let mut out = Vec::with_capacity(list.len());
    for (index, one) in list.iter().enumerate() {
        let at = format_args!("{at}.matches[{index}]");
        // Names of headers are case-insensitive, those of query parameters are not.
        let headers = values(&one.headers, "headers", &at, |name| {
            name.to_ascii_lowercase()
        })?;
        readable(one.method.as_deref(), &headers, &at)?;
        out.push(RouteMatch {
            path: path(&one.path, &at)?,
            method: one.method.clone(),
            headers,
            query: values(&one.query, "queryParams", &at, str::to_owned)?,
        });
    }
    Ok(out)
}

/// Refuses what a shard cannot read, and with it all that comes along: a schema of another version may let it pass.
fn readable(
    method: Option<&str>,
    headers: &[NameValue],
    at: &dyn std::fmt::Display,
) -> Result<(), Problem> {
    let unsupported = |message: String| Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
    if let Some(method) = method.filter(|method| Method::from_bytes(method.as_bytes()).is_err()) {
        return unsupported(format!(
            "{at}.method: {method:?} is no method; use GET, POST, ..."
        ));
    }
    let is_name = |header: &&NameValue| HeaderName::from_bytes(header.name.as_bytes()).is_ok();
    match headers.iter().find(|header| !is_name(header)) {
        Some(header) => unsupported(format!(
            "{at}.headers: {:?} is no name of a header",
            header.name
        )),
        None => Ok(()),
    }
}

/// The path in the form that requests have when they are matched. Two values of one form are one match.
///
/// Source: gateway-api v1 `PathMatchType`: starts with `/`, no empty elements; unknown types are `UnsupportedValue`.
fn path(path: &HttpPathMatch, at: &dyn std::fmt::Display) -> Result<PathMatch, Problem> {
    let unsupported = |message: String| Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
    if !matches!(path.kind.as_str(), "Exact" | "PathPrefix") {
        return unsupported(format!(
            "{at}.path.type: {} is not served; use Exact or PathPrefix",
            path.kind
        ));
    }
    let value = path.value.as_str();
    if !value.starts_with('/') || value.contains("//") {
        return unsupported(format!(
            "{at}.path.value: {value:?} must start with / and have no empty elements"
        ));
    }
    let Some(normal) = normalise(value) else {
        return unsupported(format!(
            "{at}.path.value: {value:?} is a path that no request may have; escape what is not ASCII, and leave out encoded slashes and backslashes"
        ));
    };
    if path.kind == "Exact" {
        return Ok(PathMatch::Exact(normal.into_owned()));
    }
    let trimmed = normal.trim_end_matches('/');
    Ok(PathMatch::Prefix(if trimmed.is_empty() {
        "/".into()
    } else {
        trimmed.into()
    }))
}

/// Source: gateway-api v1 `HTTPHeaderMatch.name`, `HTTPQueryParamMatch.name`: of equal names the first counts.
fn values(
    list: &[HttpValueMatch],
    field: &str,
    at: &dyn std::fmt::Display,
    normal: impl Fn(&str) -> String,
) -> Result<Vec<NameValue>, Problem> {
    let mut out: Vec<NameValue> = Vec::with_capacity(list.len());
    for (index, one) in list.iter().enumerate() {
        let name = normal(&one.name);
        if out.iter().any(|seen| seen.name == name) {
            continue;
        }
        if one.kind != "Exact" {
            let message = format!(
                "{at}.{field}[{index}].type: {} is not served; use Exact",
                one.kind
            );
            return Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
        }
        out.push(NameValue {
            name,
            value: one.value.clone(),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn value(kind: &str, name: &str, value: &str) -> HttpValueMatch {
        HttpValueMatch {
            kind: kind.into(),
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn what_a_shard_cannot_read_is_refused() {
        let of = |method: Option<&str>, header: &str| {
            let one = HttpMatch {
                path: HttpPathMatch {
                    kind: "PathPrefix".into(),
                    value: "/".into(),
                },
                method: method.map(str::to_owned),
                headers: vec![value("Exact", header, "1")],
                query: Vec::new(),
            };
            matches(&[one], "here").map_err(|problem| problem.message)
        };
        assert!(of(Some("PURGE"), "x-one").is_ok());
        assert_eq!(
            of(Some("G T"), "x-one").unwrap_err(),
            "here.matches[0].method: \"G T\" is no method; use GET, POST, ..."
        );
        assert_eq!(
            of(None, "x one").unwrap_err(),
            "here.matches[0].headers: \"x one\" is no name of a header"
        );
    }

    #[test]
    fn of_equal_names_the_first_counts() {
        let list = [
            value("Exact", "a", "1"),
            value("RegularExpression", "a", "ignored"),
            value("Exact", "A", "2"),
        ];
        let kept = values(&list, "queryParams", &"here", str::to_owned).unwrap();
        let kept: Vec<_> = kept
            .iter()
            .map(|one| (one.name.as_str(), one.value.as_str()))
            .collect();
        assert_eq!(kept, [("a", "1"), ("A", "2")]);
    }
}
