//! Statuses as files: `DATA/status/<Kind>/<namespace>/<name>.yaml`, `_` for no namespace. What an API server is in a
//! cluster, these files are here: they survive a restart, so that transition times do.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::ObjectKey;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::times::keep_transition_times;

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

/// The current status of each object, in memory and on disk. One writer.
///
/// Setting changes memory alone; what is to be written is taken by [`StatusFolder::unsaved`] and written elsewhere, so that
/// several changes of one object become one file.
#[derive(Debug)]
pub struct StatusFolder {
    root: PathBuf,
    current: BTreeMap<ObjectKey, Value>,
    unsaved: BTreeSet<ObjectKey>,
}

impl WriteError {
    /// Whose status it is.
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }
}

/// Files to write or, without a document, to remove.
#[derive(Debug, Default)]
pub struct Unsaved {
    /// Where new content is written before it takes a file's place.
    spare: PathBuf,
    files: Vec<(ObjectKey, PathBuf, Option<Value>)>,
}

impl Unsaved {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes the files, each whole or not at all. Gives what could not be written; [`StatusFolder::keep_unsaved`] takes
    /// it for the next time. One call at a time for a folder.
    pub fn write(self) -> Vec<WriteError> {
        let mut errors = Vec::new();
        for (object, path, document) in self.files {
            let written = match document {
                Some(document) => write(&self.spare, &path, &document),
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
}

impl StatusFolder {
    /// Opens the folder `root` and reads what is there; files that are not readable as statuses are left out and
    /// will be written anew.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut current = BTreeMap::new();
        for kind in fs::read_dir(root)? {
            let kind = kind?;
            if !kind.file_type()?.is_dir() {
                continue;
            }
            for namespace in fs::read_dir(kind.path())? {
                let namespace = namespace?;
                if !namespace.file_type()?.is_dir() {
                    continue;
                }
                for file in fs::read_dir(namespace.path())? {
                    let path = file?.path();
                    if let Some((key, status)) = read(&path) {
                        current.insert(key, status);
                    }
                }
            }
        }
        Ok(Self {
            root: root.to_owned(),
            current,
            unsaved: BTreeSet::new(),
        })
    }

    /// Current status of an object.
    pub fn status(&self, key: &ObjectKey) -> Option<&Value> {
        self.current.get(key)
    }

    /// All statuses, by object.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.current.iter()
    }

    /// Takes what has changed since the last time.
    pub fn unsaved(&mut self) -> Unsaved {
        let unsaved = std::mem::take(&mut self.unsaved);
        let files = unsaved.into_iter().map(|key| {
            let path = self.path(&key);
            let document = self.current.get(&key).map(|status| {
                serde_json::json!({
                    "apiVersion": "shardway.dev/status", "kind": key.kind, "group": key.group,
                    "metadata": {"namespace": key.namespace, "name": key.name},
                    "status": status,
                })
            });
            (key, path, document)
        });
        Unsaved {
            spare: self.root.join(SPARE),
            files: files.collect(),
        }
    }

    /// Takes back what could not be written.
    pub fn keep_unsaved(&mut self, errors: &[WriteError]) {
        let objects = errors.iter().map(|error| error.object().clone());
        self.unsaved.extend(objects);
    }

    /// Sets a status; transition times are kept where the status of a condition stays. Returns whether it changed.
    pub fn set(&mut self, key: &ObjectKey, mut status: Value, now: &str) -> bool {
        keep_transition_times(self.current.get(key), &mut status, now);
        if self.current.get(key) == Some(&status) {
            return false;
        }
        self.current.insert(key.clone(), status);
        self.unsaved.insert(key.clone());
        true
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &ObjectKey) {
        if self.current.remove(key).is_some() {
            self.unsaved.insert(key.clone());
        }
    }

    /// Forgets all objects that `keep` does not want; for the end of the first reading.
    pub fn retain(&mut self, keep: impl Fn(&ObjectKey) -> bool) {
        let gone: Vec<ObjectKey> = self
            .current
            .keys()
            .filter(|key| !keep(key))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key);
        }
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

/// Whole or not at all: a reader never sees half a file. The new content and the old change places, so that no inode is
/// made or freed: ext4 looks long for an inode while many were freed in the last seconds.
fn write(spare: &Path, path: &Path, document: &Value) -> io::Result<()> {
    let text = serde_saphyr::to_string(document).map_err(io::Error::other)?;
    fs::write(spare, text)?;
    let exchange = |spare, path| renameat_with(CWD, spare, CWD, path, RenameFlags::EXCHANGE);
    if exchange(spare, path).is_ok() {
        return Ok(());
    }
    // No file yet, or a file system that cannot exchange.
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(spare, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use serde_json::json;

    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new("gateway.networking.k8s.io", "HTTPRoute", "team-a", "shop")
    }

    fn status(value: &str) -> Value {
        json!({"conditions": [{"type": "Accepted", "status": value, "reason": "Accepted", "message": "yes: it is"}]})
    }

    #[test]
    fn a_status_survives_a_restart_with_its_transition_time() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(root.path()).unwrap();
        assert!(folder.set(&key(), status("Unknown"), "2025-01-01T00:00:00Z"));
        assert!(folder.set(&key(), status("True"), "2026-01-01T00:00:00Z"));
        assert!(folder.unsaved().write().is_empty());
        let mut folder = StatusFolder::open(root.path()).unwrap();
        assert!(!folder.set(&key(), status("True"), "2026-02-02T00:00:00Z"));
        assert!(folder.unsaved().is_empty());
        let time = |folder: &StatusFolder| {
            folder.status(&key()).unwrap()["conditions"][0]["lastTransitionTime"].clone()
        };
        assert_eq!(time(&folder), "2026-01-01T00:00:00Z");
        assert!(folder.set(&key(), status("False"), "2026-02-02T00:00:00Z"));
        assert_eq!(time(&folder), "2026-02-02T00:00:00Z");
    }

