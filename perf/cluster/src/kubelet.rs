//! kubelet and kube-proxy: what makes this machine the cluster's node.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::Cluster;
use crate::address::{DNS, NODE, NODE_6, NODE_NAME, PODS, PODS_6};
use crate::api::Api;
use crate::process::{self, Place};
use crate::run::wait;
use crate::{cgroups, containerd};

/// Writes kubelet's settings and starts it.
pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<()> {
    let state = cluster.state();
    let pki = |name: &str| cluster.pki().join(name);
    let socket = format!("unix://{}", containerd::SOCKET);
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki("kubelet.crt"),
        "tlsPrivateKeyFile": pki("kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups::name(cluster),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": ["pods"],
        // Machines with cgroups of version 1 are still about.
        "failCgroupV1": false,
        "failSwapOn": false,
        "serializeImagePulls": false,
        "containerRuntimeEndpoint": socket,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        // Pods that want the node's names get none.
        "resolvConf": "/dev/null",
        "maxPods": 500,
        // One node starts everything at once.
        "registryPullQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": state.join("log/pods"),
        "volumePluginDir": state.join("kubelet/volume-plugins"),
    });
    let folder = state.join("kubelet");
    fs::create_dir_all(&folder)?;
    let file = folder.join("config.json");
    fs::write(&file, format!("{config:#}\n")).context("write kubelet's settings")?;
    process::start(
        cluster,
        "kubelet",
        Place::Node,
        cluster.bin().join("kubelet"),
        &[
            format!("--config={}", file.display()),
            format!("--kubeconfig={}", pki("kubelet.kubeconfig").display()),
            format!("--hostname-override={NODE_NAME}"),
            format!("--node-ip={NODE},{NODE_6}"),
            format!("--root-dir={}", folder.display()),
            "--node-labels=topology.kubernetes.io/zone=local-a,topology.kubernetes.io/region=local"
                .into(),
        ],
    )?;
    Ok(())
}

/// Waits until the node is ready.
pub(crate) fn is_ready(cluster: &Cluster, api: &Api) -> anyhow::Result<()> {
    wait("the node is ready", Duration::from_secs(120), || {
        process::must_run(cluster, "kubelet")?;
        let node = api.get(&format!("/api/v1/nodes/{NODE_NAME}"));
        let node = node.unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array();
        Ok(conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
    })
}

/// Starts kube-proxy.
pub(crate) fn proxy(cluster: &Cluster) -> anyhow::Result<()> {
    let kubeconfig = cluster.pki().join("kube-proxy.kubeconfig");
    process::start(
        cluster,
        "kube-proxy",
        Place::Node,
        cluster.bin().join("kube-proxy"),
        &[
            format!("--kubeconfig={}", kubeconfig.display()),
            "--proxy-mode=nftables".into(),
            format!("--cluster-cidr={PODS},{PODS_6}"),
            format!("--hostname-override={NODE_NAME}"),
            // These are the machine's, not the namespace's.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-min=0".into(),
            "--conntrack-tcp-timeout-established=0".into(),
            "--conntrack-tcp-timeout-close-wait=0".into(),
        ],
    )?;
    Ok(())
}
