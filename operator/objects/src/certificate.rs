//! Certificate and key of a Secret of type `kubernetes.io/tls`.

use std::collections::BTreeMap;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

/// Type of Secrets that hold a certificate.
pub const TLS_SECRET: &str = "kubernetes.io/tls";

/// DNS names that one certificate may have: each costs those who compare.
pub const DNS_NAMES_MAX: usize = 1000;

/// A certificate that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key, DER.
    pub key: Vec<u8>,
    /// DNS names of the leaf's subjectAltName, lower-case.
    pub dns_names: Vec<String>,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// Why the data of a Secret cannot be served as a certificate. The texts never quote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A key of the data is absent or empty.
    #[error("data has no {0}")]
    Field(&'static str),
    /// `tls.crt` is not a chain of PEM certificates.
    #[error("tls.crt is not a PEM certificate chain ({0})")]
    Chain(String),
    /// `tls.key` is not a PEM private key.
    #[error("tls.key is not a PEM private key ({0})")]
    Key(String),
    /// The key is not the certificate's, or of a kind that cannot be served.
    #[error("tls.key does not belong to the first certificate of tls.crt or cannot be used ({0})")]
    Mismatch(String),
    /// More than [`DNS_NAMES_MAX`] names.
    #[error("the certificate has {0} DNS names; it may have {DNS_NAMES_MAX}: use several")]
    Names(usize),
}

/// Reads a certificate: chain and key must parse, and the key must be the leaf's. Expiry is not judged: an expired
/// certificate is served, as clients decide.
///
/// Cost: one signature key set up, some 100 µs.
///
/// # Errors
/// [`CertificateError`] says what to mend in the Secret.
pub fn certificate(
    data: &BTreeMap<String, Vec<u8>>,
) -> Result<ServerCertificate, CertificateError> {
    let field = |name: &'static str| {
        let data = data.get(name).filter(|data| !data.is_empty());
        data.ok_or(CertificateError::Field(name))
    };
    let (chain_pem, key_pem) = (field("tls.crt")?, field("tls.key")?);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::Chain(error.to_string()))?;
    let leaf = chain
        .first()
        .ok_or_else(|| CertificateError::Chain("it holds no certificate".into()))?;
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|error| CertificateError::Chain(error.to_string()))?;
    let private = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| CertificateError::Key(error.to_string()))?;
    let dns_names = dns_names(&parsed);
    if dns_names.len() > DNS_NAMES_MAX {
        return Err(CertificateError::Names(dns_names.len()));
    }
    let not_after = parsed.validity().not_after.timestamp();
    CertifiedKey::from_der(chain.clone(), private.clone_key(), &default_provider())
        .map_err(|error| CertificateError::Mismatch(error.to_string()))?;
    Ok(ServerCertificate {
        chain: chain.iter().map(|der| der.to_vec()).collect(),
        key: private.secret_der().to_vec(),
        dns_names,
        not_after,
    })
}

/// DNS names of the subjectAltName, lower-case; the common name no longer counts (RFC 9525, section 2).
fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    let dns = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
    dns.collect()
}

/// A time of a certificate for people.
pub fn time_text(seconds: i64) -> String {
    match ASN1Time::from_timestamp(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s after the epoch"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn data(names: &[String], own_key: bool) -> BTreeMap<String, Vec<u8>> {
        let own = rcgen::generate_simple_self_signed(names.to_vec()).unwrap();
        let other = rcgen::generate_simple_self_signed(names.to_vec()).unwrap();
        let key = if own_key { &own } else { &other };
        [
            ("tls.crt".to_owned(), own.cert.pem().into_bytes()),
            (
                "tls.key".to_owned(),
                key.signing_key.serialize_pem().into_bytes(),
            ),
        ]
        .into()
    }

    #[test]
    fn a_certificate_with_its_key_is_taken_and_all_else_is_named() {
        let names = ["A.example.com".to_owned(), "*.example.com".to_owned()];
        let good = data(&names, true);
        let read = certificate(&good).unwrap();
        assert_eq!(read.dns_names, ["a.example.com", "*.example.com"]);
        let refused = |data: BTreeMap<String, Vec<u8>>| certificate(&data).unwrap_err().to_string();
        assert!(
            refused(data(&names, false)).starts_with("tls.key does not belong"),
            "another's key"
        );
        let with = |field: &str, text: &str| {
            let mut data = good.clone();
            data.insert(field.into(), text.into());
            refused(data)
        };
        assert_eq!(with("tls.key", ""), "data has no tls.key");
        assert!(with("tls.key", "x").starts_with("tls.key is not a PEM"));
        assert!(with("tls.crt", "x").starts_with("tls.crt is not a PEM"));
        let many: Vec<String> = (0..=DNS_NAMES_MAX).map(|n| format!("h{n}.test")).collect();
        assert_eq!(
            refused(data(&many, true)),
            "the certificate has 1001 DNS names; it may have 1000: use several"
        );
    }
}
