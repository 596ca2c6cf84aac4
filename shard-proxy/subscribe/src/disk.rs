//! The last activated tables and the facts they need, in one file.
//!
//! It holds private keys: the file is readable by its owner alone. (Sealing it with a key of the pod's identity comes
//! with the cluster.) Writing is done by a thread of its own, all waiting changes in one transaction; when it falls
//! behind by [`CHANGES_MAX`] changes the shard waits for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use api::{GatewayKey, Revision};
use api_snapshot::{Op, SetHash, decode, encode};
use api_telemetry::Chain;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

/// Changes that wait for the writer.
const CHANGES_MAX: usize = 4096;
/// Memory for the file's pages.
const CACHE_BYTES: usize = 1024 * 1024;
/// Format of the file.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FACTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("facts");
const GATEWAYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("gateways");
const ENTRIES: TableDefinition<'_, (&[u8], &[u8]), &[u8]> = TableDefinition::new("entries");

/// Something that became active.
#[derive(Debug, Clone)]
pub enum Change {
    /// Facts.
    Facts {
        /// Their revision.
        revision: Revision,
        /// What changed.
        ops: Vec<Op>,
    },
    /// One step of a Gateway.
    Gateway {
        /// Which.
        gateway: GatewayKey,
        /// Its revision after the step.
        revision: Revision,
        /// Hash of its entries after the step.
        hash: SetHash,
        /// The operations are all entries there are.
        replace: bool,
        /// It is gone.
        removed: bool,
        /// What changed.
        ops: Vec<Op>,
    },
}

/// What a file held.
#[derive(Debug, Default)]
pub struct Stored {
    pub(crate) facts_revision: Revision,
    pub(crate) facts: Vec<Op>,
    pub(crate) gateways: Vec<StoredGateway>,
}

#[derive(Debug)]
pub(crate) struct StoredGateway {
    pub(crate) gateway: GatewayKey,
    pub(crate) revision: Revision,
    pub(crate) hash: SetHash,
    pub(crate) ops: Vec<Op>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("shard table file {}", path.display())]
