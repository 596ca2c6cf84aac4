//! Shardway in a cluster: the Gateway API's CRDs, images of our programs, the chart.
//!
//! What it installs is given from outside, as folders: the checkout with the chart, and the programs that cargo built.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::progress::Progress;
use crate::run::output;
use crate::{Cluster, images};

/// Name of the release.
pub const RELEASE: &str = "shardway";
/// Namespace of the release.
pub const NAMESPACE: &str = "shardway-system";
/// Name of the ShardPool, as the chart has it.
pub const POOL: &str = "default";
/// Tag of images that are made here. What is installed has a tag of its own beside it, which tells programs apart: pods of the
/// same tag would stay as they are.
pub const TAG: &str = "dev";
/// Time for all pods to be ready.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// Programs of ours and the repositories of their images.
const IMAGES: &[(&str, &str)] = &[
    ("operator", "shardway/operator"),
    ("shard-proxy", "shardway/shard-proxy"),
];

/// What is installed.
#[derive(Debug, Clone)]
pub struct Package {
    /// The checkout.
    pub root: PathBuf,
    /// Folder with `operator` and `shard-proxy`.
    pub programs: PathBuf,
    /// Values of the chart, `key=value`, as `helm --set` takes them.
    pub values: Vec<String>,
}

impl Package {
    /// The chart.
    #[must_use]
    pub fn chart(&self) -> PathBuf {
        self.root.join("helm/shardway")
    }

    /// The tag of a program's image, which another build of it does not have.
    ///
    /// # Errors
    /// When it is not built.
    pub fn tag(&self, program: &str) -> anyhow::Result<String> {
        let file = self.programs.join(program);
        let metadata =
            fs::metadata(&file).with_context(|| format!("{} is not built", file.display()))?;
        let written = metadata.modified()?.duration_since(UNIX_EPOCH)?;
        Ok(format!(
            "{TAG}-{:x}-{:x}",
            metadata.len(),
            written.as_millis()
        ))
    }

    /// Imports the images that the cluster does not have yet.
    fn load(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let there = images::list(cluster)?;
        for (program, repository) in IMAGES {
            let name = format!("{repository}:{}", self.tag(program)?);
            if !there.iter().any(|image| image.ends_with(&name)) {
                images::load(cluster, &name, &[self.programs.join(program)])?;
            }
        }
        Ok(())
    }
}

/// Brings Shardway into the cluster and waits until it is ready. What is there already is upgraded.
///
/// # Errors
/// When a program is not there, the cluster is not up, or pods do not get ready; the text says what helm and the pods said.
pub fn install(cluster: &Cluster, package: &Package) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    gateway_api(cluster)?;
    progress.done("CRDs of the Gateway API");
    package.load(cluster)?;
    progress.done("images");
    namespace(cluster)?;
    // helm installs CRDs once and never changes them.
    if cluster
        .kubectl(&["get", "crd", "shardpools.shardway.dev"])
        .is_ok()
    {
        let crds = text(&package.chart().join("crds"));
        cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])?;
    }
    upgrade(cluster, package, &[])?;
    progress.done("helm upgrade --install");
    shards_are_ready(cluster)?;
    progress.done("shards are ready");
    Ok(())
}

/// Takes the release away again, and the namespace.
///
/// # Errors
/// When helm fails.
pub fn uninstall(cluster: &Cluster) -> anyhow::Result<()> {
    let mut helm = cluster.command(cluster.bin().join("helm"));
    helm.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]);
    output(&mut helm).map(drop)
}

/// Applies the CRDs that the conformance suite wants: experimental channel, of the suite's version.
///
/// # Errors
/// When the API server refuses.
pub fn gateway_api(cluster: &Cluster) -> anyhow::Result<()> {
    let folder = cluster.crds().join("experimental");
    cluster.kubectl(&["apply", "--server-side", "-f", &text(&folder)])?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/gatewayclasses.gateway.networking.k8s.io",
            "crd/gateways.gateway.networking.k8s.io",
            "crd/httproutes.gateway.networking.k8s.io",
        ])
        .map(drop)
}

