//! What can be wrong with keys and certificates.

use std::io;
use std::path::PathBuf;

/// A key or certificate cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Made by ourselves.
    #[error("make certificate for {subject}")]
    Make {
        /// Whose.
        subject: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// A request for a certificate, from outside.
    #[error("read certificate request")]
    Request(#[source] rcgen::Error),
    /// A PEM text.
    #[error("read {0}: no PEM of that kind in it, or one that is cut off")]
    Pem(&'static str),
    /// The CA's key does not belong to any of its certificates.
    #[error(
        "the ca's key is not that of one of its certificates; restore both from a backup, or remove both"
    )]
    Mismatch,
    /// TLS refuses it.
    #[error("use certificate for tls")]
    Tls(#[from] rustls::Error),
    /// Roots that no verifier can be built from.
    #[error("use ca certificates for tls")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
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
}
