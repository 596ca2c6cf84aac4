//! The pool's own certificates: a CA, one for the operator, one for each shard, as files in the data folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use api::ShardId;
use operator_identity::{Identity, IdentityError, OPERATOR_NAME, write_private};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::ServerTls;

/// Life of the CA.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Life of a certificate. It is made anew at each start of the operator once half of it is over.
const LIFE: Duration = Duration::from_secs(365 * 86_400);

/// Certificates cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file.
    #[error("{action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that nobody else may read.
    #[error("keep a certificate")]
    Keep(#[from] IdentityError),
    /// A key or certificate.
    #[error("make certificate for {subject}")]
    Make {
        /// Whose.
        subject: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
}

/// Makes what is missing or past half of its life in `folder`, for `shards` shards, and gives the operator's own.
///
/// Files: `ca.pem`, `ca.key`, `operator.pem`, `operator.key`, `shard-N.pem`, `shard-N.key`; all readable by their
/// owner alone.
///
/// # Errors
/// [`TlsError`] when a file cannot be read or written.
pub fn ensure(folder: &Path, shards: u32) -> Result<ServerTls, TlsError> {
    fs::create_dir_all(folder).map_err(file("write", folder))?;
    let ca = authority(folder)?;
    let operator = vec![
        SanType::DnsName(dns(OPERATOR_NAME)?),
        SanType::DnsName(dns("localhost")?),
    ];
    leaf(
        folder,
        "operator",
        operator,
        &ca,
        ExtendedKeyUsagePurpose::ServerAuth,
    )?;
    for shard in 0..shards {
        let name = ShardId(shard).to_string();
        let uri = Identity::Shard(ShardId(shard)).uri();
        let uri = uri.as_str().try_into().map_err(|source| TlsError::Make {
            subject: name.clone(),
            source,
        })?;
        leaf(
            folder,
            &name,
            vec![SanType::URI(uri)],
            &ca,
            ExtendedKeyUsagePurpose::ClientAuth,
        )?;
    }
    Ok(ServerTls {
        ca: read(&folder.join("ca.pem"))?,
        certificate: read(&folder.join("operator.pem"))?,
        key: read(&folder.join("operator.key"))?,
    })
}

fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, TlsError> {
    let (pem, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    let make = |source| TlsError::Make {
        subject: "ca".into(),
        source,
    };
    if !fits(&pem, &key) {
        let pair = KeyPair::generate().map_err(make)?;
        let mut params = params("shardway ca", Vec::new(), CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&pair).map_err(make)?;
        write_pair((&pem, &certificate.pem()), (&key, &pair.serialize_pem()))?;
    }
    let pair = KeyPair::from_pem(&read(&key)?).map_err(make)?;
    Issuer::from_ca_cert_pem(&read(&pem)?, pair).map_err(make)
}

fn leaf(
    folder: &Path,
    name: &str,
    names: Vec<SanType>,
    ca: &Issuer<'static, KeyPair>,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<(), TlsError> {
    let (pem, key) = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    let fresh = fs::metadata(&pem)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|made| SystemTime::now().duration_since(made).ok())
        .is_some_and(|age| age < LIFE / 2);
    // A certificate of an older CA is of no use.
    let ca_newer = || {
        let made = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        made(&folder.join("ca.pem")) > made(&pem)
    };
    if fresh && !ca_newer() && fits(&pem, &key) {
        return Ok(());
    }
    let make = |source| TlsError::Make {
        subject: name.to_owned(),
        source,
    };
    let pair = KeyPair::generate().map_err(make)?;
    let mut params = params(name, names, LIFE);
    params.extended_key_usages = vec![purpose];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(&pair, ca).map_err(make)?;
    write_pair((&pem, &certificate.pem()), (&key, &pair.serialize_pem()))
}

/// Whether a certificate and its key are there and belong together. A crash between the two writes leaves a pair that
/// no handshake accepts; it is made anew.
fn fits(pem: &Path, key: &Path) -> bool {
    let pair = fs::read_to_string(key).map(|key| KeyPair::from_pem(&key));
    let certificate = fs::read(pem).map(|pem| CertificateDer::from_pem_slice(&pem));
    let (Ok(Ok(pair)), Ok(Ok(certificate))) = (pair, certificate) else {
        return false;
    };
    let parsed = x509_parser::parse_x509_certificate(&certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == pair.subject_public_key_info())
}

fn params(name: &str, names: Vec<SanType>, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.subject_alt_names = names;
    let now = SystemTime::now();
    // A clock that is an hour behind still accepts it.
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + life).into();
    params
}

fn dns(name: &str) -> Result<rcgen::string::Ia5String, TlsError> {
    name.try_into().map_err(|source| TlsError::Make {
        subject: name.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(file("read", path))
}

/// Writes a certificate and its key so that a crash leaves each of them old or new, and on disk.
fn write_pair(pem: (&Path, &str), key: (&Path, &str)) -> Result<(), TlsError> {
    write_private(key.0, key.1)?;
    write_private(pem.0, pem.1)?;
    Ok(())
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[test]
    fn certificates_are_made_once_and_name_their_shard() {
        let folder = tempfile::tempdir().unwrap();
        let first = ensure(folder.path(), 2).unwrap();
        let again = ensure(folder.path(), 3).unwrap();
        assert_eq!(first.certificate, again.certificate);
        let pem = fs::read(folder.path().join("shard-2.pem")).unwrap();
        let der = CertificateDer::from_pem_slice(&pem).unwrap();
        assert_eq!(Identity::of(&der), Some(Identity::Shard(ShardId(2))));
        let der = CertificateDer::from_pem_slice(first.certificate.as_bytes()).unwrap();
        assert_eq!(Identity::of(&der), None);
    }

    #[test]
    fn a_key_that_is_not_its_certificates_is_made_anew_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        ensure(folder.path(), 2).unwrap();
        // As a crash between the two writes leaves it.
        fs::copy(path("shard-1.key"), path("shard-0.key")).unwrap();
        fs::write(path("operator.pem"), "cut off").unwrap();
        let pem = fs::read(path("shard-1.pem")).unwrap();
        ensure(folder.path(), 2).unwrap();
        for name in ["ca", "operator", "shard-0", "shard-1"] {
            let (pem, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
            assert!(fits(&pem, &key), "{name}");
        }
        assert_eq!(
            fs::read(path("shard-1.pem")).unwrap(),
            pem,
            "this one was good"
        );
        // A CA that is lost takes all with it.
        fs::copy(path("shard-1.key"), path("ca.key")).unwrap();
        ensure(folder.path(), 2).unwrap();
        assert!(fits(&path("ca.pem"), &path("ca.key")));
        assert_ne!(fs::read(path("shard-1.pem")).unwrap(), pem);
    }
}