/// Makes images of our programs and imports them under a tag.
///
/// # Errors
/// When a program is not there, or the cluster is not up.
pub fn load_images(cluster: &Cluster, programs: &Path, tag: &str) -> anyhow::Result<()> {
    for (program, repository) in IMAGES {
        let file = programs.join(program);
        if !file.exists() {
            bail!("{} is not built", file.display());
        }
        images::load(cluster, &format!("{repository}:{tag}"), &[file])?;
    }
    Ok(())
}

/// Runs `helm upgrade --install` with further values and waits until the operator is ready.
///
/// # Errors
/// As helm; with what the pods are at.
pub fn upgrade(cluster: &Cluster, package: &Package, values: &[String]) -> anyhow::Result<()> {
    package.load(cluster)?;
    // What a helm that was killed has left would be taken for one that runs.
    let killed =
        "--selector=owner=helm,status in (pending-install,pending-upgrade,pending-rollback)";
    cluster.kubectl(&["delete", "secret", "-n", NAMESPACE, killed])?;
    let mut helm = cluster.command(cluster.bin().join("helm"));
    helm.args(["upgrade", "--install", RELEASE])
        .arg(package.chart())
        .args(["--namespace", NAMESPACE, "--wait"])
        .arg(format!("--timeout={}s", READY_WITHIN.as_secs()))
        .args([
            "--set",
            &format!("image.operator.tag={}", package.tag("operator")?),
        ])
        .args([
            "--set",
            &format!("image.shardProxy.tag={}", package.tag("shard-proxy")?),
        ]);
    for value in package.values.iter().chain(values) {
        helm.args(["--set", value]);
    }
    output(&mut helm)
        .with_context(|| format!("install the chart; the pods:\n{}", pods(cluster)))
        .map(drop)
}

/// Waits until the pool's StatefulSet, which the operator makes, has all its pods ready.
///
/// # Errors
/// When they do not get ready; the text has what the pods are at.
pub fn shards_are_ready(cluster: &Cluster) -> anyhow::Result<()> {
    let set = format!("statefulset/{POOL}-shard");
    let within = format!("--timeout={}s", READY_WITHIN.as_secs());
    let rolled_out = || -> anyhow::Result<()> {
        cluster.kubectl(&["wait", "--for=create", &within, "-n", NAMESPACE, &set])?;
        cluster.kubectl(&["rollout", "status", &within, "-n", NAMESPACE, &set])?;
        Ok(())
    };
    rolled_out().with_context(|| format!("wait for the shards; the pods:\n{}", pods(cluster)))
}

/// The release's namespace, which allows restricted pods alone.
fn namespace(cluster: &Cluster) -> anyhow::Result<()> {
    if cluster
        .kubectl(&["get", "namespace", NAMESPACE, "-o", "name"])
        .is_err()
    {
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    }
    cluster
        .kubectl(&[
            "label",
            "--overwrite",
            "namespace",
            NAMESPACE,
            "pod-security.kubernetes.io/enforce=restricted",
        ])
        .map(drop)
}

/// What the release's pods are at, and the last lines of those that are not ready.
fn pods(cluster: &Cluster) -> String {
    let ask = |arguments: &[&str]| match cluster.kubectl(arguments) {
        Ok(text) => text,
        Err(error) => format!("{error:#}\n"),
    };
    let mut text = ask(&["get", "pods", "-n", NAMESPACE, "-o", "wide"]);
    text += &ask(&[
        "get",
        "events",
        "-n",
        NAMESPACE,
        "--field-selector=type=Warning",
        "--sort-by=.lastTimestamp",
    ]);
    text += &ask(&[
        "logs",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/name=shardway",
        "--tail=10",
        "--prefix",
    ]);
    text += &ask(&[
        "logs",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/name=shardway-shard",
        "--tail=10",
        "--prefix",
    ]);
    text
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
