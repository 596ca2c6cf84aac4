//! Follows the table of members while a replica runs, and changes raft's members while it leads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_telemetry::Chain;
use futures::future::BoxFuture;
use operator_consensus::{Change, ChangeError, MemberStatus, Node};
use tokio::sync::watch;
use tokio::time::Instant;

use super::document::{Document, Standing};
use super::join::{Membership, random};
use super::local::Local;
use super::plan::{Step, plan};
use super::store::{MembersStore, StoreError, Versioned};
use crate::directory::Directory;

/// Time for a change of raft's members; then the table is looked at again.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// How often the same trouble is logged.
const WARN_EVERY: Duration = Duration::from_secs(30);
/// How often in a row a cluster must be found lost before it is founded anew.
const LOST_LOOKS: u32 = 15;
/// Ids that are skipped when the table was removed and is written anew: some may have been given out unseen.
const SKIPPED: u64 = 100;

/// Raft, as far as its members go.
pub trait Group: Send + Sync + 'static {
    /// Whether this replica leads.
    fn leads(&self) -> bool;

    /// What raft says of its members.
    fn members(&self) -> Vec<MemberStatus>;

    /// Changes them.
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), ChangeError>>;
}

impl<O: Send + Sync + Clone + 'static> Group for Node<O> {
    fn leads(&self) -> bool {
        self.leadership().borrow().leads
    }

    fn members(&self) -> Vec<MemberStatus> {
        self.status().members
    }

    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(self.change(change))
    }
}

/// What [`keep`] works with.
pub struct Keeping {
    /// This replica's ordinal.
    pub ordinal: u64,
    /// Who it is, from [`super::join`].
    pub membership: Membership,
    /// Its own record: the path that was given to [`super::join`].
    pub local: PathBuf,
    /// The table.
    pub store: Arc<dyn MembersStore>,
    /// Kept as the table says.
    pub directory: Directory,
    /// Raft.
    pub group: Arc<dyn Group>,
    /// Replicas that there should be.
    pub replicas: watch::Receiver<u64>,
    /// How often the table is read, by default [`Keeping::EVERY`]: another replica that has a new id is reached after this
    /// time at the latest. The next step of several is taken after a twentieth of it.
    pub every: Duration,
}

impl Keeping {
    /// See [`Keeping::every`].
    pub const EVERY: Duration = Duration::from_secs(2);
}

/// Follows the table until this replica is replaced: its id was given up, and what its disk holds must not be used any more. The
/// process should move its data folder's content aside and start anew.
///
/// While the store cannot be read everything stays as it is. A leader writes the table anew when it was removed. When all
/// replicas have lost their disks, the cluster is founded anew once that was so for half a minute: all of them are replaced
/// then. Another address of this replica is written into the table.
///
/// Cancel safety: a change of raft's members may be under way.
pub async fn keep(mut keeping: Keeping) {
    keeping.seen(keeping.membership.document.clone(), true);
    let mut warned = None;
    let mut lost = 0;
    loop {
        let outcome = keeping.look().await;
        if !matches!(outcome, Ok(Outcome::Lost)) {
            lost = 0;
        }
        let again = match outcome {
            Ok(Outcome::Replaced) => {
                let (ordinal, id) = (keeping.ordinal, keeping.membership.id);
                tracing::error!(
                    ordinal,
                    id,
                    "this replica was replaced: its raft id was given up"
                );
                return;
            }
            Ok(Outcome::Changed) => true,
            Ok(Outcome::Idle) => false,
            Ok(Outcome::Foreign) => {
                warn(&mut warned, &|| {
                    let cluster = &keeping.membership.cluster_id;
                    tracing::error!(
                        cluster,
                        "the table of members is another cluster's; restore this one's or remove it"
                    );
                });
                false
            }
            Ok(Outcome::Lost) => {
                lost += 1;
                warn(&mut warned, &|| {
                    tracing::error!(
                        "all replicas have lost their disks; the cluster will be founded anew"
                    );
                });
                if lost > LOST_LOOKS
                    && let Err(error) = keeping.found_anew().await
                {
                    tracing::warn!(error = %Chain(&error), "the cluster cannot be founded anew; trying on");
                }
                false
            }
            Err(KeepError::Store(StoreError::Conflict)) => true,
            Err(error) => {
                warn(&mut warned, &|| {
                    tracing::warn!(error = %Chain(&error), "members stay as they are; trying on");
                });
                false
            }
        };
        let every = keeping.every;
        let pause = if again { every / 20 } else { every };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = keeping.replicas.changed() => {}
        }
    }
}

