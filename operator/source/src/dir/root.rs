//! Which folder is watched: the path that was given may lead through links that are swapped.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::files::Stamp;
use super::watch::{Touched, note};
use super::{DirSource, RESCAN, RESCAN_WITHOUT_EVENTS, ROOT_CHECK};

impl DirSource {
    /// Watches `root` from now on.
    pub(super) fn follow(&mut self, root: PathBuf) {
        // One waiting wake-up stands for any number of events.
        let (sender, wake) = mpsc::channel(1);
        let touched = Arc::new(Mutex::new(Touched::default()));
        let (noted, below) = (Arc::clone(&touched), root.clone());
        self.sender = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if note(&noted, &below, event) {
                let _ = sender.try_send(()); // full: a wake-up is waiting already
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(&root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        (self.watcher, self.rescan) = match watcher {
            Ok(watcher) => (Some(watcher), RESCAN),
            Err(error) => {
                tracing::warn!(%error, interval = ?RESCAN_WITHOUT_EVENTS, "the kernel gives no file events; the folder is looked at at intervals");
                (None, RESCAN_WITHOUT_EVENTS)
            }
        };
        self.rescan_at = Instant::now() + self.rescan;
        self.root_check_at = Instant::now() + ROOT_CHECK;
        self.root_id = identity(&root);
        self.root = root;
        self.wake = wake;
        self.touched = touched;
    }

    /// Follows the path that was given where it leads now. Whether that is elsewhere; a path that leads nowhere is left as it
    /// is, for it may be on its way.
    pub(super) fn follow_link(&mut self) -> bool {
        self.root_check_at = Instant::now() + ROOT_CHECK;
        let Ok(root) = fs::canonicalize(&self.given) else {
            return false;
        };
        if root == self.root && identity(&root) == self.root_id {
            return false;
        }
        tracing::info!(folder = %root.display(), "the folder is another one now");
        // Paths are kept relative to the root by `folder`, so that objects found again are unchanged ones.
        self.stamps = std::mem::take(&mut self.stamps)
            .into_keys()
            .filter_map(|path| {
                let path = root.join(path.strip_prefix(&self.root).ok()?);
                Some((path, Stamp::default()))
            })
            .collect();
        self.unreadable.clear();
        self.doubts.clear_all();
        self.follow(root);
        true
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
