//! A Secret of type `kubernetes.io/tls` as a certificate that a shard can serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{CertificateKey, Timestamp};
use api_snapshot::facts::Certificate;
use operator_index::Index;
use operator_objects::spec::Secret;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use crate::backend_ref::absent;

/// Why a Secret cannot be served as a certificate. The texts never quote its data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// There is no such Secret, or it is rejected and never had a good form; the text says which.
    #[error("{0}")]
    Missing(String),
    /// It is of another type.
    #[error("Secret {0} is of type {1:?}; it must be kubernetes.io/tls")]
    Type(CertificateKey, String),
    /// A key of its data is absent or empty.
    #[error("Secret {0} has no {1}")]
    Field(CertificateKey, &'static str),
    /// `tls.crt` is not a chain of PEM certificates.
    #[error("Secret {0}: tls.crt is not a PEM certificate chain ({1})")]
    Chain(CertificateKey, String),
    /// `tls.key` is not a PEM private key.
    #[error("Secret {0}: tls.key is not a PEM private key ({1})")]
    Key(CertificateKey, String),
    /// The key is not the certificate's, or of a kind that cannot be served.
    #[error(
        "Secret {0}: tls.key does not belong to the first certificate of tls.crt or cannot be used ({1})"
    )]
    Mismatch(CertificateKey, String),
}

/// Reads a certificate: chain and key must parse, and the key must be the leaf's. Expiry is not judged here:
/// an expired certificate is served, as clients decide (and `not_after` is in the fact).
///
/// Cost: one signature key set up, some 100 µs; [`Certificates`] remembers the outcome.
///
/// # Errors
/// [`CertificateProblem`] says what to mend in the Secret.
pub fn certificate(view: &Index, key: &CertificateKey) -> Result<Certificate, CertificateProblem> {
    let secret = view.secret(key).ok_or_else(|| missing(view, key))?;
    parse(key, secret)
}

fn missing(view: &Index, key: &CertificateKey) -> CertificateProblem {
    CertificateProblem::Missing(absent(view, "Secret", &key.namespace, &key.name))
}

fn parse(key: &CertificateKey, secret: &Secret) -> Result<Certificate, CertificateProblem> {
    if secret.kind != "kubernetes.io/tls" {
        return Err(CertificateProblem::Type(key.clone(), secret.kind.clone()));
    }
    let field = |name: &'static str| {
        let data = secret.data.get(name).filter(|data| !data.is_empty());
        data.ok_or_else(|| CertificateProblem::Field(key.clone(), name))
    };
    let (chain_pem, key_pem) = (field("tls.crt")?, field("tls.key")?);
    let broken_chain = |error: String| CertificateProblem::Chain(key.clone(), error);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| broken_chain(error.to_string()))?;
    let leaf = chain
        .first()
        .ok_or_else(|| broken_chain("it holds no certificate".into()))?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| broken_chain(error.to_string()))?;
    let private = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| CertificateProblem::Key(key.clone(), error.to_string()))?;
    let dns_names = dns_names(&parsed);
    let not_after = parsed.validity().not_after.timestamp();
    CertifiedKey::from_der(chain.clone(), private.clone_key(), &default_provider())
        .map_err(|error| CertificateProblem::Mismatch(key.clone(), error.to_string()))?;
    Ok(Certificate {
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

/// Certificates that were parsed, so that a changed Gateway of many certificates parses none of them again. Bounded by
/// the certificates that are served: [`crate::Translation`] forgets the others. Failures are not kept.
#[derive(Debug, Default)]
pub struct Certificates {
    parsed: BTreeMap<CertificateKey, (Arc<Secret>, Arc<Certificate>)>,
    now: Option<Timestamp>,
}

impl Certificates {
    /// As [`certificate`], for the Secret as the view holds it now.
    ///
    /// # Errors
    /// As [`certificate`].
    pub fn of(
        &mut self,
        view: &Index,
        key: &CertificateKey,
    ) -> Result<Arc<Certificate>, CertificateProblem> {
        let Some(secret) = view.secret(key) else {
            self.parsed.remove(key);
            return Err(missing(view, key));
        };
        match self.parsed.get(key) {
            Some((of, parsed)) if Arc::ptr_eq(of, secret) => Ok(Arc::clone(parsed)),
            _ => {
                self.parsed.remove(key);
                let parsed = Arc::new(parse(key, secret)?);
                self.parsed
                    .insert(key.clone(), (Arc::clone(secret), Arc::clone(&parsed)));
                Ok(parsed)
            }
        }
    }

    pub(crate) fn now(&self) -> Option<Timestamp> {
        self.now
    }

    pub(crate) fn set_now(&mut self, now: Timestamp) {
        self.now = Some(now);
    }

    /// When the certificate expired, if it has.
    pub(crate) fn expired(&self, certificate: &Certificate) -> Option<String> {
        let past = certificate.not_after < self.now?.0;
        past.then(|| match ASN1Time::from_timestamp(certificate.not_after) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{} s after the epoch", certificate.not_after),
        })
    }

    /// Forgets a Secret.
    pub(crate) fn forget(&mut self, key: &CertificateKey) {
        self.parsed.remove(key);
    }
}
