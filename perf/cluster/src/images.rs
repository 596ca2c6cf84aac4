//! Which images the cluster has, and how they get into it. There is no registry: what is not imported does not start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::Cluster;
use crate::archive::Image;
use crate::containerd::ctr;
use crate::process;

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// The cluster's DNS.
pub(crate) const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.12.2";
/// Repository of the conformance suite's backend.
const ECHO: &str = "registry.k8s.io/gateway-api/echo-basic:";

/// Imports what the cluster and the conformance suite need. Archives are kept for the next cluster.
pub(crate) fn load_own(cluster: &Cluster) -> anyhow::Result<()> {
    for (program, names) in [
        ("pause", vec![PAUSE.to_owned()]),
        ("coredns", vec![COREDNS.to_owned()]),
        ("echo-basic", echo_names(cluster)?),
    ] {
        let archive = kept(cluster, program, names)?;
        import(cluster, &archive).with_context(|| format!("import the image of {program}"))?;
    }
    Ok(())
}

/// The archive of a program that was built for the cluster; written anew when the program or the names changed.
fn kept(cluster: &Cluster, program: &str, names: Vec<String>) -> anyhow::Result<PathBuf> {
    let folder = cluster.home().join("images");
    fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{program}.tar"));
    let stamp = folder.join(format!("{program}.stamp"));
    let program = cluster.bin().join(program);
    let metadata = fs::metadata(&program).with_context(|| format!("read {}", program.display()))?;
    let wanted = format!("{} {:?} {names:?}", metadata.len(), metadata.modified()?);
    if !archive.exists() || fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_file(&stamp);
        fs::write(&archive, Image::of_go(names, program).archive(&folder)?)?;
        fs::write(&stamp, wanted)?;
    }
    Ok(archive)
}

/// Makes an image of programs and imports it under a name with a tag; the first program is what it runs.
///
/// # Errors
/// When the name has no tag, a file cannot be read, or the cluster is not up.
pub fn load(cluster: &Cluster, name: &str, programs: &[PathBuf]) -> anyhow::Result<()> {
    if process::find(cluster, "containerd").is_none() {
        bail!("the cluster is not up");
    }
    let folder = cluster.state().join("images");
    fs::create_dir_all(&folder)?;
    let archive = folder.join("import.tar");
    save(&archive, name, programs)?;
    import(cluster, &archive).with_context(|| format!("import the image {name}"))?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// Writes an image of programs to a file, as `docker save` does.
///
/// # Errors
/// When the name has no tag, or a file cannot be read or written.
pub fn save(file: &Path, name: &str, programs: &[PathBuf]) -> anyhow::Result<()> {
    let tagged = name
        .rsplit_once(':')
        .is_some_and(|(_, tag)| !tag.is_empty() && !tag.contains('/'));
    if !tagged {
        bail!("{name}: want NAME:TAG");
    }
    let file = std::path::absolute(file)?;
    let folder = file.parent().context("an archive is in a folder")?;
    let content = Image::of_rust(&full_name(name), programs)
        .archive(folder)
        .with_context(|| format!("make the image {name}"))?;
    fs::write(&file, content).with_context(|| format!("write {}", file.display()))
}

/// Names of the images that the cluster has.
///
/// # Errors
/// When the cluster is not up.
pub fn list(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let text = ctr(cluster, &["images", "list", "--quiet"])?;
    let mut names: Vec<String> = text
        .lines()
        .filter(|name| !name.starts_with("sha256:") && !name.contains('@'))
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

fn import(cluster: &Cluster, archive: &Path) -> anyhow::Result<()> {
    ctr(cluster, &["images", "import", &archive.to_string_lossy()]).map(drop)
}

/// The backend under each tag that the suite's manifests name.
fn echo_names(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let file = cluster.home().join("suite-images.txt");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text
        .lines()
        .filter(|name| name.starts_with(ECHO))
        .map(str::to_owned)
        .collect())
}

/// A name as kubelet asks for it: with a registry and, in Docker's, a folder.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => {
            name.to_owned()
        }
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_refused() {
        for name in ["a", "host:5000/a", "a:"] {
            let error = save(Path::new("/nowhere/a.tar"), name, &[]).unwrap_err();
            assert!(error.to_string().contains("want NAME:TAG"), "{error}");
        }
    }

    #[test]
    fn a_short_name_is_completed() {
        for (short, full) in [
            ("a:1", "docker.io/library/a:1"),
            ("shardway/operator:dev", "docker.io/shardway/operator:dev"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("localhost/a:1", "localhost/a:1"),
            ("host:5000/a:1", "host:5000/a:1"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }
}
