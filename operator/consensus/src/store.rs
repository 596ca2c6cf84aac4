//! Log and snapshots on disk.
//!
//! Segments `log-<sequence of the first record>` hold records; each is filled with zeros when it is made, so that a
//! sync flushes data alone and a full disk shows when a segment is made, never in the middle of an append. Snapshots
//! `snapshot-<index>` are written beside, synced and renamed; two are kept.
//!
//! Policy: a failed write or sync of the log is final ([`StoreError::Failed`]; the kernel may have dropped the pages,
//! so a second try could claim what is not there). A segment or snapshot that cannot be *made* is not: nothing was
//! promised yet.

pub(crate) mod disk;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;

use std::io;

use prost_raft::Message as _;
use raft::eraftpb::{Entry, HardState};

use self::disk::Disk;
use self::record::{Kind, Record};
pub(crate) use self::snapshot::SavedSnapshot;

/// Bytes of a segment; larger batches get a segment of their own size.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Magic and format version at the start of a segment.
const SEGMENT_MAGIC: &[u8; 16] = b"shardway-log\0\0\0\x01";

/// The log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder or a file in it.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A record is damaged and later ones are not: bits rotted, or the file was edited.
    #[error(
        "raft log {file} is damaged at byte {offset}, and later records are intact; acknowledged revisions would be lost. \
         Restore the folder from a copy, or move it aside to start from the source alone (revisions and history start anew)"
    )]
    Damaged {
        /// File name.
        file: String,
        /// Where.
        offset: u64,
    },
    /// No snapshot can be read although the log starts after one.
    #[error(
        "the raft log starts at index {first} and no snapshot before it is readable{unreadable}. \
         Restore the folder from a copy, or move it aside to start from the source alone"
    )]
    NoSnapshot {
        /// First index of the log.
        first: u64,
        /// Which were found and what is wrong with them.
        unreadable: String,
    },
    /// Written by another version.
    #[error("{file} has a format that this version does not read; run the version that wrote it")]
    Format {
        /// File name.
        file: String,
    },
    /// A write or sync of the log failed earlier; the process must end.
    #[error("the raft log failed and is closed")]
    Failed,
}

impl StoreError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What was on disk.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) snapshot: Option<SavedSnapshot>,
    pub(crate) hard_state: HardState,
    /// Contiguous, the first one right after the snapshot or earlier.
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
struct Segment {
    name: String,
    /// Highest entry index in it; 0 for none.
    last_index: u64,
    bytes: u64,
}

/// The log. One writer.
pub struct Store {
    disk: Box<dyn Disk>,
    segments: Vec<Segment>,
    /// Where the next record goes in the last segment.
    offset: u64,
    next_sequence: u64,
    hard_state: HardState,
    dirty: bool,
    failed: bool,
}

impl Store {
    /// Reads what is on disk and opens the log for appending. A last record that is torn is cut off.
    pub(crate) fn open(mut disk: Box<dyn Disk>) -> Result<(Self, Recovered), StoreError> {
        let names = disk
            .list()
            .map_err(StoreError::io("list the raft folder"))?;
        let mut logs: Vec<(u64, String)> = names
            .iter()
            .filter_map(|name| {
                let sequence = u64::from_str_radix(name.strip_prefix("log-")?, 16).ok()?;
                Some((sequence, name.clone()))
            })
            .collect();
        logs.sort_unstable();
        for name in names.iter().filter(|name| name.ends_with(".new")) {
            disk.remove(name)
                .map_err(StoreError::io(format!("remove unfinished {name}")))?;
        }
        let mut recovered = Recovered::default();
        let mut store = Self {
            disk,
            segments: Vec::new(),
            offset: 0,
            next_sequence: 1,
            hard_state: HardState::default(),
            dirty: false,
            failed: false,
        };
        for (position, (sequence, name)) in logs.iter().enumerate() {
            let last = position + 1 == logs.len();
            if position == 0 {
                store.next_sequence = *sequence;
            }
            store.read_segment(name, *sequence, last, &mut recovered)?;
        }
        recovered.hard_state = store.hard_state.clone();
        let (snapshot, unreadable) = snapshot::newest(store.disk.as_ref())?;
        let first = recovered.entries.first().map_or(0, |entry| entry.index);
        let covered = snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        if first > covered + 1 || (first == 0 && covered == 0 && !unreadable.is_empty()) {
            return Err(StoreError::NoSnapshot { first, unreadable });
        }
        recovered.entries.retain(|entry| entry.index > covered);
        recovered.snapshot = snapshot;
        Ok((store, recovered))
    }

