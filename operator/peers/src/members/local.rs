//! What a replica's own disk knows of its membership.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::file;

/// A replica's own record, in its data folder: who it is, and the table as it was seen last. Lost with the disk, as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Local {
    /// Drawn when the disk was new.
    pub disk: String,
    /// The id that was claimed with it; none before.
    pub id: Option<u64>,
    /// The table as it was seen last; there as soon as there is an id.
    pub document: Option<Document>,
}

/// The record cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The file.
    #[error("{action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is damaged, or of a later version.
    #[error("read the membership in {}; without it this replica must begin with an empty data folder", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl Local {
    /// Of a new disk.
    pub(crate) fn new(disk: String) -> Self {
        Self {
            disk,
            id: None,
            document: None,
        }
    }

    /// Reads the record at `path`; none on a new disk.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn load(path: &Path) -> Result<Option<Self>, LocalError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(LocalError::File {
                    action: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let parsed = serde_json::from_str(&text);
        parsed.map_err(|source| LocalError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the record; on disk when it returns.
    ///
    /// # Errors
    /// [`LocalError::File`].
    pub fn save(&self, path: &Path) -> Result<(), LocalError> {
        let text = serde_json::to_vec(self).map_err(|source| LocalError::Malformed {
            path: path.to_owned(),
            source,
        })?;
        file::write(path, &text).map_err(|source| LocalError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }
}
