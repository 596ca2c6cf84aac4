//! What must hold for all members together.

use std::collections::BTreeMap;

use crate::StateMachine;

/// Bytes of proposals: most are one entry, some are chunks.
const SMALL: usize = 50;
const LARGE: usize = 20_000;

/// The proposal with a number, which no other one has.
pub(super) fn content(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    let len = if number.is_multiple_of(15) {
        LARGE
    } else {
        SMALL
    };
    bytes.resize(len, number as u8);
    bytes
}

/// Hash over the proposals through one of them.
fn chained(hash: u64, index: u64, number: u64) -> u64 {
    let mut hash = hash;
    for word in [index, number] {
        hash = (hash ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
    hash
}

/// What happened to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// None when the content is not one that was proposed.
    Applied(u64, Option<u64>),
    /// Index and hash of the state that replaced it.
    Restored(u64, u64),
}

/// The replicated state: a hash over everything in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) last: u64,
    pub(super) hash: u64,
    /// Since it was last looked at.
    pub(super) events: Vec<Event>,
}

impl StateMachine for Replica {
    type Output = u64;

    fn apply(&mut self, index: u64, data: &[u8]) -> u64 {
        let number = data
            .first_chunk::<8>()
            .map(|bytes| u64::from_le_bytes(*bytes));
        let number = number.filter(|number| content(*number) == data);
        self.events.push(Event::Applied(index, number));
        let number = number.unwrap_or(u64::MAX);
        self.hash = chained(self.hash, index, number);
        self.last = index;
        number
    }

    fn snapshot(&self) -> Vec<u8> {
        [self.last.to_le_bytes(), self.hash.to_le_bytes()].concat()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let words = bytes.as_chunks::<8>().0;
        let [last, hash] = words else {
            return Err("not two numbers".to_owned());
        };
        self.last = u64::from_le_bytes(*last);
        self.hash = u64::from_le_bytes(*hash);
        self.events.push(Event::Restored(self.last, self.hash));
        Ok(())
    }
}

/// The one sequence of proposals that all members apply, as far as any of them has.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Number and hash by index.
    applied: BTreeMap<u64, (u64, u64)>,
    acknowledged: BTreeMap<u64, u64>,
    /// Highest index that a leader of a term acknowledged.
    highest_by_term: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
}

impl Model {
    /// Takes what happened to a replica that stood at `before`; gives where it stands.
    pub(super) fn follow(
        &mut self,
        before: (u64, u64),
        event: Event,
    ) -> Result<(u64, u64), String> {
        match event {
            Event::Restored(last, hash) => match self.applied.get(&last) {
                _ if (last, hash) == (0, 0) => Ok((0, 0)),
                Some((_, known)) if *known == hash => Ok((last, hash)),
                known => Err(format!(
                    "state {last}/{hash:x} was restored, known is {known:?}"
                )),
            },
            Event::Applied(index, None) => Err(format!("nobody proposed what {index} holds")),
            Event::Applied(index, Some(number)) => self.apply(before, index, number),
        }
    }

    fn apply(
        &mut self,
        (last, hash): (u64, u64),
        index: u64,
        number: u64,
    ) -> Result<(u64, u64), String> {
        let before = self.applied.range(..index).next_back();
        let before = before.map_or(0, |(index, _)| *index);
        if before != last {
            return Err(format!(
                "{index} was applied after {last} and not after {before}"
            ));
        }
        let hash = chained(hash, index, number);
        let newest = self.newest();
        match self.applied.get(&index) {
            Some(known) if *known == (number, hash) => {}
            None if newest < index => {
                self.applied.insert(index, (number, hash));
            }
            known => {
                return Err(format!(
                    "{index} is {number}, others have {known:?} up to {newest}"
                ));
            }
        }
        Ok((index, hash))
    }

    /// Index of the last proposal that anyone has applied.
    pub(super) fn newest(&self) -> u64 {
        self.applied.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// A leader of `term` has acknowledged a proposal.
    pub(super) fn acknowledge(&mut self, term: u64, index: u64, number: u64) -> Result<(), String> {
        if self.applied.get(&index).map(|(number, _)| *number) != Some(number) {
            return Err(format!(
                "{number} was acknowledged at {index} and is not there"
            ));
        }
        self.acknowledged.insert(index, number);
        let highest = self.highest_by_term.entry(term).or_default();
        *highest = index.max(*highest);
        Ok(())
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Highest index that was acknowledged.
    pub(super) fn acknowledged_through(&self) -> u64 {
        self.acknowledged
            .last_key_value()
            .map_or(0, |(index, _)| *index)
    }

    /// A member is raft's leader of a term.
    pub(super) fn leader(&mut self, term: u64, id: u64) -> Result<(), String> {
        let leader = *self.leaders.entry(term).or_insert(id);
        if leader == id {
            return Ok(());
        }
        Err(format!("{leader} and {id} lead in term {term}"))
    }

    pub(super) fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A member that has applied through `last` says that it leads in a term.
    pub(super) fn leads(&self, term: u64, last: u64) -> Result<(), String> {
        let earlier = self.highest_by_term.range(..=term);
        let needed = earlier.map(|(_, index)| *index).max().unwrap_or(0);
        if last >= needed {
            return Ok(());
        }
        Err(format!(
            "leads in term {term} with {last} applied, and {needed} was acknowledged before"
        ))
    }
}
