//! Files of a folder: which there are, when they changed, what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::folder::{Batch, Folder};

/// A file that changed this shortly before it was read may change again within one tick of the kernel's clock.
const RACY: Duration = Duration::from_millis(50);
/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Depth of folders that is followed; symbolic links may lead in circles.
const DEPTH_MAX: usize = 16;

/// The folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read the folder of manifests {}", folder.display())]
pub struct OpenError {
    pub(super) folder: PathBuf,
    #[source]
    pub(super) source: io::Error,
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Whether the rest can be relied on; otherwise the file is read again at the next look.
    pub(super) settled: bool,
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified_ns: i128,
}

/// All objects of a folder as they are written, for people. Files that are broken are left out.
///
/// # Errors
/// [`OpenError`] when it cannot be listed.
pub fn documents(root: &Path) -> Result<Vec<operator_objects::Document>, OpenError> {
    let (found, _) = listed(root)?;
    let texts = found
        .iter()
        .filter_map(|(path, stamp)| read(path, stamp.size).ok());
    Ok(texts
        .flat_map(|text| operator_objects::manifest::parse(&text))
        .filter_map(Result::ok)
        .collect())
}

/// Reads a folder once, for offline use. Ages start now.
///
/// # Errors
/// [`OpenError`] when it cannot be listed.
pub fn load_folder(root: &Path) -> Result<Batch, OpenError> {
    let (found, unreadable) = listed(root)?;
    let below = |path: PathBuf| path.strip_prefix(root).map_or(path.clone(), Path::to_owned);
    let folders = unreadable
        .into_iter()
        .map(|(path, message)| (below(path), Some(Err(message))));
    let files = found.into_iter().map(|(path, stamp)| {
        let content = read(&path, stamp.size);
        (below(path), Some(content))
    });
    let changes = folders.chain(files).collect();
    Ok(Folder::default().update(changes, |_| false, 0))
}

type Listed = (BTreeMap<PathBuf, Stamp>, BTreeMap<PathBuf, String>);

fn listed(root: &Path) -> Result<Listed, OpenError> {
    fs::read_dir(root).map_err(|source| OpenError {
        folder: root.to_owned(),
        source,
    })?;
    let (mut found, mut unreadable) = Listed::default();
    list(root, 0, &mut found, &mut unreadable);
    Ok((found, unreadable))
}

pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
}

/// Whether nothing is in a file: no line but empty ones, comments and marks of documents.
pub(super) fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    })
}

impl Stamp {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        Self {
            settled: false,
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        }
    }

    /// Whether it can be relied on at the next look.
    pub(super) fn with_settled(self, settled: bool) -> Self {
        Self { settled, ..self }
    }

    /// Whether the last change is long enough ago that another one would show.
    pub(super) fn is_old(self) -> bool {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .is_ok_and(|now| now.as_nanos() as i128 - self.modified_ns > RACY.as_nanos() as i128)
    }
}

/// Finds manifests, following symbolic links. Hidden names are left out, and with them the `..data` folders of mounted
/// ConfigMaps, whose files are seen through their links.
pub(super) fn list(
    folder: &Path,
    depth: usize,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
    unreadable: &mut BTreeMap<PathBuf, String>,
) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let message = format!("cannot be listed: {error}; what was in it stays as it was");
            unreadable.insert(folder.to_owned(), message);
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Gone in between, or a dangling link: not there.
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            if depth < DEPTH_MAX {
                list(&path, depth + 1, stamps, unreadable);
            }
        } else if is_manifest(&path) {
            stamps.insert(path, Stamp::of(&meta));
        }
    }
}

pub(super) fn read(path: &Path, size: u64) -> Result<String, String> {
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "has {size} bytes; a file may have {FILE_BYTES_MAX}: split it"
        ));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}
