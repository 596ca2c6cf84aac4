//! The table of members as a file, for replicas on one machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

use super::document::Document;
use super::store::{MembersStore, StoreError, Versioned, parse, text};

/// The table as a file that all replicas see. Writers take turns by a lock on a file beside it.
#[derive(Debug, Clone)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// At `path`, whose folder exists.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn read(&self) -> Result<Option<Versioned>, StoreError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &self.path)(error)),
        };
        Ok(Some(Versioned {
            document: parse(&self.path.display().to_string(), &text)?,
            version: text,
        }))
    }

    fn replace(&self, document: &Document, version: Option<&str>) -> Result<(), StoreError> {
        let path = self.path.with_extension("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(failed("lock", &path))?;
        let found = self.read()?;
        if found.as_ref().map(|found| found.version.as_str()) != version {
            return Err(StoreError::Conflict);
        }
        let text = text(&self.path.display().to_string(), document)?;
        write(&self.path, text.as_bytes()).map_err(failed("write", &self.path))?;
        drop(lock);
        Ok(())
    }
}

impl MembersStore for FileStore {
    fn get(&self) -> BoxFuture<'_, Result<Option<Versioned>, StoreError>> {
        Box::pin(std::future::ready(self.read()))
    }

    fn put<'a>(
        &'a self,
        document: &'a Document,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.replace(document, version)))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File {
        action,
        path,
        source,
    }
}

/// Writes a small file so that a crash leaves it old or new, and on disk once this returns.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use super::*;

    #[tokio::test]
    async fn only_who_has_seen_the_newest_table_may_replace_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("members.json"));
        assert_eq!(store.get().await.unwrap(), None);
        let first = Document::found("c".into(), 3, |ordinal| ordinal.to_string());
        store.put(&first, None).await.unwrap();
        let conflict = |result| matches!(result, Err(StoreError::Conflict));
        assert!(conflict(store.put(&first, None).await));

        let found = store.get().await.unwrap().unwrap();
        assert_eq!(found.document, first);
        let second = first.claim(0, "disk", "0").write.unwrap();
        store.put(&second, Some(&found.version)).await.unwrap();
        assert!(conflict(store.put(&first, Some(&found.version)).await));
        assert_eq!(store.get().await.unwrap().unwrap().document, second);
    }

    #[tokio::test]
    async fn a_table_that_is_not_understood_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("members.json");
        fs::write(&path, "{}").unwrap();
        let store = FileStore::new(path.clone());
        assert!(matches!(
            store.get().await,
            Err(StoreError::Malformed { .. })
        ));
        let document = Document::found("c".into(), 1, |_| String::new());
        assert!(store.put(&document, None).await.is_err());
        assert_eq!(fs::read_to_string(path).unwrap(), "{}");
    }
}
