//! What runs in a real Kubernetes: the cluster itself, an installation, conformance, faults.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{absolute_target, build_as, root, setup};

/// What the node of a cluster is made of beside Kubernetes itself, with a file of each.
const NODE_PACKAGES: &[(&str, &str)] = &[
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/ptp"),
    ("iptables", "/usr/sbin/iptables"),
    ("nftables", "/usr/sbin/nft"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("socat", "/usr/bin/socat"),
    ("iproute2", "/usr/bin/ip"),
    ("curl", "/usr/bin/curl"),
];

/// Programs that images are made of.
const OURS: &[&str] = &["operator", "shard-proxy"];

/// Packages of the programs that work on a cluster, `shardway` among them. Built as tests are: they wait for others most of
/// their time.
const HARNESS: &[&str] = &["operator-cli", "perf-cluster", "perf-fault"];

/// A command of `shardway-cluster`.
pub(crate) fn any(arguments: Vec<OsString>) -> Result<(), String> {
    // An image is written by anybody, for another cluster.
    let only_a_file = arguments.first().is_some_and(|task| task == "save-image");
    if !only_a_file {
        node()?;
    }
    let bin = build_as(HARNESS, "debug")?;
    let mut command = Command::new(bin.join("shardway-cluster"));
    command.arg("--home").arg(home()).args(arguments);
    Err(format!("start shardway-cluster: {}", command.exec()))
}

/// A command that needs images of our programs.
pub(crate) fn of_images(task: &str, mut arguments: Vec<OsString>) -> Result<(), String> {
    node()?;
    let programs = programs(&mut arguments)?;
    let bin = build_as(HARNESS, "debug")?;
    let mut command = Command::new(bin.join("shardway-cluster"));
    command.arg("--home").arg(home());
    match task {
        "images" => {
            command.arg("load-own").arg("--programs").arg(programs);
        }
        _ => {
            command.arg(task).arg("--root").arg(root());
            command.arg("--programs").arg(programs);
        }
    }
    command.args(arguments);
    Err(format!("start shardway-cluster: {}", command.exec()))
}

/// `fault`.
pub(crate) fn fault(mut arguments: Vec<OsString>) -> Result<(), String> {
    let only_names = arguments.iter().any(|argument| argument == "--list");
    if only_names {
        let bin = build_as(HARNESS, "debug")?;
        let mut command = Command::new(bin.join("shardway-fault"));
        return Err(format!(
            "start shardway-fault: {}",
            command.arg("--list").exec()
        ));
    }
    node()?;
    let programs = programs(&mut arguments)?;
    let bin = build_as(HARNESS, "debug")?;
    let mut command = Command::new(bin.join("shardway-fault"));
    command.arg("--home").arg(home()).arg("--root").arg(root());
    command.arg("--programs").arg(programs).args(arguments);
    Err(format!("start shardway-fault: {}", command.exec()))
}

/// Makes sure that a cluster can be started.
pub(crate) fn node() -> Result<(), String> {
    if !setup::is_root() {
        return Err("a cluster needs root: it makes namespaces, mounts and cgroups".into());
    }
    // Only what is missing: another containerd that is there may come from a package that this one would push out.
    let (names, files): (Vec<&str>, Vec<&str>) = NODE_PACKAGES
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .copied()
        .unzip();
    setup::packages(&names, &files)
}

/// Builds the programs of the images: without optimisation, as tests do, unless `--release` is among the arguments.
fn programs(arguments: &mut Vec<OsString>) -> Result<PathBuf, String> {
    setup::packages(
        &["protobuf-compiler", "libprotobuf-dev"],
        &[
            "/usr/bin/protoc",
            "/usr/include/google/protobuf/descriptor.proto",
        ],
    )?;
    let before = arguments.len();
    arguments.retain(|argument| argument != "--release");
    let profile = if arguments.len() < before {
        "release"
    } else {
        "debug"
    };
    build_as(OURS, profile)
}

fn home() -> PathBuf {
    absolute_target().join("cluster")
}

/// What a node does first: namespaces, mounts, an overlay, a cgroup.
const PROBE: &str = "
    mount -t tmpfs shardway-probe /mnt
    mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
    mount -t overlay shardway-probe -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/merged
    groups=/sys/fs/cgroup
    test -f $groups/cgroup.controllers || groups=$groups/memory
    mkdir $groups/shardway-probe
    rmdir $groups/shardway-probe
";

/// Why no cluster can be started here, if so: not root, a container without the rights, no Go.
pub(crate) fn reason_against() -> Option<String> {
    if !setup::is_root() {
        return Some("it needs root, for namespaces, mounts and cgroups".into());
    }
    let unshare = ["--net", "--mount", "--propagation", "private"];
    let probe = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-euc", PROBE])
        .output();
    match probe {
        Err(error) => return Some(format!("unshare cannot be run: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            return Some(format!(
                "namespaces, mounts or cgroups cannot be made here: {}",
                said.trim()
            ));
        }
        Ok(_) => {}
    }
    let go = Command::new("go").arg("version").output();
    go.is_err()
        .then(|| "Kubernetes is built with Go, which is not here".into())
}
