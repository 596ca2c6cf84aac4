//! What is known of the objects of one watch. [pure]

use std::collections::BTreeMap;

use api::ObjectKey;
use operator_objects::spec::Event;
use serde_json::Value;

/// One object as the API server holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    /// `metadata.resourceVersion`: the same means the same object.
    pub(crate) revision: String,
    /// Hash of all but the status and what changes with it: the same means that the index has nothing to learn.
    pub(crate) content: u64,
    /// None for a kind that is not looked at.
    pub(crate) event: Option<Event>,
    pub(crate) status: Option<Value>,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// A list begins.
    ListBegins,
    /// An object of the list.
    Listed(Box<Item>),
    /// The list is complete: what is not in it is gone.
    ListEnds,
    /// An object is there, or has changed.
    Applied(Box<Item>),
    /// An object is gone.
    Deleted(ObjectKey),
}

/// What a watch has led to so far.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// For the index, in order.
    pub(crate) events: Vec<Event>,
    /// Statuses as they stand in the API server.
    pub(crate) statuses: Vec<(ObjectKey, Option<Value>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    uid: String,
    revision: String,
    content: u64,
}

/// The objects of one watch. Memory: O(objects) ids and versions; a relist holds what it changes until its end.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    known: BTreeMap<ObjectKey, Known>,
    list: Option<List>,
    is_complete: bool,
}

#[derive(Debug, Default)]
struct List {
    seen: BTreeMap<ObjectKey, Known>,
    changed: Vec<Item>,
}

impl Watched {
    /// Whether a list has been read to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes in what a watch says.
    pub(crate) fn take(&mut self, seen: Seen, out: &mut Changed) {
        match seen {
            Seen::ListBegins => self.list = Some(List::default()),
            Seen::Listed(item) => {
                let list = self.list.get_or_insert_default();
                let known = known(&item);
                if self.known.get(&item.key) != Some(&known) {
                    list.changed.push((*item).clone());
                }
                list.seen.insert(item.key, known);
            }
            Seen::ListEnds => {
                let list = self.list.take().unwrap_or_default();
                let gone = self
                    .known
                    .keys()
                    .filter(|key| !list.seen.contains_key(*key));
                let gone: Vec<ObjectKey> = gone.cloned().collect();
                for key in gone {
                    self.delete(key, out);
                }
                for item in list.changed {
                    self.apply(item, out);
                }
                self.is_complete = true;
            }
            Seen::Applied(item) => self.apply(*item, out),
            Seen::Deleted(key) => self.delete(key, out),
        }
    }

    fn apply(&mut self, item: Item, out: &mut Changed) {
        let new = known(&item);
        match self.known.get(&item.key) {
            Some(old) if *old == new => return,
            // Deleted and created again between two looks: nothing of the old one is the new one's.
            Some(old) if old.uid != new.uid => out.events.push(Event::Delete(item.key.clone())),
            _ => {}
        }
        let held = self.known.get(&item.key);
        if held.is_none_or(|old| old.uid != new.uid || old.content != new.content) {
            out.events.extend(item.event);
        }
        out.statuses.push((item.key.clone(), item.status));
        self.known.insert(item.key, new);
    }

    fn delete(&mut self, key: ObjectKey, out: &mut Changed) {
        if self.known.remove(&key).is_some() {
            out.statuses.push((key.clone(), None));
            out.events.push(Event::Delete(key));
        }
    }
}

fn known(item: &Item) -> Known {
    Known {
        uid: item.uid.clone(),
        revision: item.revision.clone(),
        content: item.content,
    }
}

#[cfg(test)]
mod tests;
