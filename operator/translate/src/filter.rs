//! Filters of a rule or a backendRef.

use std::collections::BTreeMap;

use api::condition::reasons;
use api_snapshot::config::{Filter, HeaderChanges, NameValue, PathChange, Redirect, Rewrite};
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
                path: path_change(rewrite.path.as_ref(), matches, &at)?,
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
fn header_changes(
    changes: &HeaderModifier,
    at: &dyn std::fmt::Display,
) -> Result<HeaderChanges, Problem> {
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
        return Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
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
        path: path_change(redirect.path.as_ref(), matches, at)?,
        port: redirect.port,
        status: redirect.status_code,
    })
}

/// Source: gateway-api v1 `HTTPPathModifier.replacePrefixMatch`: only beside exactly one PathPrefix match.
fn path_change(
    path: Option<&PathModifier>,
    matches: &[HttpMatch],
    at: &dyn std::fmt::Display,
) -> Result<Option<PathChange>, Problem> {
    Ok(match path {
        None => None,
        Some(PathModifier::Full(path)) => Some(PathChange::Full(path.clone())),
        Some(PathModifier::Prefix(prefix)) => {
            // No match at all is the default one, PathPrefix "/".
            if matches.len() > 1
                || matches
                    .first()
                    .is_some_and(|one| one.path.kind != "PathPrefix")
            {
                let message = format!(
                    "{at}: replacePrefixMatch needs a rule with exactly one match, of type PathPrefix"
                );
                return Err(Problem::new(reasons::UNSUPPORTED_VALUE, message));
            }
            Some(PathChange::Prefix(prefix.clone()))
        }
    })
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
