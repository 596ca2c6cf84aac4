//! From files to events. No file system here: contents come in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::ObjectKey;
use operator_objects::decode::{Decoded, decode};
use operator_objects::manifest::{Document, parse};
use operator_objects::spec::Event;

use crate::ages::Ages;

/// What a change of the folder leads to.
#[derive(Debug, Default)]
pub struct Batch {
    /// For the index, in order.
    pub events: Vec<Event>,
    /// Objects that changed, for the change log.
    pub changed: Vec<ObjectKey>,
    /// What is wrong with the folder now: all problems, not only new ones.
    pub problems: Vec<Problem>,
}

/// The present content of a file, or why it cannot be read; none for one that is gone.
pub(crate) type Change = (PathBuf, Option<Result<String, String>>);

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Which file.
    pub file: PathBuf,
    /// Where in it, from 1.
    pub line: usize,
    /// The object at fault, if it can be told.
    pub object: Option<ObjectKey>,
    /// What is wrong, and the fix.
    pub message: String,
    /// Whether it is an error; kinds that are not looked at are none.
    pub is_error: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The folder as it was last seen.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    files: BTreeMap<PathBuf, File>,
    /// Which file holds an object.
    owners: BTreeMap<ObjectKey, PathBuf>,
    pub(crate) ages: Ages,
}

#[derive(Debug, Default)]
struct File {
    /// Not all of it could be read: objects that are not found may be in the rest.
    is_broken: bool,
    objects: BTreeMap<ObjectKey, Held>,
    problems: Vec<Problem>,
    /// Objects that another file holds, to be taken when that one lets go.
    shadowed: BTreeMap<ObjectKey, Document>,
}

#[derive(Debug)]
struct Held {
    /// Of a kind that is not looked at.
    is_ignored: bool,
    hash: [u8; 32],
    problem: Option<Problem>,
}

impl Folder {
    /// A folder of which nothing was seen.
    pub(crate) fn new(ages: Ages) -> Self {
        Self {
            ages,
            ..Self::default()
        }
    }

    /// Takes the present content of files; none for one that is gone. `now` is in seconds since the epoch.
    pub(crate) fn update(&mut self, changes: Vec<Change>, now: i64) -> Batch {
        let mut batch = Batch::default();
        let mut released = Vec::new();
        for (path, content) in changes {
            match content {
                None => self.remove(&path, &mut released, &mut batch),
                Some(Ok(text)) => self.read(&path, &text, now, &mut released, &mut batch),
                Some(Err(message)) => {
                    let problem = Problem {
                        file: path.clone(),
                        line: 1,
                        object: None,
                        message,
                        is_error: true,
                    };
                    let file = self.files.entry(path).or_default();
                    file.is_broken = true;
                    file.problems = vec![problem];
                }
            }
        }
        self.hand_over(released, now, &mut batch);
        // An object that moved to another file is not deleted in between.
        batch
            .events
            .retain(|event| !matches!(event, Event::Delete(key) if self.owners.contains_key(key)));
        batch.changed.sort();
        batch.changed.dedup();
        batch.problems = self.problems();
        batch
    }

