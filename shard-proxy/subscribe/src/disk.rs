//! The last activated tables and the facts they need, in one file.
//!
//! It holds private keys: the file is readable by its owner alone. (Sealing it with a key of the pod's identity comes
//! with the cluster.) It is read at the start; from then on a thread of its own writes what became active, and nobody
//! waits for it. What a file says is believed only where it has the hash that is stored with it: damage is found by
//! redb's checksums, by these hashes, or by a panic within redb, and leads to a new file.

mod file;
mod pending;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use api::{GatewayKey, Revision};
use api_snapshot::{Epoch, Op, SetHash};
use redb::Database;

pub(crate) use pending::Change;
pub use writer::Writer;

use file::{Failure, Opener};

/// What a file held.
#[derive(Debug, Default)]
pub struct Stored {
    pub(crate) epoch: Epoch,
    pub(crate) facts_revision: Revision,
    pub(crate) facts: Vec<Op>,
    pub(crate) gateways: Vec<StoredGateway>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredGateway {
    pub(crate) gateway: GatewayKey,
    pub(crate) revision: Revision,
    pub(crate) hash: SetHash,
    pub(crate) ops: Vec<Op>,
}

impl Stored {
    /// Hash of the facts that are here.
    pub(crate) fn facts_hash(&self) -> SetHash {
        hash_of(&self.facts)
    }
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("shard table file {}", path.display())]
pub struct DiskError {
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The file, open if the disk lets it be.
pub struct Disk {
    path: PathBuf,
    opener: Opener,
    database: Option<Database>,
}

impl Disk {
    /// Opens the file and reads what it holds. A file that is damaged or of another format is moved aside, with an
    /// error in the log, and a new one is begun: the operator has everything. When the disk fails, nothing is read, and
    /// the writer opens it once it can be.
    ///
    /// # Errors
    /// [`DiskError`] when there is no folder for it; the shard then serves without a copy.
    pub fn open(path: &Path) -> Result<(Self, Stored), DiskError> {
        Self::open_by(path, Box::new(file::database))
    }

    fn open_by(path: &Path, opener: Opener) -> Result<(Self, Stored), DiskError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DiskError {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
        }
        let opened = match file::open(path, &opener) {
            Err(Failure::Damaged(error)) => {
                move_aside(path, &*error).map_err(|error| failed(error.into()))?;
                file::open(path, &opener)
            }
            opened => opened,
        };
        let (database, stored) = match opened {
            Ok((database, stored)) => (Some(database), stored),
            Err(failure) => {
                tracing::error!(error = %api_telemetry::Chain(&failure), path = %path.display(), "shard table file cannot be opened now; starting empty");
                (None, Stored::default())
            }
        };
        let disk = Self {
            path: path.to_owned(),
            opener,
            database,
        };
        Ok((disk, stored))
    }
}

fn move_aside(path: &Path, error: &(dyn std::error::Error + 'static)) -> std::io::Result<()> {
    let aside = aside(path);
    fs::rename(path, &aside)?;
    tracing::error!(
        error = %api_telemetry::Chain(error), moved_to = %aside.display(),
        "shard table file is not readable; starting empty, the operator sends everything anew"
    );
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

fn hash_of(ops: &[Op]) -> SetHash {
    let hash = |op: &Op| Some(SetHash::of(&op.key, op.value.as_ref()?));
    let hashes = ops.iter().filter_map(hash);
    hashes.fold(SetHash::default(), SetHash::plus)
}

#[cfg(test)]
mod tests;
