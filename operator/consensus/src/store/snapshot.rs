//! Snapshot files: header, `crc u32 | term u64 | voters u32, u64 each | learners u32, u64 each | state`. Format 1 had no
//! learners.

use super::disk::Disk;
use super::header::{self, HEADER, Identity};
use super::{StoreError, names};
use crate::members::{Members, ids};

/// Snapshots kept: the newest, and one to fall back to.
const KEPT: usize = 2;

/// State at an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedSnapshot {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) members: Members,
    pub(crate) state: Vec<u8>,
}

/// Writes a snapshot beside, syncs, renames; then drops those beyond the kept ones.
pub(super) fn save(
    disk: &mut dyn Disk,
    identity: Identity,
    snapshot: &SavedSnapshot,
) -> Result<(), StoreError> {
    let name = names::SNAPSHOT.file(snapshot.index);
    let temporary = names::temporary(&name);
    let mut head = header::encode(header::SNAPSHOT, identity, snapshot.index);
    let mut body = snapshot.term.to_le_bytes().to_vec();
    body.extend_from_slice(&snapshot.members.encode());
    let crc = checksum(identity, snapshot.index, &[&body, &snapshot.state]);
    head.extend_from_slice(&crc.to_le_bytes());
    head.extend_from_slice(&body);
    let saved = disk
        .create(&temporary, 0)
        .and_then(|()| disk.write_at(&temporary, 0, &head))
        .and_then(|()| disk.write_at(&temporary, head.len() as u64, &snapshot.state))
        .and_then(|()| disk.sync(&temporary))
        .and_then(|()| disk.rename(&temporary, &name))
        .and_then(|()| disk.sync_folder());
    if let Err(source) = saved {
        let _ = disk.remove(&temporary);
        return Err(StoreError::io(format!("write {name}"))(source));
    }
    let indices = names::numbered(disk, names::SNAPSHOT)?;
    for index in indices.iter().rev().skip(KEPT) {
        let old = names::SNAPSHOT.file(*index);
        disk.remove(&old)
            .map_err(StoreError::io(format!("remove {old}")))?;
    }
    Ok(())
}

/// The newest readable snapshot, and what is wrong with newer ones.
pub(super) fn newest(
    disk: &dyn Disk,
    identity: Identity,
) -> Result<(Option<SavedSnapshot>, String), StoreError> {
    let mut unreadable = String::new();
    for index in names::numbered(disk, names::SNAPSHOT)?.into_iter().rev() {
        let name = names::SNAPSHOT.file(index);
        let bytes = disk
            .read(&name)
            .map_err(StoreError::io(format!("read {name}")))?;
        match parse(&name, &bytes, identity, index) {
            Ok(snapshot) => return Ok((Some(snapshot), unreadable)),
            Err(StoreError::Damaged { .. }) => {
                tracing::error!(
                    file = name,
                    "snapshot is damaged; falling back to the one before"
                );
                unreadable.push_str(&format!(" ({name} is damaged)"));
            }
            Err(other) => return Err(other),
        }
    }
    Ok((None, unreadable))
}

fn parse(
    name: &str,
    bytes: &[u8],
    identity: Identity,
    index: u64,
) -> Result<SavedSnapshot, StoreError> {
    let (found, number, version) = header::decode(header::SNAPSHOT, name, bytes)?;
    header::check(name, found, identity)?;
    let snapshot = body(&bytes[HEADER..], identity, number, version);
    let snapshot = snapshot.filter(|found| found.index == index);
    snapshot.ok_or_else(|| StoreError::damaged(name, HEADER, "the checksum is wrong"))
}

fn body(bytes: &[u8], identity: Identity, index: u64, version: u32) -> Option<SavedSnapshot> {
    let (crc, covered) = bytes.split_first_chunk::<4>()?;
    if checksum(identity, index, &[covered]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (term, rest) = covered.split_first_chunk::<8>()?;
    let (members, state) = if version == 1 {
        let (voters, state) = ids(rest)?;
        (Members::of(voters), state)
    } else {
        Members::decode(rest)?
    };
    Some(SavedSnapshot {
        index,
        term: u64::from_le_bytes(*term),
        members,
        state: state.to_vec(),
    })
}

fn checksum(identity: Identity, index: u64, parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity.log_id.to_le_bytes());
    crc.update(&index.to_le_bytes());
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}
