//! Log and snapshots on disk.
//!
//! ```text
//!   Store (entries, votes, installs) --items--> Wal (frames in segments) --> Disk (files)
//!         `--SavedSnapshot--> snapshot files ------------------------------^
//! ```
//!
//! Segments `log-<sequence>` are filled with zeros when they are made, so that a sync flushes data alone and a full
//! disk shows when a segment is made, never in the middle of an append. Snapshots `snapshot-<index>` are written
//! beside, synced and renamed; two are kept, with the log from the older one on.
//!
//! **Policy**
//! - A failed write or sync of the log is final ([`StoreError::Failed`]): the kernel may have dropped the pages, so a
//!   second try could claim what is not there. The process must end; the next one reads what the disk has.
//! - A segment or snapshot that cannot be *made* (disk full) is not final: nothing was promised yet. Proposals are
//!   refused, everything else goes on. File systems that copy on write may report a full disk in an append: final.
//! - Only the last frame can be lost or torn by a crash, since each is synced before the next is written.
//! - The commit index goes with the next frame that is written anyway, never alone. Raft does not need it, but who is
//!   a member does: an entry that changes the members is proposed after the one before it is committed, so whoever
//!   holds the second on disk knows there that the first one holds. See `design/0002`, "Members".

pub(crate) mod disk;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod frame;
mod header;
mod names;
mod snapshot;
#[cfg(test)]
mod tests;
mod wal;

use prost_raft::Message as _;
use raft::eraftpb::Entry;

use self::disk::Disk;
pub use self::error::StoreError;
pub use self::frame::Batch;
pub use self::header::Identity;
pub(crate) use self::snapshot::SavedSnapshot;
pub use self::wal::Wal;
use crate::members::Members;
use crate::mutation::{self, Mutation};

/// A batch is closed at this size; its frame is synced before the next one is begun.
const FRAME_BYTES_MAX: u64 = if cfg!(test) {
    16 * 1024
} else {
    4 * 1024 * 1024
};

/// Room that a start needs: a vote and the entry of a new term.
const START_BYTES: u64 = 1024;

/// A raft entry.
const ENTRY: u8 = 1;
/// Term and vote, `u64` each.
const VOTE: u8 = 2;
/// The log starts anew behind the snapshot of this index, `u64`, if that one is there.
const INSTALL: u8 = 3;
/// Last index that is known to be committed, `u64`. Since format 2.
const COMMIT: u8 = 4;
/// Members once the entry of an index, `u64`, was applied; then [`Members::encode`]. Since format 2.
const MEMBERS: u8 = 5;

/// Entries, and bytes of them, that stay in memory behind a snapshot for followers that are a little behind.
pub(crate) const KEPT_ENTRIES: u64 = 5_000;
pub(crate) const KEPT_BYTES: u64 = 32 * 1024 * 1024;

/// Index through which `entries`, which lie without gaps, can be forgotten when a snapshot covers `index`.
///
/// Cost: O(entries kept).
pub(crate) fn kept_behind(entries: &[Entry], index: u64, entries_max: u64, bytes_max: u64) -> u64 {
    let covered = entries.partition_point(|entry| entry.index <= index);
    let mut through = index;
    let mut bytes = 0;
    for entry in entries[..covered].iter().rev() {
        bytes += entry.data.len() as u64 + 64;
        if index - entry.index >= entries_max || bytes > bytes_max {
            break;
        }
        through = entry.index - 1;
    }
    through
}

/// What a voter must never forget: the term it is in and whom it voted for (0: nobody).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) vote: u64,
}

/// What was on disk.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) snapshot: Option<SavedSnapshot>,
    pub(crate) vote: Vote,
    /// Last index that is known to be committed; the true one may be higher.
    pub(crate) commit: u64,
    /// Members as of the index of the last change; those of the snapshot may be newer.
    pub(crate) members: Option<(u64, Members)>,
    /// Whether it was written, in part, by the version that knew lone voters only.
    pub(crate) lone_voter: bool,
    /// Contiguous and without a gap behind the snapshot. Some that the snapshot covers may come first.
    pub(crate) entries: Vec<Entry>,
}

impl Recovered {
    /// Whether this voter has never been part of a group.
    pub(crate) fn is_new(&self) -> bool {
        self.snapshot.is_none()
            && self.members.is_none()
            && self.entries.is_empty()
            && self.vote == Vote::default()
    }

    /// The newest members that the disk knows of, and the index that made them so.
    pub(crate) fn newest_members(&self) -> Option<(u64, Members)> {
        let of_snapshot = self.snapshot.as_ref();
        let of_snapshot = of_snapshot.map(|saved| (saved.index, saved.members.clone()));
        let recorded = self.members.clone();
        of_snapshot
            .into_iter()
            .chain(recorded)
            .max_by_key(|(index, _)| *index)
    }
}

