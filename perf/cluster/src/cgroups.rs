//! The cgroup that holds the cluster's pods, in every hierarchy that is mounted: version 1, 2 or both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::Cluster;
use crate::run::wait;

/// Path of the cgroup in each hierarchy.
pub(crate) fn name(cluster: &Cluster) -> String {
    format!("/{}-pods", cluster.name())
}

/// Makes the cgroup; kubelet does not make its root by itself.
pub(crate) fn create(cluster: &Cluster) -> anyhow::Result<()> {
    for (hierarchy, folder) in folders(cluster)? {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // Of version 1: a new one has no processor and no memory node until it is told.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(file)) {
                let path = folder.join(file);
                fs::write(&path, value.trim())
                    .with_context(|| format!("write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroup with all below; its processes are gone already.
pub(crate) fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let folders = folders(cluster)?;
    // A process that was just killed still holds its cgroup for a moment.
    wait("cgroups are gone", Duration::from_secs(10), || {
        Ok(folders
            .iter()
            .filter(|(_, folder)| folder.exists())
            .all(|(_, folder)| remove_tree(folder)))
    })
}

/// Ids of the processes in the cgroup and below.
pub(crate) fn processes(cluster: &Cluster) -> anyhow::Result<Vec<i32>> {
    let mut found = Vec::new();
    for (_, folder) in folders(cluster)? {
        collect(&folder, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in folders_in(folder) {
        collect(&below, found);
    }
}

fn remove_tree(folder: &Path) -> bool {
    let all = folders_in(folder).iter().all(|below| remove_tree(below));
    all && fs::remove_dir(folder).is_ok()
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Each hierarchy's folder, with the cluster's folder in it.
fn folders(cluster: &Cluster) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let folder = PathBuf::from(fields.next()?);
            matches!(fields.next()?, "cgroup" | "cgroup2").then_some(folder)
        })
        .map(|hierarchy| {
            let folder = hierarchy.join(name(cluster).trim_start_matches('/'));
            (hierarchy, folder)
        })
        .collect())
}
