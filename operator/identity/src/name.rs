//! Names in certificates (SPIFFE ids).

use std::fmt;

use api::ShardId;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// The operator's DNS name in the certificate of each replica; whoever connects to one checks it.
pub const OPERATOR_NAME: &str = "operator.shardway.internal";
/// Start of the URI that names a replica.
const OPERATOR_URI: &str = "spiffe://shardway/operator/";
/// Start of the URI that names a shard.
const SHARD_URI: &str = "spiffe://shardway/shard/";

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A replica of the operator, by the number at the end of its pod's name.
    Operator(u64),
    /// A shard of the pool.
    Shard(ShardId),
}

impl Identity {
    /// Whom a certificate names; none when it has no or more than one URI, or one that is not of ours. Says nothing about
    /// who signed it.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let uri = uris.next()?;
        if uris.next().is_some() {
            return None;
        }
        Self::from_uri(uri)
    }

    /// Its SPIFFE id.
    pub fn uri(&self) -> String {
        match self {
            Self::Operator(ordinal) => format!("{OPERATOR_URI}{ordinal}"),
            Self::Shard(shard) => format!("{SHARD_URI}{}", shard.0),
        }
    }

    /// Reads a SPIFFE id. Each identity has one spelling: no sign, no leading zero.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let identity = if let Some(ordinal) = uri.strip_prefix(OPERATOR_URI) {
            Self::Operator(ordinal.parse().ok()?)
        } else {
            Self::Shard(ShardId(uri.strip_prefix(SHARD_URI)?.parse().ok()?))
        };
        (identity.uri() == uri).then_some(identity)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(ordinal) => write!(out, "operator-{ordinal}"),
            Self::Shard(shard) => shard.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn an_identity_has_one_spelling() {
        for identity in [
            Identity::Operator(0),
            Identity::Operator(12),
            Identity::Shard(ShardId(7)),
        ] {
            assert_eq!(Identity::from_uri(&identity.uri()), Some(identity));
        }
        for other in [
            "spiffe://shardway/shard/+7",
            "spiffe://shardway/shard/07",
            "spiffe://shardway/shard/",
            "spiffe://shardway/shard/7/8",
            "spiffe://shardway/gateway/7",
            "spiffe://elsewhere/shard/7",
            "",
        ] {
            assert_eq!(Identity::from_uri(other), None, "{other}");
        }
    }

    #[test]
    fn a_certificate_names_one_identity_or_nobody() {
        let dns = SanType::DnsName(OPERATOR_NAME.try_into().unwrap());
        let shard = uri("spiffe://shardway/shard/3");
        let operator = uri("spiffe://shardway/operator/0");
        let of = |names| Identity::of(&certificate(names));
        assert_eq!(
            of(vec![dns.clone(), operator.clone()]),
            Some(Identity::Operator(0))
        );
        assert_eq!(of(vec![shard.clone()]), Some(Identity::Shard(ShardId(3))));
        assert_eq!(of(vec![shard.clone(), operator]), None);
        assert_eq!(of(vec![shard.clone(), shard.clone()]), None);
        assert_eq!(of(vec![shard, uri("https://example.com")]), None);
        assert_eq!(of(vec![dns]), None);
        assert_eq!(of(Vec::new()), None);
        assert_eq!(Identity::of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
