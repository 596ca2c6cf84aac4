//! Requests that a route takes, as far as its matches say.

use serde_json::Value;

use super::list;

/// A request without its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// `Name: value`.
    pub(super) headers: Vec<String>,
    /// Path and query.
    pub(super) target: String,
}

/// One request for each match of each rule that answers with something, the plainest first; matches by expressions are left
/// out.
pub(super) fn requests(route: &Value) -> Vec<Request> {
    let rules = list(&route["spec"]["rules"]).filter(|rule| {
        let redirects = list(&rule["filters"]).any(|filter| filter["type"] == "RequestRedirect");
        redirects || list(&rule["backendRefs"]).next().is_some()
    });
    let mut found: Vec<Request> = rules
        .flat_map(|rule| match rule["matches"].as_array() {
            Some(matches) if !matches.is_empty() => matches.iter().filter_map(request).collect(),
            _ => request(&Value::Null).into_iter().collect::<Vec<_>>(),
        })
        .collect();
    found.sort_by_key(|request| {
        (
            request.method != "GET",
            request.headers.len(),
            request.target.contains('?'),
        )
    });
    found
}

/// A request that a match takes.
fn request(one: &Value) -> Option<Request> {
    let is_exact = |value: &Value| value["type"].is_null() || value["type"] == "Exact";
    let path = &one["path"];
    if path["type"] == "RegularExpression" {
        return None;
    }
    let pairs = |field: &str, between: &str| -> Option<Vec<String>> {
        list(&one[field])
            .map(|pair| {
                let (name, value) = (pair["name"].as_str()?, pair["value"].as_str()?);
                is_exact(pair).then(|| format!("{name}{between}{value}"))
            })
            .collect()
    };
    let query = pairs("queryParams", "=")?;
    let path = path["value"].as_str().unwrap_or("/");
    let target = match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", escaped(&query.join("&"))),
    };
    Some(Request {
        method: one["method"].as_str().unwrap_or("GET").to_owned(),
        headers: pairs("headers", ": ")?,
        target,
    })
}

/// A query with all that may not stand in one percent-encoded.
fn escaped(query: &str) -> String {
    let mut out = String::new();
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~=&/:@!$'()*,;".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A host that both the route and the listener take.
pub(super) fn shared_host(route: &Value, listener: &Value) -> Option<String> {
    let own = listener["hostname"].as_str();
    let hosts = list(&route["spec"]["hostnames"]).filter_map(Value::as_str);
    let mut hosts = hosts.peekable();
    let shared = if hosts.peek().is_none() {
        own.unwrap_or("example.test")
    } else {
        hosts.find_map(|host| match own {
            None => Some(host),
            Some(own) if covers(own, host) => Some(host),
            Some(own) => covers(host, own).then_some(own),
        })?
    };
    Some(match shared.strip_prefix('*') {
        Some(suffix) => format!("example{suffix}"),
        None => shared.to_owned(),
    })
}

/// Whether every host that `narrow` stands for is one of `wide`.
fn covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide.strip_prefix('*').is_some_and(|suffix| {
            let narrow = narrow.strip_prefix('*').unwrap_or(narrow);
            narrow.len() > suffix.len() && narrow.ends_with(suffix)
        })
}

/// A text as one word of a shell: what manifests hold is never run.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@%+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_manifest_holds_is_one_word_of_a_shell() {
        assert_eq!(quoted("http://127.1.0.1:80/a/b"), "http://127.1.0.1:80/a/b");
        assert_eq!(
            quoted("http://127.1.0.1/x;echo no"),
            "'http://127.1.0.1/x;echo no'"
        );
        assert_eq!(quoted("Host: it's"), r"'Host: it'\''s'");
    }

    #[test]
    fn a_request_has_all_that_its_match_asks_for() {
        let route = json!({"spec": {"rules": [
            {"matches": [{"path": {"value": "/nothing"}}]},
            {"matches": [
                {"path": {"type": "RegularExpression", "value": "/a.*"}},
                {"path": {"value": "/a"}, "method": "POST",
                 "headers": [{"name": "x-canary", "value": "true"}],
                 "queryParams": [{"name": "q", "value": "a b"}, {"name": "r", "value": "1"}]},
                {"headers": [{"type": "RegularExpression", "name": "x", "value": ".*"}]},
            ], "backendRefs": [{"name": "a"}]},
            {"filters": [{"type": "RequestRedirect"}]},
        ]}});
        let request = |method: &str, headers: &[&str], target: &str| Request {
            method: method.into(),
            headers: headers.iter().map(ToString::to_string).collect(),
            target: target.into(),
        };
        assert_eq!(
            requests(&route),
            [
                request("GET", &[], "/"),
                request("POST", &["x-canary: true"], "/a?q=a%20b&r=1"),
            ]
        );
    }

    #[test]
    fn a_host_is_one_that_route_and_listener_share() {
        let of = |own: Value, hosts: Value| {
            shared_host(
                &json!({"spec": {"hostnames": hosts}}),
                &json!({"hostname": own}),
            )
        };
        for (own, hosts, expected) in [
            (json!(null), json!([]), Some("example.test")),
            (json!("*.a.test"), json!([]), Some("example.a.test")),
            (
                json!("*.a.test"),
                json!(["b.test", "shop.a.test"]),
                Some("shop.a.test"),
            ),
            (
                json!("shop.a.test"),
                json!(["*.a.test"]),
                Some("shop.a.test"),
            ),
            (
                json!("*.a.test"),
                json!(["*.b.a.test"]),
                Some("example.b.a.test"),
            ),
            (json!("*.a.test"), json!(["a.test"]), None),
        ] {
            assert_eq!(
                of(own.clone(), hosts.clone()).as_deref(),
                expected,
                "{own} {hosts}"
            );
        }
    }
}