    #[test]
    fn an_object_that_is_gone_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(root.path()).unwrap();
        folder.set(&key(), status("True"), "now");
        assert!(folder.unsaved().write().is_empty());
        folder.retain(|_| false);
        assert!(folder.unsaved().write().is_empty());
        assert_eq!(StatusFolder::open(root.path()).unwrap().iter().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_that_names_the_object() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(root.path()).unwrap();
        fs::write(root.path().join("HTTPRoute"), "in the way").unwrap();
        folder.set(&key(), status("True"), "now");
        let errors = folder.unsaved().write();
        assert!(
            errors[0]
                .to_string()
                .starts_with("write status of HTTPRoute team-a/shop to ")
        );
        assert!(folder.status(&key()).is_some());
        // It is written once it can be.
        assert!(folder.unsaved().is_empty());
        folder.keep_unsaved(&errors);
        fs::remove_file(root.path().join("HTTPRoute")).unwrap();
        assert!(folder.unsaved().write().is_empty());
        assert_eq!(StatusFolder::open(root.path()).unwrap().iter().count(), 1);
    }

    #[test]
    fn a_changed_status_takes_no_new_file() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(root.path()).unwrap();
        let path = root.path().join("HTTPRoute/team-a/shop.yaml");
        let mut seen = BTreeSet::new();
        for value in ["a", "b", "c", "d", "e"] {
            folder.set(&key(), status(value), "now");
            assert!(folder.unsaved().write().is_empty());
            seen.insert(fs::metadata(&path).unwrap().ino());
            assert!(fs::read_to_string(&path).unwrap().contains(value));
        }
        assert_eq!(seen.len(), 2, "two files change places");
    }

    #[test]
    fn a_name_of_253_characters_has_a_file() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(root.path()).unwrap();
        for last in ["x", "y"] {
            let name = format!("{}{last}", "n".repeat(252));
            let key = ObjectKey::new("gateway.networking.k8s.io", "HTTPRoute", "team-a", &name);
            folder.set(&key, status("True"), "now");
        }
        assert!(folder.unsaved().write().is_empty());
        assert_eq!(StatusFolder::open(root.path()).unwrap().iter().count(), 2);
    }
}
