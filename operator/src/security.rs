//! Who this replica is to shards and to other replicas, and what it asks of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use api_telemetry::metrics::Source;
use operator_distribute::ServeTls;
use operator_identity::{Authority, Credentials, Identity, read};
use operator_kubernetes::Client;

use crate::config::Config;

/// Certificates of this replica.
pub(crate) struct Security {
    /// What delta streams are served with.
    pub(crate) streams: ServeTls,
    /// What other replicas are spoken to with; none without TLS.
    pub(crate) peers: Option<Credentials>,
    pub(crate) metrics: Vec<Arc<dyn Source>>,
}

/// Opens what a replica is known by: in a cluster with a pool a Secret's CA, else files in the data folder.
///
/// # Errors
/// Files or certificates that cannot be read or made.
pub(crate) async fn open(config: &Config, client: Option<&Client>) -> anyhow::Result<Security> {
    if let (Some(client), Some(pool)) = (client, &config.pool) {
        return in_cluster(config, client, pool).await;
    }
    let folder = config.tls_dir();
    let tls = made(&folder, config.shards)
        .with_context(|| format!("certificates in {}", folder.display()))?;
    if config.insecure_stream {
        return Ok(Security {
            streams: ServeTls::None,
            peers: None,
            metrics: Vec::new(),
        });
    }
    let (ca, key) = (read(&folder.join("ca.pem"))?, read(&folder.join("ca.key"))?);
    let authority = Arc::new(Authority::from_pem(&ca, &key)?);
    let credentials =
        Credentials::renewing(authority, Identity::Operator(config.ordinal().into()))?;
    Ok(Security {
        streams: ServeTls::Fixed(tls),
        metrics: vec![credentials.metrics()],
        peers: Some(credentials),
    })
}

/// One process at a time: replicas on one machine share the folder.
fn made(folder: &Path, shards: u32) -> anyhow::Result<operator_distribute::ServerTls> {
    std::fs::create_dir_all(folder)?;
    let lock = File::create(folder.join(".lock"))?;
    lock.lock()?;
    Ok(operator_distribute::tls::ensure(folder, shards)?)
}

async fn in_cluster(config: &Config, client: &Client, pool: &str) -> anyhow::Result<Security> {
    let namespace = config.namespace()?;
    let folder: PathBuf = config.tls_dir();
    let settings = operator_identity::kube::Settings {
        shard_account: config.shard_service_account.clone(),
        pool: pool.to_owned(),
        ..operator_identity::kube::Settings::new(namespace, config.ordinal().into(), folder)
    };
    let opened = operator_identity::kube::open(client.clone(), &settings)
        .await
        .context("open the identity of this replica")?;
    let metrics = vec![opened.credentials.metrics(), opened.signer.metrics()];
    let streams = if config.insecure_stream {
        ServeTls::None
    } else {
        ServeTls::Own {
            credentials: opened.credentials.clone(),
            signer: opened.signer,
        }
    };
    Ok(Security {
        streams,
        peers: Some(opened.credentials),
        metrics,
    })
}
