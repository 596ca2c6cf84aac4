//! What of a machine a cluster could leave behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Folders that programs of a node write to, and how deep they are looked at.
const FOLDERS: &[(&str, usize)] = &[
    ("/run", 4),
    ("/var/lib", 1),
    ("/var/log", 2),
    ("/opt", 2),
    ("/etc", 1),
    ("/etc/cni", 2),
    ("/usr/libexec", 2),
    ("/", 1),
];

const SETTINGS: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
];

/// What is there, by kind.
#[derive(Debug)]
pub(crate) struct Machine {
    kinds: BTreeMap<&'static str, BTreeSet<String>>,
    /// Processes of the cluster, as id and start time.
    processes: BTreeSet<(u32, String)>,
    /// Namespaces that those processes are in and this one is not, as `/proc` shows them.
    namespaces: BTreeSet<String>,
}

impl Machine {
    /// Looks at all of it. Other people's processes come and go, so only those that have to do with the cluster `name` count.
    pub(crate) fn now(name: &str) -> Self {
        let mut machine = Self {
            kinds: BTreeMap::new(),
            processes: BTreeSet::new(),
            namespaces: BTreeSet::new(),
        };
        let mut shown = BTreeSet::new();
        for id in process_ids() {
            if let Some((start, line)) = of_cluster(id, name) {
                shown.insert(format!("{id} {line}"));
                machine.processes.insert((id, start));
                machine.namespaces.extend(namespaces(id));
            }
        }
        let own: BTreeSet<String> = namespaces(std::process::id()).into_iter().collect();
        machine
            .namespaces
            .retain(|namespace| !own.contains(namespace));
        machine.kinds.insert("processes", shown);
        machine
            .kinds
            .insert("network names", entries("/run/netns", 1));
        machine.kinds.insert("mounts", mounts());
        machine.kinds.insert("cgroups", cgroups());
        let mut folders: BTreeSet<String> = FOLDERS
            .iter()
            .flat_map(|(folder, depth)| entries(folder, *depth))
            .collect();
        // What is built is kept; all else of a cluster is in here.
        let state = super::home().join("state");
        folders.extend(entries(&state.to_string_lossy(), 3));
        machine.kinds.insert("folders", folders);
        machine.kinds.insert("links", entries("/sys/class/net", 1));
        machine
            .kinds
            .insert("packet rules", printed("nft", &["list", "ruleset"]));
        machine.kinds.insert("kernel settings", settings());
        machine
    }

    /// What there is of a kind.
    pub(crate) fn of(&self, kind: &str) -> &BTreeSet<String> {
        &self.kinds[kind]
    }

    /// Fails with what is there now and was not, or was and is not.
    pub(crate) fn must_equal(&self, before: &Self) {
        let mut said = Vec::new();
        for (kind, now) in &self.kinds {
            let then = before.of(kind);
            said.extend(
                now.difference(then)
                    .map(|left| format!("left, {kind}: {left}")),
            );
            said.extend(
                then.difference(now)
                    .map(|gone| format!("gone, {kind}: {gone}")),
            );
        }
        assert!(said.is_empty(), "{}", said.join("\n"));
    }

    /// Fails when a process that was the cluster's still runs, or something is in a namespace that was.
    pub(crate) fn must_be_gone(&self) {
        assert!(!self.processes.is_empty());
        assert!(!self.namespaces.is_empty());
        for (id, start) in &self.processes {
            // What was not started by this process is waited for by the first of all, when it comes to it.
            super::wait(Duration::from_secs(5), || {
                fields(*id).is_none_or(|(now, _)| now != *start)
            });
        }
        for id in process_ids() {
            for namespace in namespaces(id) {
                assert!(
                    !self.namespaces.contains(&namespace),
                    "process {id} is in {namespace}"
                );
            }
        }
    }
}

fn process_ids() -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Start time and line of a process that is a cluster's by its arguments, its environment, its folder or its cgroup.
fn of_cluster(id: u32, name: &str) -> Option<(String, String)> {
    if id == std::process::id() {
        return None;
    }
    let read = |file: &str| {
        let bytes = fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let (start, zombie) = fields(id)?;
    let state = super::home().join("state").join(name);
    let state = state.to_string_lossy();
    let line = read("cmdline");
    let ours = [line.as_str(), &read("environ")]
        .iter()
        .any(|text| text.contains(&*state))
        || read("cgroup").contains(&format!("/{name}-pods"));
    (ours && !zombie).then(|| (start, line.chars().take(120).collect()))
}

/// Start time of a process, and whether it has ended.
fn fields(id: u32) -> Option<(String, bool)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    Some((fields.nth(18)?.to_owned(), state == "Z"))
}

fn namespaces(id: u32) -> Vec<String> {
    ["net", "mnt", "pid", "ipc", "uts"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{id}/ns/{kind}")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

fn mounts() -> BTreeSet<String> {
    // Without the mount's own numbers.
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" "))
        .collect()
}

fn cgroups() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let folder = fields.next()?;
            matches!(fields.next()?, "cgroup" | "cgroup2").then_some(folder)
        })
        .flat_map(|folder| entries(folder, 8))
        // Of another cluster that happens to be up.
        .filter(|path| !path.contains("/shardway-pods"))
        .collect()
}

/// Paths below a folder, to a depth.
fn entries(folder: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(Path::new(folder), depth, &mut found);
    found
}

fn collect(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(path.to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, depth - 1, found);
        }
    }
}

fn printed(program: &str, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

fn settings() -> BTreeSet<String> {
    SETTINGS
        .iter()
        .map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
            format!("{name}={}", value.trim())
        })
        .collect()
}
