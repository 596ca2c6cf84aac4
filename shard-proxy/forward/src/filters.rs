//! Filters: header changes, redirect, rewrite. gateway-api v1 `HTTPRouteFilter`.

use std::fmt::Write as _;

use api_snapshot::config::{PathChange, Redirect};
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use shard_proxy_table::HeaderOps;

use crate::hygiene::is_framing;

/// Applies header changes to a request. There is one Host whatever a filter says: to add one is to set it, and it is not
/// removed, because a request without any is malformed and one with two is read differently by each reader.
pub(crate) fn change_request(headers: &mut HeaderMap, ops: &HeaderOps) {
    change(headers, ops, Some(&HOST));
}

/// Applies header changes to a response.
pub(crate) fn change_response(headers: &mut HeaderMap, ops: &HeaderOps) {
    change(headers, ops, None);
}

/// Applies set, add and remove. Lines that frame the message are left alone: a filter that wrote them would make two
/// readers of one message disagree where it ends. `single` is the name that has exactly one line.
fn change(headers: &mut HeaderMap, ops: &HeaderOps, single: Option<&HeaderName>) {
    for (name, value) in ops.set.iter().filter(|(name, _)| !is_framing(name)) {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in ops.add.iter().filter(|(name, _)| !is_framing(name)) {
        if single == Some(name) {
            headers.insert(name.clone(), value.clone());
        } else {
            headers.append(name.clone(), value.clone());
        }
    }
    for name in ops.remove.iter().filter(|name| !is_framing(name)) {
        if single != Some(name) {
            headers.remove(name);
        }
    }
}

/// What a redirect takes from the request.
#[derive(Clone, Copy)]
pub(crate) struct RedirectFrom<'a> {
    pub(crate) tls: bool,
    /// Lower-case, without port.
    pub(crate) host: &'a str,
    /// Port under which clients reach the listener.
    pub(crate) public_port: u16,
    /// The port by which clients reach the listener of a host and port, when this Gateway has it.
    pub(crate) bound: &'a dyn Fn(u16, &str) -> u16,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The prefix that matched.
    pub(crate) prefix: Option<&'a str>,
}

/// The Location of a redirect (gateway-api v1 `HTTPRequestRedirectFilter`). Without a port of its own: the well-known
/// port of the scheme if that is given, else the listener's; a port that the scheme implies is left out. A port of this
/// Gateway is named as it is bound.
pub(crate) fn location(redirect: &Redirect, from: &RedirectFrom<'_>) -> Option<HeaderValue> {
    let scheme = redirect
        .scheme
        .as_deref()
        .unwrap_or(if from.tls { "https" } else { "http" });
    let well_known = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let host = redirect.hostname.as_deref().unwrap_or(from.host);
    let asked = redirect
        .port
        .or(well_known.filter(|_| redirect.scheme.is_some()));
    let port = asked.map_or(from.public_port, |port| (from.bound)(port, host));
    let path = match &redirect.path {
        Some(change) => changed_path(change, from.path, from.prefix),
        None => from.path.to_owned(),
    };
    let mut location = format!("{scheme}://{host}");
    if Some(port) != well_known {
        let _ = write!(location, ":{port}"); // writing to a String cannot fail
    }
    location.push_str(&path);
    // A full replacement that brings its own query keeps it.
    if let Some(query) = from.query
        && !path.contains('?')
    {
        location.push('?');
        location.push_str(query);
    }
    HeaderValue::try_from(location).ok()
}

/// The path after a change; `prefix` is what matched. Always starts with `/`, never gets `//` at the seam.
pub(crate) fn changed_path(change: &PathChange, path: &str, prefix: Option<&str>) -> String {
    match change {
        PathChange::Full(full) if full.starts_with('/') => full.clone(),
        PathChange::Full(full) => format!("/{full}"),
        PathChange::Prefix(replacement) => {
            let rest = match prefix {
                Some("/") | None => path,
                Some(prefix) => path.strip_prefix(prefix).unwrap_or(path),
            };
            let start = replacement.trim_end_matches('/');
            let rest = rest.strip_prefix('/').unwrap_or(rest);
            let slash = if start.is_empty()
                || !rest.is_empty()
                || path.ends_with('/') && prefix != Some("/")
            {
                "/"
            } else {
                ""
            };
            let lead = if start.is_empty() || start.starts_with('/') {
                ""
            } else {
                "/"
            };
            format!("{lead}{start}{slash}{rest}")
        }
        // A change of a newer version: the path stays.
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_replaced_prefixes_in_the_specification_holds() {
        // gateway-api v1 HTTPPathModifier.replacePrefixMatch: request path, prefix match, replacement, new path.
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz"),
        ] {
            let change = PathChange::Prefix(replacement.into());
            assert_eq!(
                changed_path(&change, path, Some(prefix)),
                expected,
                "{path} {prefix} {replacement}"
            );
        }
        assert_eq!(
            changed_path(&PathChange::Full("one".into()), "/foo", None),
            "/one"
        );
    }

    #[test]
    fn a_redirect_names_the_port_that_clients_need() {
        let from = RedirectFrom {
            tls: false,
            host: "a.test",
            public_port: 10080,
            bound: &|port, host| {
                if (port, host) == (9443, "a.test") {
                    19443
                } else {
                    port
                }
            },
            path: "/p/q",
            query: Some("x=1"),
            prefix: Some("/p"),
        };
        let none = Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status: 302,
        };
        let scheme = |s: &str| Redirect {
            scheme: Some(s.into()),
            ..none.clone()
        };
        for (redirect, from, expected) in [
            (none.clone(), from, "http://a.test:10080/p/q?x=1"),
            (
                none.clone(),
                RedirectFrom {
                    public_port: 80,
                    ..from
                },
                "http://a.test/p/q?x=1",
            ),
            (scheme("https"), from, "https://a.test/p/q?x=1"),
            (
                scheme("http"),
                RedirectFrom {
                    tls: true,
                    public_port: 8443,
                    ..from
                },
                "http://a.test/p/q?x=1",
            ),
            (
                Redirect {
                    port: Some(8443),
                    ..scheme("https")
                },
                from,
                "https://a.test:8443/p/q?x=1",
            ),
            (
                Redirect {
                    port: Some(443),
                    ..scheme("https")
                },
                from,
                "https://a.test/p/q?x=1",
            ),
            (
                Redirect {
                    port: Some(9443),
                    ..scheme("https")
                },
                from,
                "https://a.test:19443/p/q?x=1",
            ),
            (
                Redirect {
                    port: Some(9443),
                    hostname: Some("b.test".into()),
                    ..scheme("https")
                },
                from,
                "https://b.test:9443/p/q?x=1",
            ),
            (
                Redirect {
                    hostname: Some("b.test".into()),
                    ..none.clone()
                },
                from,
                "http://b.test:10080/p/q?x=1",
            ),
            (
                Redirect {
                    path: Some(PathChange::Prefix("/z".into())),
                    ..none.clone()
                },
                from,
                "http://a.test:10080/z/q?x=1",
            ),
        ] {
            let location = location(&redirect, &from);
            assert_eq!(
                location.as_ref().and_then(|l| l.to_str().ok()),
                Some(expected)
            );
        }
    }
}
