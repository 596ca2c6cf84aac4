//! TLS settings made of a certificate and what it trusts.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::{Identity, IdentityError};

/// What settings are made of. TLS 1.3 alone: both ends are ours. No resumption: a session would outlive its certificate.
pub(crate) struct Parts {
    key: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Parts {
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: &[CertificateDer<'static>],
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = CertifiedKey::from_der(chain, key, &provider)?;
        let mut roots = RootCertStore::empty();
        for certificate in trust {
            roots.add(certificate.clone())?;
        }
        Ok(Self {
            key: Arc::new(SingleCertAndKey::from(key)),
            roots: Arc::new(roots),
            provider,
        })
    }

    /// For connections between replicas.
    pub(crate) fn peers(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let verifier = Arc::new(PeerVerifier(self.verifier()?));
        Ok(Arc::new(self.server(verifier)?))
    }

    /// For connections to the operator.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::clone(&self.key) as _);
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For connections from shards; `verifier` judges what they show once the handshake is done.
    pub(crate) fn stream(
        &self,
        verifier: &Arc<StreamVerifier>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let mut config = self.server(Arc::clone(verifier) as _)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    pub(crate) fn stream_verifier(&self) -> Result<Arc<StreamVerifier>, IdentityError> {
        Ok(Arc::new(StreamVerifier(self.verifier()?)))
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
        let roots = Arc::clone(&self.roots);
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider));
        Ok(builder.clear_root_hint_subjects().build()?)
    }

    fn server(&self, verifier: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, IdentityError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.key) as _);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// Lets replicas of the operator in, and nobody else.
#[derive(Debug)]
struct PeerVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        match Identity::of(end_entity) {
            Some(Identity::Operator(_)) => Ok(verified),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Lets everybody in who holds the key of the certificate that is shown, and those without one. Whose connection it is says
/// [`StreamVerifier::identity`] afterwards: with an expired certificate it is nobody's, who may still ask for a new one by
/// a token. A handshake that fails would tell the shard nothing that it could act on.
#[derive(Debug)]
pub(crate) struct StreamVerifier(Arc<dyn ClientCertVerifier>);

impl StreamVerifier {
    /// Whom a chain identifies now.
    ///
    /// # Errors
    /// Why it identifies nobody.
    pub(crate) fn identity(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, rustls::Error> {
        let (end_entity, intermediates) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        self.0
            .verify_client_cert(end_entity, intermediates, UnixTime::now())?;
        Identity::of(end_entity)
            .ok_or_else(|| CertificateError::ApplicationVerificationFailure.into())
    }
}

impl ClientCertVerifier for StreamVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
