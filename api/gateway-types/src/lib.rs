//! Types of the Gateway API v1.7.0, written from its CRDs, and the CRDs themselves.
//!
//! **Invariants**
//! - Generated code is not edited; `generated.sha256` records what it was made from and a test compares.
//! - The types check neither enums of strings beyond the known ones nor defaults: validate by the schema first.
//!
//! Only `operator-objects` uses them. It deliberately does not know our own spec types.

// What kopium writes follows its own style.
#![allow(clippy::all, missing_docs, unreachable_pub)]

#[rustfmt::skip]
#[path = "generated/gatewayclasses.rs"]
pub mod gatewayclasses;
#[rustfmt::skip]
#[path = "generated/gateways.rs"]
pub mod gateways;
#[rustfmt::skip]
#[path = "generated/httproutes.rs"]
pub mod httproutes;
#[rustfmt::skip]
#[path = "generated/referencegrants.rs"]
pub mod referencegrants;

/// The CRD of each kind that is taken, as YAML: `(plural, text)`.
pub const CRDS: &[(&str, &str)] = &[
    (
        "gatewayclasses",
        include_str!("../crds/gateway.networking.k8s.io_gatewayclasses.yaml"),
    ),
    (
        "gateways",
        include_str!("../crds/gateway.networking.k8s.io_gateways.yaml"),
    ),
    (
        "httproutes",
        include_str!("../crds/gateway.networking.k8s.io_httproutes.yaml"),
    ),
    (
        "referencegrants",
        include_str!("../crds/gateway.networking.k8s.io_referencegrants.yaml"),
    ),
];

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use sha2::{Digest, Sha256};

    #[test]
    fn generated_code_is_what_the_crds_give() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let recorded = std::fs::read_to_string(root.join("generated.sha256")).unwrap();
        assert!(recorded.lines().count() >= 8);
        for line in recorded.lines() {
            let (hash, file) = line.split_once("  ").unwrap();
            let mut actual = String::new();
            for byte in Sha256::digest(std::fs::read(root.join(file)).unwrap()) {
                write!(actual, "{byte:02x}").unwrap();
            }
            assert_eq!(
                actual, hash,
                "{file} was changed by hand; run cargo xtask codegen"
            );
        }
    }
}
