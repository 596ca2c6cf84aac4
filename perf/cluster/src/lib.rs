//! A real Kubernetes of one node on this machine, for tests and benchmarks.
//!
//! ```text
//!   network namespace NAME  ─┬─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//!                            ├─ load-balancer (knows Services alone), volumes (knows claims and volumes alone)
//!                            └─ mount namespace ── containerd, kubelet, kube-proxy ── pods, in cgroups below NAME-pods
//!   <target>/cluster/bin, /crd         built from pinned Go modules, kept
//!   <target>/cluster/state/NAME        all else on disk, gone with `down`
//! ```
//!
//! **Invariants**
//! - Traffic stays in the namespace: it has no link to the machine, so several clusters may use the same addresses.
//! - A process is ended only if the start time that was written with its id is still the process's, through a pidfd.
//! - What pods mount, and what programs write below `/run`, `/var/lib` and `/var/log`, is mounted in the mount namespace
//!   alone and goes with it; `down` takes away the rest: processes, namespaces, cgroups, folders, kernel settings.
//! - Nothing is downloaded but Go modules whose sums are committed.
//!
//! Only [`install`] and [`conformance`] know Shardway, and both take it from folders that the caller names. Its network enforces no
//! NetworkPolicy.

mod addons;
pub mod address;
pub mod api;
mod archive;
mod before;
mod cgroups;
pub mod conformance;
pub mod containerd;
mod control_plane;
pub mod down;
pub mod images;
pub mod install;
mod kernel;
mod kubelet;
pub mod load_balancer;
mod mounts;
mod network;
mod pki;
pub mod process;
mod progress;
mod run;
pub mod status;
mod sweep;
mod tar;
mod tools;
pub mod up;
pub mod volumes;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// One cluster: its name and where its things are.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: String,
    home: PathBuf,
}

impl Cluster {
    /// The cluster `name`; `home` is the folder that holds tools and state of all clusters. Nothing is touched.
    ///
    /// # Errors
    /// When the name cannot be one of a namespace, a cgroup and a folder.
    pub fn new(name: &str, home: &Path) -> anyhow::Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) || name.starts_with('-') {
            bail!("name {name:?}: want 1 to 32 of a-z, 0-9 and -");
        }
        let home = std::path::absolute(home).context("find the folder for the cluster")?;
        Ok(Self {
            name: name.to_owned(),
            home,
        })
    }

    /// Name of the network namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of what is built once for all clusters.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Folder of the programs that are built from Go modules.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.home.join("bin")
    }

    /// Folder of the Gateway API's CRDs: `standard` and `experimental`.
    #[must_use]
    pub fn crds(&self) -> PathBuf {
        self.home.join("crd")
    }

    /// Folder of all that `down` removes.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.home.join("state").join(&self.name)
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().join("admin.kubeconfig")
    }

    /// Where the output of a process goes.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.state().join("log").join(format!("{process}.log"))
    }

    /// A command that runs in the cluster's network, with `kubectl` and `helm` in the path and a kubeconfig.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", network::file(&self.name).display()))
            .arg("--")
            .arg(program)
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", self.path());
        // Go programs would ask a proxy that is not in this network.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
    }

    /// Runs `kubectl` in the cluster's network and gives what it prints.
    ///
    /// # Errors
    /// When it fails; the text has what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(self.bin().join("kubectl"));
        command.args(arguments);
        run::output(&mut command)
    }

    /// Runs `work` in a thread of its own whose sockets are in the cluster's network.
    ///
    /// # Errors
    /// When there is no such network, and what `work` fails with.
    pub fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        network::inside(&self.name, work)
    }

    /// A client of the API server as the administrator. Its calls work inside the network only.
    ///
    /// # Errors
    /// When the cluster has no certificates.
    pub fn api(&self) -> anyhow::Result<api::Api> {
        api::Api::new(address::API_SERVER, &self.pki(), "admin")
    }

    /// Nobody else changes a cluster below this home as long as the answer lives.
    fn lock(&self) -> anyhow::Result<File> {
        std::fs::create_dir_all(&self.home)
            .with_context(|| format!("make {}", self.home.display()))?;
        let folder = File::open(&self.home)?;
        rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive)
            .context("wait for another up or down to end")?;
        Ok(folder)
    }

    fn pki(&self) -> PathBuf {
        self.state().join("pki")
    }

    /// Tools of the cluster, and programs that were built beside this one (`shardway`).
    fn path(&self) -> String {
        let program = std::env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent);
        let beside = beside.map_or_else(String::new, |folder| format!("{}:", folder.display()));
        format!("{}:{beside}{}", self.bin().display(), run::SYSTEM_PATH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_namespace() {
        for refused in ["", "a/b", "-a", "..", "A", &"a".repeat(33)] {
            assert!(Cluster::new(refused, Path::new("/x")).is_err(), "{refused}");
        }
        assert_eq!(
            Cluster::new("a-1", Path::new("/x")).map(|c| c.state()).ok(),
            Some("/x/state/a-1".into())
        );
    }
}