    fn read_segment(
        &mut self,
        name: &str,
        sequence: u64,
        last: bool,
        recovered: &mut Recovered,
    ) -> Result<(), StoreError> {
        let bytes = self
            .disk
            .read(name)
            .map_err(StoreError::io(format!("read {name}")))?;
        if bytes.get(..SEGMENT_MAGIC.len()) != Some(SEGMENT_MAGIC) {
            return Err(StoreError::Format {
                file: name.to_owned(),
            });
        }
        if sequence != self.next_sequence {
            return Err(StoreError::Damaged {
                file: name.to_owned(),
                offset: 0,
            });
        }
        let mut offset = SEGMENT_MAGIC.len();
        let mut last_index = 0;
        while let Some(record) = record::decode(&bytes[offset..]) {
            if record.sequence != self.next_sequence {
                return Err(StoreError::Damaged {
                    file: name.to_owned(),
                    offset: offset as u64,
                });
            }
            let size = record.size;
            last_index = self.take(&record, recovered, name, offset)?.max(last_index);
            self.next_sequence += 1;
            offset += size;
        }
        // After the last whole record there is nothing but zeros, or one batch that was never synced whole.
        let rest = &bytes[offset..];
        let torn = rest.iter().any(|byte| *byte != 0);
        if torn {
            if !last || intact_after(rest, self.next_sequence) {
                return Err(StoreError::Damaged {
                    file: name.to_owned(),
                    offset: offset as u64,
                });
            }
            tracing::warn!(
                file = name,
                offset,
                "cutting off a torn last record; it was never acknowledged"
            );
            self.disk
                .write_at(name, offset as u64, &vec![0; rest.len()])
                .and_then(|()| self.disk.sync(name))
                .map_err(StoreError::io(format!("cut off the torn record in {name}")))?;
        }
        self.offset = offset as u64;
        self.segments.push(Segment {
            name: name.to_owned(),
            last_index,
            bytes: bytes.len() as u64,
        });
        Ok(())
    }

    /// Takes one record into what is recovered; gives the entry's index.
    fn take(
        &mut self,
        record: &Record<'_>,
        recovered: &mut Recovered,
        file: &str,
        offset: usize,
    ) -> Result<u64, StoreError> {
        let damaged = || StoreError::Damaged {
            file: file.to_owned(),
            offset: offset as u64,
        };
        match record.kind {
            Kind::Entry => {
                let entry = Entry::decode(record.payload).map_err(|_| damaged())?;
                let index = entry.index;
                // A new leader may have overwritten a suffix that was never committed.
                while recovered
                    .entries
                    .last()
                    .is_some_and(|last| last.index >= index)
                {
                    recovered.entries.pop();
                }
                if recovered
                    .entries
                    .last()
                    .is_some_and(|last| last.index + 1 != index)
                {
                    return Err(damaged());
                }
                recovered.entries.push(entry);
                Ok(index)
            }
            Kind::HardState => {
                self.hard_state = HardState::decode(record.payload).map_err(|_| damaged())?;
                Ok(0)
            }
        }
    }

