//! An operator in a cluster: found by its pods' labels, reached through the API server, which forwards to a pod's port.

use std::time::Duration;

use anyhow::{Context, bail};
use api::{GATEWAY_GROUP, ObjectKey};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Portforwarder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::Value;

/// Labels of the operator's pods.
const PODS: &str = "app.kubernetes.io/name=shardway,app.kubernetes.io/component=operator";
/// Port of the admin endpoint in a pod.
const ADMIN_PORT: u16 = 7002;
/// Time for the API server's answers.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster, and the operator's pods in it.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    pods: Api<Pod>,
    /// Pods that run, in order of their names.
    pub(crate) replicas: Vec<String>,
}

impl Cluster {
    /// The cluster of the kubeconfig (`KUBECONFIG`, `~/.kube/config`), or of one of its contexts. `namespace` is where the
    /// operator runs; all are searched without it.
    pub(crate) async fn find(
        context: Option<&str>,
        namespace: Option<&str>,
    ) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read().context("read the kubeconfig; set KUBECONFIG")?;
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .context("use the kubeconfig")?;
        config.connect_timeout = Some(TIMEOUT);
        let client = Client::try_from(config).context("set up a client of the API server")?;
        let everywhere: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let found = everywhere
            .list(&ListParams::default().labels(PODS))
            .await
            .context("look for the operator's pods")?;
        let mut homes: Vec<String> = found.iter().filter_map(ResourceExt::namespace).collect();
        homes.sort();
        homes.dedup();
        let home = match &homes[..] {
            [] => bail!(
                "no operator runs in this cluster (no pods with the labels {PODS}); install it with helm, or name it by --operator or --data"
            ),
            [home] => home.clone(),
            many => bail!(
                "operators run in the namespaces {}; choose one by --system-namespace",
                many.join(", ")
            ),
        };
        let is_running = |pod: &&Pod| {
            pod.metadata.deletion_timestamp.is_none()
                && pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
        };
        let mut replicas: Vec<String> = found
            .iter()
            .filter(is_running)
            .map(ResourceExt::name_any)
            .collect();
        replicas.sort();
        if replicas.is_empty() {
            bail!(
                "no pod of the operator runs in namespace {home}; see kubectl get pods -n {home}"
            );
        }
        let pods = Api::namespaced(client.clone(), &home);
        Ok(Self {
            client,
            pods,
            replicas,
        })
    }

    /// A connection to the admin endpoint of a replica. It lives as long as what is given beside it.
    pub(crate) async fn connect(
        &self,
        replica: &str,
    ) -> anyhow::Result<(
        impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        Portforwarder,
    )> {
        let mut forwarder = self
            .pods
            .portforward(replica, &[ADMIN_PORT])
            .await
            .with_context(|| format!("forward to port {ADMIN_PORT} of pod {replica}"))?;
        let stream = forwarder
            .take_stream(ADMIN_PORT)
            .context("the port was not forwarded")?;
        Ok((stream, forwarder))
    }

    /// All objects of a kind.
    pub(crate) async fn list(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let api: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &self.resource(kind).await?);
        let mut all = Vec::new();
        let mut page = ListParams::default().limit(500);
        loop {
            let list = api
                .list(&page)
                .await
                .with_context(|| format!("list objects of kind {kind}"))?;
            page.continue_token = list
                .metadata
                .continue_
                .clone()
                .filter(|token| !token.is_empty());
            for object in list {
                all.push(shown(object)?);
            }
            if page.continue_token.is_none() {
                return Ok(all);
            }
        }
    }

    /// One object, if it is there.
    pub(crate) async fn get(&self, key: &ObjectKey) -> anyhow::Result<Option<Value>> {
        let resource = self.resource(&key.kind).await?;
        let api: Api<DynamicObject> = if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        };
        let object = api
            .get_opt(&key.name)
            .await
            .with_context(|| format!("read {key}"))?;
        object.map(shown).transpose()
    }

    async fn resource(&self, kind: &str) -> anyhow::Result<ApiResource> {
        let group = crate::objects::key(kind, "", "").group;
        if group == GATEWAY_GROUP {
            let group = kube::discovery::oneshot::group(&self.client, &group)
                .await
                .context("ask for the Gateway API's kinds; are its CRDs installed?")?;
            let (resource, _) = group
                .recommended_kind(kind)
                .with_context(|| format!("kind {kind} is not in this cluster; install its CRD"))?;
            return Ok(resource);
        }
        Ok(ApiResource::from_gvk(&GroupVersionKind::gvk(
            &group, "v1", kind,
        )))
    }
}

/// An object as it is shown: without managers, and without what a Secret keeps.
fn shown(mut object: DynamicObject) -> anyhow::Result<Value> {
    object.metadata.managed_fields = None;
    let is_secret = object
        .types
        .as_ref()
        .is_some_and(|types| types.kind == "Secret");
    let mut value = serde_json::to_value(object).context("read an object of the API server")?;
    if let (true, Some(fields)) = (is_secret, value.as_object_mut()) {
        fields.remove("data");
        fields.remove("stringData");
    }
    Ok(value)
}
