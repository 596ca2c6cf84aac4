//! Watches a folder: inotify for speed, a rescan for certainty.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::ages::{self, Ages};
use crate::folder::{Batch, Folder, Problem};

/// A burst ends when nothing has happened for this long ...
const QUIET: Duration = Duration::from_millis(2);
/// ... or this long after it began.
const BURST_MAX: Duration = Duration::from_millis(50);
/// The whole folder is looked at this often, in case an event was lost.
const RESCAN: Duration = Duration::from_secs(30);
/// ... and this often where the kernel gives no events.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);
/// Paths that are looked at one by one.
const PATHS_MAX: usize = 4096;
/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Depth of folders that is followed; symbolic links may lead in circles.
const DEPTH_MAX: usize = 16;

/// The folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read the folder of manifests {}", folder.display())]
pub struct OpenError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

/// Paths that events named since the last look. Bounded: beyond [`PATHS_MAX`] everything is looked at.
#[derive(Debug, Default)]
struct Touched {
    paths: BTreeSet<PathBuf>,
    everything: bool,
}

/// A folder of manifests, watched.
pub struct DirSource {
    root: PathBuf,
    folder: Folder,
    stamps: BTreeMap<PathBuf, Stamp>,
    wake: mpsc::Receiver<()>,
    touched: Arc<Mutex<Touched>>,
    _watcher: Option<notify::RecommendedWatcher>,
    rescan: Duration,
    rescan_at: Instant,
    /// An event has come and was not looked at yet; kept here so that a caller who stops waiting loses nothing.
    woken_at: Option<Instant>,
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
        let root = fs::canonicalize(root).map_err(failed)?;
        fs::read_dir(&root).map_err(failed)?;
        // One waiting wake-up stands for any number of events.
        let (sender, wake) = mpsc::channel(1);
        let touched = Arc::new(Mutex::new(Touched::default()));
        let noted = Arc::clone(&touched);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            note(&noted, event);
            let _ = sender.try_send(());
        })
        .and_then(|mut watcher| {
            watcher.watch(&root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        let (watcher, rescan) = match watcher {
            Ok(watcher) => (Some(watcher), RESCAN),
            Err(error) => {
                tracing::warn!(%error, interval = ?RESCAN_WITHOUT_EVENTS, "the kernel gives no file events; the folder is looked at at intervals");
                (None, RESCAN_WITHOUT_EVENTS)
            }
        };
        let folder = Folder::new(Ages::open(ages::path(data)));
        Ok(Self {
            root,
            folder,
            stamps: BTreeMap::new(),
            wake,
            touched,
            _watcher: watcher,
            rescan,
            rescan_at: Instant::now() + rescan,
            woken_at: None,
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that is there. Ages of objects that are gone are forgotten.
    pub fn initial(&mut self) -> Batch {
        let batch = self.scan();
        let holds = self.folder.objects();
        self.folder.ages.retain(|key| holds.contains(key));
        self.save();
        batch
    }

    /// Waits for a change and gives it. A batch has an event or another list of problems.
    ///
    /// Cancel safety: safe; a change that was not given is given by the next call.
    pub async fn next(&mut self) -> Batch {
        loop {
            if self.woken_at.is_none()
                && let Ok(Some(())) =
                    tokio::time::timeout_at(self.rescan_at, self.wake.recv()).await
            {
                self.woken_at = Some(Instant::now());
            }
            let before = self.folder.problems();
            let batch = if let Some(began) = self.woken_at {
                self.settle(began).await;
                self.woken_at = None;
                self.look()
            } else {
                self.rescan_at = Instant::now() + self.rescan;
                self.scan()
            };
            if !batch.events.is_empty() || batch.problems != before {
                self.save();
                return batch;
            }
        }
    }

    /// What is wrong now.
    pub fn problems(&self) -> Vec<Problem> {
        self.folder.problems()
    }

    /// Lets a burst of events pass.
    async fn settle(&mut self, began: Instant) {
        let end = began + BURST_MAX;
        loop {
            let quiet = (Instant::now() + QUIET).min(end);
            match tokio::time::timeout_at(quiet, self.wake.recv()).await {
                Ok(Some(())) if Instant::now() < end => {}
                _ => return,
            }
        }
    }

    /// Looks at what events named.
    fn look(&mut self) -> Batch {
        let touched =
            std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        if touched.everything {
            return self.scan();
        }
        let mut changes = Vec::new();
        for path in touched.paths {
            match fs::metadata(&path) {
                Ok(meta) if meta.is_file() && is_manifest(&path) => {
                    let stamp = Stamp::of(&meta);
                    if self.stamps.insert(path.clone(), stamp) != Some(stamp) {
                        changes.push((self.relative(&path), Some(read(&path, stamp.size))));
                    }
                }
                Ok(meta) if meta.is_file() => {}
                Err(_) if self.stamps.remove(&path).is_some() => {
                    changes.push((self.relative(&path), None));
                }
                // A temporary file that came and went, unless files were seen below it.
                Err(_)
                    if is_manifest(&path) || !self.stamps.keys().any(|p| p.starts_with(&path)) => {}
                // A folder that came, went or was moved.
                _ => return self.scan(),
            }
        }
        self.folder.update(changes, now())
    }

    fn scan(&mut self) -> Batch {
        let mut stamps = BTreeMap::new();
        let mut changes = Vec::new();
        let mut unreadable = Vec::new();
        list(&self.root, 0, &mut stamps, &mut unreadable);
        for (path, stamp) in &stamps {
            if self.stamps.get(path) != Some(stamp) {
                changes.push((self.relative(path), Some(read(path, stamp.size))));
            }
        }
        for path in self
            .stamps
            .keys()
            .filter(|path| !stamps.contains_key(*path))
        {
            // A folder that cannot be listed now has not lost its files.
            if !unreadable.iter().any(|folder| path.starts_with(folder)) {
                changes.push((self.relative(path), None));
            }
        }
        self.stamps = stamps;
        self.folder.update(changes, now())
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

/// All objects of a folder as they are written, for people. Files that are broken are left out.
///
/// # Errors
/// [`OpenError`] when it cannot be listed.
pub fn documents(root: &Path) -> Result<Vec<operator_objects::Document>, OpenError> {
    let failed = |source| OpenError {
        folder: root.to_owned(),
        source,
    };
    fs::read_dir(root).map_err(failed)?;
    let mut stamps = BTreeMap::new();
    list(root, 0, &mut stamps, &mut Vec::new());
    let texts = stamps
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
    let failed = |source| OpenError {
        folder: root.to_owned(),
        source,
    };
    fs::read_dir(root).map_err(failed)?;
    let mut stamps = BTreeMap::new();
    list(root, 0, &mut stamps, &mut Vec::new());
    let changes = stamps
        .iter()
        .map(|(path, stamp)| {
            (
                path.strip_prefix(root).unwrap_or(path).to_owned(),
                Some(read(path, stamp.size)),
            )
        })
        .collect();
    Ok(Folder::default().update(changes, 0))
}

/// Notes what an event is about. Hidden names are of editors, but for the `..data` link of a mounted ConfigMap, which
/// stands for everything below.
fn note(touched: &Mutex<Touched>, event: notify::Result<notify::Event>) {
    let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(event) = event else {
        touched.everything = true; // events were lost
        return;
    };
    if matches!(event.kind, notify::EventKind::Access(_)) {
        return;
    }
    touched.everything |= event.need_rescan();
    for path in event.paths {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b"..") {
            touched.everything = true;
        } else if !name.starts_with(b".") {
            touched.paths.insert(path);
        }
    }
    if touched.paths.len() > PATHS_MAX {
        touched.paths.clear();
        touched.everything = true;
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() as i64)
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        }
    }
}

/// Finds manifests, following symbolic links. Hidden names are left out, and with them the `..data` folders of mounted
/// ConfigMaps, whose files are seen through their links.
fn list(
    folder: &Path,
    depth: usize,
    stamps: &mut BTreeMap<PathBuf, Stamp>,
    unreadable: &mut Vec<PathBuf>,
) {
    let Ok(entries) = fs::read_dir(folder) else {
        unreadable.push(folder.to_owned());
        return;
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

fn read(path: &Path, size: u64) -> Result<String, String> {
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "has {size} bytes; a file may have {FILE_BYTES_MAX}: split it"
        ));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use std::os::unix::fs::symlink;

    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: team}\nspec: {ports: [{port: 80}]}\n";

    async fn next(source: &mut DirSource) -> Batch {
        tokio::time::timeout(Duration::from_secs(10), source.next())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn atomic_saves_and_deletions_are_seen_and_ages_survive() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(root.path().join("a.yaml"), SERVICE).unwrap();
        let mut source = DirSource::open(root.path(), data.path()).unwrap();
        assert_eq!(source.initial().events.len(), 1);
        fs::write(root.path().join(".a.yaml.swp"), SERVICE.replace("80", "81")).unwrap();
        fs::rename(root.path().join(".a.yaml.swp"), root.path().join("a.yaml")).unwrap();
        let batch = next(&mut source).await;
        assert_eq!(batch.events.len(), 1);
        drop(source);
        let mut source = DirSource::open(root.path(), data.path()).unwrap();
        let batch = source.initial();
        let operator_objects::spec::Event::Apply(object) = &batch.events[0] else {
            panic!("{batch:?}")
        };
        assert_eq!(object.meta().generation, 2);
        fs::remove_file(root.path().join("a.yaml")).unwrap();
        assert_eq!(next(&mut source).await.changed.len(), 1);
    }

    #[tokio::test]
    async fn a_swapped_link_as_in_a_mounted_config_map_is_one_change() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (folder, port) in [("..one", "80"), ("..two", "81")] {
            fs::create_dir(root.path().join(folder)).unwrap();
            fs::write(
                root.path().join(folder).join("a.yaml"),
                SERVICE.replace("80", port),
            )
            .unwrap();
        }
        symlink("..one", root.path().join("..data")).unwrap();
        symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
        let mut source = DirSource::open(root.path(), data.path()).unwrap();
        assert_eq!(source.initial().changed.len(), 1);
        symlink("..two", root.path().join("..data_tmp")).unwrap();
        fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
        assert_eq!(next(&mut source).await.changed.len(), 1);
    }

    #[tokio::test]
    async fn a_folder_in_the_folder_is_read() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut source = DirSource::open(root.path(), data.path()).unwrap();
        assert!(source.initial().events.is_empty());
        fs::create_dir_all(root.path().join("team/deep")).unwrap();
        fs::write(root.path().join("team/deep/a.yml"), SERVICE).unwrap();
        assert_eq!(next(&mut source).await.changed.len(), 1);
    }

    #[tokio::test]
    async fn a_caller_who_stops_waiting_early_loses_no_change() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut source = DirSource::open(root.path(), data.path()).unwrap();
        assert!(source.initial().events.is_empty());
        fs::write(root.path().join("a.yaml"), SERVICE).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            // Shorter than the quiet time that ends a burst.
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(1), source.next()).await {
                assert_eq!(batch.changed.len(), 1);
                return;
            }
            assert!(Instant::now() < until, "the change was lost");
        }
    }
}
