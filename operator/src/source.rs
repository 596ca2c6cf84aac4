//! Where objects come from: a folder of manifests, or a cluster. The pipeline does not tell them apart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::ObjectKey;
use operator_kubernetes::{KubeBatch, KubeSource, Schemas};
use operator_source::{Batch, DirSource};
use operator_status::Statuses;
use operator_translate::Translation;
use parking_lot::RwLock;

/// How long a start waits for Secrets and ConfigMaps before it goes on without them.
const NAMED_WITHIN: Duration = Duration::from_secs(5);

/// A source of objects.
#[allow(clippy::large_enum_variant)] // there is one
pub(crate) enum Source {
    /// A folder.
    Dir(DirSource),
    /// A cluster, with the statuses that are to stand there.
    Kube(KubeSource, Arc<RwLock<Statuses>>),
}

impl Source {
    /// Everything that is there, except Secrets and ConfigMaps of a cluster: those are asked for by [`Source::want_named`].
    pub(crate) async fn initial(&mut self) -> Batch {
        match self {
            Self::Dir(source) => source.initial(),
            Self::Kube(source, statuses) => {
                let KubeBatch {
                    batch,
                    statuses: seen,
                } = source.initial().await;
                // What was said before is where conditions' transition times come from, and what need not be said again.
                let own = seen.into_iter().filter_map(|(key, status)| {
                    let own = operator_kubernetes::own_status(&key, &status?)?;
                    Some((key, own))
                });
                *statuses.write() = Statuses::restored(own);
                batch
            }
        }
    }

    /// Waits for a change and gives it. Statuses of ours that somebody has changed are written again, if this replica `leads`;
    /// else what another one has written is noted.
    ///
    /// Cancel safety: safe.
    pub(crate) async fn next(&mut self, leads: bool) -> Batch {
        match self {
            Self::Dir(source) => source.next().await,
            Self::Kube(source, statuses) => {
                let KubeBatch {
                    batch,
                    statuses: seen,
                } = source.next().await;
                // The API server takes other fields of these from now on.
                let kinds = source.take_changed_schemas();
                if leads {
                    correct(&mut statuses.write(), &source.schemas(), seen);
                    again(&mut statuses.write(), &kinds);
                } else {
                    note(&mut statuses.write(), seen);
                }
                batch
            }
        }
    }

    /// Reads just the Secrets and ConfigMaps that translation refers to from now on; a folder holds them all. With `wait`,
    /// gives what is known of them once they have been looked at.
    pub(crate) async fn want_named(&mut self, translation: &Translation, wait: bool) -> Batch {
        match self {
            Self::Kube(source, _) => {
                source.want_secrets(&translation.secrets());
                source.want_config_maps(&translation.config_maps());
                if wait {
                    source.settle(NAMED_WITHIN).await.batch
                } else {
                    Batch::default()
                }
            }
            Self::Dir(_) => Batch::default(),
        }
    }

    /// Whether Secrets and ConfigMaps have to be asked for.
    pub(crate) fn is_asked_by_name(&self) -> bool {
        matches!(self, Self::Kube(..))
    }
}

/// Takes over what the leader has written.
fn note(statuses: &mut Statuses, seen: Vec<(ObjectKey, Option<serde_json::Value>)>) {
    for (key, status) in seen {
        let own = status.and_then(|status| operator_kubernetes::own_status(&key, &status));
        statuses.note(&key, own);
    }
}

/// Statuses of these kinds are written again.
fn again(statuses: &mut Statuses, kinds: &BTreeSet<String>) {
    if kinds.is_empty() {
        return;
    }
    let keys = statuses.iter().map(|(key, _)| key);
    let keys: Vec<ObjectKey> = keys
        .filter(|key| kinds.contains(&key.kind))
        .cloned()
        .collect();
    statuses.keep_unsaved(keys);
}

/// Statuses of ours that somebody has changed are written again.
fn correct(
    statuses: &mut Statuses,
    schemas: &Schemas,
    seen: Vec<(ObjectKey, Option<serde_json::Value>)>,
) {
    let changed: Vec<ObjectKey> = seen
        .into_iter()
        .filter_map(|(key, status)| {
            let ours = statuses.get(&key)?;
            let status = status.unwrap_or_default();
            schemas.differs(&key, &status, ours).then_some(key)
        })
        .collect();
    statuses.keep_unsaved(changed);
}
