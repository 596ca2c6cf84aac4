//! The network namespace with the node's link and addresses.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::address::{NODE, NODE_6};
use crate::run::run;

/// Where the names of network namespaces are.
const NAMES: &str = "/run/netns";

/// The file that names a namespace.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Whether there is such a namespace.
pub(crate) fn exists(name: &str) -> bool {
    id(name).is_some()
}

/// The namespace as `/proc/PID/ns/net` shows it. A name without a namespace behind it is a plain file elsewhere.
pub(crate) fn id(name: &str) -> Option<String> {
    let inode = fs::metadata(file(name)).ok()?;
    let names = fs::metadata(NAMES).ok()?;
    (inode.dev() != names.dev()).then(|| format!("net:[{}]", inode.ino()))
}

/// What was there before the first namespace got a name; `down` leaves it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    /// The folder of names.
    pub(crate) folder: bool,
    /// The mount on that folder, which `ip netns add` makes for the first name.
    pub(crate) mount: bool,
}

impl Before {
    /// Looks.
    pub(crate) fn now() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read mounts")?;
        Ok(Self {
            folder: Path::new(NAMES).is_dir(),
            mount: mounts
                .lines()
                .any(|line| line.split(' ').nth(4) == Some(NAMES)),
        })
    }
}

/// Makes the namespace. There is no dummy device everywhere, so a pair of links carries the node's addresses; nothing is
/// at its other end.
pub(crate) fn create(name: &str) -> anyhow::Result<()> {
    run("ip", &["netns", "add", name])?;
    inside(name, || {
        // A route for pods, and no second of waiting for an IPv6 address that nobody else can have.
        for (setting, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            let path = Path::new("/proc/sys/net").join(setting);
            fs::write(&path, value).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    })?;
    let node = format!("{NODE}/24");
    let node_6 = format!("{NODE_6}/64");
    for arguments in [
        &["link", "set", "lo", "up"] as &[&str],
        &[
            "link", "add", "node0", "type", "veth", "peer", "name", "node1",
        ],
        &["addr", "add", &node, "dev", "node0"],
        &["-6", "addr", "add", &node_6, "dev", "node0", "nodad"],
        &["link", "set", "node0", "up"],
        &["link", "set", "node1", "up"],
        // Addresses of Services lie on no link; a route must lead somewhere for kube-proxy's rules to see the packets.
        &["route", "add", "default", "via", NODE, "dev", "node0"],
        &["-6", "route", "add", "default", "dev", "node0"],
    ] {
        let mut whole = vec!["-n", name];
        whole.extend(arguments);
        run("ip", &whole)?;
    }
    Ok(())
}

/// Takes the name away; the namespace goes with its last process.
pub(crate) fn remove(name: &str) -> anyhow::Result<()> {
    if file(name).exists() {
        run("ip", &["netns", "del", name])?;
    }
    Ok(())
}

/// Takes away what `ip netns add` made for the first name of all, unless somebody else has a name there now.
pub(crate) fn restore(before: Before) -> anyhow::Result<()> {
    let others = fs::read_dir(NAMES).is_ok_and(|mut entries| entries.next().is_some());
    if others {
        return Ok(());
    }
    if !before.mount && Before::now()?.mount {
        run("umount", &[NAMES])?;
    }
    if !before.folder && Path::new(NAMES).is_dir() {
        fs::remove_dir(NAMES).with_context(|| format!("remove {NAMES}"))?;
    }
    Ok(())
}

/// Runs `work` in a thread that is in the namespace; sockets and processes that it makes stay there.
pub(crate) fn inside<T: Send>(
    name: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let path = file(name);
    let namespace = File::open(&path)
        .with_context(|| format!("open the network namespace {}", path.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The thread ends with the work, so there is no way back to find.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the network namespace")?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