pub struct DiskError {
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The open file.
pub struct Disk {
    database: Database,
}

/// Handle to the writing thread. Dropping it writes what waits and ends the thread.
pub struct Writer {
    changes: Option<SyncSender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Opens the file and reads what it holds. A file that is damaged or of another format is moved aside, with an
    /// error in the log, and a new one is begun: the operator has everything.
    ///
    /// # Errors
    /// [`DiskError`] when no file can be made; the shard then serves without one.
    pub fn open(path: &Path) -> Result<(Self, Stored), DiskError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DiskError {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
        }
        let existed = path.exists();
        match open(path) {
            Ok(opened) => Ok(opened),
            Err(error) if existed => {
                let aside = aside(path);
                fs::rename(path, &aside).map_err(|error| failed(error.into()))?;
                tracing::error!(
                    %error, moved_to = %aside.display(),
                    "shard table file is not readable; starting empty, the operator sends everything anew"
                );
                open(path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Starts the writing thread.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn writer(self) -> std::io::Result<Writer> {
        let (changes, receiver) = sync_channel::<Change>(CHANGES_MAX);
        let thread = std::thread::Builder::new().name("disk".into()).spawn(move || {
            let mut failing = false;
            while let Ok(first) = receiver.recv() {
                let batch: Vec<Change> = std::iter::once(first).chain(receiver.try_iter()).collect();
                match write(&self.database, &batch) {
                    Ok(()) => failing = false,
                    // Serving goes on; after a restart this shard catches up from what it wrote last.
                    Err(error) if !failing => {
                        failing = true;
                        tracing::error!(error = %Chain(&*error), "table is not written to disk; a restart without an operator would serve an older one");
                    }
                    Err(_) => {}
                }
            }
        })?;
        Ok(Writer {
            changes: Some(changes),
            thread: Some(thread),
        })
    }
}

impl Writer {
    /// Hands in a change; waits while too many do.
    pub fn write(&self, change: Change) {
        if let Some(changes) = &self.changes {
            // The thread ends with this handle only.
            let _ = changes.send(change);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn open(path: &Path) -> Result<(Disk, Stored), AnyError> {
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        let format = meta.get("format")?.map(|value| value.value());
        match format {
            None => {
                meta.insert("format", FORMAT)?;
            }
            Some(FORMAT) => {}
            Some(other) => {
                return Err(format!("format {other} is not the one this version reads").into());
            }
        }
        write.open_table(FACTS)?;
        write.open_table(GATEWAYS)?;
        write.open_table(ENTRIES)?;
    }
    write.commit()?;
    let stored = read(&database)?;
    Ok((Disk { database }, stored))
}

fn read(database: &Database) -> Result<Stored, AnyError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let mut stored = Stored {
        facts_revision: Revision(meta.get("facts_revision")?.map_or(0, |value| value.value())),
        ..Stored::default()
    };
    for fact in read.open_table(FACTS)?.iter()? {
        let (key, value) = fact?;
        stored.facts.push(Op {
            key: key.value().to_vec(),
            value: Some(value.value().to_vec()),
        });
    }
    let entries = read.open_table(ENTRIES)?;
    for gateway in read.open_table(GATEWAYS)?.iter()? {
        let (key, value) = gateway?;
        let name: GatewayKey = decode("gateway", key.value())?;
        let (revision, hash): (Revision, SetHash) = decode("gateway state", value.value())?;
        let mut ops = Vec::new();
        for entry in entries.range((key.value(), &[][..])..)? {
            let (at, value) = entry?;
            let (of, entry_key) = at.value();
            if of != key.value() {
                break;
            }
            ops.push(Op {
                key: entry_key.to_vec(),
                value: Some(value.value().to_vec()),
            });
        }
        stored.gateways.push(StoredGateway {
            gateway: name,
            revision,
            hash,
            ops,
        });
    }
    Ok(stored)
}

fn write(database: &Database, changes: &[Change]) -> Result<(), AnyError> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        let mut facts = write.open_table(FACTS)?;
        let mut gateways = write.open_table(GATEWAYS)?;
        let mut entries = write.open_table(ENTRIES)?;
        for change in changes {
            match change {
                Change::Facts { revision, ops } => {
                    meta.insert("facts_revision", revision.0)?;
                    for op in ops {
                        match &op.value {
                            Some(value) => facts.insert(op.key.as_slice(), value.as_slice())?,
                            None => facts.remove(op.key.as_slice())?,
                        };
                    }
                }
                Change::Gateway {
                    gateway,
                    revision,
                    hash,
                    replace,
                    removed,
                    ops,
                } => {
                    let name = encode(gateway);
                    if *replace || *removed {
                        let mut old = Vec::new();
                        for entry in entries.range((name.as_slice(), &[][..])..)? {
                            let (at, _) = entry?;
                            let (of, key) = at.value();
                            if of != name.as_slice() {
                                break;
                            }
                            old.push(key.to_vec());
                        }
                        for key in old {
                            entries.remove((name.as_slice(), key.as_slice()))?;
                        }
                    }
                    for op in ops {
                        let at = (name.as_slice(), op.key.as_slice());
                        match &op.value {
                            Some(value) => entries.insert(at, value.as_slice())?,
                            None => entries.remove(at)?,
                        };
                    }
                    if *removed {
                        gateways.remove(name.as_slice())?;
                    } else {
                        gateways.insert(name.as_slice(), encode(&(*revision, *hash)).as_slice())?;
                    }
                }
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// A name beside the file that is not taken.
fn aside(path: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{number}"));
        let candidate = PathBuf::from(name);
        if !candidate.exists() {
            return candidate;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    fn step(gateway: &str, revision: u64, replace: bool, ops: &[(u8, Option<u8>)]) -> Change {
        let ops: Vec<Op> = ops
            .iter()
            .map(|(k, v)| Op {
                key: vec![*k],
                value: v.map(|v| vec![v]),
            })
            .collect();
        Change::Gateway {
            gateway: GatewayKey::new("t", gateway),
            revision: Revision(revision),
            hash: SetHash::default(),
            replace,
            removed: false,
            ops,
        }
    }

    #[test]
    fn what_was_activated_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.redb");
        let (disk, stored) = Disk::open(&path).unwrap();
        assert!(stored.gateways.is_empty());
        let writer = disk.writer().unwrap();
        writer.write(step("a", 1, false, &[(1, Some(1)), (2, Some(2))]));
        writer.write(step("b", 2, false, &[(1, Some(9))]));
        writer.write(step("a", 3, false, &[(1, None), (3, Some(3))]));
        writer.write(step("b", 4, true, &[(5, Some(5))]));
        drop(writer);
        let (_, stored) = Disk::open(&path).unwrap();
        let found: Vec<(String, u64, Vec<u8>)> = stored
            .gateways
            .iter()
            .map(|g| {
                (
                    g.gateway.name.clone(),
                    g.revision.0,
                    g.ops.iter().map(|op| op.key[0]).collect(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [("a".into(), 3, vec![2, 3]), ("b".into(), 4, vec![5])]
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.redb");
        fs::write(&path, vec![7; 100_000]).unwrap();
        let (_, stored) = Disk::open(&path).unwrap();
        assert!(stored.gateways.is_empty());
        assert!(folder.path().join("table.redb.corrupt-1").exists());
    }
}
