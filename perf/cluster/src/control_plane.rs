//! etcd, the API server, the controller manager and the scheduler.

use std::time::Duration;

use anyhow::Context;

use crate::Cluster;
use crate::address::{API_SERVER, ETCD, NODE, PODS, PODS_6, SERVICES, SERVICES_6};
use crate::api::Api;
use crate::process::{self, Place};
use crate::run::wait;

/// Time for the API server to be ready; with two busy processors it takes a while.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Starts etcd.
pub(crate) fn etcd(cluster: &Cluster) -> anyhow::Result<()> {
    let data = cluster.state().join("etcd");
    start(
        cluster,
        "etcd",
        &[
            &format!("--data-dir={}", data.display()),
            &format!("--listen-client-urls={ETCD}"),
            &format!("--advertise-client-urls={ETCD}"),
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380",
            // Nothing here outlives the machine, and a shared disk makes a sync take long.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
}

/// Starts the API server; it waits for etcd by itself.
pub(crate) fn api_server(cluster: &Cluster) -> anyhow::Result<()> {
    let pki = |name: &str| cluster.pki().join(name).display().to_string();
    start(
        cluster,
        "kube-apiserver",
        &[
            &format!("--etcd-servers={ETCD}"),
            &format!("--advertise-address={NODE}"),
            &format!("--secure-port={}", API_SERVER.port()),
            &format!("--service-cluster-ip-range={SERVICES},{SERVICES_6}"),
            &format!("--tls-cert-file={}", pki("kube-apiserver.crt")),
            &format!("--tls-private-key-file={}", pki("kube-apiserver.key")),
            &format!("--client-ca-file={}", pki("ca.crt")),
            &format!("--service-account-key-file={}", pki("service-account.pub")),
            &format!(
                "--service-account-signing-key-file={}",
                pki("service-account.key")
            ),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            &format!("--kubelet-client-certificate={}", pki("admin.crt")),
            &format!("--kubelet-client-key={}", pki("admin.key")),
            &format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            // Else `kubectl logs` looks the node's name up in DNS.
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
            "--profiling=false",
        ],
    )
}

/// Waits until the API server is ready.
pub(crate) fn api_server_is_ready(cluster: &Cluster, api: &Api) -> anyhow::Result<()> {
    wait("the API server is ready", READY_WITHIN, || {
        process::must_run(cluster, "etcd")?;
        process::must_run(cluster, "kube-apiserver")?;
        Ok(api.answers("/readyz"))
    })
}

/// Starts the controller manager.
pub(crate) fn controller_manager(cluster: &Cluster) -> anyhow::Result<()> {
    let pki = |name: &str| cluster.pki().join(name).display().to_string();
    start(
        cluster,
        "kube-controller-manager",
        &[
            &format!("--kubeconfig={}", pki("kube-controller-manager.kubeconfig")),
            &format!(
                "--service-account-private-key-file={}",
                pki("service-account.key")
            ),
            &format!("--root-ca-file={}", pki("ca.crt")),
            // Signs what is asked for by a CertificateSigningRequest.
            &format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            &format!("--cluster-signing-key-file={}", pki("ca.key")),
            "--leader-elect=false",
            &format!("--cluster-cidr={PODS},{PODS_6}"),
            "--bind-address=127.0.0.1",
            &format!("--tls-cert-file={}", pki("kube-apiserver.crt")),
            &format!("--tls-private-key-file={}", pki("kube-apiserver.key")),
        ],
    )
}

/// Starts the scheduler.
pub(crate) fn scheduler(cluster: &Cluster) -> anyhow::Result<()> {
    let pki = |name: &str| cluster.pki().join(name).display().to_string();
    start(
        cluster,
        "kube-scheduler",
        &[
            &format!("--kubeconfig={}", pki("kube-scheduler.kubeconfig")),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            &format!("--tls-cert-file={}", pki("kube-apiserver.crt")),
            &format!("--tls-private-key-file={}", pki("kube-apiserver.key")),
        ],
    )
}

fn start(cluster: &Cluster, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
    process::start(
        cluster,
        name,
        Place::Network,
        cluster.bin().join(name),
        &arguments,
    )
    .with_context(|| format!("start {name}"))?;
    Ok(())
}
