#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use operator_objects::spec::Rejected;
use proptest::prelude::*;

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("", "Service", "team-a", name)
}

/// An item whose event tells its revision.
fn item(name: &str, uid: &str, revision: u32) -> Box<Item> {
    Box::new(Item {
        key: key(name),
        uid: uid.to_owned(),
        revision: revision.to_string(),
        content: u64::from(revision),
        event: Some(Event::Reject(Rejected {
            key: key(name),
            generation: i64::from(revision),
            message: uid.to_owned(),
            parents: Vec::new(),
        })),
        status: None,
    })
}

fn take(watched: &mut Watched, seen: impl IntoIterator<Item = Seen>) -> Vec<String> {
    let mut out = Changed::default();
    for seen in seen {
        watched.take(seen, &mut out);
    }
    let text = |event: &Event| match event {
        Event::Reject(rejected) => {
            format!(
                "{} {} {}",
                rejected.key.name, rejected.message, rejected.generation
            )
        }
        Event::Delete(key) => format!("{} gone", key.name),
        Event::Apply(_) => unreachable!(),
    };
    out.events.iter().map(text).collect()
}

#[test]
fn a_list_counts_at_its_end_and_hands_on_what_differs() {
    let mut watched = Watched::default();
    let first = [
        Seen::ListBegins,
        Seen::Listed(item("a", "1", 1)),
        Seen::Listed(item("b", "2", 2)),
    ];
    assert!(take(&mut watched, first).is_empty() && !watched.is_complete());
    assert_eq!(take(&mut watched, [Seen::ListEnds]), ["a 1 1", "b 2 2"]);
    assert!(watched.is_complete());
    let second = [
        Seen::ListBegins,
        Seen::Listed(item("b", "2", 2)),
        Seen::Listed(item("c", "3", 5)),
    ];
    assert!(take(&mut watched, second).is_empty());
    assert_eq!(take(&mut watched, [Seen::ListEnds]), ["a gone", "c 3 5"]);
}

#[test]
fn a_name_with_another_uid_is_another_object() {
    let mut watched = Watched::default();
    assert_eq!(
        take(&mut watched, [Seen::Applied(item("a", "1", 1))]),
        ["a 1 1"]
    );
    assert_eq!(
        take(&mut watched, [Seen::Applied(item("a", "9", 7))]),
        ["a gone", "a 9 7"]
    );
    assert!(take(&mut watched, [Seen::Applied(item("a", "9", 7))]).is_empty());
    assert_eq!(take(&mut watched, [Seen::Deleted(key("a"))]), ["a gone"]);
    assert!(take(&mut watched, [Seen::Deleted(key("a"))]).is_empty());
}

#[test]
fn a_change_of_the_status_alone_is_no_event() {
    let mut watched = Watched::default();
    take(&mut watched, [Seen::Applied(item("a", "1", 1))]);
    let mut same = item("a", "1", 2);
    same.content = 1;
    let mut out = Changed::default();
    watched.take(Seen::Applied(same), &mut out);
    assert!(out.events.is_empty());
    assert_eq!(out.statuses.len(), 1);
}

#[test]
fn a_list_that_is_broken_off_changes_nothing() {
    let mut watched = Watched::default();
    take(
        &mut watched,
        [
            Seen::ListBegins,
            Seen::Listed(item("a", "1", 1)),
            Seen::ListEnds,
        ],
    );
    let broken = [
        Seen::ListBegins,
        Seen::Listed(item("b", "2", 2)),
        Seen::ListBegins,
    ];
    assert!(take(&mut watched, broken).is_empty());
    let again = [Seen::Listed(item("a", "1", 1)), Seen::ListEnds];
    assert!(take(&mut watched, again).is_empty());
}

proptest! {
    /// Whatever was missed: after a list, what was handed on adds up to what is there.
    #[test]
    fn what_is_handed_on_adds_up_to_what_is_there(
        rounds in proptest::collection::vec(
            (any::<bool>(), proptest::collection::btree_map(0..6_u8, (0..3_u8, 0..4_u32), 0..6)), 1..12)
    ) {
        let mut watched = Watched::default();
        let mut held: BTreeMap<String, (String, i64)> = BTreeMap::new();
        for (is_watched, objects) in rounds {
            let mut out = Changed::default();
            let items = objects.iter().map(|(n, (uid, revision))| item(&n.to_string(), &uid.to_string(), *revision));
            if is_watched {
                let gone: Vec<ObjectKey> = held.keys().filter(|n| !objects.contains_key(&n.parse().unwrap())).map(|n| key(n)).collect();
                gone.into_iter().for_each(|key| watched.take(Seen::Deleted(key), &mut out));
                items.for_each(|item| watched.take(Seen::Applied(item), &mut out));
            } else {
                watched.take(Seen::ListBegins, &mut out);
                items.for_each(|item| watched.take(Seen::Listed(item), &mut out));
                watched.take(Seen::ListEnds, &mut out);
            }
            for event in out.events {
                match event {
                    Event::Delete(key) => { held.remove(&key.name); }
                    Event::Reject(rejected) => {
                        held.insert(rejected.key.name, (rejected.message, rejected.generation));
                    }
                    Event::Apply(_) => unreachable!(),
                }
            }
            let there: BTreeMap<String, (String, i64)> = objects.into_iter()
                .map(|(n, (uid, revision))| (n.to_string(), (uid.to_string(), i64::from(revision)))).collect();
            prop_assert_eq!(&held, &there);
        }
    }
}
