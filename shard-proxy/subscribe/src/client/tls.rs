//! TLS settings towards operators.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use super::connect::StreamError;

/// Files for mutual TLS, read anew for each connection, so that renewed ones are taken up.
#[derive(Debug, Clone)]
pub struct FileTls {
    /// Certificate of the pool's CA.
    pub ca: PathBuf,
    /// This shard's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl FileTls {
    pub(super) fn load(&self) -> Result<Arc<ClientConfig>, StreamError> {
        let trust = certificates(&self.ca)?;
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|_| {
            let path = self.key.clone();
            StreamError::Pem { what: "key", path }
        })?;
        client(&trust, Some((chain, key)))
    }
}

/// Settings that trust certificates of `trust` alone, and show the given one.
pub(super) fn client(
    trust: &[CertificateDer<'static>],
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, StreamError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in trust {
        roots.add(certificate.clone())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((chain, key)) => {
            let key = CertifiedKey::from_der(chain, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session would go on with the certificate that it began with.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The certificates in a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StreamError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(StreamError::Pem {
            what: "certificate",
            path: path.to_owned(),
        }),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, StreamError> {
    std::fs::read(path).map_err(|source| StreamError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
