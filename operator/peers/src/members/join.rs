//! How a replica learns who it is.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::Duration;

use super::document::Document;
use super::local::{Local, LocalError};
use super::store::{MembersStore, StoreError, Versioned};

/// Tries when others write the table at the same time.
const TRIES: usize = 20;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(50);

/// How a cluster is founded by whoever finds no table.
pub struct Founding<'a> {
    /// Voters that it begins with, from ordinal 0.
    pub replicas: u64,
    /// `host:port` of each ordinal.
    pub address: &'a (dyn Fn(u64) -> String + Sync),
}

/// Who a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster_id: String,
    /// Its raft id.
    pub id: u64,
    /// `host:port` where others are to reach it.
    pub address: String,
    /// Voters to start an empty log with; empty for one that waits to be added.
    pub initial_voters: Vec<u64>,
    /// The table as it was seen last.
    pub document: Document,
}

/// A replica cannot learn who it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Its own record.
    #[error("the replica's own membership")]
    Local(#[from] LocalError),
    /// The table.
    #[error("claim a raft id for replica {ordinal}")]
    Store {
        /// The replica.
        ordinal: u64,
        /// Why not.
        #[source]
        source: StoreError,
    },
}

/// Who the replica of `ordinal` is: what its record at `path` says, or an id that it claims in `store` now. The record is on
/// the same disk as the log, and goes with it. `store` is asked only when there is no record of an id.
///
/// # Errors
/// [`JoinError`]; trying again later is safe.
///
/// Cancel safety: an id may be claimed; the next call takes the same one.
pub async fn join(
    path: &Path,
    store: &dyn MembersStore,
    ordinal: u64,
    founding: &Founding<'_>,
) -> Result<Membership, JoinError> {
    let mut local = match Local::load(path)? {
        Some(local) => local,
        None => {
            // On disk before anybody hears of it: with it the claim survives a crash at any moment.
            let local = Local::new(random());
            local.save(path)?;
            local
        }
    };
    let (id, document) = match (local.id, local.document.take()) {
        (Some(id), Some(document)) => (id, document),
        _ => {
            let claimed = claim(store, ordinal, &local.disk, founding).await;
            let (id, document) = claimed.map_err(|source| JoinError::Store { ordinal, source })?;
            tracing::info!(
                ordinal,
                id,
                cluster = document.cluster_id,
                "raft id claimed"
            );
            local.id = Some(id);
            local.document = Some(document.clone());
            local.save(path)?;
            (id, document)
        }
    };
    Ok(Membership {
        cluster_id: document.cluster_id.clone(),
        id,
        address: (founding.address)(ordinal),
        initial_voters: document.initial_voters(id),
        document,
    })
}

async fn claim(
    store: &dyn MembersStore,
    ordinal: u64,
    disk: &str,
    founding: &Founding<'_>,
) -> Result<(u64, Document), StoreError> {
    let address = (founding.address)(ordinal);
    let mut tries = 0;
    loop {
        let (held, version) = match store.get().await? {
            Some(Versioned { document, version }) => (document, Some(version)),
            None => {
                let founded = Document::found(random(), founding.replicas, founding.address);
                (founded, None)
            }
        };
        let claim = held.claim(ordinal, disk, &address);
        let document = match (claim.write, &version) {
            (None, Some(_)) => return Ok((claim.id, held)),
            (write, _) => write.unwrap_or(held),
        };
        match store.put(&document, version.as_deref()).await {
            Ok(()) => return Ok((claim.id, document)),
            Err(StoreError::Conflict) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// 128 random bits as text.
pub(super) fn random() -> String {
    let draw = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", draw(), draw())
}

#[cfg(test)]
mod tests;
