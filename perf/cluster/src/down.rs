//! `down`: nothing of the cluster is left but what was built.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::before::Before;
use crate::progress::Progress;
use crate::{Cluster, cgroups, network, process, sweep};

/// Time for all processes to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Takes the cluster down, whatever is left of it.
///
/// # Errors
/// When something does not go away; the text says what.
pub fn down(cluster: &Cluster) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    let _alone = cluster.lock()?;
    if !cluster.state().exists() {
        progress.note("the cluster is not up");
        return Ok(());
    }
    take_down(cluster, &mut progress)
}

pub(crate) fn take_down(cluster: &Cluster, progress: &mut Progress) -> anyhow::Result<()> {
    let ended = end_processes(cluster)?;
    progress.done(&format!("{ended} processes are gone"));
    cgroups::remove(cluster)?;
    Before::restore(cluster)?;
    progress.done("namespaces and cgroups are gone");
    remove_state(cluster)?;
    progress.done("folders are gone");
    Ok(())
}

/// Kills all at once: nothing that they would do on their way out is kept. The holder of the mount namespace goes last, since
/// by it the others are found.
fn end_processes(cluster: &Cluster) -> anyhow::Result<usize> {
    let holder = process::find(cluster, "node");
    let until = Instant::now() + GONE_WITHIN;
    let mut ended = 0;
    loop {
        let mut left = sweep::processes(cluster)?;
        let names = process::names(cluster);
        left.extend(names.iter().filter_map(|name| process::find(cluster, name)));
        left.retain(|process| Some(*process) != holder);
        left.sort_by_key(|process| process.id);
        left.dedup();
        if left.is_empty() {
            break;
        }
        if Instant::now() > until {
            let ids: Vec<i32> = left.iter().map(|process| process.id).collect();
            bail!("processes {ids:?} do not go away");
        }
        // Some start others until they are gone, so look again.
        ended += left.len();
        process::kill(&left)?;
    }
    if let Some(holder) = holder {
        process::kill(&[holder])?;
        ended += 1;
    }
    Ok(ended)
}

fn remove_state(cluster: &Cluster) -> anyhow::Result<()> {
    let state = cluster.state();
    // The node's mounts are in its own namespace. One that is seen from here leads to things that are not the cluster's.
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read mounts")?;
    for line in mounts.lines() {
        let place = line.split(' ').nth(4).unwrap_or_default();
        if std::path::Path::new(place).starts_with(&state) {
            bail!("{place} is a mount; unmount it, then run down again");
        }
    }
    if network::exists(cluster.name()) {
        bail!("the network namespace {} is still there", cluster.name());
    }
    fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))?;
    // Stays as long as another cluster is below it.
    if let Some(folder) = state.parent() {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}
