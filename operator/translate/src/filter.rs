//! Filters of a rule or a backendRef.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::condition::reasons;
use api::path::normalise;
use api_snapshot::config::{Filter, HeaderChanges, NameValue, PathChange, Redirect, Rewrite};
use http::{HeaderName, HeaderValue};
use operator_objects::spec::{
    HeaderModifier, HttpFilter, HttpMatch, PathModifier, RequestRedirect,
};

use crate::problem::Problem;

/// Status that a request gets whose filter cannot be resolved.
///
/// Source: gateway-api v1 `HTTPRouteFilter.type`: such a filter must not be skipped.
const UNRESOLVED_FILTER_STATUS: u16 = 500;

/// Translates a list of filters. `at` names it in messages; filters whose reference cannot be resolved fail the requests
/// and are told in `unresolved`.
///
/// # Errors
/// The first problem for which the rule has to be left out.
pub(crate) fn filters(
    list: &[HttpFilter],
    matches: &[HttpMatch],
    at: &str,
    unresolved: &mut Vec<Problem>,
) -> Result<Vec<Filter>, Problem> {
    combination(list, at)?;
    let mut out = Vec::with_capacity(list.len());
    for (index, filter) in list.iter().enumerate() {
        let at = format_args!("{at}[{index}]");
        out.push(match filter {
            HttpFilter::RequestHeaderModifier(changes) => {
                Filter::RequestHeaders(header_changes(changes, &at)?)
            }
            HttpFilter::ResponseHeaderModifier(changes) => {
                Filter::ResponseHeaders(header_changes(changes, &at)?)
            }
            HttpFilter::RequestRedirect(redirect) => {
                Filter::Redirect(redirection(redirect, matches, &at)?)
            }
            HttpFilter::UrlRewrite(rewrite) => Filter::Rewrite(Rewrite {
                hostname: rewrite.hostname.clone(),
                path: path_change(rewrite.path.as_ref(), matches, Query::Refused, &at)?,
            }),
            HttpFilter::ExtensionRef { group, kind, name } => {
                let message = format!(
                    "{at}: filter {kind}.{group} {name} is not known; its requests get 500"
                );
                unresolved.push(Problem::new(reasons::INVALID_FILTER, message));
                Filter::Fail(UNRESOLVED_FILTER_STATUS)
            }
            HttpFilter::NotYet(kind) => {
                return Err(Problem::new(
                    reasons::UNSUPPORTED_VALUE,
                    format!("{at}: filter type {kind} is not served yet; remove it"),
                ));
            }
        });
    }
    Ok(out)
}

/// Source: gateway-api v1 `HTTPRouteRule.filters`.
fn combination(list: &[HttpFilter], at: &str) -> Result<(), Problem> {
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for filter in list {
        *seen.entry(type_name(filter)).or_default() += 1;
    }
    let incompatible = |message: String| Err(Problem::new(reasons::INCOMPATIBLE_FILTERS, message));
    if seen.contains_key("RequestRedirect") && seen.contains_key("URLRewrite") {
        return incompatible(format!(
            "{at}: RequestRedirect and URLRewrite cannot be combined; keep one of them"
        ));
    }
    let repeated = seen
        .iter()
        .find(|(name, count)| **count > 1 && **name != "ExtensionRef" && !name.is_empty());
    match repeated {
        Some((name, _)) => incompatible(format!(
            "{at}: {name} may be given once; merge its entries into one"
        )),
        None => Ok(()),
    }
}

fn type_name(filter: &HttpFilter) -> &'static str {
    match filter {
        HttpFilter::RequestHeaderModifier(_) => "RequestHeaderModifier",
        HttpFilter::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
        HttpFilter::RequestRedirect(_) => "RequestRedirect",
        HttpFilter::UrlRewrite(_) => "URLRewrite",
        HttpFilter::ExtensionRef { .. } => "ExtensionRef",
        HttpFilter::NotYet(_) => "",
    }
}

