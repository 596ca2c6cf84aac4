//! Writes tar archives (POSIX ustar) that depend on their content alone: no times, no owners.

use std::collections::BTreeSet;

use anyhow::bail;

const BLOCK: usize = 512;

/// An archive that grows.
#[derive(Debug, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
}

impl Tar {
    /// Adds a folder, after those above it.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> anyhow::Result<()> {
        let path = path.trim_matches('/');
        if let Some((above, _)) = path.rsplit_once('/')
            && !self.folders.contains(above)
        {
            self.folder(above, 0o755)?;
        }
        if !path.is_empty() && self.folders.insert(path.to_owned()) {
            self.header(&format!("{path}/"), mode, 0, b'5')?;
        }
        Ok(())
    }

    /// Adds a file, after the folders above it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above, 0o755)?;
        }
        self.header(path, mode, content.len(), b'0')?;
        self.bytes.extend_from_slice(content);
        let used = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(used, 0);
        Ok(())
    }

    /// The archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let end = self.bytes.len() + 2 * BLOCK;
        self.bytes.resize(end, 0);
        self.bytes
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8) -> anyhow::Result<()> {
        let (prefix, name) = split(path)?;
        if size >= 1 << 33 {
            bail!("{path}: {size} bytes do not fit the form");
        }
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, text: &str| {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{size:011o}"));
        put(136, "00000000000");
        // The sum counts its own place as blanks.
        put(148, "        ");
        put(257, "ustar\x0000");
        put(345, prefix);
        block[156] = kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&block);
        Ok(())
    }
}

/// A path as the form holds it: up to 155 bytes before a slash, up to 100 after it.
fn split(path: &str) -> anyhow::Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100 && !name.is_empty())
        .map_or_else(|| bail!("{path} is too long for an archive"), Ok)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_systems_tar_reads_it() {
        let deep = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        let mut tar = Tar::default();
        tar.folder("/tmp", 0o1777).unwrap();
        tar.file("/usr/bin/a", 0o755, b"content").unwrap();
        tar.file(&deep, 0o600, &[7; 513]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar");
        std::fs::write(&file, tar.finish()).unwrap();
        let output = Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let list = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<(&str, &str)> = list
            .lines()
            .map(|line| (&line[..10], line.rsplit(' ').next().unwrap()))
            .collect();
        let above = format!("{}/", "d".repeat(90));
        assert_eq!(
            rows,
            [
                ("drwxrwxrwt", "tmp/"),
                ("drwxr-xr-x", "usr/"),
                ("drwxr-xr-x", "usr/bin/"),
                ("-rwxr-xr-x", "usr/bin/a"),
                ("drwxr-xr-x", &above),
                ("-rw-------", &deep),
            ]
        );
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        assert!(Tar::default().file(&"x".repeat(101), 0o644, b"").is_err());
    }
}
