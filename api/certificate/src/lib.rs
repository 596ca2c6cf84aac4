//! What the operator and the shards do alike with their own certificates: how long one counts, when it is renewed, how a key is
//! kept.
//!
//! **Invariants**
//! - Both renew by the same rule, so that a certificate's life is a matter of who signs it alone.
//! - A file with a key is its owner's alone from its first byte, and old or new whenever the machine stops.
//!
//! It deliberately does not know who signs, and what is said over TLS.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;

/// First and last moment of a certificate; none when it cannot be read.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    };
    Some((at(validity.not_before)?, at(validity.not_after)?))
}

/// When to ask for the next one: after half of a life that began at `made`, and up to a tenth more, so that what started
/// together does not renew together.
pub fn renewal(made: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(made).unwrap_or_default();
    let random = RandomState::new().hash_one(made) % 1000;
    made + life.mul_f64(0.5 + 0.0001 * random as f64)
}

/// Writes a file of mode 0600 so that a crash leaves it old or new, and on disk.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut out = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn renewal_is_in_the_sixth_tenth_of_a_life() {
        let made = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let life = Duration::from_secs(86_400);
        for _ in 0..100 {
            let at = renewal(made, made + life).duration_since(made).unwrap();
            assert!(at >= life.mul_f64(0.5) && at <= life.mul_f64(0.6), "{at:?}");
        }
        // One that is over is to be renewed at once.
        assert_eq!(renewal(made, made - life), made);
    }

    #[test]
    fn a_private_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        write_private(&path, "a longer text").unwrap();
        write_private(&path, "short").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
