//! Host names: exact, or `*.suffix`, which stands for one or more labels before the suffix.
//!
//! Source: gateway-api v1 `Listener.hostname`, `HTTPRouteSpec.hostnames`.

/// The hosts that both names stand for; none when there is none. Both are lower-case.
pub(crate) fn intersect<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// Whether every host that `narrow` stands for is one of `wide`.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    if wide == narrow {
        return true;
    }
    let Some(suffix) = wide.strip_prefix('*') else {
        return false;
    };
    // `*.example.com` covers neither `example.com` nor `*.com`: something must stand before `.example.com`.
    let narrow = narrow.strip_prefix('*').unwrap_or(narrow);
    narrow.len() > suffix.len() && narrow.ends_with(suffix)
}

/// As [`intersect`], where none stands for all hosts.
pub(crate) fn intersect_optional<'a>(
    a: Option<&'a str>,
    b: Option<&'a str>,
) -> Option<Option<&'a str>> {
    match (a, b) {
        (Some(a), Some(b)) => intersect(a, b).map(Some),
        (one, None) | (None, one) => Some(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersections() {
        let cases = [
            (
                "test.example.com",
                "test.example.com",
                Some("test.example.com"),
            ),
            (
                "*.example.com",
                "test.example.com",
                Some("test.example.com"),
            ),
            (
                "*.example.com",
                "foo.test.example.com",
                Some("foo.test.example.com"),
            ),
            ("*.example.com", "example.com", None),
            ("*.example.com", "test.example.net", None),
            ("*.example.com", "badexample.com", None),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            (
                "*.example.com",
                "*.foo.example.com",
                Some("*.foo.example.com"),
            ),
            ("*.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "*.ample.com", None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(intersect(a, b), expected, "{a} and {b}");
            assert_eq!(intersect(b, a), expected, "{b} and {a}");
        }
        assert_eq!(intersect_optional(None, None), Some(None));
        assert_eq!(intersect_optional(None, Some("a.b")), Some(Some("a.b")));
        assert_eq!(intersect_optional(Some("c.d"), Some("a.b")), None);
    }
}
