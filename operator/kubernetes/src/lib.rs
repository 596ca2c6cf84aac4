//! The API server as a source of objects and as the place of statuses.
//!
//! ```text
//!   API server --one watch for each kind--> Watched (pure) --batches--> pipeline
//!              --one watch for each object read by its name------'
//!   API server <--read, cut, merge (pure), write what differs-- StatusWriter <-- statuses
//!              <--what that changes, told once-- EventWriter <-----'
//! ```
//!
//! **Invariants**
//! - A relist replaces what is known of its kind at its end, never piecemeal; what has not changed is not handed on.
//! - Secrets and ConfigMaps are read by name when they are referred to, never listed.
//! - A kind whose CRD is missing, or that we may not read, holds nobody back; it is taken up when it appears.
//! - A status write touches our own entries alone, says nothing that the installed CRD does not know, and is not made when it
//!   would change nothing.
//!
//! It deliberately does not know what objects mean together.

mod convert;
mod events;
#[cfg(test)]
mod fake;
mod kinds;
mod merge;
mod named;
mod news;
mod pace;
mod schemas;
mod source;
mod status;
mod urgency;
mod watch;
mod watched;

pub use events::{EventType, EventWriter, Regarding};
pub use kube::Client;
pub use merge::{differs, own as own_status};
pub use schemas::Schemas;
pub use source::{KubeBatch, KubeSource, Settings};
pub use status::{Counts, StatusWriter, WriteError};

/// A client from the environment: in a pod its service account, else `KUBECONFIG` or `~/.kube/config`.
///
/// # Errors
/// When neither is there or the configuration is not readable.
pub async fn client() -> Result<Client, ClientError> {
    // One provider for the process, named: with two in the dependency graph rustls would refuse to choose.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::Config::infer()
        .await
        .map_err(|error| ClientError::Config(error.to_string()))?;
    Client::try_from(config).map_err(|error| ClientError::Connect(error.to_string()))
}

/// The API server cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No configuration.
    #[error(
        "find the API server: {0}; in a pod, mount a service account; elsewhere, set KUBECONFIG"
    )]
    Config(String),
    /// The configuration leads nowhere.
    #[error("set up a client of the API server: {0}")]
    Connect(String),
}