/// The log of raft entries and its snapshots. One writer.
pub(crate) struct Store {
    wal: Wal,
    vote: Vote,
    members: Option<(u64, Members)>,
    /// Last known commit index, and the last one that was written.
    commit: u64,
    commit_written: u64,
}

impl Store {
    /// Reads what is on disk and opens the log for appending. A torn last frame is cut off.
    pub(crate) fn open(
        mut disk: Box<dyn Disk>,
        node: u64,
    ) -> Result<(Self, Recovered), StoreError> {
        names::remove_unfinished(disk.as_mut())?;
        let snapshots = names::numbered(disk.as_ref(), names::SNAPSHOT)?;
        if names::numbered(disk.as_ref(), names::LOG)?.is_empty() && !snapshots.is_empty() {
            return Err(StoreError::NoSnapshot {
                first: 0,
                last: 0,
                unreadable: " (there are snapshots, but no log)".to_owned(),
            });
        }
        let mut replay = Replay::default();
        let wal = Wal::open(disk, node, |kind, bytes| replay.take(kind, bytes))?;
        let (vote, members) = (replay.vote, replay.members.clone());
        let commit = replay.commit;
        let mut store = Self {
            wal,
            vote,
            members: members.clone(),
            commit,
            commit_written: commit,
        };
        store.carry();
        store.wal.make_room(START_BYTES)?;
        let identity = store.wal.identity();
        let (snapshot, unreadable) = snapshot::newest(store.wal.disk(), identity)?;
        let newest = snapshots.last().copied().unwrap_or(0);
        let (snapshot, entries) = replay.finish(snapshot, newest, unreadable)?;
        let last = entries.last().map(|entry| entry.index);
        let covered = snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let recovered = Recovered {
            vote,
            // A commit index may be on disk in front of entries that were torn off.
            commit: commit.min(last.unwrap_or(0)).max(covered),
            members,
            lone_voter: store.wal.has_format_1(),
            snapshot,
            entries,
        };
        Ok((store, recovered))
    }

    /// Makes sure that `bytes` more fit; see [`Wal::reserve`].
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.wal.reserve(bytes)
    }

    /// Gives back what was reserved and not needed.
    pub(crate) fn release(&mut self) {
        self.wal.release();
    }

    /// Bytes to reserve for an entry with `data` bytes.
    pub(crate) const fn cost(data: usize) -> u64 {
        // Index, term, type and lengths in protobuf take less than 64.
        (Batch::cost(data) + 64) as u64
    }

    /// Writes a vote and entries behind what is there; durable after [`Store::sync`]. Entries at or below an index
    /// that is there replace it and all behind it.
    pub(crate) fn append(
        &mut self,
        entries: &[Entry],
        vote: Option<Vote>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        // The vote goes first: an entry on disk implies the term that it was accepted in.
        if let Some(vote) = vote.filter(|vote| *vote != self.vote) {
            self.vote = vote;
            self.carry();
            batch.push(VOTE, &encode_vote(vote));
        }
        if self.commit > self.commit_written && (!batch.is_empty() || !entries.is_empty()) {
            self.commit_written = self.commit;
            batch.push(COMMIT, &self.commit.to_le_bytes());
        }
        let mut mark = 0;
        for entry in entries {
            batch.push(ENTRY, &entry.encode_to_vec());
            mark = entry.index;
            if batch.bytes() >= FRAME_BYTES_MAX {
                self.wal.append(std::mem::take(&mut batch), mark)?;
            }
        }
        if !batch.is_empty() {
            self.wal.append(batch, mark)?;
        }
        Ok(())
    }

    /// Notes that the log is committed through `index`: written with the next frame.
    pub(crate) fn committed(&mut self, index: u64) {
        self.commit = self.commit.max(index);
    }

    /// Writes the members that the applied entry of `index` made; durable after [`Store::sync`].
    pub(crate) fn append_members(
        &mut self,
        index: u64,
        members: &Members,
    ) -> Result<(), StoreError> {
        self.members = Some((index, members.clone()));
        self.carry();
        let mut batch = Batch::default();
        batch.push(MEMBERS, &encode_members(index, members));
        self.wal.append(batch, 0)
    }

    /// Makes everything that was appended durable; does nothing when it is.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.wal.sync()
    }

    /// Saves a snapshot of applied entries and removes the segments that the one before it covers, so that there is a
    /// fallback should this one rot. The log is not touched when saving fails.
    pub(crate) fn save_snapshot(&mut self, snapshot: &SavedSnapshot) -> Result<(), StoreError> {
        let identity = self.wal.identity();
        snapshot::save(self.wal.disk(), identity, snapshot)?;
        let indices = names::numbered(self.wal.disk(), names::SNAPSHOT)?;
        let previous = indices.iter().rev().nth(1).copied().unwrap_or(0);
        self.wal.remove_through(previous)
    }

    /// Saves a leader's snapshot, behind which the log starts anew. Durable when this returns.
    pub(crate) fn install_snapshot(&mut self, snapshot: &SavedSnapshot) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.push(INSTALL, &snapshot.index.to_le_bytes());
        if !mutation::on(Mutation::InstallUnannounced) {
            self.wal.append(batch, snapshot.index)?;
            self.wal.sync()?;
        }
        self.save_snapshot(snapshot)
    }

    /// Bytes of all segments.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.wal.bytes()
    }

    /// Sets what each new segment begins with, so that the ones before it can be removed.
    fn carry(&mut self) {
        let mut batch = Batch::default();
        batch.push(VOTE, &encode_vote(self.vote));
        if let Some((index, members)) = &self.members {
            batch.push(MEMBERS, &encode_members(*index, members));
        }
        self.wal.carry(batch);
    }
}

