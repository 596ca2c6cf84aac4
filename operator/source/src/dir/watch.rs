//! What events of the kernel are about.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::files::is_manifest;

/// Paths that are looked at one by one.
const PATHS_MAX: usize = 4096;

/// Paths that events named since the last look. Bounded: beyond [`PATHS_MAX`] everything is looked at.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) paths: BTreeSet<PathBuf>,
    /// Files that were written to and are not closed yet: half of them is not read.
    pub(super) writing: BTreeSet<PathBuf>,
    pub(super) everything: bool,
}

/// Notes what an event is about; whether it is about anything. Hidden names are of editors and tools, but for the `..data`
/// link of a mounted ConfigMap, which stands for everything.
pub(super) fn note(
    touched: &Mutex<Touched>,
    root: &Path,
    event: notify::Result<notify::Event>,
) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
    let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(event) = event else {
        touched.everything = true; // events were lost
        return true;
    };
    let is_closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
    if matches!(event.kind, EventKind::Access(_)) && !is_closed {
        return false;
    }
    let is_written = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
    let is_gone = matches!(
        event.kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    if event.need_rescan() {
        // Which files were closed is not known either.
        touched.writing.clear();
        touched.everything = true;
    }
    let mut is_noted = touched.everything;
    for path in event.paths {
        match hidden(path.strip_prefix(root).unwrap_or(&path)) {
            Hidden::Link => touched.everything = true,
            Hidden::Yes => continue,
            Hidden::No => {
                if is_closed || is_gone {
                    touched.writing.remove(&path);
                } else if is_written && is_manifest(&path) {
                    touched.writing.insert(path.clone());
                }
                touched.paths.insert(path);
            }
        }
        is_noted = true;
    }
    if touched.paths.len() > PATHS_MAX || touched.writing.len() > PATHS_MAX {
        touched.paths.clear();
        touched.writing.clear();
        touched.everything = true;
    }
    is_noted
}

/// Whether a path below the root is hidden.
enum Hidden {
    No,
    Yes,
    /// Below the folders that the `..data` link of a mounted ConfigMap leads to, or the link itself.
    Link,
}

fn hidden(path: &Path) -> Hidden {
    for name in path {
        let name = name.as_encoded_bytes();
        if name.starts_with(b"..") {
            return Hidden::Link;
        }
        if name.starts_with(b".") {
            return Hidden::Yes;
        }
    }
    Hidden::No
}
