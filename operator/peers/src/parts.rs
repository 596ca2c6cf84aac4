//! Snapshots as frames of the wire, and back. Pure.

use api_wire::peer::{
    Hello, SnapshotEnd, SnapshotFrame, SnapshotHead, SnapshotPart, snapshot_part,
};
use bytes::Bytes;

/// Largest frame, bytes of data.
pub(crate) const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Memory taken before the first frame is here: what a head says is no proof.
const TRUSTED_BYTES: usize = 16 * 1024 * 1024;

/// Why frames do not make a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PartError {
    /// Over the limit.
    #[error("a snapshot of {bytes} bytes is over the limit of {max}")]
    TooLarge { bytes: u64, max: usize },
    /// A frame is missing, doubled or too long.
    #[error("a frame begins at byte {offset} where {expected} was expected, or is too long")]
    Gap { offset: u64, expected: usize },
    /// A checksum does not fit.
    #[error("wrong checksum at byte {offset}")]
    Checksum { offset: usize },
    /// Fewer bytes came than were announced.
    #[error("the snapshot ends after {bytes} of {expected} bytes")]
    Short { bytes: usize, expected: usize },
}

/// The parts of a message, one after the other; each is made when it is asked for. Copies nothing.
pub(crate) struct Cut {
    hello: Option<Hello>,
    message: Bytes,
    offset: usize,
    crc: crc32fast::Hasher,
    ended: bool,
}

impl Cut {
    pub(crate) fn new(hello: Hello, message: Bytes) -> Self {
        Self {
            hello: Some(hello),
            message,
            offset: 0,
            crc: crc32fast::Hasher::new(),
            ended: false,
        }
    }
}

impl Iterator for Cut {
    type Item = SnapshotPart;

    fn next(&mut self) -> Option<SnapshotPart> {
        let part = if let Some(hello) = self.hello.take() {
            snapshot_part::Part::Head(SnapshotHead {
                hello: Some(hello),
                bytes: self.message.len() as u64,
            })
        } else if self.offset < self.message.len() {
            let end = self.message.len().min(self.offset + FRAME_BYTES_MAX);
            let data = self.message.slice(self.offset..end);
            self.crc.update(&data);
            let frame = SnapshotFrame {
                offset: self.offset as u64,
                crc: crc32fast::hash(&data),
                data,
            };
            self.offset = end;
            snapshot_part::Part::Frame(frame)
        } else if !self.ended {
            self.ended = true;
            snapshot_part::Part::End(SnapshotEnd {
                crc: self.crc.clone().finalize(),
            })
        } else {
            return None;
        };
        Some(SnapshotPart { part: Some(part) })
    }
}

/// Frames that come in.
#[derive(Debug)]
pub(crate) struct Join {
    expected: usize,
    message: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl Join {
    /// For a message of `bytes` bytes.
    ///
    /// # Errors
    /// [`PartError::TooLarge`].
    pub(crate) fn new(bytes: u64, max: usize) -> Result<Self, PartError> {
        let expected = usize::try_from(bytes).ok().filter(|bytes| *bytes <= max);
        let expected = expected.ok_or(PartError::TooLarge { bytes, max })?;
        Ok(Self {
            expected,
            message: Vec::with_capacity(expected.min(TRUSTED_BYTES)),
            crc: crc32fast::Hasher::new(),
        })
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// [`PartError::Gap`], [`PartError::Checksum`].
    pub(crate) fn frame(&mut self, frame: &SnapshotFrame) -> Result<(), PartError> {
        let at = self.message.len();
        let fits = frame.data.len() <= FRAME_BYTES_MAX.min(self.expected - at);
        if frame.offset != at as u64 || !fits {
            return Err(PartError::Gap {
                offset: frame.offset,
                expected: at,
            });
        }
        if crc32fast::hash(&frame.data) != frame.crc {
            return Err(PartError::Checksum { offset: at });
        }
        self.crc.update(&frame.data);
        self.message.extend_from_slice(&frame.data);
        Ok(())
    }

    /// The message, at its end.
    ///
    /// # Errors
    /// [`PartError::Short`], [`PartError::Checksum`].
    pub(crate) fn end(self, end: &SnapshotEnd) -> Result<Vec<u8>, PartError> {
        if self.message.len() != self.expected {
            return Err(PartError::Short {
                bytes: self.message.len(),
                expected: self.expected,
            });
        }
        if self.crc.finalize() != end.crc {
            return Err(PartError::Checksum { offset: 0 });
        }
        Ok(self.message)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use proptest::prelude::*;

    use super::*;

    fn join(
        parts: impl IntoIterator<Item = SnapshotPart>,
        max: usize,
    ) -> Result<Vec<u8>, PartError> {
        let mut join = None;
        for part in parts {
            match part.part.unwrap() {
                snapshot_part::Part::Head(head) => join = Some(Join::new(head.bytes, max)?),
                snapshot_part::Part::Frame(frame) => join.as_mut().unwrap().frame(&frame)?,
                snapshot_part::Part::End(end) => return join.unwrap().end(&end),
            }
        }
        panic!("no end")
    }

    fn cut(message: &[u8]) -> Cut {
        Cut::new(Hello::default(), Bytes::copy_from_slice(message))
    }

    fn message(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn a_message_comes_back_as_it_was_in_frames_that_are_bounded() {
        for bytes in [0, 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX * 2 + 1] {
            let message = message(bytes);
            let parts: Vec<_> = cut(&message).collect();
            assert_eq!(parts.len(), 2 + bytes.div_ceil(FRAME_BYTES_MAX));
            assert_eq!(join(parts, bytes).unwrap(), message);
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_a_frame_is_taken() {
        let parts = cut(&message(11));
        let refused = Err(PartError::TooLarge { bytes: 11, max: 10 });
        assert_eq!(join(parts, 10), refused);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
        #[test]
        fn a_frame_that_is_lost_doubled_moved_or_changed_is_found(
            frames in 1usize..5,
            at in any::<prop::sample::Index>(),
            how in 0..5,
        ) {
            let message = message(frames * FRAME_BYTES_MAX - 5);
            let mut parts: Vec<_> = cut(&message).collect();
            let at = 1 + at.index(frames);
            match how {
                0 => drop(parts.remove(at)),
                1 => parts.insert(at, parts[at].clone()),
                2 if frames > 1 => parts.swap(at, if at == 1 { 2 } else { 1 }),
                2 => return Ok(()),
                _ => {
                    let Some(snapshot_part::Part::Frame(frame)) = &mut parts[at].part else { unreachable!() };
                    let mut data = frame.data.to_vec();
                    data[0] ^= 1;
                    // A wrong frame with a checksum of its own is found at the end.
                    if how == 4 {
                        frame.crc = crc32fast::hash(&data);
                    }
                    frame.data = data.into();
                }
            }
            prop_assert!(join(parts, usize::MAX).is_err());
        }
    }
}
