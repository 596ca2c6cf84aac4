//! A certificate with its key, as the shard keeps it.

use std::path::Path;
use std::time::SystemTime;

use api_certificate::{renewal, validity, write_private};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::connect::StreamError;
use super::tls::read;

/// One certificate.
pub(super) struct Held {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    /// Its end.
    pub(super) not_after: SystemTime,
    /// When a new one is to be asked for.
    pub(super) renew_at: SystemTime,
}

/// A key that was made for a certificate which is still to come.
pub(super) struct Wanted {
    key: KeyPair,
    /// What is to be signed, DER.
    pub(super) request: Vec<u8>,
}

impl Wanted {
    /// Makes a key; each certificate has one of its own.
    pub(super) fn make() -> Result<Self, StreamError> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let request = request.der().to_vec();
        Ok(Self { key, request })
    }

    /// Joins the key with its certificate, which is renewed at half of what is left of its life.
    pub(super) fn signed(self, chain: Vec<Vec<u8>>) -> Result<Held, StreamError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        Held::new(chain, key, Some(SystemTime::now()))
    }
}

impl Held {
    /// `made` is when its life began; by itself it says some minutes earlier, for clocks that are behind.
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivatePkcs8KeyDer<'static>,
        made: Option<SystemTime>,
    ) -> Result<Self, StreamError> {
        let validity = chain.first().and_then(|certificate| validity(certificate));
        let (not_before, not_after) = validity.ok_or(StreamError::Certificate)?;
        let made = made.unwrap_or(not_before);
        Ok(Self {
            chain,
            key,
            not_after,
            renew_at: renewal(made, not_after),
        })
    }

    /// Whether it counts now, by this machine's clock.
    pub(super) fn counts(&self) -> bool {
        SystemTime::now() < self.not_after
    }

    /// What TLS is told to show.
    pub(super) fn shown(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key().into())
    }

    /// Reads what was kept.
    pub(super) fn load(path: &Path) -> Result<Self, StreamError> {
        let text = read(path)?;
        let missing = |what| StreamError::Pem {
            what,
            path: path.to_owned(),
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| missing("key"))?;
        Self::new(chain.map_err(|_| missing("certificate"))?, key, None)
    }

    /// Keeps it: key and certificate in one file, so that they belong together whenever the machine stops.
    pub(super) fn keep(&self, path: &Path) -> Result<(), StreamError> {
        let mut text = pem("PRIVATE KEY", self.key.secret_pkcs8_der());
        for certificate in &self.chain {
            text += &pem("CERTIFICATE", certificate);
        }
        write(path, &text)
    }
}

/// Keeps certificates that are trusted.
pub(super) fn keep_trust(path: &Path, trust: &[CertificateDer<'_>]) -> Result<(), StreamError> {
    let text: String = trust.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write(path, &text)
}

/// RFC 7468, section 2.
fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// Writes a file that nobody else may read, in a folder that is made when it is missing.
fn write(path: &Path, text: &str) -> Result<(), StreamError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| write_private(path, text))
        .map_err(|source| StreamError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
}
