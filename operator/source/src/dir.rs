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
use crate::folder::{Batch, Change, Folder, Problem};

/// A change that comes this long after the last one was given is looked at without waiting, unless a file is being
/// written: most changes come alone. Sooner, it belongs to a burst.
const ALONE_AFTER: Duration = Duration::from_millis(3);
/// A burst ends when nothing has happened for this long ...
const QUIET: Duration = Duration::from_millis(2);
/// ... or this long after it began.
const BURST_MAX: Duration = Duration::from_millis(50);
/// A file that is being written is waited for this long; then it is read as it is.
const WRITE_MAX: Duration = Duration::from_secs(1);
/// It is asked this often whether the folder is still the one that is watched: links to it may be swapped.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// A file that changed this shortly before it was read may change again within one tick of the kernel's clock.
const RACY: Duration = Duration::from_millis(50);
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    /// Whether the rest can be relied on; otherwise the file is read again at the next look.
    settled: bool,
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

/// Paths that events named since the last look. Bounded: beyond [`PATHS_MAX`] everything is looked at.
#[derive(Debug, Default)]
struct Touched {
    paths: BTreeSet<PathBuf>,
    /// Files that were written to and are not closed yet: half of them is not read.
    writing: BTreeSet<PathBuf>,
    everything: bool,
}

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

    /// Watches `root` from now on.
    fn follow(&mut self, root: PathBuf) {
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
    fn follow_link(&mut self) -> bool {
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
        self.follow(root);
        true
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
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
            if self.woken_at.is_none()
                && let Ok(Some(())) = tokio::time::timeout_at(check_at, self.wake.recv()).await
            {
                self.woken_at = Some(Instant::now());
            }
            let batch = if let Some(began) = self.woken_at {
                let alone = self
                    .given_at
                    .is_none_or(|given| given.elapsed() >= ALONE_AFTER);
                if !alone || !self.touched().writing.is_empty() {
                    self.settle(began).await;
                }
                self.woken_at = None;
                self.look()
            } else if self.follow_link() || Instant::now() >= self.rescan_at {
                self.rescan_at = Instant::now() + self.rescan;
                self.scan()
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
        let mut changes = Vec::new();
        for path in touched.paths {
            match fs::metadata(&path) {
                Ok(meta) if meta.is_file() && is_manifest(&path) => {
                    self.read(path, Stamp::of(&meta), &mut changes);
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

    /// Reads a file if its stamp says that it has changed.
    fn read(&mut self, path: PathBuf, stamp: Stamp, changes: &mut Vec<Change>) {
        if self
            .stamps
            .get(&path)
            .is_some_and(|known| known.settled && *known == stamp.settled())
        {
            return;
        }
        let content = read(&path, stamp.size);
        // What could not be read is tried again: a permission is no part of the stamp.
        let stamp = Stamp {
            settled: content.is_ok() && stamp.is_old(),
            ..stamp
        };
        changes.push((self.relative(&path), Some(content)));
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
            self.stamps.remove(&path);
            changes.push((self.relative(&path), None));
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
    Ok(Folder::default().update(changes, 0))
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

/// Notes what an event is about; whether it is about anything. Hidden names are of editors and tools, but for the `..data`
/// link of a mounted ConfigMap, which stands for everything.
fn note(touched: &Mutex<Touched>, root: &Path, event: notify::Result<notify::Event>) -> bool {
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

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
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
            settled: false,
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        }
    }

    fn settled(self) -> Self {
        Self {
            settled: true,
            ..self
        }
    }

    /// Whether the last change is long enough ago that another one would show.
    fn is_old(self) -> bool {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .is_ok_and(|now| now.as_nanos() as i128 - self.modified_ns > RACY.as_nanos() as i128)
    }
}

/// Finds manifests, following symbolic links. Hidden names are left out, and with them the `..data` folders of mounted
/// ConfigMaps, whose files are seen through their links.
fn list(
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

fn read(path: &Path, size: u64) -> Result<String, String> {
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "has {size} bytes; a file may have {FILE_BYTES_MAX}: split it"
        ));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
