//! Image archives of one layer, in the form that `docker save` writes and `ctr images import` reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::run::output;
use crate::tar::Tar;

/// User and group that programs run as.
pub(crate) const USER: u32 = 65532;
/// Where the system keeps certificates of public authorities, and where images have them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An image to be.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Its names with tags, all for the same content.
    pub(crate) names: Vec<String>,
    /// Programs as (file, path in the image); the first is what it runs.
    pub(crate) programs: Vec<(PathBuf, String)>,
    /// Whether programs lose their symbols and get the libraries that they load.
    pub(crate) of_rust: bool,
}

impl Image {
    /// An image of programs that load nothing, as Go builds them here: each at the root.
    pub(crate) fn of_go(names: Vec<String>, program: PathBuf) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("/{name}");
        Self {
            names,
            programs: vec![(program, path)],
            of_rust: false,
        }
    }

    /// An image of our programs.
    pub(crate) fn of_rust(name: &str, programs: &[PathBuf]) -> Self {
        let programs = programs.iter().map(|program| {
            let file = program.file_name().unwrap_or_default().to_string_lossy();
            (program.clone(), format!("/usr/local/bin/{file}"))
        });
        Self {
            names: vec![name.to_owned()],
            programs: programs.collect(),
            of_rust: true,
        }
    }

    /// The archive. `scratch` is a folder for files in between.
    ///
    /// # Errors
    /// When a program cannot be read or stripped, or a library that it loads is not found.
    pub(crate) fn archive(&self, scratch: &Path) -> anyhow::Result<Vec<u8>> {
        let layer = self.layer(scratch)?;
        let digest = sha256(&layer);
        let entry = self.programs.first().map(|(_, path)| path);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": [entry],
                "Env": ["PATH=/usr/local/bin:/"],
                "User": format!("{USER}:{USER}"),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created_by": "shardway-cluster"}],
        });
        let config = config.to_string();
        let config_file = format!("{}.json", sha256(config.as_bytes()));
        let layer_file = format!("{digest}/layer.tar");
        let manifest = json!([{
            "Config": config_file, "RepoTags": self.names, "Layers": [layer_file],
        }]);
        let mut tar = Tar::default();
        tar.file(&config_file, 0o644, config.as_bytes())?;
        tar.file(&layer_file, 0o644, &layer)?;
        tar.file("manifest.json", 0o644, manifest.to_string().as_bytes())?;
        Ok(tar.finish())
    }

    fn layer(&self, scratch: &Path) -> anyhow::Result<Vec<u8>> {
        let mut tar = Tar::default();
        tar.folder("/tmp", 0o1777)?;
        let accounts = format!(
            "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/tmp:/sbin/nologin\n"
        );
        tar.file("/etc/passwd", 0o644, accounts.as_bytes())?;
        let groups = format!("root:x:0:\nnonroot:x:{USER}:\n");
        tar.file("/etc/group", 0o644, groups.as_bytes())?;
        // Names are looked up in the file first, then asked; without this file the order is another.
        tar.file("/etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
        if let Ok(authorities) = fs::read(AUTHORITIES) {
            tar.file(AUTHORITIES, 0o644, &authorities)?;
        }
        let mut loaded = Vec::new();
        for (program, path) in &self.programs {
            let content = if self.of_rust {
                loaded.extend(libraries(program)?);
                stripped(program, scratch)?
            } else {
                read(program)?
            };
            tar.file(path, 0o755, &content)?;
        }
        loaded.sort();
        loaded.dedup();
        for library in loaded {
            // By the name that the program asks for, with the content that the link leads to.
            tar.file(&library, 0o755, &read(Path::new(&library))?)?;
        }
        Ok(tar.finish())
    }
}

/// A program without symbols; those are the larger part of it.
fn stripped(program: &Path, scratch: &Path) -> anyhow::Result<Vec<u8>> {
    let file = scratch.join("stripped");
    output(Command::new("strip").arg("-o").arg(&file).arg(program))?;
    let content = read(&file)?;
    fs::remove_file(&file)?;
    Ok(content)
}

/// What a program loads, with the loader itself.
fn libraries(program: &Path) -> anyhow::Result<Vec<String>> {
    loaded(&output(Command::new("ldd").arg(program))?)
}

/// Paths in what `ldd` prints: `name => path (address)`, or the loader's path alone.
fn loaded(text: &str) -> anyhow::Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            anyhow::bail!("a library is missing: {}", line.trim());
        }
        let place = line.split("=>").last().unwrap_or_default();
        let path = place.split_whitespace().next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn what_ldd_names_is_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            loaded(text).unwrap(),
            [
                "/lib/x86_64-linux-gnu/libgcc_s.so.1",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(loaded("\tlibx.so => not found\n").is_err());
        assert!(loaded("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn the_same_content_makes_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"content").unwrap();
        let image = Image::of_go(vec!["a:1".into(), "a:2".into()], program);
        let first = image.archive(folder.path()).unwrap();
        assert_eq!(first, image.archive(folder.path()).unwrap());
        let text = String::from_utf8_lossy(&first);
        assert!(text.contains(r#""RepoTags":["a:1","a:2"]"#));
        assert!(text.contains(r#""User":"65532:65532""#));
    }
}
