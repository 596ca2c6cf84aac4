//! Names of what is made for a Gateway: readable where they fit, told apart where they do not.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Begins the names of all Services, so that they rarely meet a user's own.
const PREFIX: &str = "shardway-";
/// Longest name of a Service, and longest value of a label.
const LABEL_MAX: usize = 63;
/// Hexadecimal digits that tell long names apart.
const HASH: usize = 16;

/// Name of the Service of a Gateway, in its namespace: a DNS label, another one for each Gateway's name.
///
/// A name that does not fit, has a dot, or looks as if it were made here, ends with a hash of the whole name.
pub fn service_name(gateway: &str) -> String {
    let plain = !gateway.contains('.')
        && PREFIX.len() + gateway.len() <= LABEL_MAX
        && !ends_with_hash(gateway);
    if plain {
        return format!("{PREFIX}{gateway}");
    }
    let readable = gateway.replace('.', "-");
    format!("{PREFIX}{}", shortened(&readable, gateway, PREFIX.len()))
}

/// Value of a label that names a Gateway: its name, or the beginning of it and a hash.
pub fn label_value(gateway: &str) -> String {
    if gateway.len() <= LABEL_MAX {
        return gateway.to_owned();
    }
    shortened(gateway, gateway, 0)
}

/// A hash of `text` in hexadecimal digits.
pub(crate) fn hash(text: &[u8]) -> String {
    let digest = Sha256::digest(text);
    let mut out = String::with_capacity(HASH);
    for byte in &digest[..HASH / 2] {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn shortened(readable: &str, whole: &str, taken: usize) -> String {
    let room = LABEL_MAX - taken - HASH - 1;
    // A Gateway's name is ASCII; whatever else comes in must not end the process.
    let mut end = room.min(readable.len());
    while !readable.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{}", &readable[..end], hash(whole.as_bytes()))
}

fn ends_with_hash(name: &str) -> bool {
    let Some((_, end)) = name.rsplit_once('-') else {
        return false;
    };
    end.len() == HASH
        && end
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_fits_can_be_read() {
        assert_eq!(service_name("web"), "shardway-web");
        assert_eq!(label_value("web.example"), "web.example");
    }

    #[test]
    fn others_end_with_a_hash() {
        assert_eq!(
            service_name("web.example"),
            "shardway-web-example-03bbe82aa48c8fa0"
        );
        let long = "g".repeat(253);
        assert_eq!(service_name(&long).len(), LABEL_MAX);
        assert_eq!(label_value(&long).len(), LABEL_MAX);
    }

    /// One that is named as another's Service is, gets a name of its own.
    #[test]
    fn a_name_cannot_be_taken_on_purpose() {
        let taken = service_name("web.example");
        let imitated = taken.strip_prefix(PREFIX).map(service_name);
        assert_ne!(imitated, Some(taken));
    }

    fn gateway() -> impl Strategy<Value = String> {
        let label = "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?";
        let name = prop::collection::vec(label, 1..12).prop_map(|labels| labels.join("."));
        // Few letters, so that names are like each other; and names as they are made.
        let near = "[ab]{1,2}[.-][ab]{1,2}";
        prop_oneof![
            name.clone(),
            near.prop_map(|near| near),
            name.prop_map(|name| service_name(&name)),
        ]
    }

    proptest! {
        #[test]
        fn names_are_labels_and_never_meet(names in prop::collection::hash_set(gateway(), 1..60)) {
            let mut seen = BTreeMap::new();
            for gateway in &names {
                let name = service_name(gateway);
                prop_assert!(name.len() <= LABEL_MAX);
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                prop_assert!(name.starts_with(PREFIX) && !name.ends_with('-'));
                prop_assert!(label_value(gateway).len() <= LABEL_MAX);
                prop_assert_eq!(seen.insert(name, gateway.clone()), None);
            }
        }
    }
}
