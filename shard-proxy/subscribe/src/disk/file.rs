//! The format of the file: opening, reading, one write.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use api::{GatewayKey, Revision};
use api_snapshot::{Epoch, Op, SetHash, decode, encode};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
};

use super::pending::{Pending, Set};
use super::{Stored, StoredGateway, hash_of};

/// Memory for the file's pages.
const CACHE_BYTES: usize = 1024 * 1024;
/// Format of the file.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const HASHES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("hashes");
const FACTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("facts");
const GATEWAYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("gateways");
const ENTRIES: TableDefinition<'_, (&[u8], &[u8]), &[u8]> = TableDefinition::new("entries");

type AnyError = Box<dyn Error + Send + Sync>;
type Entries<'t> = Table<'t, (&'static [u8], &'static [u8]), &'static [u8]>;

/// How a database is opened or made; tests let it fail.
pub(super) type Opener = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send>;

/// A file cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// What is in it is not what was written.
    #[error("the file is damaged")]
    Damaged(#[source] AnyError),
    /// The disk does not do what it is asked; it may do so later.
    #[error("the disk fails")]
    Disk(#[source] AnyError),
}

/// Opens or makes a database on a path, as it is done in service.
pub(super) fn database(path: &Path) -> Result<Database, DatabaseError> {
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(database)
}

/// Opens or makes the file and reads all of it.
pub(super) fn open(path: &Path, opener: &Opener) -> Result<(Database, Stored), Failure> {
    guarded(|| {
        // Of a database that panics, closing it may panic as well, and that would be the end: rather one open file too
        // many.
        let database = ManuallyDrop::new(opener(path)?);
        let stored = prepare(&database).and_then(|()| read(&database));
        let database = ManuallyDrop::into_inner(database);
        Ok((database, stored?))
    })
}

/// Writes in one transaction. Gives the Gateways that are lost (none stands for the facts): the file did not hold what
/// was to be changed.
pub(super) fn write(
    database: &Database,
    pending: &Pending,
) -> Result<Vec<Option<GatewayKey>>, Failure> {
    guarded(|| write_all(database, pending))
}

/// Runs something on the database, and tells damage from a disk that fails.
fn guarded<T>(run: impl FnOnce() -> Result<T, AnyError>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if is_of_the_disk(&*error) => Err(Failure::Disk(error)),
        Ok(Err(error)) => Err(Failure::Damaged(error)),
        // redb takes some damage for a bug of its own.
        Err(_) => Err(Failure::Damaged("redb panicked on it".into())),
    }
}

