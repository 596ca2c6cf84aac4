//! The shard's end of the delta stream: from messages to tables, and to a copy on disk.
//!
//! ```text
//!   operator --ToShard--> client --> Shard (facts, tables, revisions) --> Plane (sockets, endpoints)
//!                            ^----FromShard----'   `--changes--> disk writer --> redb file --boot--> Shard
//! ```
//!
//! **Invariants**
//! - A delta is applied to exactly the revision that it names as its base; anything else asks for the Gateway anew.
//! - What is held has the hash that the operator named, or it is not held.
//! - The active table changes by `Activate` alone; what is prepared stands beside it.
//! - Revisions compare within one history; what is held of another serves until something is sent.
//! - The file holds what was activated, never what was merely prepared; it is written behind, never waited for. What it
//!   has lost is asked for anew.
//! - Without an operator everything goes on as it is, whatever has become of the shard's certificate meanwhile.
//!
//! It deliberately does not know: HTTP, TLS to clients, how a Gateway is served (see [`Plane`]).

mod client;
mod disk;
mod shard;

use std::collections::BTreeMap;

use api::{BackendKey, CertificateKey, GatewayKey};
use api_snapshot::facts::{Backend, Binding, Certificate};
use shard_proxy_table::SubTable;

pub use client::{Certificates, ClientConfig, ClientTls, FileTls, TokenTls, run};
pub use disk::{Disk, DiskError, Writer};
pub use shard::{ServedGateways, Shard, ShardStatus};

/// What serves Gateways. Called by one task.
pub trait Plane: Send + Sync + 'static {
    /// What tables hold for a backend.
    type Backend: Clone + Send + Sync + 'static;
    /// A table that is bound and not active.
    type Prepared: Send;

    /// The cell of a backend; its endpoints come by [`Plane::set_backend`].
    fn backend(&self, key: &BackendKey) -> Self::Backend;
    /// Swaps a backend's endpoints.
    fn set_backend(&self, key: &BackendKey, backend: &Backend);
    /// Takes a backend's endpoints away.
    fn remove_backend(&self, key: &BackendKey);
    /// Takes certificates, and forgets those without one, all at once. Gives a text for each that cannot be used; the one
    /// before stays.
    fn change_certificates(
        &self,
        changes: Vec<(CertificateKey, Option<Certificate>)>,
    ) -> Vec<String>;
    /// Binds what a table needs.
    ///
    /// # Errors
    /// [`PrepareFailure`]; nothing has changed then.
    fn prepare(
        &self,
        table: SubTable<Self::Backend>,
        bindings: &BTreeMap<u16, Binding>,
    ) -> Result<Self::Prepared, PrepareFailure>;
    /// Serves prepared tables from now on, together: an address may go from one Gateway to another.
    fn activate(&self, prepared: Vec<Self::Prepared>) -> impl Future<Output = ()> + Send;
    /// Stops serving a Gateway that is gone.
    fn remove(&self, gateway: &GatewayKey) -> impl Future<Output = ()> + Send;
    /// Lets go of a Gateway that others serve: nothing new is accepted, what is open ends in peace.
    fn leave(&self, gateway: &GatewayKey) -> impl Future<Output = ()> + Send;
    /// What it is doing now: connections, requests in flight, requests since the start.
    fn load(&self) -> (u64, u64, u64);
}

/// Why a table cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareFailure {
    /// The listener at fault; none for the whole Gateway.
    pub listener: Option<String>,
    /// Whether a socket could not be bound.
    pub port_unavailable: bool,
    /// For people.
    pub message: String,
}
