//! What a cluster has beside Kubernetes itself: DNS, volumes, load-balancer addresses.

use std::path::Path;
use std::time::Duration;

use crate::Cluster;
use crate::address::{API_SERVER, LOAD_BALANCERS, LOAD_BALANCERS_6};
use crate::api::Api;
use crate::process::{self, Place};
use crate::run::{feed, wait};

const MANIFESTS: &[&str] = &[
    include_str!("../addons/accounts.yaml"),
    include_str!("../addons/storage.yaml"),
    include_str!("../addons/dns.yaml"),
];

/// Applies the manifests and starts the two controllers, whose programs are in `programs`.
pub(crate) fn start(cluster: &Cluster, programs: &Path) -> anyhow::Result<()> {
    let mut kubectl = cluster.command(cluster.bin().join("kubectl"));
    kubectl.args(["apply", "--server-side", "-f", "-"]);
    feed(&mut kubectl, &MANIFESTS.join("---\n"))?;
    let server = format!("--server={API_SERVER}");
    let pki = format!("--pki={}", cluster.pki().display());
    process::start(
        cluster,
        "load-balancer",
        Place::Network,
        programs.join("shardway-cluster-load-balancer"),
        &[
            server.clone(),
            pki.clone(),
            format!("--range={LOAD_BALANCERS}"),
            format!("--range={LOAD_BALANCERS_6}"),
        ],
    )?;
    let root = cluster.state().join("volumes");
    process::start(
        cluster,
        "volumes",
        Place::Network,
        programs.join("shardway-cluster-volumes"),
        &[server, pki, format!("--root={}", root.display())],
    )?;
    Ok(())
}

/// Waits until the cluster's DNS answers.
pub(crate) fn dns_is_ready(cluster: &Cluster, api: &Api) -> anyhow::Result<()> {
    let path = "/apis/apps/v1/namespaces/kube-system/deployments/coredns";
    wait("cluster DNS is ready", Duration::from_secs(90), || {
        process::must_run(cluster, "load-balancer")?;
        process::must_run(cluster, "volumes")?;
        let ready = api.get(path).unwrap_or_default()["status"]["readyReplicas"].as_u64();
        Ok(ready.is_some_and(|count| count > 0))
    })
}
