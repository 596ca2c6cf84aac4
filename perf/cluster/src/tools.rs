//! Builds the programs of Kubernetes, etcd, helm, CoreDNS and the conformance suite from Go modules. Versions and sums are in
//! `tools/*/go.mod` and `go.sum`; a module is built again only when its files or the way to build it change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::Cluster;
use crate::progress::Progress;
use crate::run::output;

/// A module of ours that pins programs of others.
struct Module {
    name: &'static str,
    /// Names and contents.
    files: &'static [(&'static str, &'static str)],
    /// Programs and the packages that they are built from.
    programs: &'static [(&'static str, &'static str)],
    /// Programs that are built from a package's tests.
    tests: &'static [(&'static str, &'static str)],
    /// Further flags for the linker.
    link: &'static str,
}

macro_rules! module_files {
    ($name:literal, $($file:literal),+) => {
        &[$(($file, include_str!(concat!("../tools/", $name, "/", $file)))),+]
    };
}

const MODULES: &[Module] = &[
    Module {
        name: "pause",
        files: module_files!("pause", "go.mod", "main.go"),
        programs: &[("pause", ".")],
        tests: &[],
        link: "",
    },
    Module {
        name: "etcd",
        files: module_files!("etcd", "go.mod", "go.sum"),
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
        tests: &[],
        link: "",
    },
    Module {
        name: "kubernetes",
        files: module_files!("kubernetes", "go.mod", "go.sum"),
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        tests: &[],
        link: "-X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
    },
    Module {
        name: "gateway",
        files: module_files!("gateway", "go.mod", "go.sum", "suite.go"),
        programs: &[(
            "echo-basic",
            "sigs.k8s.io/gateway-api/conformance/echo-basic",
        )],
        tests: &[("conformance.test", "sigs.k8s.io/gateway-api/conformance")],
        link: "",
    },
    Module {
        name: "coredns",
        files: module_files!("coredns", "go.mod", "go.sum"),
        programs: &[("coredns", "github.com/coredns/coredns")],
        tests: &[],
        link: "",
    },
    Module {
        name: "helm",
        files: module_files!("helm", "go.mod", "go.sum"),
        programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
        tests: &[],
        link: "",
    },
];

/// Builds what is missing or out of date.
///
/// # Errors
/// When Go is missing or too old, or a build fails.
pub(crate) fn build(cluster: &Cluster, progress: &mut Progress) -> anyhow::Result<()> {
    for module in MODULES {
        let stamp = cluster.bin().join(format!(".{}", module.name));
        let wanted = module.hash();
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && module.is_built(cluster)
        {
            continue;
        }
        output(Command::new("go").arg("version"))
            .context("programs of Kubernetes are built with Go; install Go 1.26 or newer")?;
        progress.note(&format!(
            "building {} (the first time takes minutes)",
            module.name
        ));
        // Without it, a build that is cut short is no build.
        let _ = fs::remove_file(&stamp);
        module
            .build(cluster)
            .with_context(|| format!("build {}", module.name))?;
        fs::write(&stamp, wanted)?;
        progress.done(&format!("built {}", module.name));
    }
    Ok(())
}

impl Module {
    /// Of all that decides what is built.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        };
        for (name, content) in self.files.iter().chain(self.programs).chain(self.tests) {
            add(name);
            add(content);
        }
        add(self.link);
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn is_built(&self, cluster: &Cluster) -> bool {
        self.programs
            .iter()
            .chain(self.tests)
            .all(|(program, _)| cluster.bin().join(program).exists())
            && (self.name != "gateway" || cluster.crds().exists())
    }

    fn build(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let folder = cluster.home().join("build").join(self.name);
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(cluster.bin())?;
        for (name, content) in self.files {
            fs::write(folder.join(name), content)?;
        }
        let link = format!("-s -w {}", self.link);
        for (kind, programs) in [
            (&["build"] as &[&str], self.programs),
            (&["test", "-c"], self.tests),
        ] {
            for (program, package) in programs {
                let new = folder.join(format!("{program}.new"));
                let mut go = go(&folder);
                go.args(kind)
                    .args(["-trimpath", "-ldflags", &link, "-o"])
                    .arg(&new)
                    .arg(package);
                output(&mut go)?;
                // In one step, so that a program that runs keeps its file.
                fs::rename(&new, cluster.bin().join(program))?;
            }
        }
        if self.name == "gateway" {
            take_manifests(cluster, &folder)?;
        }
        Ok(())
    }
}

/// Copies the Gateway API's CRDs and writes down which images the suite's manifests name.
fn take_manifests(cluster: &Cluster, folder: &Path) -> anyhow::Result<()> {
    let crds = cluster.crds();
    let _ = fs::remove_dir_all(&crds);
    for channel in ["standard", "experimental"] {
        let from = module_folder(folder, "sigs.k8s.io/gateway-api")?
            .join("config/crd")
            .join(channel);
        let to = crds.join(channel);
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)
            .with_context(|| format!("read {}", from.display()))?
            .flatten()
        {
            let path = entry.path();
            // What is no object would stop `kubectl apply -f` on the folder.
            let object = path.extension().is_some_and(|end| end == "yaml")
                && entry.file_name() != "kustomization.yaml";
            if object {
                fs::write(to.join(entry.file_name()), fs::read(path)?)?;
            }
        }
    }
    let mut images = Vec::new();
    named_images(
        &module_folder(folder, "sigs.k8s.io/gateway-api/conformance")?,
        &mut images,
    );
    images.sort();
    images.dedup();
    if images.is_empty() {
        bail!("the suite's manifests name no image");
    }
    fs::write(
        cluster.home().join("suite-images.txt"),
        images.join("\n") + "\n",
    )?;
    Ok(())
}

fn named_images(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            named_images(&path, found);
        } else if path.extension().is_some_and(|end| end == "yaml") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.extend(text.lines().filter_map(image_of).map(str::to_owned));
        }
    }
}

/// The image that a line of a manifest names.
fn image_of(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("- ");
    let name = line
        .strip_prefix("image:")?
        .trim()
        .trim_matches(['"', '\'']);
    (!name.is_empty()).then_some(name)
}

fn module_folder(folder: &Path, module: &str) -> anyhow::Result<PathBuf> {
    let mut go = go(folder);
    go.args(["list", "-m", "-f", "{{.Dir}}", module]);
    Ok(output(&mut go)?.trim().into())
}

/// Go with a low priority: a build takes all processors for minutes.
fn go(folder: &Path) -> Command {
    let more = std::env::var("GOFLAGS").unwrap_or_default();
    let mut go = Command::new("nice");
    go.args(["-n", "10", "go"])
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", format!("{more} -mod=readonly").trim());
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_manifests() {
        assert_eq!(image_of("        image: a/b:1"), Some("a/b:1"));
        assert_eq!(image_of("      - image: \"a/b:1\""), Some("a/b:1"));
        assert_eq!(image_of("imagePullPolicy: Always"), None);
    }

    #[test]
    fn versions_of_kubernetes_agree() {
        for module in MODULES.iter().filter(|module| module.name == "kubernetes") {
            let (_, text) = module.files[0];
            let pinned = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
                .or_else(|| text.split("k8s.io/kubernetes ").nth(1))
                .and_then(|rest| rest.split_whitespace().next())
                .unwrap_or_default();
            assert!(
                module.link.contains(&format!("gitVersion={pinned} ")),
                "{pinned}"
            );
        }
    }

    #[test]
    fn another_file_is_another_build() {
        let hashes: Vec<String> = MODULES.iter().map(Module::hash).collect();
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[at + 1..].contains(hash));
        }
    }
}
