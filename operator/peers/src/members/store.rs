//! Where the table of members is kept.

use std::io;
use std::path::PathBuf;

use futures::future::BoxFuture;

use super::document::Document;

/// A table, and what is to be said when it is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The table.
    pub document: Document,
    /// Names this state of it; means nothing else.
    pub version: String,
}

/// Keeps one table. All replicas of a cluster have the same one.
pub trait MembersStore: Send + Sync + 'static {
    /// The table, if there is one.
    ///
    /// # Errors
    /// [`StoreError`], but for [`StoreError::Conflict`].
    fn get(&self) -> BoxFuture<'_, Result<Option<Versioned>, StoreError>>;

    /// Writes the table if it is still the one of `version`, or if there is still none. Durable when it returns.
    ///
    /// Cancel safety: whether it was written is open.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else was first; after other errors it is open whether it was written.
    fn put<'a>(
        &'a self,
        document: &'a Document,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// The table cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else has written it meanwhile.
    #[error("the table of members was changed by another replica; read it again")]
    Conflict,
    /// It is not ours, or of a later version.
    #[error("read the table of members in {place}; repair or remove it")]
    Malformed {
        /// Where it is.
        place: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A file.
    #[error("{action} {}", path.display())]
    File {
        /// `read`, `write` or `lock`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The API server.
    #[error("{action} ConfigMap {name}")]
    Api {
        /// `read` or `write`.
        action: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

pub(super) fn parse(place: &str, text: &str) -> Result<Document, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Malformed {
        place: place.to_owned(),
        source,
    })
}

/// A short text to be kept; a map with integer keys and strings cannot fail.
pub(super) fn text(place: &str, document: &Document) -> Result<String, StoreError> {
    serde_json::to_string(document).map_err(|source| StoreError::Malformed {
        place: place.to_owned(),
        source,
    })
}
