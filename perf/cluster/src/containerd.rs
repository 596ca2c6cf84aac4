//! containerd with its plugins for pods' networks, and `ctr` to talk to it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use crate::Cluster;
use crate::address::{PODS, PODS_6};
use crate::images::PAUSE;
use crate::process::{self, Place};
use crate::run::{output, wait};

/// Its usual place, which is in the node's mount namespace here.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Writes its settings and starts it.
pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<()> {
    let folder = cluster.state().join("containerd");
    let networks = cluster.state().join("cni");
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(&networks)?;
    let settings = folder.join("config.toml");
    fs::write(&settings, config(&folder, &networks)).context("write containerd's settings")?;
    fs::write(networks.join("10-pods.conflist"), network(&networks))
        .context("write the pods' network")?;
    process::start(
        cluster,
        "containerd",
        Place::Node,
        "containerd".into(),
        &["--config".into(), settings.display().to_string()],
    )?;
    Ok(())
}

/// Waits until containerd answers.
pub(crate) fn is_ready(cluster: &Cluster) -> anyhow::Result<()> {
    wait("containerd answers", Duration::from_secs(60), || {
        process::must_run(cluster, "containerd")?;
        Ok(ctr(cluster, &["version"]).is_ok())
    })
}

/// Runs `ctr` in the namespace of containerd that holds pods and their images.
pub(crate) fn ctr(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    let node = process::find(cluster, "node").context("the cluster is not up")?;
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--mount=/proc/{}/ns/mnt", node.id))
        .args(["--", "ctr", "--address", SOCKET, "--namespace", "k8s.io"])
        .args(arguments)
        .env("PATH", crate::run::SYSTEM_PATH);
    output(&mut command)
}

/// Kills the program of a pod's container; kubelet starts the container again.
///
/// # Errors
/// When no such container runs.
pub fn kill(cluster: &Cluster, namespace: &str, pod: &str, container: &str) -> anyhow::Result<()> {
    for text in [namespace, pod, container] {
        if !text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
        {
            bail!("{text:?} is no name");
        }
    }
    let filter = [
        ("io.kubernetes.pod.namespace", namespace),
        ("io.kubernetes.pod.name", pod),
        ("io.kubernetes.container.name", container),
    ]
    .map(|(label, value)| format!("labels.{label:?}=={value:?}"))
    .join(",");
    let found = ctr(cluster, &["containers", "list", "--quiet", &filter])?;
    let running = ctr(cluster, &["tasks", "list"])?;
    // A container that has ended is listed until kubelet cleans up.
    let of_pod = |id: &&str| {
        running.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.next() == Some(id) && fields.nth(1) == Some("RUNNING")
        })
    };
    let Some(id) = found.lines().find(of_pod) else {
        bail!("no container {container} of {namespace}/{pod} runs");
    };
    ctr(cluster, &["tasks", "kill", "--signal", "SIGKILL", id]).map(drop)
}

fn config(folder: &Path, networks: &Path) -> String {
    let folder = folder.display();
    let networks = networks.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
restrict_oom_score_adj = true
# As Docker does: a program that is not root may listen on port 80.
enable_unprivileged_ports = true
enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
discard_unpacked_layers = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// Each pod has a link of its own and all packets pass the node's routing. On one bridge a pod's answer to a pod would go
/// past kube-proxy's rules, and a Service would answer from an address that nobody asked.
fn network(folder: &Path) -> String {
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": folder.join("addresses"),
                    "ranges": [[{"subnet": PODS}], [{"subnet": PODS_6}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{network:#}\n")
}
