//! Statuses as files: `DATA/status/<Kind>/<namespace>/<name>.yaml`, `_` for no namespace. What an API server is in a
//! cluster, these files are here: they survive a restart, so that transition times do.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::ObjectKey;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::statuses::Change;

/// File below the root that holds content on its way, or the content that it took the place of.
const SPARE: &str = ".spare";
/// Longest name of a status file, bytes; most file systems take 255.
const FILE_NAME_MAX: usize = 240;

/// A status could not be written. Serving goes on; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("write status of {object} to {}", path.display())]
pub struct WriteError {
    object: Box<ObjectKey>,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl WriteError {
    /// Whose status it is.
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }
}

/// A folder of statuses. One writer.
#[derive(Debug, Clone)]
pub struct StatusFolder {
    root: PathBuf,
}

impl StatusFolder {
    /// Opens the folder `root`, making it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// What is there; files that are not readable as statuses are left out and will be written anew.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn read(&self) -> io::Result<Vec<(ObjectKey, Value)>> {
        let mut found = Vec::new();
        for kind in folders(&self.root)? {
            for namespace in folders(&kind)? {
                for file in fs::read_dir(namespace)? {
                    found.extend(read(&file?.path()));
                }
            }
        }
        Ok(found)
    }

    /// Writes files, each whole or not at all. Gives what could not be written; [`crate::Statuses::keep_unsaved`] takes it
    /// for the next time.
    pub fn write(&self, changes: Vec<Change>) -> Vec<WriteError> {
        let mut errors = Vec::new();
        for Change { object, status } in changes {
            let path = self.path(&object);
            let written = match status {
                Some(status) => self.put(&path, &document(&object, &status)),
                // Gone already, or left behind: it is overwritten when the object returns.
                None => fs::remove_file(&path).or(Ok(())),
            };
            if let Err(source) = written {
                errors.push(WriteError {
                    object: Box::new(object),
                    path,
                    source,
                });
            }
        }
        errors
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        let namespace = if key.namespace.is_empty() {
            "_"
        } else {
            &key.namespace
        };
        self.root
            .join(&key.kind)
            .join(namespace)
            .join(format!("{}.yaml", file_stem(&key.name)))
    }

    /// Whole or not at all: a reader never sees half a file. The new content and the old change places, so that no inode
    /// is made or freed: ext4 looks long for an inode while many were freed in the last seconds.
    fn put(&self, path: &Path, document: &Value) -> io::Result<()> {
        let spare = self.root.join(SPARE);
        let text = serde_saphyr::to_string(document).map_err(io::Error::other)?;
        fs::write(&spare, text)?;
        if renameat_with(CWD, &spare, CWD, path, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
        // No file yet, or a file system that cannot exchange.
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(spare, path)
    }
}

/// A name that is too long for a file is cut and told from others by its hash.
fn file_stem(name: &str) -> Cow<'_, str> {
    if name.len() <= FILE_NAME_MAX {
        return Cow::Borrowed(name);
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let cut = name.floor_char_boundary(FILE_NAME_MAX - 17);
    Cow::Owned(format!("{}~{}", &name[..cut], &hash[..16]))
}

fn folders(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn document(key: &ObjectKey, status: &Value) -> Value {
    serde_json::json!({
        "apiVersion": "shardway.dev/status", "kind": key.kind, "group": key.group,
        "metadata": {"namespace": key.namespace, "name": key.name},
        "status": status,
    })
}

fn read(path: &Path) -> Option<(ObjectKey, Value)> {
    let document: Value = serde_saphyr::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let key = ObjectKey::new(
        text("/group")?,
        text("/kind")?,
        text("/metadata/namespace")?,
        text("/metadata/name")?,
    );
    Some((key, document.get("status")?.clone()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::Statuses;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("gateway.networking.k8s.io", "HTTPRoute", "team-a", name)
    }

    fn status(value: &str) -> Value {
        json!({"conditions": [{"type": "Accepted", "status": value, "reason": "Accepted", "message": "yes: it is"}]})
    }

    fn folder() -> (TempDir, StatusFolder) {
        let root = tempfile::tempdir().unwrap();
        let folder = StatusFolder::open(root.path()).unwrap();
        (root, folder)
    }

    #[test]
    fn a_status_survives_a_restart_with_its_transition_time() {
        let (_root, folder) = folder();
        let mut statuses = Statuses::default();
        assert!(statuses.set(&key("shop"), status("Unknown"), "2025-01-01T00:00:00Z"));
        assert!(statuses.set(&key("shop"), status("True"), "2026-01-01T00:00:00Z"));
        assert!(folder.write(statuses.take_unsaved()).is_empty());
        let mut statuses = Statuses::restored(folder.read().unwrap());
        assert!(!statuses.set(&key("shop"), status("True"), "2026-02-02T00:00:00Z"));
        assert!(statuses.take_unsaved().is_empty());
        let time = |statuses: &Statuses| {
            statuses.get(&key("shop")).unwrap()["conditions"][0]["lastTransitionTime"].clone()
        };
        assert_eq!(time(&statuses), "2026-01-01T00:00:00Z");
        assert!(statuses.set(&key("shop"), status("False"), "2026-02-02T00:00:00Z"));
        assert_eq!(time(&statuses), "2026-02-02T00:00:00Z");
    }

    #[test]
    fn an_object_that_is_gone_leaves_no_file() {
        let (_root, folder) = folder();
        let mut statuses = Statuses::default();
        statuses.set(&key("shop"), status("True"), "now");
        assert!(folder.write(statuses.take_unsaved()).is_empty());
        statuses.retain(|_| false);
        assert!(folder.write(statuses.take_unsaved()).is_empty());
        assert!(folder.read().unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_that_names_the_object() {
        let (root, folder) = folder();
        let mut statuses = Statuses::default();
        fs::write(root.path().join("HTTPRoute"), "in the way").unwrap();
        statuses.set(&key("shop"), status("True"), "now");
        let errors = folder.write(statuses.take_unsaved());
        assert!(
            errors[0]
                .to_string()
                .starts_with("write status of HTTPRoute team-a/shop to ")
        );
        assert!(statuses.get(&key("shop")).is_some());
        // It is written once it can be.
        assert!(statuses.take_unsaved().is_empty());
        statuses.keep_unsaved(errors.iter().map(|error| error.object().clone()));
        fs::remove_file(root.path().join("HTTPRoute")).unwrap();
        assert!(folder.write(statuses.take_unsaved()).is_empty());
        assert_eq!(folder.read().unwrap().len(), 1);
    }

    #[test]
    fn a_changed_status_takes_no_new_file() {
        let (root, folder) = folder();
        let mut statuses = Statuses::default();
        let path = root.path().join("HTTPRoute/team-a/shop.yaml");
        let mut seen = BTreeSet::new();
        for value in ["a", "b", "c", "d", "e"] {
            statuses.set(&key("shop"), status(value), "now");
            assert!(folder.write(statuses.take_unsaved()).is_empty());
            seen.insert(fs::metadata(&path).unwrap().ino());
            assert!(fs::read_to_string(&path).unwrap().contains(value));
        }
        assert_eq!(seen.len(), 2, "two files change places");
    }

    #[test]
    fn a_name_of_253_characters_has_a_file() {
        let (_root, folder) = folder();
        let mut statuses = Statuses::default();
        for last in ["x", "y"] {
            let name = format!("{}{last}", "n".repeat(252));
            statuses.set(&key(&name), status("True"), "now");
        }
        assert!(folder.write(statuses.take_unsaved()).is_empty());
        assert_eq!(folder.read().unwrap().len(), 2);
    }
}