fn is_of_the_disk(error: &(dyn Error + 'static)) -> bool {
    let by_storage = |error: &StorageError| match error {
        // redb and std say so when the file ends too soon or begins with something else.
        StorageError::Io(error) => !matches!(
            error.kind(),
            ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof
        ),
        StorageError::PreviousIo | StorageError::Backend(_) => true,
        _ => false,
    };
    if let Some(error) = error.downcast_ref::<StorageError>() {
        return by_storage(error);
    }
    match error.downcast_ref::<DatabaseError>() {
        Some(DatabaseError::Storage(error)) => return by_storage(error),
        Some(DatabaseError::DatabaseAlreadyOpen) => return true,
        _ => {}
    }
    let storage = match error.downcast_ref::<redb::TransactionError>() {
        Some(redb::TransactionError::Storage(error)) => Some(error),
        _ => None,
    };
    let table = match error.downcast_ref::<redb::TableError>() {
        Some(redb::TableError::Storage(error)) => Some(error),
        _ => None,
    };
    let commit = match error.downcast_ref::<redb::CommitError>() {
        Some(redb::CommitError::Storage(error)) => Some(error),
        _ => None,
    };
    storage.or(table).or(commit).is_some_and(by_storage)
}

/// Makes the tables of a new file; a file that has them is not written.
fn prepare(database: &Database) -> Result<(), AnyError> {
    let read = database.begin_read()?;
    if let Ok(meta) = read.open_table(META) {
        let format = meta.get("format")?.map(|value| value.value());
        let complete = read.open_table(HASHES).is_ok() && read.open_table(ENTRIES).is_ok();
        match format {
            Some(FORMAT) if complete => return Ok(()),
            Some(FORMAT) | None => {}
            Some(other) => {
                return Err(format!("format {other} is not the one this version reads").into());
            }
        }
    }
    drop(read);
    let write = database.begin_write()?;
    write.open_table(META)?.insert("format", FORMAT)?;
    write.open_table(HASHES)?;
    write.open_table(FACTS)?;
    write.open_table(GATEWAYS)?;
    write.open_table(ENTRIES)?;
    write.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<Stored, AnyError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number = |name| -> Result<u64, StorageError> {
        Ok(meta.get(name)?.map_or(0, |value| value.value()))
    };
    let mut stored = Stored {
        epoch: Epoch(number("epoch")?),
        facts_revision: Revision(number("facts_revision")?),
        ..Stored::default()
    };
    for fact in read.open_table(FACTS)?.iter()? {
        let (key, value) = fact?;
        stored.facts.push(Op {
            key: key.value().to_vec(),
            value: Some(value.value().to_vec()),
        });
    }
    // Files of before the hash was kept have none.
    if let Some(hash) = read.open_table(HASHES)?.get("facts")?
        && hash.value() != hash_of(&stored.facts).to_bytes()
    {
        return Err("the facts do not have their hash".into());
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
        if hash_of(&ops) != hash {
            return Err(format!("the entries of {name} do not have their hash").into());
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

fn write_all(database: &Database, pending: &Pending) -> Result<Vec<Option<GatewayKey>>, AnyError> {
    let mut lost = Vec::new();
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        let mut gateways = write.open_table(GATEWAYS)?;
        let mut entries = write.open_table(ENTRIES)?;
        if let Some(epoch) = pending.epoch {
            meta.insert("epoch", epoch.0)?;
            renumber(&mut gateways)?;
        }
        if let Some(facts) = &pending.facts {
            let at = meta.get("facts_revision")?.map_or(0, |at| at.value());
            if facts.base.is_some_and(|base| base.0 != at) {
                lost.push(None);
            } else {
                meta.insert("facts_revision", facts.revision.0)?;
                let mut hashes = write.open_table(HASHES)?;
                hashes.insert("facts", facts.hash.to_bytes().as_slice())?;
                write_facts(&mut write.open_table(FACTS)?, facts)?;
            }
        }
        for (gateway, set) in &pending.gateways {
            if !write_gateway(&mut gateways, &mut entries, gateway, set)? {
                lost.push(Some(gateway.clone()));
            }
        }
    }
    write.commit()?;
    Ok(lost)
}

/// Rows of another history compare with nothing that comes.
fn renumber(gateways: &mut Table<'_, &'static [u8], &'static [u8]>) -> Result<(), AnyError> {
    let mut rows = Vec::new();
    for row in gateways.iter()? {
        let (key, value) = row?;
        let (_, hash): (Revision, SetHash) = decode("gateway state", value.value())?;
        rows.push((key.value().to_vec(), encode(&(Revision(0), hash))));
    }
    for (key, value) in rows {
        gateways.insert(key.as_slice(), value.as_slice())?;
    }
    Ok(())
}

fn write_facts(
    facts: &mut Table<'_, &'static [u8], &'static [u8]>,
    set: &Set,
) -> Result<(), AnyError> {
    if set.base.is_none() {
        facts.retain(|_, _| false)?;
    }
    for (key, value) in &set.ops {
        match value {
            Some(value) => facts.insert(key.as_slice(), value.as_slice())?,
            None => facts.remove(key.as_slice())?,
        };
    }
    Ok(())
}

/// Writes one Gateway; false when what it changes is not there, and then nothing of it stays: half a table is none.
fn write_gateway(
    gateways: &mut Table<'_, &'static [u8], &'static [u8]>,
    entries: &mut Entries<'_>,
    gateway: &GatewayKey,
    set: &Set,
) -> Result<bool, AnyError> {
    let name = encode(gateway);
    let row = gateways.get(name.as_slice())?;
    let at: Revision = match &row {
        Some(row) => decode::<(Revision, SetHash)>("gateway state", row.value())?.0,
        None => Revision(0),
    };
    drop(row);
    let fits = set.base.is_none_or(|base| base == at);
    if set.base.is_none() || set.removed || !fits {
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
    if set.removed || !fits {
        gateways.remove(name.as_slice())?;
        return Ok(fits || set.removed);
    }
    for (key, value) in &set.ops {
        let at = (name.as_slice(), key.as_slice());
        match value {
            Some(value) => entries.insert(at, value.as_slice())?,
            None => entries.remove(at)?,
        };
    }
    let state = encode(&(set.revision, set.hash));
    gateways.insert(name.as_slice(), state.as_slice())?;
    Ok(true)
}
