//! Watches a folder: inotify for speed, a rescan for certainty.

mod doubts;
mod files;
mod root;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::doubts::Doubts;
pub use self::files::{OpenError, documents, load_folder};
use self::files::{Stamp, is_blank, is_manifest, list, read};
use self::watch::Touched;
use crate::ages::{self, Ages, Seen};
use crate::folder::{Batch, Change, Folder};
use crate::problem::Problem;

/// A change of one file that comes this long after the last one was given is looked at without waiting, unless the file is
/// being written: most changes come alone. Sooner, or with other files, it belongs to a burst.
const ALONE_AFTER: Duration = Duration::from_millis(1);
/// A burst ends when nothing has happened for this long ...
const QUIET: Duration = Duration::from_millis(2);
/// ... or this long after it began.
const BURST_MAX: Duration = Duration::from_millis(50);
/// A file that is being written is waited for this long; then it is read as it is.
const WRITE_MAX: Duration = Duration::from_secs(1);
/// It is asked this often whether the folder is still the one that is watched: links to it may be swapped.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// The whole folder is looked at this often, in case an event was lost.
const RESCAN: Duration = Duration::from_secs(30);
/// ... and this often where the kernel gives no events.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);

/// A folder of manifests, watched.
pub struct DirSource {
    /// As it was given; may lead through links that are swapped.
    given: PathBuf,
    /// What it led to when it was opened or last followed.
    root: PathBuf,
    root_id: Option<(u64, u64)>,
    root_check_at: Instant,
    /// Folders that cannot be listed.
    unreadable: BTreeSet<PathBuf>,
    folder: Folder,
    stamps: BTreeMap<PathBuf, Stamp>,
    doubts: Doubts,
    wake: mpsc::Receiver<()>,
    /// Keeps `wake` open where there is no watcher, so that waiting for it waits.
    sender: mpsc::Sender<()>,
    touched: Arc<Mutex<Touched>>,
    watcher: Option<notify::RecommendedWatcher>,
    rescan: Duration,
    rescan_at: Instant,
    /// Problems that the last batch told.
    told: Vec<Problem>,
    /// An event has come and was not looked at yet; kept here so that a caller who stops waiting loses nothing.
    woken_at: Option<Instant>,
    /// When a batch was last given.
    given_at: Option<Instant>,
}

impl DirSource {
    /// Opens a folder; ages of its objects are kept in `data`.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be listed.
    pub fn open(root: &Path, data: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError {
            folder: root.to_owned(),
            source,
        };
        let given = root.to_owned();
        let root = fs::canonicalize(root).map_err(failed)?;
        fs::read_dir(&root).map_err(failed)?;
        let folder = Folder::new(Ages::open(ages::path(data)));
        let (sender, wake) = mpsc::channel(1); // replaced at once by `follow`
        let mut source = Self {
            given,
            root_id: None,
            root_check_at: Instant::now(),
            unreadable: BTreeSet::new(),
            root,
            folder,
            stamps: BTreeMap::new(),
            doubts: Doubts::default(),
            wake,
            sender,
            touched: Arc::default(),
            watcher: None,
            rescan: RESCAN,
            rescan_at: Instant::now(),
            told: Vec::new(),
            woken_at: None,
            given_at: None,
        };
        source.follow(source.root.clone());
        Ok(source)
    }

    /// The folder as it was given, which may lead elsewhere later.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// What is known of each object, kept up to date.
    pub fn seen(&self) -> Seen {
        self.folder.ages.seen()
    }

    /// Everything that is there. Ages of objects that are gone are forgotten.
    pub fn initial(&mut self) -> Batch {
        let batch = self.scan();
        self.told.clone_from(&batch.problems);
        self.folder.forget_absent();
        self.save();
        batch
    }

    /// Waits for a change and gives it. A batch has an event or another list of problems.
    ///
    /// Cancel safety: safe; a change that was not given is given by the next call.
    pub async fn next(&mut self) -> Batch {
        loop {
            let check_at = self.rescan_at.min(self.root_check_at);
            let check_at = self.doubts.next().map_or(check_at, |at| at.min(check_at));
            if self.woken_at.is_none()
                && let Ok(Some(())) = tokio::time::timeout_at(check_at, self.wake.recv()).await
            {
                self.woken_at = Some(Instant::now());
            }
            let batch = if let Some(began) = self.woken_at {
                if !self.is_alone() {
                    self.settle(began).await;
                }
                self.woken_at = None;
                self.look()
            } else if self.follow_link() || Instant::now() >= self.rescan_at {
                self.rescan_at = Instant::now() + self.rescan;
                self.scan()
            } else if !self.doubts.due().is_empty() {
                self.look()
            } else {
                continue;
            };
            if !batch.events.is_empty() || batch.problems != self.told {
                self.told.clone_from(&batch.problems);
                self.save();
                self.given_at = Some(Instant::now());
                return batch;
            }
        }
    }

