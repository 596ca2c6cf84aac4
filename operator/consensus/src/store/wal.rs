//! Segments: frames behind each other, in files that are made full size.

use std::hash::{BuildHasher, Hasher};

use super::disk::Disk;
use super::frame::{self, Batch};
use super::header::{self, HEADER, Identity, SEGMENT};
use super::{StoreError, names};

/// Bytes of a segment; what does not fit gets one of its own size.
pub(super) const SEGMENT_BYTES: u64 = if cfg!(test) {
    64 * 1024
} else {
    8 * 1024 * 1024
};
/// Room of each segment that reservations leave alone: votes and new terms never meet a full disk.
const SPARE_BYTES: u64 = if cfg!(test) { 4 * 1024 } else { 64 * 1024 };

#[derive(Debug)]
struct Segment {
    name: String,
    /// Highest mark of its frames.
    mark: u64,
    bytes: u64,
}

/// A log of frames with one writer. At most the last frame is not durable.
///
/// Marks are the caller's: numbers that grow, by which [`Wal::remove_through`] knows what is no longer needed.
pub struct Wal {
    disk: Box<dyn Disk>,
    identity: Identity,
    segments: Vec<Segment>,
    /// Where the next frame goes in the last segment.
    offset: u64,
    next_sequence: u64,
    /// Written first into each new segment, so that the ones before can be removed.
    carried: Batch,
    reserved: u64,
    dirty: bool,
    failed: bool,
    /// Lowest format among the segments that were read.
    oldest_format: u32,
}

impl Wal {
    /// Reads the log on `disk`, hands each item to `visit` (kind and bytes in, mark out; none when it is unreadable),
    /// and opens it for appending.
    ///
    /// A last frame that is torn was never acknowledged and is cut off. A whole last frame may not be durable yet (the
    /// process died before its sync), so it is written again and synced before anyone can act on it.
    ///
    /// # Errors
    /// [`StoreError`]: unreadable, damaged, or of another node or version.
    pub fn open(
        disk: Box<dyn Disk>,
        node: u64,
        mut visit: impl FnMut(u8, &[u8]) -> Option<u64>,
    ) -> Result<Self, StoreError> {
        let logs = names::numbered(disk.as_ref(), names::LOG)?;
        let mut wal = Self {
            disk,
            identity: Identity {
                node,
                log_id: drawn_id(),
            },
            segments: Vec::new(),
            offset: 0,
            next_sequence: 1,
            carried: Batch::default(),
            reserved: 0,
            dirty: false,
            failed: false,
            oldest_format: header::VERSION,
        };
        for (position, sequence) in logs.iter().enumerate() {
            wal.read_segment(*sequence, position, logs.len(), &mut visit)?;
        }
        Ok(wal)
    }

    fn read_segment(
        &mut self,
        sequence: u64,
        position: usize,
        segments: usize,
        visit: &mut impl FnMut(u8, &[u8]) -> Option<u64>,
    ) -> Result<(), StoreError> {
        let name = names::LOG.file(sequence);
        let bytes = self
            .disk
            .read(&name)
            .map_err(StoreError::io(format!("read {name}")))?;
        let (identity, first, version) = header::decode(SEGMENT, &name, &bytes)?;
        self.oldest_format = self.oldest_format.min(version);
        if position == 0 {
            self.identity.log_id = identity.log_id;
            self.next_sequence = first;
        }
        header::check(&name, identity, self.identity)?;
        if first != sequence || first != self.next_sequence {
            return Err(StoreError::damaged(
                &name,
                0,
                "it does not go on where the segment before it ends; one is missing",
            ));
        }
        let mut offset = HEADER;
        let mut start_of_last = offset;
        let mut mark = 0;
        while let Some(frame) = frame::decode(&bytes[offset..], self.identity.log_id, |sequence| {
            sequence == self.next_sequence
        }) {
            let unreadable =
                || StoreError::damaged(&name, offset, "a record is whole but cannot be decoded");
            for (kind, item) in frame.items().ok_or_else(unreadable)? {
                mark = visit(kind, item).ok_or_else(unreadable)?.max(mark);
            }
            self.next_sequence += 1;
            start_of_last = offset;
            offset += frame.size;
        }
        let last = position + 1 == segments;
        // After the last whole frame there are zeros, or one frame that was never synced.
        let rest = &bytes[offset..];
        let torn = rest.iter().any(|byte| *byte != 0);
        if torn && (!last || self.intact_within(rest)) {
            return Err(StoreError::damaged(
                &name,
                offset,
                "a bad record with intact ones behind it",
            ));
        }
        if torn {
            tracing::warn!(
                file = name,
                offset,
                "cutting off a torn last record; it was never acknowledged"
            );
        }
        if last {
            let mut tail = bytes[start_of_last..offset].to_vec();
            if torn {
                tail.resize(bytes.len() - start_of_last, 0);
            }
            self.disk
                .write_at(&name, start_of_last as u64, &tail)
                .and_then(|()| self.disk.sync(&name))
                .and_then(|()| self.disk.sync_folder())
                .map_err(StoreError::io(format!("sync the end of {name}")))?;
        }
        self.offset = offset as u64;
        self.segments.push(Segment {
            name,
            mark,
            // What an older version cannot read goes into a segment of its own: it then says so by the format.
            bytes: if version == header::VERSION {
                bytes.len() as u64
            } else {
                self.offset
            },
        });
        Ok(())
    }

