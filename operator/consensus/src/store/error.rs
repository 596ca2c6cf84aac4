//! Why the log cannot be opened or written.

use std::io;

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
    /// What was acknowledged cannot be read: bits rotted, or files were edited or removed.
    #[error(
        "raft log {file} is damaged at byte {offset}: {what}; acknowledged revisions would be lost. \
         Restore the folder from a copy, or move it aside to start from the source alone (revisions and history start anew)"
    )]
    Damaged {
        /// File name.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// Snapshot and log do not fit together: one of them is missing or damaged.
    #[error(
        "the raft log holds entries {first}..={last} and no readable snapshot fits it{unreadable}; acknowledged revisions would be lost. \
         Restore the folder from a copy, or move it aside to start from the source alone (revisions and history start anew)"
    )]
    NoSnapshot {
        /// First index of the log; 0 for none.
        first: u64,
        /// Last index of the log; 0 for none.
        last: u64,
        /// Which snapshots were found and what is wrong with them.
        unreadable: String,
    },
    /// A file of another node or of another log.
    #[error(
        "{file} belongs to node {found} of another log or folder; this is node {expected}. \
         Give each node a folder of its own, and never mix files of two"
    )]
    Foreign {
        /// File name.
        file: String,
        /// Node that wrote it.
        found: u64,
        /// Node that reads it.
        expected: u64,
    },
    /// Written by another version.
    #[error(
        "{file} has format {found} and this version reads {expected}; run the version that wrote it"
    )]
    Format {
        /// File name.
        file: String,
        /// Its format.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A write or sync of the log failed earlier; the process must end.
    #[error("the raft log failed and is closed")]
    Failed,
}

impl StoreError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(super) fn damaged(file: &str, offset: usize, what: &'static str) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset: offset as u64,
            what,
        }
    }
}