fn warn(warned: &mut Option<Instant>, log: &dyn Fn()) {
    if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
        *warned = Some(Instant::now());
        log();
    }
}

enum Outcome {
    Idle,
    Changed,
    Replaced,
    Foreign,
    Lost,
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the table of members")]
    Store(#[from] StoreError),
    #[error("change of raft's members: {0:?}")]
    Change(Change, #[source] ChangeError),
    #[error("change of raft's members: {0:?} took too long")]
    TimedOut(Change),
}

impl Keeping {
    async fn look(&mut self) -> Result<Outcome, KeepError> {
        let Some(Versioned { document, version }) = self.store.get().await? else {
            return self.restore().await;
        };
        let Membership { cluster_id, id, .. } = &self.membership;
        let own = *id;
        match document.standing(cluster_id, self.ordinal, own) {
            Standing::Foreign => return Ok(Outcome::Foreign),
            Standing::Replaced => return Ok(Outcome::Replaced),
            Standing::Current => {}
        }
        if document.is_lost() {
            return Ok(Outcome::Lost);
        }
        if let Some(next) = self.moved(&document) {
            self.store.put(&next, Some(&version)).await?;
            return Ok(Outcome::Changed);
        }
        self.seen(document.clone(), false);
        if !self.group.leads() {
            return Ok(Outcome::Idle);
        }
        let replicas = *self.replicas.borrow_and_update();
        match plan(&document, own, &self.group.members(), replicas) {
            None => Ok(Outcome::Idle),
            Some(Step::Write(next)) => {
                self.store.put(&next, Some(&version)).await?;
                Ok(Outcome::Changed)
            }
            Some(Step::Change(change)) => {
                let made = tokio::time::timeout(CHANGE_WITHIN, self.group.change(change)).await;
                made.map_err(|_| KeepError::TimedOut(change))?
                    .map_err(|error| KeepError::Change(change, error))?;
                tracing::info!(?change, "members of raft changed");
                Ok(Outcome::Changed)
            }
        }
    }

    /// The table with this replica's address, if it has another one.
    fn moved(&self, document: &Document) -> Option<Document> {
        let address = &self.membership.address;
        let mut next = document.clone();
        let own = next.members.get_mut(&self.ordinal)?;
        if own.address == *address || address.is_empty() {
            return None;
        }
        own.address.clone_from(address);
        Some(next)
    }

    /// Founds another cluster in place of the one that is lost.
    async fn found_anew(&self) -> Result<(), StoreError> {
        let Some(Versioned { document, version }) = self.store.get().await? else {
            return Ok(());
        };
        if document.cluster_id != self.membership.cluster_id || !document.is_lost() {
            return Ok(());
        }
        let next = document.found_anew(random());
        self.store.put(&next, Some(&version)).await?;
        let (lost, cluster) = (&document.cluster_id, &next.cluster_id);
        tracing::error!(%lost, %cluster, "all disks were lost: the cluster is founded anew, from what the source says");
        Ok(())
    }

    /// Somebody removed the table.
    async fn restore(&self) -> Result<Outcome, KeepError> {
        if !self.group.leads() {
            return Ok(Outcome::Idle);
        }
        let mut document = self.membership.document.clone();
        document.next_id += SKIPPED;
        self.store.put(&document, None).await?;
        tracing::warn!("the table of members was removed; it is written anew");
        Ok(Outcome::Changed)
    }

    /// Takes over a table that has changed.
    fn seen(&mut self, document: Document, first: bool) {
        if !first && document == self.membership.document {
            return;
        }
        self.directory.replace(document.directory());
        self.membership.document = document;
        let saved = Local::load(&self.local).and_then(|local| {
            let Some(mut local) = local else {
                return Ok(());
            };
            local.document = Some(self.membership.document.clone());
            local.save(&self.local)
        });
        if let Err(error) = saved {
            // The older one names the same replicas, or is made good from the store.
            tracing::warn!(error = %Chain(&error), "table of members not kept on the replica's own disk");
        }
    }
}

#[cfg(test)]
mod tests;
