//! What the replicas make for themselves belongs to their StatefulSet: it goes with it, and nothing of a release is left.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Pause before what is not there yet, or could not be written, is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Secrets and ConfigMaps that replicas make; which of them is first makes it.
const SECRETS: &[&str] = &["shardway-ca"];
const CONFIG_MAPS: &[&str] = &["shardway-trust", "shardway-members"];

/// Names the StatefulSet as the owner of what the replicas have made; ends when all of it has one.
pub(crate) async fn adopt(client: Client, namespace: String, set: String) {
    let mut said = false;
    loop {
        match all(&client, &namespace, &set).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) if said => tracing::debug!(%error, "owners are not named yet"),
            Err(error) => {
                said = true;
                tracing::warn!(%error, "owners are not named yet; what this release made would stay behind it");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether nothing is left to be done.
async fn all(client: &Client, namespace: &str, set: &str) -> Result<bool, kube::Error> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get(set).await?;
    let Some(owner) = owner(&set) else {
        return Ok(false);
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut done = true;
    for name in SECRETS {
        done &= owned(&secrets, name, &owner).await?;
    }
    for name in CONFIG_MAPS {
        done &= owned(&maps, name, &owner).await?;
    }
    Ok(done)
}

fn owner(set: &StatefulSet) -> Option<OwnerReference> {
    // It would hold up nobody's deletion: the objects go after it.
    set.owner_ref(&())
}

/// Whether the object is there and has the owner.
async fn owned<K>(api: &Api<K>, name: &str, owner: &OwnerReference) -> Result<bool, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let Some(object) = api.get_opt(name).await? else {
        return Ok(false);
    };
    if object.owner_references().contains(owner) {
        return Ok(true);
    }
    let patch = json!({"metadata": {"ownerReferences": [owner]}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(true)
}
