//! A Secret of type `kubernetes.io/tls` as a certificate that a shard can serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{CertificateKey, ObjectKey, Timestamp};
use api_snapshot::facts::Certificate;
use operator_index::Index;
use operator_objects::certificate::{self as data, CertificateError, TLS_SECRET};
use operator_objects::spec::Secret;

use crate::backend_ref::absent;

/// Why a Secret cannot be served as a certificate. The texts never quote its data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// There is no such Secret, or it is rejected and never had a good form; the text says which.
    #[error("{0}")]
    Missing(String),
    /// It is of another type.
    #[error("Secret {0} is of type {1:?}; it must be {TLS_SECRET}")]
    Type(CertificateKey, String),
    /// Its data cannot be read.
    #[error("Secret {0}: {1}")]
    Data(CertificateKey, CertificateError),
}

/// The certificate of a Secret, in its last good form.
///
/// Cost: as [`operator_objects::certificate::certificate`]; [`Certificates`] remembers the outcome.
///
/// # Errors
/// [`CertificateProblem`] says what to mend in the Secret.
pub fn certificate(view: &Index, key: &CertificateKey) -> Result<Certificate, CertificateProblem> {
    let secret = view.secret(key).ok_or_else(|| missing(view, key))?;
    parse(key, secret)
}

/// What is wrong with the newest form of a Secret whose last good one is served.
pub(crate) fn superseded(view: &Index, key: &CertificateKey) -> Option<String> {
    let object = ObjectKey::new("", "Secret", &key.namespace, &key.name);
    let rejected = view.rejected(&object)?;
    Some(format!(
        "Secret {key} is rejected: {}; the last valid one is served",
        rejected.message
    ))
}

fn missing(view: &Index, key: &CertificateKey) -> CertificateProblem {
    CertificateProblem::Missing(absent(view, "Secret", &key.namespace, &key.name))
}

fn parse(key: &CertificateKey, secret: &Secret) -> Result<Certificate, CertificateProblem> {
    if secret.kind != TLS_SECRET {
        return Err(CertificateProblem::Type(key.clone(), secret.kind.clone()));
    }
    let read = data::certificate(&secret.data)
        .map_err(|error| CertificateProblem::Data(key.clone(), error))?;
    Ok(Certificate {
        chain: read.chain,
        key: read.key,
        dns_names: read.dns_names,
        not_after: read.not_after,
    })
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
        past.then(|| data::time_text(certificate.not_after))
    }

    /// Forgets a Secret.
    pub(crate) fn forget(&mut self, key: &CertificateKey) {
        self.parsed.remove(key);
    }
}