fn encode_members(index: u64, members: &Members) -> Vec<u8> {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.extend_from_slice(&members.encode());
    bytes
}

fn encode_vote(vote: Vote) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&vote.term.to_le_bytes());
    bytes[8..].copy_from_slice(&vote.vote.to_le_bytes());
    bytes
}

/// Puts the items of a log together again.
#[derive(Debug, Default)]
struct Replay {
    vote: Vote,
    commit: u64,
    members: Option<(u64, Members)>,
    /// Entries by the installed snapshot that they follow; 0 for none.
    stages: Vec<(u64, Vec<Entry>)>,
}

impl Replay {
    /// Takes an item; gives its mark, or none when it makes no sense.
    fn take(&mut self, kind: u8, bytes: &[u8]) -> Option<u64> {
        match kind {
            ENTRY => self.take_entry(Entry::decode(bytes).ok()?),
            VOTE => {
                let (term, vote) = bytes.split_first_chunk::<8>()?;
                self.vote = Vote {
                    term: u64::from_le_bytes(*term),
                    vote: u64::from_le_bytes(*vote.first_chunk::<8>()?),
                };
                Some(0)
            }
            INSTALL => {
                let index = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
                self.stages.push((index, Vec::new()));
                Some(index)
            }
            COMMIT => {
                let commit = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
                self.commit = self.commit.max(commit);
                Some(0)
            }
            MEMBERS => {
                let (index, rest) = bytes.split_first_chunk::<8>()?;
                let (members, _) = Members::decode(rest)?;
                self.members = Some((u64::from_le_bytes(*index), members));
                Some(0)
            }
            _ => None,
        }
    }

    fn take_entry(&mut self, entry: Entry) -> Option<u64> {
        let index = entry.index;
        // An install that nothing follows did not happen: a crash came before its snapshot was in place.
        while self
            .stages
            .last()
            .is_some_and(|(start, entries)| entries.is_empty() && *start != 0 && start + 1 != index)
        {
            self.stages.pop();
        }
        if self.stages.is_empty() {
            self.stages.push((0, Vec::new()));
        }
        let (start, entries) = self.stages.last_mut()?;
        // A new leader may have overwritten a suffix that was never committed.
        while entries.last().is_some_and(|last| last.index >= index) {
            entries.pop();
        }
        let before = entries.last().map_or(*start, |last| last.index);
        // The oldest segment may begin anywhere.
        if before != 0 && before + 1 != index {
            return None;
        }
        entries.push(entry);
        Some(index)
    }

    /// Fits log and snapshot together. `newest` is the index of the newest snapshot file, readable or not.
    fn finish(
        mut self,
        snapshot: Option<SavedSnapshot>,
        newest: u64,
        unreadable: String,
    ) -> Result<(Option<SavedSnapshot>, Vec<Entry>), StoreError> {
        // An install whose snapshot was never put in place did not happen.
        while self
            .stages
            .last()
            .is_some_and(|(start, entries)| *start > newest && entries.is_empty())
        {
            self.stages.pop();
        }
        let (start, mut entries) = self.stages.pop().unwrap_or_default();
        let first = entries.first().map_or(start + 1, |entry| entry.index);
        let last = entries.last().map_or(start, |entry| entry.index);
        let covered = snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        if covered < start || covered + 1 < first || last < newest {
            return Err(StoreError::NoSnapshot {
                first,
                last,
                unreadable,
            });
        }
        // With others in the group, some that the snapshot covers are kept: who is a little behind needs them.
        let alone = snapshot
            .as_ref()
            .is_none_or(|snapshot| snapshot.members.count() < 2);
        let keep = if alone {
            covered
        } else {
            kept_behind(&entries, covered, KEPT_ENTRIES, KEPT_BYTES)
        };
        entries.retain(|entry| entry.index > keep);
        Ok((snapshot, entries))
    }
}
