//! One file's content: which documents are new, changed or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use api::ObjectKey;
use operator_objects::decode::{Decoded, decode};
use operator_objects::manifest::{Document, Fragment, parse};
use operator_objects::spec::Event;

use super::{File, Folder, Hash, Held, Update};
use crate::ages::spec_hash;
use crate::problem::Problem;

impl Folder {
    pub(super) fn read(
        &mut self,
        path: &Path,
        text: &str,
        doubted: &impl Fn(&Path) -> bool,
        update: &mut Update,
    ) {
        let mut file = self.files.remove(path).unwrap_or_default();
        file.problems.clear();
        for key in std::mem::take(&mut file.shadowed).into_keys() {
            self.unshadow(&key, path);
        }
        let mut seen: BTreeMap<ObjectKey, usize> = BTreeMap::new();
        let mut fragments = Vec::new();
        let mut is_broken = false;
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
                    is_broken |= error.fragment.is_none();
                    fragments.extend(error.fragment.map(|fragment| *fragment));
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
            if self.is_anothers(&key, path, doubted, update) {
                self.shadow(&key, path);
                file.shadowed.insert(key, document);
                continue;
            }
            self.take(path, document, &mut file, update);
        }
        file.is_broken = is_broken;
        // Of a file whose syntax is broken somewhere, what is no longer found may just be unreadable: it stays as it was.
        if !is_broken {
            for key in gone(&mut file, &seen, fragments) {
                if let Some(held) = file.objects.remove(&key) {
                    self.release(&key, &held, update);
                }
            }
        }
        self.files.insert(path.to_owned(), file);
    }

    /// Whether an object is to be taken from another file: the one that holds it, or held it before a restart and is about to
    /// be read.
    fn is_anothers(
        &mut self,
        key: &ObjectKey,
        path: &Path,
        doubted: &impl Fn(&Path) -> bool,
        update: &mut Update,
    ) -> bool {
        match self.owners.get(key) {
            Some(owner) if owner == path => false,
            Some(owner) if doubted(owner) => {
                // It moved here; when its old file is found to be gone, nothing is left in it to delete.
                if let Some(old) = self.files.get_mut(owner) {
                    old.objects.remove(key);
                    update.touched.insert(owner.clone());
                }
                false
            }
            Some(_) => true,
            None => {
                let last = self.ages.file(key);
                let is_anothers =
                    last.is_some_and(|last| last != path && update.coming.contains(&last));
                if is_anothers {
                    // Should that file have it no longer, it is this one's after all.
                    update.released.push(key.clone());
                }
                is_anothers
            }
        }
    }

    pub(super) fn take(
        &mut self,
        path: &Path,
        document: Document,
        file: &mut File,
        update: &mut Update,
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
        let spec = spec_hash(&document.object);
        let provenance = self.ages.see(&key, &spec, path, update.now);
        let (event, message, is_error) = match decode(&document, &provenance) {
            Decoded::Object(object) => (Some(Event::Apply(object)), None, false),
            Decoded::Rejected(rejected) => {
                let message = rejected.message.clone();
                (Some(Event::Reject(rejected)), Some(message), true)
            }
            Decoded::Ignored { message, is_error } => (None, Some(message), is_error),
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
            update.batch.events.push(event);
            update.batch.changed.push(key.clone());
        }
        let before = self.owners.insert(key.clone(), path.to_owned());
        if before.is_none_or(|before| before != path) {
            // They name the file that counts.
            update
                .touched
                .extend(self.shadows.get(&key).into_iter().flatten().cloned());
        }
        file.objects.insert(
            key,
            Held {
                is_ignored,
                hash,
                problem,
            },
        );
    }
}

/// Objects that a file has no longer. One that went when a document came that is no object may be what that document is
/// meant to be: it stays as it was for as long as the document does.
fn gone(
    file: &mut File,
    seen: &BTreeMap<ObjectKey, usize>,
    fragments: Vec<Fragment>,
) -> Vec<ObjectKey> {
    let missing = || file.objects.keys().filter(|key| !seen.contains_key(*key));
    let mut kept: BTreeMap<Hash, BTreeSet<ObjectKey>> = BTreeMap::new();
    for fragment in fragments {
        let hash = *blake3::hash(fragment.object.to_string().as_bytes()).as_bytes();
        let known = file.fragments.get(&hash);
        let meant = missing().filter(|key| match known {
            Some(known) => known.contains(*key),
            None => fragment.may_be(key),
        });
        kept.entry(hash).or_default().extend(meant.cloned());
    }
    let gone = missing()
        .filter(|key| !kept.values().any(|keys| keys.contains(*key)))
        .cloned()
        .collect();
    file.fragments = kept;
    gone
}
