//! The node's mount namespace. What pods mount and what programs keep in fixed places of the system is seen in there alone,
//! and is gone with the last process in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::Cluster;
use crate::process::{self, Place, Process};
use crate::run::{run, wait};

/// Fixed places where programs of a node keep things; each is an empty folder in the namespace. `/run` holds containerd's
/// and its shims' sockets, the names of pods' network namespaces and locks.
const PLACES: &[&str] = &[
    "/run",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];

/// Folders that have to be made on the machine for something to be mounted there; none of them when all exist.
pub(crate) fn missing() -> Vec<PathBuf> {
    PLACES
        .iter()
        .map(PathBuf::from)
        .filter(|place| !place.exists())
        .collect()
}

/// Makes the namespace, held by a process that does nothing.
pub(crate) fn create(cluster: &Cluster) -> anyhow::Result<()> {
    for place in missing() {
        fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    }
    let pause = cluster.bin().join("pause");
    let node = process::start(
        cluster,
        "node",
        Place::Network,
        "unshare".into(),
        &[
            "--mount".into(),
            "--propagation=private".into(),
            pause.to_string_lossy().into_owned(),
        ],
    )?;
    // Only the last program of the line is in the namespace.
    let program = format!("/proc/{}/exe", node.id);
    wait(
        "the node's mount namespace",
        Duration::from_secs(10),
        || {
            process::must_run(cluster, "node")?;
            Ok(fs::read_link(&program).is_ok_and(|link| link == pause))
        },
    )?;

    // Names are asked of nobody: an image that was not imported then fails at once and not after a time-out for each try.
    let names = cluster.state().join("resolv.conf");
    fs::write(&names, "nameserver 127.0.0.1\n")?;
    let resolver = Path::new("/etc/resolv.conf");
    // Below /run it vanishes anyway.
    if resolver
        .canonicalize()
        .is_ok_and(|real| !real.starts_with("/run"))
    {
        mount(
            node,
            &["--bind", &names.to_string_lossy(), "/etc/resolv.conf"],
        )?;
    }
    for place in PLACES {
        mount(node, &["-t", "tmpfs", "-o", "mode=755", "cluster", place])?;
    }
    // Pods may ask for mounts that spread, from here on down.
    mount(node, &["--make-rshared", "/"])
}

fn mount(node: Process, arguments: &[&str]) -> anyhow::Result<()> {
    let namespace = format!("--mount=/proc/{}/ns/mnt", node.id);
    let mut whole = vec![namespace.as_str(), "--", "mount"];
    whole.extend(arguments);
    run("nsenter", &whole).map(drop)
}

/// The namespace as `/proc/PID/ns/mnt` shows it, if its holder lives.
pub(crate) fn id(cluster: &Cluster) -> Option<String> {
    let node = process::find(cluster, "node")?;
    let of = |id: &str| fs::read_link(format!("/proc/{id}/ns/mnt")).ok();
    let namespace = of(&node.id.to_string())?;
    // A holder that is not inside yet is in that of everybody.
    (Some(&namespace) != of("self").as_ref()).then(|| namespace.to_string_lossy().into_owned())
}

/// Removes folders that were made for mounts, unless somebody uses them now.
pub(crate) fn remove(folders: &[PathBuf]) {
    for folder in folders {
        let _ = fs::remove_dir(folder);
    }
}