    /// All that is wrong now.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .files
            .values()
            .flat_map(|file| {
                file.problems.iter().chain(
                    file.objects
                        .values()
                        .filter_map(|held| held.problem.as_ref()),
                )
            })
            .cloned()
            .collect();
        problems.sort();
        problems
    }

    /// Forgets ages of objects that are not in the folder, unless they may be in what cannot be read now.
    pub(crate) fn forget_absent(&mut self) {
        if self.files.values().all(|file| !file.is_broken) {
            let owners = &self.owners;
            self.ages.retain(|key| owners.contains_key(key));
        }
    }

    fn remove(&mut self, path: &Path, released: &mut Vec<ObjectKey>, batch: &mut Batch) {
        let Some(file) = self.files.remove(path) else {
            return;
        };
        for (key, held) in file.objects {
            self.release(&key, &held, released, batch);
        }
    }

    fn release(
        &mut self,
        key: &ObjectKey,
        held: &Held,
        released: &mut Vec<ObjectKey>,
        batch: &mut Batch,
    ) {
        self.owners.remove(key);
        released.push(key.clone());
        if held.is_ignored {
            return; // the index never heard of it
        }
        batch.events.push(Event::Delete(key.clone()));
        batch.changed.push(key.clone());
    }

    fn read(
        &mut self,
        path: &Path,
        text: &str,
        now: i64,
        released: &mut Vec<ObjectKey>,
        batch: &mut Batch,
    ) {
        let mut file = self.files.remove(path).unwrap_or_default();
        file.problems.clear();
        file.shadowed.clear();
        let mut seen: BTreeMap<ObjectKey, usize> = BTreeMap::new();
        let mut broken = false;
        for document in parse(text) {
            let problem = |line, object, message| Problem {
                file: path.to_owned(),
                line,
                object,
                message,
                is_error: true,
            };
            let document = match document {
                Ok(document) => document,
                Err(error) => {
                    broken = true;
                    file.problems.push(problem(error.line, None, error.message));
                    continue;
                }
            };
            let key = document.key();
            if let Some(line) = seen.get(&key) {
                let message = format!("is in this file twice, first at line {line}; remove one");
                file.problems
                    .push(problem(document.line, Some(key), message));
                continue;
            }
            seen.insert(key.clone(), document.line);
            if let Some(owner) = self.owners.get(&key).filter(|owner| *owner != path) {
                let message = format!(
                    "is in {} as well, which counts; remove one",
                    owner.display()
                );
                file.problems
                    .push(problem(document.line, Some(key.clone()), message));
                file.shadowed.insert(key, document);
                continue;
            }
            self.take(path, document, &mut file, now, batch);
        }
        // Of a file that is broken somewhere, what is no longer found may just be unreadable: it stays as it was.
        if !broken {
            let gone: Vec<ObjectKey> = file
                .objects
                .keys()
                .filter(|key| !seen.contains_key(*key))
                .cloned()
                .collect();
            for key in gone {
                if let Some(held) = file.objects.remove(&key) {
                    self.release(&key, &held, released, batch);
                }
            }
        }
        file.is_broken = broken;
        self.files.insert(path.to_owned(), file);
    }

    fn take(
        &mut self,
        path: &Path,
        document: Document,
        file: &mut File,
        now: i64,
        batch: &mut Batch,
    ) {
        let key = document.key();
        let hash = *blake3::hash(document.object.to_string().as_bytes()).as_bytes();
        if let Some(held) = file.objects.get_mut(&key)
            && held.hash == hash
        {
            if let Some(problem) = &mut held.problem {
                problem.line = document.line;
            }
            return;
        }
        let mut spec = document.object.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("metadata");
            fields.remove("status");
        }
        let spec = blake3::hash(spec.to_string().as_bytes()).to_hex();
        let provenance = self.ages.see(&key, &spec, now);
        let (event, message, is_error) = match decode(&document, &provenance) {
            Decoded::Object(object) => (Some(Event::Apply(object)), None, false),
            Decoded::Rejected(rejected) => {
                let message = rejected.message.clone();
                (Some(Event::Reject(rejected)), Some(message), true)
            }
            Decoded::Ignored(message) => (None, Some(message), false),
        };
        let problem = message.map(|message| Problem {
            file: path.to_owned(),
            line: document.line,
            object: Some(key.clone()),
            message,
            is_error,
        });
        let is_ignored = event.is_none();
        if let Some(event) = event {
            batch.events.push(event);
            batch.changed.push(key.clone());
        }
        self.owners.insert(key.clone(), path.to_owned());
        file.objects.insert(
            key,
            Held {
                is_ignored,
                hash,
                problem,
            },
        );
    }

    /// Objects that a file has let go are taken from the first other file that has them.
    fn hand_over(&mut self, released: Vec<ObjectKey>, now: i64, batch: &mut Batch) {
        for key in released {
            let heir = self
                .files
                .iter()
                .find(|(_, file)| file.shadowed.contains_key(&key))
                .map(|(path, _)| path.clone());
            let Some(path) = heir else {
                if !self.owners.contains_key(&key) {
                    self.ages.forget(&key);
                }
                continue;
            };
            let Some(mut file) = self.files.remove(&path) else {
                continue;
            };
            if let Some(document) = file.shadowed.remove(&key) {
                file.problems
                    .retain(|problem| problem.object.as_ref() != Some(&key));
                self.take(&path, document, &mut file, now, batch);
            }
            self.files.insert(path, file);
        }
    }
}

#[cfg(test)]
mod tests;
