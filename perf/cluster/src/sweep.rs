//! Finds what runs in a cluster without knowing who started it: containers, shims, and what a start that was cut short left.

use std::fs;

use crate::Cluster;
use crate::process::Process;
use crate::{cgroups, mounts, network};

/// Processes in the cluster's namespaces and in its cgroup, but for this one and those that it descends from.
pub(crate) fn processes(cluster: &Cluster) -> anyhow::Result<Vec<Process>> {
    let network = network::id(cluster.name());
    let mounts = mounts::id(cluster);
    let own = ancestors();
    let in_namespace = |id: i32, kind: &str, wanted: Option<&String>| {
        let link = fs::read_link(format!("/proc/{id}/ns/{kind}")).ok();
        wanted.is_some()
            && link.is_some_and(|link| Some(&*link.to_string_lossy()) == wanted.map(String::as_str))
    };
    let mut ids = cgroups::processes(cluster)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        if let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            && (in_namespace(id, "net", network.as_ref())
                || in_namespace(id, "mnt", mounts.as_ref()))
        {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids
        .into_iter()
        .filter(|id| !own.contains(id))
        .filter_map(Process::now)
        .collect())
}

/// This process, its parent and so on.
fn ancestors() -> Vec<i32> {
    let mut found = Vec::new();
    let mut id = i32::try_from(std::process::id()).unwrap_or_default();
    while id > 0 && !found.contains(&id) {
        found.push(id);
        id = parent(id).unwrap_or_default();
    }
    found
}

fn parent(id: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_spared_with_those_above() {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let found = ancestors();
        assert_eq!(found.first(), Some(&own));
        assert!(found.len() > 1, "{found:?}");
    }
}
