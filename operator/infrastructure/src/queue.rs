//! Which places are to be looked at: each once, one after the other, with pauses after failures.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::known::Place;

/// Pauses after failures: doubled each time, with a random part.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Rounds of writes after which somebody else must be writing the same fields; then there are pauses too.
const ROUNDS_MAX: u32 = 6;

/// Bounded by the number of Gateways, and of objects that there are.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Place>,
    queued: BTreeSet<Place>,
    /// Those that are worked on; they come again anyway.
    under_way: BTreeSet<Place>,
    efforts: BTreeMap<Place, Effort>,
    retries: BTreeSet<(Instant, Place)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Effort {
    failures: u32,
    rounds: u32,
    due: Option<Instant>,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Something was written; there may be more.
    Written,
    /// It failed; not again before so long.
    Failed(Duration),
}

impl Queue {
    /// Something changed there.
    pub(crate) fn mark(&mut self, place: &Place) {
        if self.under_way.contains(place) {
            return;
        }
        // What failed waits: an API server that is in trouble is not to be asked at each change.
        let waits = self.efforts.get(place).is_some_and(|of| of.due.is_some());
        if !waits && self.queued.insert(place.clone()) {
            self.waiting.push_back(place.clone());
        }
    }

    /// Something else is wanted there: what failed before may not fail now.
    pub(crate) fn mark_anew(&mut self, place: &Place) {
        self.forget(place);
        self.mark(place);
    }

    /// The next one.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Place> {
        while let Some((due, place)) = self.retries.first().cloned() {
            if due > now {
                break;
            }
            self.retries.remove(&(due, place.clone()));
            if let Some(effort) = self.efforts.get_mut(&place) {
                effort.due = None;
            }
            self.mark(&place);
        }
        let place = self.waiting.pop_front()?;
        self.queued.remove(&place);
        Some(place)
    }

    /// When one that failed is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retries.first().map(|(due, _)| *due)
    }

    /// Work on it begins.
    pub(crate) fn begin(&mut self, place: &Place) {
        self.under_way.insert(place.clone());
    }

    /// There was nothing to do.
    pub(crate) fn settle(&mut self, place: &Place) {
        self.forget(place);
    }

    /// Work on it has ended. It comes again, for there may be more.
    pub(crate) fn end(&mut self, place: &Place, outcome: Outcome, now: Instant) {
        self.under_way.remove(place);
        let effort = self.efforts.entry(place.clone()).or_default();
        let pause = match outcome {
            Outcome::Written => {
                effort.failures = 0;
                effort.rounds = effort.rounds.saturating_add(1);
                let fights = effort.rounds.checked_sub(ROUNDS_MAX);
                fights.map(|rounds| pause(rounds.saturating_add(2)))
            }
            Outcome::Failed(least) => {
                let failures = effort.failures;
                effort.failures = failures.saturating_add(1);
                Some(pause(failures).max(least))
            }
        };
        match pause {
            Some(pause) => {
                let due = now + pause;
                effort.due = Some(due);
                self.retries.insert((due, place.clone()));
            }
            None => self.mark(place),
        }
    }

    /// Rounds that were needed so far, when they are too many.
    pub(crate) fn fights(&self, place: &Place) -> Option<u32> {
        let rounds = self.efforts.get(place)?.rounds;
        (rounds >= ROUNDS_MAX).then_some(rounds)
    }

    /// How many wait, for their turn or for a pause to end.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.retries.len()
    }

    fn forget(&mut self, place: &Place) {
        if let Some(effort) = self.efforts.remove(place)
            && let Some(due) = effort.due
        {
            self.retries.remove(&(due, place.clone()));
        }
    }
}

fn pause(failures: u32) -> Duration {
    let base = AGAIN.0 * 2_u32.saturating_pow(failures.min(16));
    // Half of it is random.
    let random = RandomState::new().hash_one(failures) as u32;
    let share = f64::from(random) / f64::from(u32::MAX);
    base.min(AGAIN.1).mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        Place::new("a", name)
    }

    #[test]
    fn each_place_waits_once_and_comes_again_when_it_changes_under_way() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["x", "y", "x"] {
            queue.mark(&place(name));
        }
        assert_eq!(queue.next(now), Some(place("x")));
        queue.begin(&place("x"));
        queue.mark(&place("x"));
        assert_eq!(queue.next(now), Some(place("y")));
        assert_eq!(queue.next(now), None);
        queue.end(&place("x"), Outcome::Written, now);
        assert_eq!(queue.next(now), Some(place("x")));
        queue.settle(&place("x"));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn what_fails_waits_longer_each_time_and_changes_do_not_shorten_it() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let x = place("x");
        queue.mark(&x);
        for failures in 0..30 {
            assert_eq!(queue.next(now), Some(x.clone()), "{failures}");
            queue.begin(&x);
            queue.end(&x, Outcome::Failed(Duration::ZERO), now);
            queue.mark(&x);
            assert_eq!(queue.next(now), None);
            let due = queue.due();
            assert!(due.is_some_and(|due| due <= now + AGAIN.1));
            now = due.unwrap_or(now);
        }
        assert_eq!(queue.next(now), Some(x.clone()));
        queue.begin(&x);
        queue.end(&x, Outcome::Failed(Duration::from_secs(90)), now);
        assert_eq!(queue.due(), Some(now + Duration::from_secs(90)));
        queue.mark_anew(&x);
        assert_eq!(queue.next(now), Some(x));
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn a_fight_over_a_field_slows_down() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let x = place("x");
        queue.mark(&x);
        let mut rounds = 0;
        while let Some(next) = queue.next(now) {
            queue.begin(&next);
            queue.end(&next, Outcome::Written, now);
            rounds += 1;
            assert!(rounds <= ROUNDS_MAX);
        }
        assert_eq!(rounds, ROUNDS_MAX);
        assert_eq!(queue.fights(&x), Some(ROUNDS_MAX));
        queue.mark_anew(&x);
        assert_eq!(queue.fights(&x), None);
    }
}
