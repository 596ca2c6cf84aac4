//! What an API server would keep of each object: uid, generation, creation.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::{ObjectKey, Timestamp};
use operator_objects::Provenance;
use serde::{Deserialize, Serialize};

/// Ages cannot be kept; objects are then young again after a restart.
#[derive(Debug, thiserror::Error)]
#[error("keep ages of objects in {}", path.display())]
pub struct AgesError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Age {
    group: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    generation: i64,
    created: i64,
    /// Hash of what makes a new generation: everything but metadata and status.
    spec: String,
}

/// Ages of all objects. One writer.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    path: Option<PathBuf>,
    known: BTreeMap<ObjectKey, Age>,
    changed: bool,
}

impl Ages {
    /// Reads the ages that are kept; a file that is not readable is moved aside.
    pub(crate) fn open(path: PathBuf) -> Self {
        let mut ages = Self {
            path: Some(path.clone()),
            ..Self::default()
        };
        let Ok(text) = fs::read_to_string(&path) else {
            return ages;
        };
        match serde_json::from_str::<Vec<Age>>(&text) {
            Ok(list) => {
                for age in list {
                    ages.known.insert(
                        ObjectKey::new(&age.group, &age.kind, &age.namespace, &age.name),
                        age,
                    );
                }
            }
            Err(error) => {
                let aside = path.with_extension("json.corrupt");
                let moved = fs::rename(&path, &aside);
                tracing::error!(%error, moved_to = %aside.display(), ok = moved.is_ok(), "ages of objects are not readable; all are young again");
            }
        }
        ages
    }

    /// What is known of an object whose spec has this hash; a new spec is a new generation.
    pub(crate) fn see(&mut self, key: &ObjectKey, spec: &str, now: i64) -> Provenance {
        let age = self.known.entry(key.clone()).or_insert_with(|| {
            self.changed = true;
            Age {
                group: key.group.clone(),
                kind: key.kind.clone(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: uid(key, now),
                generation: 0,
                created: now,
                spec: String::new(),
            }
        });
        if age.spec != spec {
            age.generation += 1;
            age.spec = spec.to_owned();
            self.changed = true;
        }
        Provenance {
            uid: age.uid.clone(),
            generation: age.generation,
            created_at: Timestamp(age.created),
        }
    }

    /// Forgets an object: one of the same name that comes later is another one.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.changed |= self.known.remove(key).is_some();
    }

    /// Forgets all but these.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ObjectKey) -> bool) {
        let before = self.known.len();
        self.known.retain(|key, _| keep(key));
        self.changed |= before != self.known.len();
    }

    /// Writes what has changed, whole or not at all.
    pub(crate) fn save(&mut self) -> Result<(), AgesError> {
        let (Some(path), true) = (&self.path, self.changed) else {
            return Ok(());
        };
        let failed = |source| AgesError {
            path: path.clone(),
            source,
        };
        let list: Vec<&Age> = self.known.values().collect();
        let text = serde_json::to_vec(&list).map_err(|error| failed(error.into()))?;
        let temporary = path.with_extension("json.new");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(failed)?;
        self.changed = false;
        Ok(())
    }
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
