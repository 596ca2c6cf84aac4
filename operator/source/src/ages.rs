//! What an API server would keep of each object: uid, generation, creation.

mod seen;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::{ObjectKey, Timestamp};
use operator_objects::Provenance;
use serde::{Deserialize, Serialize};

pub use self::seen::{Seen, SeenObject, spec_hash};

/// Ages cannot be kept; objects are then young again after a restart.
#[derive(Debug, thiserror::Error)]
#[error("keep ages of objects in {}", path.display())]
pub struct AgesError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A [`SeenObject`] with its key.
#[derive(Debug, Serialize, Deserialize)]
struct Age {
    group: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    generation: i64,
    created: i64,
    spec: String,
    #[serde(default)]
    file: String,
}

impl Age {
    fn of(key: &ObjectKey, seen: &SeenObject) -> Self {
        let (key, seen) = (key.clone(), seen.clone());
        Self {
            group: key.group,
            kind: key.kind,
            namespace: key.namespace,
            name: key.name,
            uid: seen.uid,
            generation: seen.generation,
            created: seen.created,
            spec: seen.spec,
            file: seen.file,
        }
    }
}

/// One line of the file: an age, or an object that is gone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Age(Age),
    Gone {
        group: String,
        kind: String,
        namespace: String,
        name: String,
        gone: bool,
    },
}

/// Lines beyond those needed after which the file is written anew.
const SLACK_LINES: usize = 1000;

/// Ages of all objects, in a file of JSON lines to which changes are appended: cost follows what changed. The file is bounded
/// by twice the objects and [`SLACK_LINES`]. One writer.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    path: Option<PathBuf>,
    known: Seen,
    changed: BTreeSet<ObjectKey>,
    lines: usize,
    /// The last line of the file is not whole, so that nothing can be appended.
    is_torn: bool,
}

impl Ages {
    /// Reads the ages that are kept. A torn last line is left out; a file that is not readable is moved aside.
    pub(crate) fn open(path: PathBuf) -> Self {
        let mut ages = Self {
            path: Some(path.clone()),
            ..Self::default()
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return ages,
            Err(error) => return Self::anew(path, &error),
        };
        let mut known = ages.known.write();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            ages.lines += 1;
            match serde_json::from_str::<Line>(line) {
                Ok(Line::Age(age)) => {
                    let key = ObjectKey::new(&age.group, &age.kind, &age.namespace, &age.name);
                    let seen = SeenObject {
                        uid: age.uid,
                        generation: age.generation,
                        created: age.created,
                        spec: age.spec,
                        file: age.file,
                    };
                    known.insert(key, seen);
                }
                Ok(Line::Gone {
                    group,
                    kind,
                    namespace,
                    name,
                    ..
                }) => {
                    known.remove(&ObjectKey::new(&group, &kind, &namespace, &name));
                }
                Err(error) => return Self::anew(path, &error),
            }
        }
        drop(known);
        // A line that was appended to a torn one would be lost with it.
        ages.is_torn = !text.is_empty() && !text.ends_with('\n');
        ages
    }

    /// Moves a file that is not readable aside.
    fn anew(path: PathBuf, error: &dyn std::error::Error) -> Self {
        let aside = path.with_extension("json.corrupt");
        let moved = fs::rename(&path, &aside);
        tracing::error!(%error, moved_to = %aside.display(), ok = moved.is_ok(), "ages of objects are not readable; all are young again");
        Self {
            path: Some(path),
            ..Self::default()
        }
    }

    /// For others to look at.
    pub(crate) fn seen(&self) -> Seen {
        self.known.clone()
    }

    /// The file that an object was taken from last.
    pub(crate) fn file(&self, key: &ObjectKey) -> Option<PathBuf> {
        let known = self.known.read();
        let file = known.get(key).map(|seen| seen.file.as_str());
        file.filter(|file| !file.is_empty()).map(PathBuf::from)
    }

    /// What is known of an object of a file whose spec has this hash; a new spec is a new generation.
    pub(crate) fn see(&mut self, key: &ObjectKey, spec: &str, file: &Path, now: i64) -> Provenance {
        let mut known = self.known.write();
        let seen = known.entry(key.clone()).or_insert_with(|| SeenObject {
            uid: uid(key, now),
            created: now,
            ..SeenObject::default()
        });
        let file = file.to_string_lossy();
        if seen.spec != spec {
            seen.generation += 1;
            seen.spec = spec.to_owned();
            self.changed.insert(key.clone());
        }
        if seen.file != file {
            seen.file = file.into_owned();
            self.changed.insert(key.clone());
        }
        Provenance {
            uid: seen.uid.clone(),
            generation: seen.generation,
            created_at: Timestamp(seen.created),
        }
    }

    /// Forgets an object: one of the same name that comes later is another one.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        if self.known.write().remove(key).is_some() {
            self.changed.insert(key.clone());
        }
    }

    /// Forgets all but these, by key and the file that they were taken from.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ObjectKey, Option<&Path>) -> bool) {
        let changed = &mut self.changed;
        self.known.write().retain(|key, seen| {
            let file = (!seen.file.is_empty()).then(|| Path::new(&seen.file));
            let is_kept = keep(key, file);
            if !is_kept {
                changed.insert(key.clone());
            }
            is_kept
        });
    }

    /// Appends what has changed, or writes the file anew, whole or not at all, when most of it is out of date.
    pub(crate) fn save(&mut self) -> Result<(), AgesError> {
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        if self.changed.is_empty() {
            return Ok(());
        }
        let failed = |source| AgesError {
            path: path.clone(),
            source,
        };
        if self.lines == 0
            && let Some(folder) = path.parent()
        {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let known = self.known.read();
        if self.is_torn || self.lines + self.changed.len() > 2 * known.len() + SLACK_LINES {
            let temporary = path.with_extension("json.new");
            let text: String = known
                .iter()
                .map(|(key, seen)| line(&Line::Age(Age::of(key, seen))))
                .collect();
            // Without the sync a power failure could leave the new name with no content.
            fs::File::create(&temporary)
                .and_then(|mut file| {
                    file.write_all(text.as_bytes())?;
                    file.sync_all()
                })
                .and_then(|()| fs::rename(&temporary, &path))
                .map_err(failed)?;
            self.lines = known.len();
            self.is_torn = false;
        } else {
            let text: String = self
                .changed
                .iter()
                .map(|key| match known.get(key) {
                    Some(seen) => line(&Line::Age(Age::of(key, seen))),
                    None => line(&Line::Gone {
                        group: key.group.clone(),
                        kind: key.kind.clone(),
                        namespace: key.namespace.clone(),
                        name: key.name.clone(),
                        gone: true,
                    }),
                })
                .collect();
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(failed)?;
            // Not synced: what the last seconds before a power failure brought may be young again.
            file.write_all(text.as_bytes()).map_err(|error| {
                self.is_torn = true; // written anew the next time
                failed(error)
            })?;
            self.lines += self.changed.len();
        }
        self.changed.clear();
        Ok(())
    }
}

fn line(line: &Line) -> String {
    // Strings and numbers alone: they always have a JSON form.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

/// A name-based UUID (RFC 9562, version 8) of the object and its first sight.
fn uid(key: &ObjectKey, now: i64) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [&key.group, &key.kind, &key.namespace, &key.name] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&now.to_le_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Where ages are kept in a data folder.
pub(crate) fn path(data: &Path) -> PathBuf {
    data.join("source").join("objects.json")
}

#[cfg(test)]
mod tests;
