//! Which host a request is for. RFC 9112 section 3.2, RFC 9113 section 8.3.1.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderValue, Version, header};

use crate::hygiene::is_repeated;

/// Finds the one authority of a request: of an absolute request target or `:authority`, else of the one Host line; as the
/// client wrote it. None when it is missing, double or contradicts itself.
pub(crate) fn authority(parts: &Parts) -> Option<HeaderValue> {
    let line = parts.headers.get(header::HOST);
    if is_repeated(&parts.headers, &header::HOST) {
        return None;
    }
    match (parts.uri.authority(), line) {
        // An absolute target wins over Host (RFC 9112 section 3.2.2); in HTTP/2 the two must agree.
        (Some(authority), Some(line)) if parts.version == Version::HTTP_2 => {
            let same = line
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes());
            same.then(|| line.clone())
        }
        (Some(_), None) if parts.version < Version::HTTP_2 => None,
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, line) => line.cloned(),
    }
}

/// The host of an authority, lower-case, without port and final dot: what is matched. None when it is no host.
pub(crate) fn matched(authority: &HeaderValue) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(authority.as_bytes()).ok()?;
    let host = without_port(text)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut upper = false;
    for byte in host.bytes() {
        // Not `@` either: what is before it would be read as the host by others.
        if !is_host_byte(byte) {
            return None;
        }
        upper |= byte.is_ascii_uppercase();
    }
    if host.is_empty() {
        return None;
    }
    Some(if upper {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

fn without_port(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('[') {
        let end = rest.find(']')?;
        let port = &rest[end + 1..];
        return (port.is_empty() || is_port(port.strip_prefix(':')?)).then(|| &text[..end + 2]);
    }
    match text.split_once(':') {
        None => Some(text),
        Some((host, port)) => is_port(port).then_some(host),
    }
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || (text.len() <= 5
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u32>().is_ok_and(|p| p <= 65535))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'[' | b']' | b':')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use http::Request;

    use super::*;

    fn host(target: &str, hosts: &[&str], version: Version) -> Option<String> {
        let mut request = Request::get(target).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let authority = authority(&parts)?;
        matched(&authority).map(Cow::into_owned)
    }

    #[test]
    fn exactly_one_host_is_taken() {
        let one = Version::HTTP_11;
        assert_eq!(
            host("/", &["Shop.Example.com:8080"], one).as_deref(),
            Some("shop.example.com")
        );
        assert_eq!(
            host("/", &["shop.example.com."], one).as_deref(),
            Some("shop.example.com")
        );
        assert_eq!(host("/", &["[::1]:80"], one).as_deref(), Some("[::1]"));
        assert_eq!(
            host("http://a.test/x", &["b.test"], one).as_deref(),
            Some("a.test")
        );
        for bad in [
            &["a.test", "a.test"][..],
            &[],
            &[""],
            &["a b"],
            &["a.test:x"],
            &["user@a.test"],
            &["a.test:99999"],
            &["a/b"],
        ] {
            assert_eq!(host("/", bad, one), None, "{bad:?}");
        }
        assert_eq!(host("http://a.test/x", &["b.test"], Version::HTTP_2), None);
        assert_eq!(
            host("http://a.test/x", &[], Version::HTTP_2).as_deref(),
            Some("a.test")
        );
    }
}