    /// Whether what was touched is one file, whole, a while after the last change.
    fn is_alone(&self) -> bool {
        let touched = self.touched();
        touched.paths.len() <= 1
            && touched.writing.is_empty()
            && self
                .given_at
                .is_none_or(|given| given.elapsed() >= ALONE_AFTER)
    }

    /// What is wrong now.
    pub fn problems(&self) -> Vec<Problem> {
        self.folder.problems()
    }

    /// Lets a burst of events pass, and those who are writing finish.
    async fn settle(&mut self, began: Instant) {
        let (end, end_of_writes) = (began + BURST_MAX, began + WRITE_MAX);
        loop {
            let quiet = Instant::now() + QUIET;
            let woken = matches!(
                tokio::time::timeout_at(quiet, self.wake.recv()).await,
                Ok(Some(()))
            );
            let now = Instant::now();
            let is_over = if self.touched().writing.is_empty() {
                !woken || now >= end
            } else {
                now >= end_of_writes
            };
            if is_over {
                return;
            }
        }
    }

    fn touched(&self) -> std::sync::MutexGuard<'_, Touched> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what events named.
    fn look(&mut self) -> Batch {
        let touched = std::mem::take(&mut *self.touched());
        if touched.everything {
            return self.scan();
        }
        let mut paths = touched.paths;
        paths.extend(self.doubts.due());
        let mut changes = Vec::new();
        for path in paths {
            match fs::metadata(&path) {
                Ok(meta) if meta.is_file() && is_manifest(&path) => {
                    self.read(path, Stamp::of(&meta), &mut changes);
                }
                Ok(meta) if meta.is_file() => {}
                Err(_) if self.stamps.contains_key(&path) => self.miss(path, &mut changes),
                // A temporary file that came and went, unless files were seen below it.
                Err(_) if is_manifest(&path) || !self.has_below(&path) => {}
                // A folder that came, went or was moved.
                _ => return self.scan(),
            }
        }
        self.update(changes)
    }

    fn has_below(&self, folder: &Path) -> bool {
        let mut from = self.stamps.range(folder.to_owned()..);
        from.next()
            .is_some_and(|(path, _)| path.starts_with(folder))
    }

    /// A file that was there is not.
    fn miss(&mut self, path: PathBuf, changes: &mut Vec<Change>) {
        if self.doubts.is_believed(&path) {
            self.stamps.remove(&path);
            changes.push((self.relative(&path), None));
        }
    }

    fn update(&mut self, changes: Vec<Change>) -> Batch {
        let (root, doubts) = (&self.root, &self.doubts);
        let doubted = |path: &Path| doubts.contains(&root.join(path));
        self.folder.update(changes, doubted, now())
    }

    /// Reads a file if its stamp says that it has changed.
    fn read(&mut self, path: PathBuf, stamp: Stamp, changes: &mut Vec<Change>) {
        if self
            .stamps
            .get(&path)
            .is_some_and(|known| known.settled && *known == stamp.with_settled(true))
        {
            self.doubts.clear(&path);
            return;
        }
        let content = read(&path, stamp.size);
        let relative = self.relative(&path);
        if content.as_ref().is_ok_and(|text| is_blank(text))
            && self.folder.holds(&relative)
            && !self.doubts.is_believed(&path)
        {
            return;
        }
        self.doubts.clear(&path);
        // What could not be read is tried again: a permission is no part of the stamp.
        let stamp = stamp.with_settled(content.is_ok() && stamp.is_old());
        changes.push((relative, Some(content)));
        self.stamps.insert(path, stamp);
    }

    fn scan(&mut self) -> Batch {
        let mut found = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        list(&self.root, 0, &mut found, &mut unreadable);
        let mut changes = Vec::new();
        let gone: Vec<PathBuf> = self
            .stamps
            .keys()
            .filter(|path| !found.contains_key(*path))
            // A folder that cannot be listed now has not lost its files.
            .filter(|path| !unreadable.keys().any(|folder| path.starts_with(folder)))
            .cloned()
            .collect();
        for path in gone {
            self.miss(path, &mut changes);
        }
        for folder in &self.unreadable {
            if !unreadable.contains_key(folder) {
                changes.push((self.relative(folder), None));
            }
        }
        self.unreadable = unreadable.keys().cloned().collect();
        for (folder, message) in unreadable {
            changes.push((self.relative(&folder), Some(Err(message))));
        }
        for (path, stamp) in found {
            self.read(path, stamp, &mut changes);
        }
        self.update(changes)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    fn save(&mut self) {
        if let Err(error) = self.folder.ages.save() {
            tracing::error!(error = %error, "ages of objects are not kept");
        }
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() as i64)
}

#[cfg(test)]
mod tests;
