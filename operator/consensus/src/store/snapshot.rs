//! Snapshot files: magic and version, index, term, checksum, state.

use super::StoreError;
use super::disk::Disk;

const MAGIC: &[u8; 16] = b"shardway-state\0\x01";
const HEADER: usize = 16 + 8 + 8 + 4;
/// Snapshots kept: the newest, and one to fall back to.
const KEPT: usize = 2;

/// State at an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedSnapshot {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) state: Vec<u8>,
}

/// Writes a snapshot beside, syncs, renames; then drops those beyond the kept ones.
pub(super) fn save(disk: &mut dyn Disk, snapshot: &SavedSnapshot) -> Result<(), StoreError> {
    let name = name(snapshot.index);
    let temporary = format!("{name}.new");
    let mut bytes = Vec::with_capacity(HEADER + snapshot.state.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&snapshot.index.to_le_bytes());
    bytes.extend_from_slice(&snapshot.term.to_le_bytes());
    bytes.extend_from_slice(&checksum(snapshot).to_le_bytes());
    bytes.extend_from_slice(&snapshot.state);
    let saved = disk
        .create(&temporary, 0)
        .and_then(|()| disk.write_at(&temporary, 0, &bytes))
        .and_then(|()| disk.sync(&temporary))
        .and_then(|()| disk.rename(&temporary, &name))
        .and_then(|()| disk.sync_folder());
    if let Err(source) = saved {
        let _ = disk.remove(&temporary);
        return Err(StoreError::Io {
            what: format!("write {name}"),
            source,
        });
    }
    let indices = indices(disk)?;
    for index in indices.iter().rev().skip(KEPT) {
        let old = self::name(*index);
        disk.remove(&old)
            .map_err(StoreError::io(format!("remove {old}")))?;
    }
    Ok(())
}

/// The newest readable snapshot, and what is wrong with newer ones.
pub(super) fn newest(disk: &dyn Disk) -> Result<(Option<SavedSnapshot>, String), StoreError> {
    let mut unreadable = String::new();
    for index in indices(disk)?.into_iter().rev() {
        let name = name(index);
        let bytes = disk
            .read(&name)
            .map_err(StoreError::io(format!("read {name}")))?;
        if bytes.get(..15) == MAGIC.get(..15) && bytes.get(15) != MAGIC.get(15) {
            return Err(StoreError::Format { file: name });
        }
        match parse(&bytes).filter(|snapshot| snapshot.index == index) {
            Some(snapshot) => return Ok((Some(snapshot), unreadable)),
            None => {
                tracing::error!(
                    file = name,
                    "snapshot is damaged; falling back to the one before"
                );
                unreadable.push_str(&format!(" ({name} is damaged)"));
            }
        }
    }
    Ok((None, unreadable))
}

/// Indices of the snapshots, ascending.
pub(super) fn indices(disk: &dyn Disk) -> Result<Vec<u64>, StoreError> {
    let names = disk
        .list()
        .map_err(StoreError::io("list the raft folder"))?;
    let mut indices: Vec<u64> = names
        .iter()
        .filter_map(|name| u64::from_str_radix(name.strip_prefix("snapshot-")?, 16).ok())
        .collect();
    indices.sort_unstable();
    Ok(indices)
}

fn name(index: u64) -> String {
    format!("snapshot-{index:016x}")
}

fn parse(bytes: &[u8]) -> Option<SavedSnapshot> {
    if bytes.get(..MAGIC.len())? != MAGIC {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let snapshot = SavedSnapshot {
        index: number(16)?,
        term: number(24)?,
        state: bytes.get(HEADER..)?.to_vec(),
    };
    let stored = u32::from_le_bytes(bytes.get(32..36)?.try_into().ok()?);
    (checksum(&snapshot) == stored).then_some(snapshot)
}

fn checksum(snapshot: &SavedSnapshot) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&snapshot.index.to_le_bytes());
    crc.update(&snapshot.term.to_le_bytes());
    crc.update(&snapshot.state);
    crc.finalize()
}