    /// Makes sure that `bytes` more fit, making a new segment if need be.
    ///
    /// # Errors
    /// When the segment cannot be made (disk full): nothing has changed and a later call may succeed.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        // Room for a hard state beside whatever is asked for, so that a vote never meets a full disk.
        let needed = bytes + 1024;
        if self
            .segments
            .last()
            .is_some_and(|segment| self.offset + needed <= segment.bytes)
        {
            return Ok(());
        }
        let size = SEGMENT_BYTES.max(needed + SEGMENT_MAGIC.len() as u64);
        let name = format!("log-{:016x}", self.next_sequence);
        let temporary = format!("{name}.new");
        let made = self
            .disk
            .create(&temporary, size)
            .and_then(|()| self.disk.write_at(&temporary, 0, SEGMENT_MAGIC))
            .and_then(|()| self.disk.sync(&temporary))
            .and_then(|()| self.disk.rename(&temporary, &name))
            .and_then(|()| self.disk.sync_folder());
        if let Err(source) = made {
            let _ = self.disk.remove(&temporary);
            return Err(StoreError::Io {
                what: format!("make log segment {name}"),
                source,
            });
        }
        self.segments.push(Segment {
            name,
            last_index: 0,
            bytes: size,
        });
        self.offset = SEGMENT_MAGIC.len() as u64;
        Ok(())
    }

    /// Writes entries and a hard state behind what is there; durable after [`Store::sync`].
    pub(crate) fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        let mut buffer = Vec::new();
        let mut sequence = self.next_sequence;
        // The hard state goes first: an entry on disk implies the term that it was accepted in.
        if let Some(hard_state) = hard_state
            && (hard_state.term, hard_state.vote) != (self.hard_state.term, self.hard_state.vote)
        {
            record::encode(
                &mut buffer,
                sequence,
                Kind::HardState,
                &hard_state.encode_to_vec(),
            );
            sequence += 1;
            self.hard_state = hard_state.clone();
        }
        for entry in entries {
            record::encode(&mut buffer, sequence, Kind::Entry, &entry.encode_to_vec());
            sequence += 1;
        }
        if buffer.is_empty() {
            return Ok(());
        }
        self.reserve(buffer.len() as u64)?;
        let Some(segment) = self.segments.last_mut() else {
            return Err(StoreError::Failed);
        };
        if let Err(source) = self.disk.write_at(&segment.name, self.offset, &buffer) {
            self.failed = true;
            return Err(StoreError::Io {
                what: format!("append to {}", segment.name),
                source,
            });
        }
        if let Some(last) = entries.last() {
            segment.last_index = last.index;
        }
        self.offset += buffer.len() as u64;
        self.next_sequence = sequence;
        self.dirty = true;
        Ok(())
    }

    /// Makes everything that was appended durable; does nothing when it is.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        if !self.dirty {
            return Ok(());
        }
        let Some(segment) = self.segments.last() else {
            return Ok(());
        };
        if let Err(source) = self.disk.sync(&segment.name) {
            self.failed = true;
            return Err(StoreError::Io {
                what: format!("sync {}", segment.name),
                source,
            });
        }
        self.dirty = false;
        Ok(())
    }

    /// Saves a snapshot and removes the segments that it covers. The log is not touched when saving fails.
    pub(crate) fn save_snapshot(&mut self, snapshot: &SavedSnapshot) -> Result<(), StoreError> {
        snapshot::save(self.disk.as_mut(), snapshot)?;
        // The previous snapshot stays, and with it the entries between the two: a fallback if this one rots.
        let previous = snapshot::indices(self.disk.as_ref())?
            .into_iter()
            .rev()
            .nth(1)
            .unwrap_or(0);
        while self.segments.len() > 1 && self.segments[0].last_index <= previous {
            let segment = self.segments.remove(0);
            self.disk
                .remove(&segment.name)
                .map_err(StoreError::io(format!(
                    "remove covered segment {}",
                    segment.name
                )))?;
        }
        Ok(())
    }

    /// Bytes of all segments.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// Whether a whole record with a later sequence lies somewhere in `rest`.
fn intact_after(rest: &[u8], next_sequence: u64) -> bool {
    (1..rest.len())
        .any(|at| record::decode(&rest[at..]).is_some_and(|r| r.sequence > next_sequence))
}
