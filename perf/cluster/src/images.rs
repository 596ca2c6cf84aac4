//! Which images the cluster has, and how they get into it. There is no registry: what is not imported does not start.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::Cluster;
use crate::archive::Image;
use crate::containerd::ctr;

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// The cluster's DNS.
pub(crate) const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.12.2";
/// Repository of the conformance suite's backend.
const ECHO: &str = "registry.k8s.io/gateway-api/echo-basic:";

/// Imports what the cluster and the conformance suite need.
pub(crate) fn load_own(cluster: &Cluster) -> anyhow::Result<()> {
    let bin = cluster.bin();
    for image in [
        Image::of_go(vec![PAUSE.into()], bin.join("pause")),
        Image::of_go(vec![COREDNS.into()], bin.join("coredns")),
        Image::of_go(echo_names(cluster)?, bin.join("echo-basic")),
    ] {
        import(cluster, &image)?;
    }
    Ok(())
}

/// Makes an image of programs and imports it under a name with a tag; the first program is what it runs.
///
/// # Errors
/// When the name has no tag, a file cannot be read, or the cluster is not up.
pub fn load(cluster: &Cluster, name: &str, programs: &[PathBuf]) -> anyhow::Result<()> {
    let tagged = name
        .rsplit_once(':')
        .is_some_and(|(_, tag)| !tag.is_empty() && !tag.contains('/'));
    if !tagged {
        bail!("{name}: want NAME:TAG");
    }
    import(cluster, &Image::of_rust(&full_name(name), programs))
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

fn import(cluster: &Cluster, image: &Image) -> anyhow::Result<()> {
    let folder = cluster.state().join("images");
    fs::create_dir_all(&folder)?;
    let archive = folder.join("import.tar");
    let written = image
        .archive(&folder)
        .and_then(|bytes| Ok(fs::write(&archive, bytes)?));
    written.with_context(|| format!("make the image {}", image.names.join(", ")))?;
    let file = archive.to_string_lossy();
    ctr(cluster, &["images", "import", &file])
        .with_context(|| format!("import the image {}", image.names.join(", ")))?;
    fs::remove_file(&archive)?;
    Ok(())
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
mod tests {
    use super::*;

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
