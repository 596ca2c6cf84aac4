//! A disk in memory that loses and tears what was not synced, and fails on command.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::Disk;
use super::header;

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
struct File {
    /// What reads see.
    cached: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
}

#[derive(Debug, Default)]
struct Inner {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    /// Operations that change something.
    steps: u64,
    crash_at: Option<u64>,
    crashed: bool,
    syncs: u64,
    full: bool,
    failing_sync: bool,
    failing_write: bool,
}

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDisk(Arc<Mutex<Inner>>);

impl FakeDisk {
    pub(crate) fn boxed(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    /// From the given step on, everything fails: the process is gone.
    pub(crate) fn crash_at(&self, step: Option<u64>) {
        self.0.lock().crash_at = step;
    }

    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    pub(crate) fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Syncs of files so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// New files find no room.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.lock().full
    }

    /// Syncs fail, and as in Linux the pages are clean afterwards.
    pub(crate) fn set_failing_sync(&self, failing: bool) {
        self.0.lock().failing_sync = failing;
    }

    pub(crate) fn set_failing_write(&self, failing: bool) {
        self.0.lock().failing_write = failing;
    }

    /// The disk as the next process sees it when the machine went on: nothing is lost, nothing more is durable.
    pub(crate) fn after_kill(&self) -> Self {
        let inner = self.0.lock();
        Self(Arc::new(Mutex::new(Inner {
            files: inner.files.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            pending_names: inner.pending_names.clone(),
            ..Inner::default()
        })))
    }

    /// The disk after a loss of power: of what was not synced, any sectors are there, others not.
    pub(crate) fn after_power_loss(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let inner = self.0.lock();
        // Sometimes all is lost, sometimes nothing, mostly some of it.
        let kept = [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5)];
        let files = inner.files.iter().map(|file| {
            let mut content = file.durable.clone();
            for (offset, bytes) in &file.pending {
                let mut at = 0;
                while at < bytes.len() {
                    let start = offset + at;
                    let len = (SECTOR - start % SECTOR).min(bytes.len() - at);
                    if random.random_bool(kept) {
                        write(&mut content, start, &bytes[at..at + len]);
                    }
                    at += len;
                }
            }
            settled(content)
        });
        let files = files.collect();
        let mut names = inner.durable_names.clone();
        // The file system's journal keeps changes of names in order.
        let changes = random.random_range(0..=inner.pending_names.len());
        for change in &inner.pending_names[..changes] {
            apply(&mut names, change);
        }
        Self(Arc::new(Mutex::new(Inner {
            files,
            durable_names: names.clone(),
            names,
            ..Inner::default()
        })))
    }

    /// A disk with these files.
    pub(crate) fn with(files: &[(String, Vec<u8>)]) -> Self {
        let disk = Self::default();
        {
            let mut inner = disk.0.lock();
            for (name, content) in files {
                let id = inner.files.len();
                inner.files.push(settled(content.clone()));
                inner.names.insert(name.clone(), id);
            }
            inner.durable_names = inner.names.clone();
        }
        disk
    }

    /// The same files as the version before members wrote them: another number in each header.
    pub(crate) fn in_format_1(&self) -> Self {
        let mut files = self.files();
        for (_, bytes) in &mut files {
            header::set_format_1(bytes);
        }
        Self::with(&files)
    }

    /// All files, by name.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let inner = self.0.lock();
        let files = inner.names.iter();
        files
            .map(|(name, id)| (name.clone(), inner.files[*id].cached.clone()))
            .collect()
    }
}

fn settled(content: Vec<u8>) -> File {
    File {
        cached: content.clone(),
        durable: content,
        pending: Vec::new(),
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link(name, id) => {
            names.retain(|_, other| other != id);
            names.insert(name.clone(), *id);
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
    }
}

impl Inner {
    /// Counts a step; fails when the process is gone. At the step of the crash half of the operations still happen,
    /// by the step's parity.
    fn step(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("crashed"));
        }
        self.steps += 1;
        if self.crash_at.is_some_and(|step| self.steps >= step) {
            self.crashed = true;
            return if self.steps.is_multiple_of(2) {
                Ok(false)
            } else {
                Err(io::Error::other("crashed"))
            };
        }
        Ok(true)
    }

    fn result(alive: bool) -> io::Result<()> {
        if alive {
            Ok(())
        } else {
            Err(io::Error::other("crashed"))
        }
    }

    fn id(&self, name: &str) -> io::Result<usize> {
        let id = self.names.get(name).copied();
        id.ok_or_else(|| io::Error::new(ErrorKind::NotFound, name.to_owned()))
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.pending_names.push(change);
    }
}

impl Disk for FakeDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let inner = self.0.lock();
        Ok(inner.files[inner.id(name)?].cached.clone())
    }

    fn create(&mut self, name: &str, zeros: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        let alive = inner.step()?;
        if inner.full {
            return Err(ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; zeros as usize];
        let id = inner.files.len();
        inner.files.push(File {
            cached: zeros.clone(),
            durable: Vec::new(),
            pending: vec![(0, zeros)],
        });
        inner.change(NameChange::Link(name.to_owned(), id));
        Inner::result(alive)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        let alive = inner.step()?;
        if inner.failing_write {
            return Err(io::Error::other("the disk fails writes"));
        }
        let id = inner.id(name)?;
        let file = &mut inner.files[id];
        write(&mut file.cached, offset as usize, bytes);
        file.pending.push((offset as usize, bytes.to_vec()));
        Inner::result(alive)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        let alive = inner.step()?;
        let id = inner.id(name)?;
        inner.syncs += 1;
        if inner.failing_sync {
            inner.files[id].pending.clear();
            return Err(io::Error::other("the disk fails syncs"));
        }
        let file = &mut inner.files[id];
        for (offset, bytes) in std::mem::take(&mut file.pending) {
            write(&mut file.durable, offset, &bytes);
        }
        Inner::result(alive)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        let alive = inner.step()?;
        let id = inner.id(from)?;
        inner.change(NameChange::Link(to.to_owned(), id));
        Inner::result(alive)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        let alive = inner.step()?;
        inner.id(name)?;
        inner.change(NameChange::Unlink(name.to_owned()));
        Inner::result(alive)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        let mut inner = self.0.lock();
        let alive = inner.step()?;
        for change in std::mem::take(&mut inner.pending_names) {
            apply(&mut inner.durable_names, &change);
        }
        Inner::result(alive)
    }
}