/// Source: gateway-api v1 `HTTPHeaderFilter`: one action for each name; of equal names in one list the first counts.
///
/// The schema leaves names to remove open. A shard that cannot read one refuses all that comes with it, so they are read here
/// as there.
fn header_changes(
    changes: &HeaderModifier,
    at: &dyn std::fmt::Display,
) -> Result<HeaderChanges, Problem> {
    let unsupported = |message: String| Problem::new(reasons::UNSUPPORTED_VALUE, message);
    let named = changes.set.iter().chain(&changes.add);
    for name in named.clone().map(|(name, _)| name).chain(&changes.remove) {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(unsupported(format!(
                "{at}: {name:?} is no name of a header; use letters, digits and !#$%&'*+-.^_`|~"
            )));
        }
    }
    if let Some((name, _)) = named
        .clone()
        .find(|(_, value)| HeaderValue::from_str(value).is_err())
    {
        return Err(unsupported(format!(
            "{at}: the value for header {name} has characters that no header may have; use visible ASCII"
        )));
    }
    let first_of = |list: &[(String, String)]| -> Vec<NameValue> {
        let mut out: Vec<NameValue> = Vec::with_capacity(list.len());
        for (name, value) in list {
            if !out.iter().any(|seen| seen.name.eq_ignore_ascii_case(name)) {
                out.push(NameValue {
                    name: name.to_ascii_lowercase(),
                    value: value.clone(),
                });
            }
        }
        out
    };
    let (set, add) = (first_of(&changes.set), first_of(&changes.add));
    let mut remove: Vec<String> = Vec::new();
    for name in changes.remove.iter().map(|name| name.to_ascii_lowercase()) {
        if !remove.contains(&name) {
            remove.push(name);
        }
    }
    let mut names: Vec<&str> = set
        .iter()
        .chain(&add)
        .map(|entry| entry.name.as_str())
        .collect();
    names.extend(remove.iter().map(String::as_str));
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!(
            "{at}: header {} has more than one action; keep one",
            pair[0]
        );
        return Err(unsupported(message));
    }
    Ok(HeaderChanges { set, add, remove })
}

fn redirection(
    redirect: &RequestRedirect,
    matches: &[HttpMatch],
    at: &dyn std::fmt::Display,
) -> Result<Redirect, Problem> {
    let unsupported = |message: String| Problem::new(reasons::UNSUPPORTED_VALUE, message);
    if let Some(scheme) = redirect
        .scheme
        .as_deref()
        .filter(|scheme| !matches!(*scheme, "http" | "https"))
    {
        return Err(unsupported(format!(
            "{at}: scheme {scheme} is not supported; use http or https"
        )));
    }
    if !matches!(redirect.status_code, 301 | 302 | 303 | 307 | 308) {
        let code = redirect.status_code;
        return Err(unsupported(format!(
            "{at}: statusCode {code} is not supported; use 301, 302, 303, 307 or 308"
        )));
    }
    Ok(Redirect {
        scheme: redirect.scheme.clone(),
        hostname: redirect.hostname.clone(),
        path: path_change(redirect.path.as_ref(), matches, Query::Taken, at)?,
        port: redirect.port,
        status: redirect.status_code,
    })
}

/// Whether a path may bring a query along: that of a redirect may, the backend's own would be lost in a rewrite.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    Taken,
    Refused,
}