    /// Whether a whole frame with a later sequence lies somewhere in `rest`.
    fn intact_within(&self, rest: &[u8]) -> bool {
        let later = self.next_sequence..self.next_sequence + rest.len() as u64;
        let later = |sequence| later.contains(&sequence);
        (1..rest.len()).any(|at| frame::decode(&rest[at..], self.identity.log_id, later).is_some())
    }

    /// Sets what each new segment begins with from now on, instead of what was set before.
    pub fn carry(&mut self, batch: Batch) {
        self.carried = batch;
    }

    /// Makes sure that `bytes` more fit beside what was reserved and not appended yet. An append gives back as much as
    /// it writes; [`Wal::release`] gives back the rest.
    ///
    /// # Errors
    /// When a new segment cannot be made (disk full): nothing has changed and a later call may succeed.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.make_room(self.reserved + bytes + SPARE_BYTES)?;
        self.reserved += bytes;
        Ok(())
    }

    /// Gives back all that is reserved.
    pub fn release(&mut self) {
        self.reserved = 0;
    }

    /// Writes `batch` as one frame; durable after [`Wal::sync`]. Whatever was appended before is durable first.
    ///
    /// # Errors
    /// After a failed write the log is closed: [`StoreError::Failed`] from then on.
    pub fn append(&mut self, mut batch: Batch, mark: u64) -> Result<(), StoreError> {
        self.sync()?;
        self.make_room(batch.bytes())?;
        let Some(segment) = self.segments.last_mut() else {
            return Err(StoreError::Failed);
        };
        let bytes = batch.seal(self.identity.log_id, self.next_sequence);
        if let Err(source) = self.disk.write_at(&segment.name, self.offset, bytes) {
            self.failed = true;
            return Err(StoreError::Io {
                what: format!("append to {}", segment.name),
                source,
            });
        }
        segment.mark = segment.mark.max(mark);
        self.offset += batch.bytes();
        self.next_sequence += 1;
        self.reserved = self.reserved.saturating_sub(batch.bytes());
        self.dirty = true;
        Ok(())
    }

    /// Makes what was appended durable; does nothing when it is.
    ///
    /// # Errors
    /// A failed sync closes the log: the kernel may have dropped the pages, so a second try could claim what is not there.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        let Some(segment) = self.segments.last().filter(|_| self.dirty) else {
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

    /// Removes the leading segments whose marks are all at or below `mark`. The last one stays.
    ///
    /// # Errors
    /// When a file cannot be removed; it stays part of the log.
    pub fn remove_through(&mut self, mark: u64) -> Result<(), StoreError> {
        while self.segments.len() > 1 && self.segments[0].mark <= mark {
            let name = &self.segments[0].name;
            self.disk
                .remove(name)
                .map_err(StoreError::io(format!("remove covered segment {name}")))?;
            self.segments.remove(0);
        }
        Ok(())
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether some of it was written before there were members to write down.
    pub(super) fn has_format_1(&self) -> bool {
        self.oldest_format == 1
    }

    pub(super) fn disk(&mut self) -> &mut dyn Disk {
        self.disk.as_mut()
    }

    /// Makes a new segment unless `bytes` more fit into the last one.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let fits = |segment: &Segment| self.offset + bytes <= segment.bytes;
        if self.segments.last().is_some_and(fits) {
            return Ok(());
        }
        self.sync()?;
        let mut content = header::encode(SEGMENT, self.identity, self.next_sequence);
        let mut carried = self.carried.clone();
        let frames = u64::from(!carried.is_empty());
        if frames > 0 {
            content.extend_from_slice(carried.seal(self.identity.log_id, self.next_sequence));
        }
        let offset = content.len() as u64;
        let size = SEGMENT_BYTES.max(offset + bytes + SPARE_BYTES);
        let name = names::LOG.file(self.next_sequence);
        let temporary = names::temporary(&name);
        let made = self
            .disk
            .create(&temporary, size)
            .and_then(|()| self.disk.write_at(&temporary, 0, &content))
            .and_then(|()| self.disk.sync(&temporary))
            .and_then(|()| self.disk.rename(&temporary, &name));
        let what = || format!("make log segment {name}");
        if let Err(source) = made {
            let _ = self.disk.remove(&temporary);
            return Err(StoreError::io(what())(source));
        }
        // From here on it may be part of the log after a crash, so there is no way back.
        if let Err(source) = self.disk.sync_folder() {
            self.failed = true;
            return Err(StoreError::io(what())(source));
        }
        self.segments.push(Segment {
            name,
            mark: 0,
            bytes: size,
        });
        self.offset = offset;
        self.next_sequence += frames;
        Ok(())
    }
}

/// A number that no other log has, from the operating system's randomness by way of the standard hasher's keys.
fn drawn_id() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
