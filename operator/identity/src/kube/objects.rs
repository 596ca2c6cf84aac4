//! The Secret with the CA and the ConfigMap with what is trusted.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};

use super::Settings;
use crate::{Authority, IdentityError};

const CERTIFICATES: &str = "ca.pem";
const KEY: &str = "ca.key";
const FIELD_MANAGER: &str = "shardway-operator";
const CONFLICT: u16 = 409;

#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    #[error("{action} {kind} {name}")]
    Api {
        action: &'static str,
        kind: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("use secret {name}")]
    Unusable {
        name: String,
        #[source]
        source: IdentityError,
    },
    #[error("make a ca")]
    Make(#[source] IdentityError),
}

pub(super) struct Objects {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    secret: String,
    trust: String,
}

impl Objects {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &settings.namespace),
            config_maps: Api::namespaced(client, &settings.namespace),
            secret: settings.secret.clone(),
            trust: settings.trust.clone(),
        }
    }

    /// The CA of the Secret. When there is none it is written: the one that is known, so that what it signed goes on to count,
    /// or a new one. Of several replicas that do so together the first one's counts.
    pub(super) async fn authority(
        &self,
        known: Option<&Authority>,
    ) -> Result<Authority, ObjectError> {
        if let Some(found) = self.read().await? {
            return Ok(found);
        }
        let (certificates, key) = match known {
            Some(known) => (known.trust_pem(), known.key_pem()),
            None => {
                let made = Authority::make().map_err(ObjectError::Make)?;
                (made.trust_pem(), made.key_pem())
            }
        };
        let data = BTreeMap::from([
            (CERTIFICATES.to_owned(), ByteString(certificates.into())),
            (KEY.to_owned(), ByteString(key.into())),
        ]);
        let secret = Secret {
            metadata: metadata(&self.secret),
            data: Some(data),
            type_: Some("Opaque".into()),
            ..Secret::default()
        };
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        match self.secrets.create(&params, &secret).await {
            Ok(_) => tracing::info!(secret = self.secret, "secret with the ca written"),
            Err(kube::Error::Api(status)) if status.code == CONFLICT => {}
            Err(error) => return Err(self.failed("create")(error)),
        }
        let found = self.read().await?;
        // Gone again already; the next look makes it.
        found.ok_or_else(|| ObjectError::Unusable {
            name: self.secret.clone(),
            source: IdentityError::Pem(CERTIFICATES),
        })
    }

    /// Writes what is trusted where shards read it, when that is not what is there.
    pub(super) async fn publish(&self, certificates: &str) -> Result<(), ObjectError> {
        let failed = |action| {
            let name = self.trust.clone();
            move |source| ObjectError::Api {
                action,
                kind: "configmap",
                name,
                source: Box::new(source),
            }
        };
        let found = self.config_maps.get_opt(&self.trust).await;
        let data = found.map_err(failed("read"))?.and_then(|found| found.data);
        if data.is_some_and(|data| {
            data.get(CERTIFICATES)
                .is_some_and(|there| there == certificates)
        }) {
            return Ok(());
        }
        let config_map = ConfigMap {
            metadata: metadata(&self.trust),
            data: Some(BTreeMap::from([(
                CERTIFICATES.to_owned(),
                certificates.to_owned(),
            )])),
            ..ConfigMap::default()
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.config_maps
            .patch(&self.trust, &params, &Patch::Apply(&config_map))
            .await
            .map_err(failed("write"))?;
        tracing::info!(
            configmap = self.trust,
            "configmap with trusted certificates written"
        );
        Ok(())
    }

    async fn read(&self) -> Result<Option<Authority>, ObjectError> {
        let secret = self.secrets.get_opt(&self.secret).await;
        let Some(secret) = secret.map_err(self.failed("read"))? else {
            return Ok(None);
        };
        let data = secret.data.unwrap_or_default();
        let text = |name: &'static str| {
            let bytes = data.get(name).ok_or(IdentityError::Pem(name))?;
            std::str::from_utf8(&bytes.0).map_err(|_| IdentityError::Pem(name))
        };
        let authority = text(CERTIFICATES)
            .and_then(|certificates| Authority::from_pem(certificates, text(KEY)?));
        authority.map(Some).map_err(|source| ObjectError::Unusable {
            name: self.secret.clone(),
            source,
        })
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(kube::Error) -> ObjectError {
        let name = self.secret.clone();
        move |source| ObjectError::Api {
            action,
            kind: "secret",
            name,
            source: Box::new(source),
        }
    }
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/name", "shardway-operator"),
        ("app.kubernetes.io/managed-by", "shardway"),
    ];
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
        ..ObjectMeta::default()
    }
}
