//! Files that seem to be gone or empty: those who save may take a file away, or empty it, before they write it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// A file must be gone or empty for this long before its objects are deleted: their uids and ages would be lost, and with them
/// the routes that serve.
const BELIEVED_AFTER: Duration = Duration::from_millis(100);

/// Such files, with the time at which they are believed. Bounded by the files of the folder.
#[derive(Debug)]
pub(super) struct Doubts {
    until: BTreeMap<PathBuf, Instant>,
    pub(super) believed_after: Duration,
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            until: BTreeMap::new(),
            believed_after: BELIEVED_AFTER,
        }
    }
}

impl Doubts {
    /// Whether a file that is gone or empty has been so for long enough; then the doubt is over.
    pub(super) fn is_believed(&mut self, path: &Path) -> bool {
        let now = Instant::now();
        match self.until.get(path) {
            Some(at) if *at <= now => {
                self.until.remove(path);
                true
            }
            Some(_) => false,
            None => {
                self.until
                    .insert(path.to_owned(), now + self.believed_after);
                false
            }
        }
    }

    /// The file has something in it again.
    pub(super) fn clear(&mut self, path: &Path) {
        self.until.remove(path);
    }

    /// Nothing is known of the files any more.
    pub(super) fn clear_all(&mut self) {
        self.until.clear();
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.until.contains_key(path)
    }

    /// When the first of them is to be looked at again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }

    /// Those that are to be looked at again now.
    pub(super) fn due(&self) -> Vec<PathBuf> {
        let now = Instant::now();
        let due = self.until.iter().filter(|(_, at)| **at <= now);
        due.map(|(path, _)| path.clone()).collect()
    }
}
