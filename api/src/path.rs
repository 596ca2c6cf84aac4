//! One policy for paths: what a route says, what is matched and what is forwarded are one string.
//!
//! Percent-encoded unreserved characters are decoded and other escapes written in upper case (RFC 3986 section
//! 6.2.2), dot segments are removed (section 5.2.4). An escape that is incomplete, an encoded or raw NUL, backslash,
//! an encoded slash, and control or non-ASCII bytes are refused: peers read them in different ways. Empty segments
//! (`//`), `;` and case stay as they are.

use std::borrow::Cow;

/// Normalises a path, of a request or of a route; none when it is refused. Normalising twice changes nothing.
///
/// Cost: O(length); allocates only when something changes.
pub fn normalise(path: &str) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return None;
    }
    let mut plain = true;
    let mut previous = b'/';
    for byte in path.bytes() {
        match byte {
            b'%' => plain = false,
            b'.' if previous == b'/' => plain = false,
            b'\\' | 0..=0x20 | 0x7f.. => return None,
            _ => {}
        }
        previous = byte;
    }
    if plain {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let clean = remove_dot_segments(&decoded);
    Some(if clean == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(clean)
    })
}

fn decode_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(char::from(byte));
            continue;
        }
        let value = hex(bytes.next()?)? << 4 | hex(bytes.next()?)?;
        match value {
            0 | b'/' | b'\\' => return None,
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(value)),
            v if v.is_ascii_alphanumeric() => out.push(char::from(v)),
            v => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(DIGITS[usize::from(v >> 4)]));
                out.push(char::from(DIGITS[usize::from(v & 15)]));
            }
        }
    }
    Some(out)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn remove_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path[1..].split('/') {
        ends_in_folder = false;
        match segment {
            "." => ends_in_folder = true,
            ".." => {
                segments.pop();
                ends_in_folder = true;
            }
            other => segments.push(other),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_folder || segments.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_or_refused() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a//b", Some("/a//b")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/../../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/a/b/.", Some("/a/b/")),
            ("/%61dmin", Some("/admin")),
            ("/a/%2e%2e/b", Some("/b")),
            ("/%7euser", Some("/~user")),
            ("/a%20b%c3%a9", Some("/a%20b%C3%A9")),
            ("/.well-known/x", Some("/.well-known/x")),
            ("/a;x=1/..;/b", Some("/a;x=1/..;/b")),
            ("/a%2fb", None),
            ("/a%5cb", None),
            ("/a\\b", None),
            ("/a%00", None),
            ("/a%2", None),
            ("/a%zz", None),
            ("/caf\u{e9}", None),
            ("*", None),
        ] {
            assert_eq!(normalise(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for path in [
            "/a/%2e/%61/../b%3f",
            "/%2e%2e/%2E/x",
            "/a//../b",
            "/a/.../b",
        ] {
            let once = normalise(path).unwrap_or_default().into_owned();
            assert_eq!(normalise(&once).as_deref(), Some(once.as_str()));
        }
    }
}
