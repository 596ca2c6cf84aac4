//! What an installation is set up with.

use api::PoolKey;

/// What statuses depend on and no object says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The ShardPool that is served; none outside of a cluster.
    pub pool: Option<PoolKey>,
}
