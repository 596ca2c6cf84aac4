//! The CA of an installation.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::sync::watch;

use crate::{Identity, IdentityError, OPERATOR_NAME};

/// Life of the CA's own certificate.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Life of a certificate that it signs.
pub const LIFE: Duration = Duration::from_secs(86_400);
/// How far behind a clock may be that accepts a new certificate.
const SKEW: Duration = Duration::from_secs(300);

/// Signs certificates. Holds one key, and the certificates of all CAs that are trusted: while a CA is exchanged for another
/// one, there are two of them.
pub struct Authority {
    ca: watch::Sender<Arc<Ca>>,
    life: Duration,
}

/// One state of the CA.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) trust: Vec<CertificateDer<'static>>,
    certificates: String,
}

impl Authority {
    /// Makes a new CA.
    ///
    /// # Errors
    /// [`IdentityError::Make`] when there is no randomness.
    pub fn make() -> Result<Self, IdentityError> {
        let make = |source| IdentityError::Make {
            subject: "ca".into(),
            source,
        };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = params("shardway ca", CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// Takes the certificates of the CAs that are trusted, and the key of one of them, which signs.
    ///
    /// # Errors
    /// [`IdentityError`] when one of the two cannot be read, or the key belongs to none of the certificates.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self, IdentityError> {
        let ca = Ca::from_pem(certificates, key)?;
        Ok(Self {
            ca: watch::Sender::new(Arc::new(ca)),
            life: LIFE,
        })
    }

    /// The same CA, whose certificates live as long as said.
    #[must_use]
    pub fn with_life(self, life: Duration) -> Self {
        Self { life, ..self }
    }

    /// Takes over what another holds: a CA that was exchanged. Every certificate of a replica is made anew then.
    pub fn replace(&self, other: &Self) {
        let ca = other.current();
        self.ca.send_if_modified(|current| {
            let changed =
                current.certificates != ca.certificates || current.key_pem() != ca.key_pem();
            if changed {
                *current = ca;
            }
            changed
        });
    }

    /// Certificates of the CAs that are trusted.
    pub fn trust(&self) -> Vec<CertificateDer<'static>> {
        self.current().trust.clone()
    }

    /// The same as PEM.
    pub fn trust_pem(&self) -> String {
        self.current().certificates.clone()
    }

    /// The CA's key as PEM, to be kept.
    pub fn key_pem(&self) -> String {
        self.current().key_pem()
    }

    /// Signs a request. Nothing but its key is taken over; that the asking side holds it was proved by its signature.
    ///
    /// # Errors
    /// [`IdentityError::Request`] when it cannot be read or is not signed by its own key.
    pub fn sign_request(
        &self,
        request: &[u8],
        identity: Identity,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let request = CertificateSigningRequestDer::from(request);
        let request =
            CertificateSigningRequestParams::from_der(&request).map_err(IdentityError::Request)?;
        self.sign(&request.public_key, identity)
    }

    /// Signs a key.
    ///
    /// # Errors
    /// [`IdentityError::Make`] when the CA's key fails.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: Identity,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let make = |source| IdentityError::Make {
            subject: identity.to_string(),
            source,
        };
        let mut params = params(&identity.to_string(), self.life);
        let uri = identity.uri().as_str().try_into().map_err(make)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Identity::Operator(_) = identity {
            for name in [OPERATOR_NAME, "localhost"] {
                let name = name.try_into().map_err(make)?;
                params.subject_alt_names.push(SanType::DnsName(name));
            }
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params
            .signed_by(key, &self.current().issuer)
            .map_err(make)?;
        Ok(certificate.der().clone())
    }

    pub(crate) fn current(&self) -> Arc<Ca> {
        Arc::clone(&self.ca.borrow())
    }

    /// Says when the CA is exchanged.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Ca>> {
        self.ca.subscribe()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Authority")
            .field("trust", &self.current().trust.len())
            .finish_non_exhaustive()
    }
}

impl Ca {
    fn from_pem(certificates: &str, key: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key).map_err(|_| IdentityError::Pem("the ca's key"))?;
        let trust = certificates_of(certificates)?;
        let own = |certificate: &&CertificateDer<'_>| {
            let parsed = x509_parser::parse_x509_certificate(certificate);
            parsed.is_ok_and(|(_, parsed)| {
                parsed.is_ca() && parsed.public_key().raw == key.subject_public_key_info()
            })
        };
        let own = trust.iter().find(own).ok_or(IdentityError::Mismatch)?;
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(|source| IdentityError::Make {
            subject: "ca".into(),
            source,
        })?;
        Ok(Self {
            issuer,
            trust,
            certificates: certificates.to_owned(),
        })
    }

    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// Reads at least one certificate from a PEM text.
///
/// # Errors
/// [`IdentityError::Pem`].
pub(crate) fn certificates_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(IdentityError::Pem("certificates")),
    }
}

fn params(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + life).into();
    params
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use api::ShardId;

    use super::*;

    #[test]
    fn a_request_gives_its_key_and_nothing_else() {
        let authority = Authority::make().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = params("operator-0", LIFE);
        params.subject_alt_names = vec![SanType::DnsName(OPERATOR_NAME.try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).unwrap();
        let shard = Identity::Shard(ShardId(4));
        let signed = authority.sign_request(request.der(), shard).unwrap();
        assert_eq!(Identity::of(&signed), Some(shard));
        let (_, parsed) = x509_parser::parse_x509_certificate(&signed).unwrap();
        assert!(!parsed.is_ca());
        assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        // Of another key than the one that signed it.
        let mut forged = request.der().to_vec();
        let at = forged.len() - 5;
        forged[at] ^= 1;
        let error = authority.sign_request(&forged, shard).unwrap_err();
        assert!(matches!(error, IdentityError::Request(_)), "{error}");
    }

    #[test]
    fn it_is_kept_as_pem_and_signs_with_the_key_that_it_was_given() {
        let (old, new) = (Authority::make().unwrap(), Authority::make().unwrap());
        let both = old.trust_pem() + &new.trust_pem();
        let kept = Authority::from_pem(&both, &new.key_pem()).unwrap();
        assert_eq!(kept.trust(), [old.trust(), new.trust()].concat());
        let key = KeyPair::generate().unwrap();
        let signed = kept.sign(&key, Identity::Operator(0)).unwrap();
        let (_, signed) = x509_parser::parse_x509_certificate(&signed).unwrap();
        let trust = new.trust();
        let (_, ca) = x509_parser::parse_x509_certificate(&trust[0]).unwrap();
        signed.verify_signature(Some(ca.public_key())).unwrap();

        let other = Authority::from_pem(&old.trust_pem(), &new.key_pem()).unwrap_err();
        assert!(matches!(other, IdentityError::Mismatch));
        let cut_off = &new.trust_pem()[..200];
        let cut_off = Authority::from_pem(cut_off, &new.key_pem()).unwrap_err();
        assert!(matches!(cut_off, IdentityError::Pem("certificates")));
    }
}
