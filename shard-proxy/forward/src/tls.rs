//! TLS termination: certificates by server name, taken from the Gateway's table of the moment.

use std::collections::HashMap;
use std::sync::Arc;

use api::CertificateKey;
use api_snapshot::facts::Certificate;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::gateway::Gateway;

/// A certificate as the proxy holds it.
#[derive(Debug)]
pub(crate) struct HeldCertificate {
    dns_names: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// Certificates of this proxy by Secret. Swapped whole: changes are rare, handshakes are not.
pub(crate) type Certificates = ArcSwap<HashMap<CertificateKey, Arc<HeldCertificate>>>;

/// Parses a certificate; the key must be one that the provider can sign with, and fit the leaf.
pub(crate) fn parse(
    certificate: &Certificate,
    provider: &CryptoProvider,
) -> Result<HeldCertificate, String> {
    let chain: Vec<CertificateDer<'static>> = certificate
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let key = PrivateKeyDer::try_from(certificate.key.clone()).map_err(str::to_owned)?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())?;
    Ok(HeldCertificate {
        dns_names: certificate.dns_names.clone(),
        key: Arc::new(key),
    })
}

impl HeldCertificate {
    fn covers(&self, server_name: &str) -> bool {
        self.dns_names
            .iter()
            .any(|name| match name.strip_prefix("*.") {
                // A wildcard stands for one label (RFC 6125 section 6.4.3).
                Some(suffix) => server_name
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest == suffix),
                None => name == server_name,
            })
    }
}

/// TLS settings of one port of a Gateway: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN. Tickets are this port's own, so
/// that no session moves between tenants.
pub(crate) fn server_config(
    gateway: Arc<Gateway>,
    port: u16,
    certificates: Arc<Certificates>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = Resolver {
        gateway,
        port,
        certificates,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Resolver {
    gateway: Arc<Gateway>,
    port: u16,
    certificates: Arc<Certificates>,
}

impl ResolvesServerCert for Resolver {
    /// The certificate of the listener that takes the server name: the first that covers it, else the first. Without a
    /// server name, the listener for all hosts, if there is one.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let server_name = hello
            .server_name()
            .map(str::to_ascii_lowercase)
            .unwrap_or_default();
        let table = self.gateway.table.load();
        let listener = table.listener_for(self.port, &server_name)?;
        let held = self.certificates.load();
        let mut known = listener
            .certificates()
            .iter()
            .filter_map(|key| held.get(key));
        let first = known.clone().next()?;
        let chosen = known
            .find(|certificate| certificate.covers(&server_name))
            .unwrap_or(first);
        Some(Arc::clone(&chosen.key))
    }
}
