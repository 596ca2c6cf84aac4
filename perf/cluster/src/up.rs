//! `up`: from nothing to a cluster with DNS, volumes and load-balancer addresses.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::before::Before;
use crate::progress::Progress;
use crate::{
    Cluster, addons, cgroups, containerd, control_plane, down, images, kubelet, mounts, network,
    pki, process, tools,
};

/// Brings the cluster up; `programs` is the folder with this crate's programs. What an earlier start left half done is taken
/// down first. A cluster that is up stays as it is.
///
/// # Errors
/// When a step fails; what was started stays for a look at its logs until `down`.
pub fn up(cluster: &Cluster, programs: &Path) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    let _alone = cluster.lock()?;
    let programs = std::path::absolute(programs)?;
    for program in ["shardway-cluster-load-balancer", "shardway-cluster-volumes"] {
        if !programs.join(program).exists() {
            bail!("{program} is not in {}", programs.display());
        }
    }
    tools::build(cluster, &mut progress)?;
    if cluster.state().join("up").exists() && process::find(cluster, "node").is_some() {
        let revived = process::revive(cluster)?;
        if revived.is_empty() {
            progress.note("the cluster is up already");
        } else {
            let revived = revived.join(", ");
            progress.note(&format!("the cluster is up; started again: {revived}"));
        }
        return Ok(());
    }
    if cluster.state().exists() {
        down::take_down(cluster, &mut progress)?;
    }
    start(cluster, &programs, &mut progress)
}

fn start(cluster: &Cluster, programs: &Path, progress: &mut Progress) -> anyhow::Result<()> {
    // Before there is any state: what has state is taken down without asking whose it is.
    if network::exists(cluster.name()) {
        bail!(
            "a network namespace {} is there already, made by something else or by a cluster with another --home; take another --name",
            cluster.name()
        );
    }
    let state = cluster.state();
    for folder in ["run", "log", "volumes"] {
        fs::create_dir_all(state.join(folder))
            .with_context(|| format!("make {}", state.display()))?;
    }
    Before::remember(cluster)?;
    pki::write(&cluster.pki())?;
    progress.done("certificates");
    network::create(cluster.name())?;
    mounts::create(cluster)?;
    cgroups::create(cluster)?;
    progress.done("namespaces and cgroup");
    control_plane::etcd(cluster)?;
    control_plane::api_server(cluster)?;
    // Images are read and unpacked while the API server starts: each takes its time.
    containerd::start(cluster)?;
    containerd::is_ready(cluster)?;
    progress.done("containerd answers");
    images::load_own(cluster)?;
    progress.done("images");
    cluster.inside(|| {
        let api = cluster.api()?;
        control_plane::api_server_is_ready(cluster, &api)?;
        progress.done("the API server is ready");
        control_plane::controller_manager(cluster)?;
        control_plane::scheduler(cluster)?;
        kubelet::start(cluster)?;
        kubelet::proxy(cluster)?;
        addons::start(cluster, programs)?;
        progress.done("addons are applied");
        kubelet::is_ready(cluster, &api)?;
        progress.done("the node is ready");
        addons::dns_is_ready(cluster, &api)?;
        progress.done("cluster DNS is ready");
        Ok(())
    })?;
    for name in process::names(cluster) {
        process::must_run(cluster, &name)?;
    }
    fs::write(state.join("up"), "")?;
    Ok(())
}
