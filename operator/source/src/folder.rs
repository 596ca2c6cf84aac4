//! From files to events. No file system here: contents come in.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use api::ObjectKey;
use operator_objects::manifest::Document;
use operator_objects::spec::Event;

use crate::ages::Ages;
use crate::problem::Problem;

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

/// The folder as it was last seen.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    files: BTreeMap<PathBuf, File>,
    /// Which file holds an object.
    owners: BTreeMap<ObjectKey, PathBuf>,
    /// Files that have an object which another one holds.
    shadows: BTreeMap<ObjectKey, BTreeSet<PathBuf>>,
    /// Of the files that something is wrong with: few, so that all is told without looking at all.
    problems: BTreeMap<PathBuf, Vec<Problem>>,
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
    /// Documents that are no objects, by their hash, with the objects that they may be meant to be: those that were gone when
    /// they came.
    fragments: BTreeMap<Hash, BTreeSet<ObjectKey>>,
}

type Hash = [u8; 32];

#[derive(Debug)]
struct Held {
    /// Of a kind that is not looked at.
    is_ignored: bool,
    hash: Hash,
    problem: Option<Problem>,
}

/// State of one update.
#[derive(Default)]
struct Update {
    /// Seconds since the epoch.
    now: i64,
    /// Files that are still to be read in this update.
    coming: BTreeSet<PathBuf>,
    /// Objects whose file has let go of them, or was not the one to take them.
    released: Vec<ObjectKey>,
    /// Files of which something may have changed.
    touched: BTreeSet<PathBuf>,
    batch: Batch,
}

impl Folder {
    /// A folder of which nothing was seen.
    pub(crate) fn new(ages: Ages) -> Self {
        Self {
            ages,
            ..Self::default()
        }
    }

    /// Takes the present content of files; none for one that is gone. Files that are `doubted` seem to be gone, which is not
    /// believed yet: what is found in another file is that one's. `now` is in seconds since the epoch.
    ///
    /// Cost: O(documents of the files that changed), and O(problems).
    pub(crate) fn update(
        &mut self,
        changes: Vec<Change>,
        doubted: impl Fn(&Path) -> bool,
        now: i64,
    ) -> Batch {
        let readable =
            |(path, content): &Change| matches!(content, Some(Ok(_))).then(|| path.clone());
        let mut update = Update {
            now,
            coming: changes.iter().filter_map(readable).collect(),
            ..Update::default()
        };
        for (path, content) in changes {
            update.coming.remove(&path);
            update.touched.insert(path.clone());
            match content {
                None => self.remove(&path, &mut update),
                Some(Ok(text)) => self.read(&path, &text, &doubted, &mut update),
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
        self.hand_over(&mut update);
        for path in &update.touched {
            self.note_problems(path);
        }
        let mut batch = update.batch;
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
        self.problems.values().flatten().cloned().collect()
    }

    /// Whether a file holds any object.
    pub(crate) fn holds(&self, path: &Path) -> bool {
        let file = self.files.get(path);
        file.is_some_and(|file| !file.objects.is_empty())
    }

    /// Forgets ages of objects that are not in the folder, unless they may be in what cannot be read now.
    pub(crate) fn forget_absent(&mut self) {
        let incomplete: Vec<&Path> = self
            .files
            .iter()
            .filter(|(_, file)| file.is_broken || !file.fragments.is_empty())
            .map(|(path, _)| path.as_path())
            .collect();
        let owners = &self.owners;
        self.ages.retain(|key, file| {
            let may_be_below = |path: &&Path| file.is_none_or(|file| file.starts_with(path));
            owners.contains_key(key) || incomplete.iter().any(may_be_below)
        });
    }

    fn remove(&mut self, path: &Path, update: &mut Update) {
        let Some(file) = self.files.remove(path) else {
            return;
        };
        for key in file.shadowed.keys() {
            self.unshadow(key, path);
        }
        for (key, held) in file.objects {
            self.release(&key, &held, update);
        }
    }

    fn release(&mut self, key: &ObjectKey, held: &Held, update: &mut Update) {
        self.owners.remove(key);
        update.released.push(key.clone());
        if held.is_ignored {
            return; // the index never heard of it
        }
        update.batch.events.push(Event::Delete(key.clone()));
        update.batch.changed.push(key.clone());
    }

    /// Objects that a file has let go are taken from the first other file that has them.
    fn hand_over(&mut self, update: &mut Update) {
        for key in std::mem::take(&mut update.released) {
            if self.owners.contains_key(&key) {
                continue;
            }
            let heirs = self.shadows.get(&key);
            let Some(path) = heirs.and_then(|paths| paths.first()).cloned() else {
                self.ages.forget(&key);
                continue;
            };
            self.unshadow(&key, &path);
            let Some(mut file) = self.files.remove(&path) else {
                continue;
            };
            if let Some(document) = file.shadowed.remove(&key) {
                self.take(&path, document, &mut file, update);
            }
            update.touched.insert(path.clone());
            self.files.insert(path, file);
        }
    }

    fn shadow(&mut self, key: &ObjectKey, path: &Path) {
        let paths = self.shadows.entry(key.clone()).or_default();
        paths.insert(path.to_owned());
    }

    fn unshadow(&mut self, key: &ObjectKey, path: &Path) {
        if let Some(paths) = self.shadows.get_mut(key) {
            paths.remove(path);
            if paths.is_empty() {
                self.shadows.remove(key);
            }
        }
    }

    fn note_problems(&mut self, path: &Path) {
        let mut problems = Vec::new();
        if let Some(file) = self.files.get(path) {
            let held = file.objects.values();
            let held = held.filter_map(|held| held.problem.as_ref());
            problems.extend(file.problems.iter().chain(held).cloned());
            for (key, document) in &file.shadowed {
                let owner = self
                    .owners
                    .get(key)
                    .map(|owner| owner.display().to_string());
                problems.push(Problem {
                    file: path.to_owned(),
                    line: document.line,
                    object: Some(key.clone()),
                    message: format!(
                        "is in {} as well, which counts; remove one",
                        owner.unwrap_or_default()
                    ),
                    is_error: true,
                });
            }
            problems.sort();
        }
        if problems.is_empty() {
            self.problems.remove(path);
        } else {
            self.problems.insert(path.to_owned(), problems);
        }
    }
}

#[cfg(test)]
mod tests;
