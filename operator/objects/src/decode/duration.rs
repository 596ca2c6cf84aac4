//! Gateway API durations (GEP-2257): `1h30m`, `500ms`; at most four parts of at most five digits.

/// Milliseconds of a duration; none when it is malformed.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = if rest.starts_with("ms") {
            (1, 2)
        } else {
            match rest.bytes().next()? {
                b'h' => (3_600_000, 1),
                b'm' => (60_000, 1),
                b's' => (1000, 1),
                _ => return None,
            }
        };
        parts += 1;
        if digits > 5 || parts > 4 {
            return None;
        }
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[length..];
    }
    (parts > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn durations_are_read_in_milliseconds() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1m1s1ms", Some(61_001)),
            ("", None),
            ("10", None),
            ("1d", None),
            ("1000000s", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
