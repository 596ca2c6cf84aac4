//! The identity of a replica in a cluster: a CA in a Secret, trust in a ConfigMap, tokens that the API server reviews.

mod objects;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_telemetry::Chain;
use kube::Client;

use crate::files::{read, write_private};
use crate::{Authority, Credentials, Identity, IdentityError, ShardPods, Signer};
use objects::Objects;
use tokens::Reviews;

/// Audience of the tokens that shards show.
pub const AUDIENCE: &str = "shardway.dev";
/// How long the API server is waited for at start before the copy on disk is taken.
const API_WITHIN: Duration = Duration::from_secs(5);
/// Pauses between tries when there is no copy on disk.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often the Secret is looked at, so that an exchanged CA is taken up; and how soon after it could not be.
const LOOK_EVERY: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Time for one look.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// Where things are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespace of the operator and of its shards.
    pub namespace: String,
    /// Number at the end of this replica's pod name.
    pub ordinal: u64,
    /// Folder for the copy of the CA on disk; made when it is missing.
    pub folder: PathBuf,
    /// Name of the shards' service account.
    pub shard_account: String,
    /// Name of the ShardPool that is served.
    pub pool: String,
    /// Name of the Secret with the CA: `ca.pem`, `ca.key`.
    pub secret: String,
    /// Name of the ConfigMap with the certificates of the CAs that are trusted: `ca.pem`. Shards mount it.
    pub trust: String,
}

impl Settings {
    /// With the usual names: Secret `shardway-ca`, ConfigMap `shardway-trust`, account `shardway-shard`, pool `default`.
    pub fn new(namespace: &str, ordinal: u64, folder: PathBuf) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ordinal,
            folder,
            shard_account: "shardway-shard".into(),
            pool: "default".into(),
            secret: "shardway-ca".into(),
            trust: "shardway-trust".into(),
        }
    }
}

/// What a replica needs to serve and to be served.
#[derive(Clone)]
pub struct Opened {
    /// The CA.
    pub authority: Arc<Authority>,
    /// This replica's own certificate: a [`TlsSource`](crate::TlsSource) for peers, and what delta streams are served with.
    pub credentials: Credentials,
    /// Signs for shards.
    pub signer: Signer,
}

/// Finds the CA, or makes it, and makes this replica's certificate. The Secret counts; a copy on disk is taken while the
/// API server does not answer. Waits for it when there is none. From then on the Secret and the ConfigMap are looked after
/// by a task for as long as the process runs.
///
/// # Errors
/// [`IdentityError`] when the folder cannot be made, or this replica's certificate.
pub async fn open(client: Client, settings: &Settings) -> Result<Opened, IdentityError> {
    let folder = &settings.folder;
    std::fs::create_dir_all(folder).map_err(crate::files::file("write", folder))?;
    let objects = Objects::new(client.clone(), settings);
    let kept = kept(folder);
    let authority = Arc::new(first(&objects, kept, folder).await);
    let identity = Identity::Operator(settings.ordinal);
    let credentials = Credentials::renewing(Arc::clone(&authority), identity)?;
    let pods = ShardPods {
        account: format!(
            "system:serviceaccount:{}:{}",
            settings.namespace, settings.shard_account
        ),
        pool: settings.pool.clone(),
    };
    let reviewer = Arc::new(Reviews::new(client));
    let signer = Signer::new(Arc::clone(&authority), reviewer, pods);
    let looked_after = look_after(objects, Arc::clone(&authority), folder.clone());
    api_telemetry::task::spawn("ca", looked_after);
    Ok(Opened {
        authority,
        credentials,
        signer,
    })
}

async fn first(objects: &Objects, kept: Option<Authority>, folder: &Path) -> Authority {
    let mut pause = RETRY.0;
    loop {
        let error: Box<dyn std::error::Error + Send + Sync> =
            match tokio::time::timeout(API_WITHIN, objects.authority(kept.as_ref())).await {
                Ok(Ok(authority)) => {
                    keep(&authority, folder);
                    return authority;
                }
                Ok(Err(error)) => error.into(),
                Err(elapsed) => elapsed.into(),
            };
        let error = Chain(&*error).to_string();
        if let Some(kept) = kept {
            tracing::warn!(%error, "secret with the ca cannot be read; the copy on disk is used");
            return kept;
        }
        tracing::warn!(%error, "secret with the ca cannot be read; waiting for it");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn look_after(objects: Objects, authority: Arc<Authority>, folder: PathBuf) {
    loop {
        let looked = async {
            let found = objects.authority(Some(&authority)).await?;
            authority.replace(&found);
            keep(&authority, &folder);
            objects.publish(&authority.trust_pem()).await
        };
        let error = match tokio::time::timeout(LOOK_WITHIN, looked).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Chain(&error).to_string()),
            Err(elapsed) => Some(elapsed.to_string()),
        };
        if let Some(error) = &error {
            tracing::warn!(
                error,
                "secret with the ca, or configmap with what is trusted, cannot be looked after"
            );
        }
        tokio::time::sleep(if error.is_none() {
            LOOK_EVERY
        } else {
            LOOK_AGAIN
        })
        .await;
    }
}

/// The copy on disk; none when there is none that is whole.
fn kept(folder: &Path) -> Option<Authority> {
    let certificates = read(&folder.join("ca.pem")).ok()?;
    let key = read(&folder.join("ca.key")).ok()?;
    match Authority::from_pem(&certificates, &key) {
        Ok(authority) => Some(authority),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "copy of the ca on disk is of no use");
            None
        }
    }
}

/// Without a copy a restart has to wait for the API server; that is no reason not to go on.
fn keep(authority: &Authority, folder: &Path) {
    let same = |name: &str, text: &str| read(&folder.join(name)).is_ok_and(|kept| kept == text);
    let (certificates, key) = (authority.trust_pem(), authority.key_pem());
    if same("ca.pem", &certificates) && same("ca.key", &key) {
        return;
    }
    let written = write_private(&folder.join("ca.key"), &key)
        .and_then(|()| write_private(&folder.join("ca.pem"), &certificates));
    if let Err(error) = written {
        tracing::warn!(error = %Chain(&error), "copy of the ca cannot be written");
    }
}

#[cfg(test)]
mod tests;