/// Source: gateway-api v1 `HTTPPathModifier.replacePrefixMatch`: only beside exactly one PathPrefix match.
fn path_change(
    path: Option<&PathModifier>,
    matches: &[HttpMatch],
    query: Query,
    at: &dyn std::fmt::Display,
) -> Result<Option<PathChange>, Problem> {
    let unsupported = |message: String| Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
    Ok(match path {
        None => None,
        Some(PathModifier::Full(path)) => match replacement(path, query) {
            Some(path) => Some(PathChange::Full(path)),
            None => {
                return unsupported(format!("{at}.path.replaceFullPath: {path:?} {NO_PATH}"));
            }
        },
        Some(PathModifier::Prefix(prefix)) => {
            // No match at all is the default one, PathPrefix "/".
            if matches.len() > 1
                || matches
                    .first()
                    .is_some_and(|one| one.path.kind != "PathPrefix")
            {
                return unsupported(format!(
                    "{at}: replacePrefixMatch needs a rule with exactly one match, of type PathPrefix"
                ));
            }
            // Nothing to put in the prefix's place takes it away.
            let new = match prefix.as_str() {
                "" => Some(String::new()),
                prefix => replacement(prefix, Query::Refused),
            };
            match new {
                Some(prefix) => Some(PathChange::Prefix(prefix)),
                None => {
                    return unsupported(format!(
                        "{at}.path.replacePrefixMatch: {prefix:?} {NO_PATH}"
                    ));
                }
            }
        }
    })
}

const NO_PATH: &str = "is no path that can be sent; escape what is not ASCII, spaces, ? and #, and leave out encoded slashes and backslashes";

/// The path that replaces another, in normal form; none when it is refused. A leading `/` may be left out.
fn replacement(path: &str, query: Query) -> Option<String> {
    let (path, rest) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
    if !rest.is_empty()
        && (query == Query::Refused || !rest.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return None;
    }
    let rooted = if path.starts_with('/') {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(format!("/{path}"))
    };
    Some(normalise(&rooted)?.into_owned() + rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn of_equal_header_names_the_first_counts() {
        let changes = HeaderModifier {
            set: pairs(&[("X-One", "first"), ("x-one", "second"), ("x-two", "other")]),
            add: Vec::new(),
            remove: vec!["X-Gone".into(), "x-gone".into()],
        };
        let changes = header_changes(&changes, &"here").unwrap();
        let set: Vec<_> = changes
            .set
            .iter()
            .map(|one| (one.name.as_str(), one.value.as_str()))
            .collect();
        assert_eq!(set, [("x-one", "first"), ("x-two", "other")]);
        assert_eq!(changes.remove, ["x-gone"]);
    }

    #[test]
    fn names_and_values_that_a_shard_cannot_read_are_refused() {
        for name in ["", "x-debug ", "X Foo", "caf\u{e9}", "x:y"] {
            let changes = HeaderModifier {
                remove: vec!["x-good".into(), name.into()],
                ..HeaderModifier::default()
            };
            let problem = header_changes(&changes, &"here").unwrap_err();
            assert!(
                problem
                    .message
                    .starts_with(&format!("here: {name:?} is no name")),
                "{}",
                problem.message
            );
        }
        let changes = HeaderModifier {
            add: pairs(&[("x-one", "a\nb")]),
            ..HeaderModifier::default()
        };
        let problem = header_changes(&changes, &"here").unwrap_err();
        assert!(
            problem.message.contains("header x-one"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn replacements_are_normalised_or_refused() {
        for (path, query, expected) in [
            ("/one", Query::Refused, Some("/one")),
            ("one", Query::Refused, Some("/one")),
            ("", Query::Refused, Some("/")),
            ("/a/%7eb%c3%a9", Query::Refused, Some("/a/~b%C3%A9")),
            ("/a/../b", Query::Refused, Some("/b")),
            ("/a b", Query::Refused, None),
            ("/caf\u{e9}", Query::Refused, None),
            ("/a%2fb", Query::Refused, None),
            ("/a?b=c", Query::Refused, None),
            ("/a?b=c", Query::Taken, Some("/a?b=c")),
            ("/a?b c", Query::Taken, None),
        ] {
            assert_eq!(replacement(path, query).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn two_actions_for_one_header_are_refused() {
        let changes = HeaderModifier {
            set: pairs(&[("x-one", "a")]),
            add: pairs(&[("X-One", "b")]),
            remove: Vec::new(),
        };
        let problem = header_changes(&changes, &"here").unwrap_err();
        assert_eq!(
            problem.message,
            "here: header x-one has more than one action; keep one"
        );
    }
}
