//! Who is who inside an installation: a CA, certificates that live a day, and what a connection may ask for.
//!
//! ```text
//!   Secret ca --> Authority --sign--> Credentials (renew themselves) --TlsSource--> peers, delta streams
//!                     ^
//!   shard --token or certificate, CSR--> Sign --> certificate for this shard, trust bundle
//! ```
//!
//! **Invariants**
//! - A certificate names exactly one [`Identity`]; one that names none or two is nobody's.
//! - A key is made where it is used and never travels; the CA's own leaves its Secret for replicas of the operator alone.
//! - A shard gets a certificate for itself, by a token of its own pod or by the certificate that it holds.
//! - Renewal needs neither the API server nor a restart; an expired certificate costs a new bootstrap, nothing else.
//!
//! It deliberately does not know: what is said on a connection once it is known whose it is.

mod accept;
mod authority;
mod credentials;
mod error;
mod files;
pub mod kube;
mod name;
mod review;
mod signer;
mod tls;

use std::sync::Arc;

pub use accept::{Connection, Incoming, Peer, Refusals, incoming};
pub use authority::{Authority, LIFE};
pub use credentials::Credentials;
pub use error::IdentityError;
pub use files::{read, write_private};
pub use name::{Identity, OPERATOR_NAME};
pub use review::{ReviewError, ShardPods, TokenOwner, TokenReviewer};
pub use signer::Signer;

/// What TLS needs at this moment. Ask for each connection anew: certificates and roots change while the process runs.
pub trait TlsSource: Send + Sync + 'static {
    /// For connections from replicas of the operator: theirs is the only certificate that passes the handshake.
    fn server(&self) -> Arc<rustls::ServerConfig>;
    /// For connections to the operator, under the name [`OPERATOR_NAME`]. Which replica answers is for the caller to check,
    /// by [`Identity::of`] the certificate that it shows.
    fn client(&self) -> Arc<rustls::ClientConfig>;
}
