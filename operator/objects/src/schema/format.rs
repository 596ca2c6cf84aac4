//! `format` of strings and numbers, those that an API server checks and our schemas use.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Ipv4,
    Ipv6,
    DateTime,
    Int32,
    Int64,
}

impl Format {
    /// None for one that is not known here.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "date-time" => Self::DateTime,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            _ => return None,
        })
    }

    /// Why a value is not of the format. A format says nothing of values of another type.
    pub(super) fn refuses(self, value: &Value) -> Option<String> {
        let (is_good, what) = match (self, value) {
            (Self::Ipv4, Value::String(text)) => {
                (text.parse::<Ipv4Addr>().is_ok(), "an IPv4 address")
            }
            (Self::Ipv6, Value::String(text)) => {
                (text.parse::<Ipv6Addr>().is_ok(), "an IPv6 address")
            }
            (Self::DateTime, Value::String(text)) => (
                text.parse::<jiff::Timestamp>().is_ok(),
                "a time as 2026-01-31T12:00:00Z",
            ),
            (Self::Int32, Value::Number(number)) => {
                let is_good = number
                    .as_i64()
                    .is_some_and(|number| i32::try_from(number).is_ok());
                (is_good || is_whole_i32(number.as_f64()), "a 32-bit integer")
            }
            (Self::Int64, Value::Number(number)) => (
                number.as_u64().is_none() || number.as_i64().is_some(),
                "a 64-bit integer",
            ),
            _ => return None,
        };
        (!is_good).then(|| format!("{value} is not {what}"))
    }
}

/// `80.0` is an integer too.
fn is_whole_i32(number: Option<f64>) -> bool {
    number.is_some_and(|n| n.fract() == 0.0 && n >= f64::from(i32::MIN) && n <= f64::from(i32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_each_format() {
        let cases = [
            ("ipv4", json!("127.1.0.5"), true),
            ("ipv4", json!("127.1.0.5:80"), false),
            ("ipv4", json!("127.1.0.05"), false),
            ("ipv6", json!("::1"), true),
            ("ipv6", json!("127.1.0.5"), false),
            ("date-time", json!("2026-01-31T12:00:00Z"), true),
            ("date-time", json!("yesterday"), false),
            ("int32", json!(2_147_483_647), true),
            ("int32", json!(2_147_483_648_u32), false),
            ("int32", json!(80.0), true),
            ("int64", json!(i64::MAX), true),
            ("int64", json!(u64::MAX), false),
            ("ipv4", json!(7), true),
        ];
        for (name, value, expected) in cases {
            let refusal = Format::of(name).and_then(|format| format.refuses(&value));
            assert_eq!(refusal.is_none(), expected, "{name} {value}");
        }
        assert_eq!(Format::of("bsonobjectid"), None);
    }
}
