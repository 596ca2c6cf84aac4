//! The table of members as a ConfigMap.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::document::Document;
use super::store::{MembersStore, StoreError, Versioned, parse, text};

/// The key in the ConfigMap's data.
const KEY: &str = "members.json";

/// The table as a ConfigMap. Its resource version tells whether somebody else was first.
#[derive(Clone)]
pub struct KubeStore {
    api: Api<ConfigMap>,
    name: String,
    labels: BTreeMap<String, String>,
}

impl KubeStore {
    /// The ConfigMap of this name. It is made with `labels`; what others write into its metadata stays.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            labels,
        }
    }

    async fn read(&self) -> Result<Option<Versioned>, StoreError> {
        let found = self.api.get_opt(&self.name).await;
        let Some(found) = found.map_err(|error| self.failed("read", error))? else {
            return Ok(None);
        };
        let place = format!("ConfigMap {}", self.name);
        let text = found.data.as_ref().and_then(|data| data.get(KEY));
        Ok(Some(Versioned {
            document: parse(&place, text.map_or("", String::as_str))?,
            version: found.metadata.resource_version.unwrap_or_default(),
        }))
    }

    async fn write(&self, document: &Document, version: Option<&str>) -> Result<(), StoreError> {
        let text = text(&format!("ConfigMap {}", self.name), document)?;
        let written = match version {
            None => {
                let object = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        labels: Some(self.labels.clone()),
                        ..ObjectMeta::default()
                    },
                    data: Some(BTreeMap::from([(KEY.to_owned(), text)])),
                    ..ConfigMap::default()
                };
                self.api.create(&PostParams::default(), &object).await
            }
            // The table alone: the object's owner is named by somebody else.
            Some(version) => {
                let patch = Patch::Merge(json!({
                    "metadata": {"resourceVersion": version},
                    "data": {KEY: text},
                }));
                let params = PatchParams::default();
                self.api.patch(&self.name, &params, &patch).await
            }
        };
        match written {
            Ok(_) => Ok(()),
            // 404: it was removed meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                Err(StoreError::Conflict)
            }
            Err(error) => Err(self.failed("write", error)),
        }
    }

    fn failed(&self, action: &'static str, source: kube::Error) -> StoreError {
        StoreError::Api {
            action,
            name: self.name.clone(),
            source: Box::new(source),
        }
    }
}

impl MembersStore for KubeStore {
    fn get(&self) -> BoxFuture<'_, Result<Option<Versioned>, StoreError>> {
        Box::pin(self.read())
    }

    fn put<'a>(
        &'a self,
        document: &'a Document,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write(document, version))
    }
}

#[cfg(test)]
mod tests;
