//! What shards are to be sent whole, and when. [pure]
//!
//! A shard that asks again soon after it was answered would get the same answer: each time it waits twice as long.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use api::{GatewayKey, ShardId};

/// Shortest time between two answers; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest time between two answers.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Time without a question after which all is forgiven.
const FORGET: Duration = Duration::from_secs(30);

/// A shard's Gateway, or its facts.
pub(crate) type Whole = (ShardId, Option<GatewayKey>);

/// What is owed. Bounded by the Gateways that are placed.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    due: BTreeMap<Whole, Duration>,
    asked: HashMap<Whole, Pause>,
}

#[derive(Debug)]
struct Pause {
    answered: Duration,
    next: Duration,
}

impl Owed {
    /// To be sent as soon as can be.
    pub(crate) fn now(&mut self, whole: Whole, now: Duration) {
        self.due.insert(whole, now);
    }

    /// A shard asks. Says whether it has to wait.
    pub(crate) fn asked(&mut self, whole: Whole, now: Duration) -> bool {
        if self.due.contains_key(&whole) {
            return false; // it will be answered anyway
        }
        let known = self.asked.get_mut(&whole);
        let at = match known {
            Some(pause) if now < pause.answered + FORGET => {
                let at = now.max(pause.answered + pause.next);
                pause.next = (pause.next * 2).min(PAUSE_MAX);
                pause.answered = at;
                at
            }
            _ => {
                let pause = Pause {
                    answered: now,
                    next: PAUSE_MIN,
                };
                self.asked.insert(whole.clone(), pause);
                now
            }
        };
        self.due.insert(whole, at);
        at > now
    }

    /// Whether a shard is yet to be sent this whole: what builds on it is left out.
    pub(crate) fn has(&self, shard: ShardId, gateway: Option<&GatewayKey>) -> bool {
        !self.due.is_empty() && self.due.contains_key(&(shard, gateway.cloned()))
    }

    /// A Gateway has moved on. While a shard is yet to be sent its facts, the Gateway waits for them, whole. Says whether it
    /// does.
    pub(crate) fn waits_for_facts(&mut self, shard: ShardId, gateway: &GatewayKey) -> bool {
        let Some(at) = self.due.get(&(shard, None)).copied() else {
            return false;
        };
        let due = self.due.entry((shard, Some(gateway.clone())));
        let due = due.or_insert(at);
        *due = at.max(*due);
        true
    }

    /// Whether something is to be sent.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.due.values().any(|at| *at <= now)
    }

    /// Takes what is to be sent; of each shard the facts before Gateways.
    pub(crate) fn take(&mut self, now: Duration) -> Vec<Whole> {
        let late = self.due.iter().filter(|(_, at)| **at > now);
        let facts = late.filter(|((_, gateway), _)| gateway.is_none());
        let waiting: Vec<ShardId> = facts.map(|((shard, _), _)| *shard).collect();
        let due = self
            .due
            .extract_if(.., |(shard, _), at| *at <= now && !waiting.contains(shard));
        due.map(|(whole, _)| whole).collect()
    }

    /// A Gateway has left a shard.
    pub(crate) fn forget(&mut self, shard: ShardId, gateway: &GatewayKey) {
        let whole = (shard, Some(gateway.clone()));
        self.due.remove(&whole);
        self.asked.remove(&whole);
    }

    /// A shard's stream is down: the next one begins with all that it lacks.
    pub(crate) fn disconnected(&mut self, shard: ShardId) {
        self.due.retain(|(of, _), _| *of != shard);
        self.asked.retain(|(of, _), _| *of != shard);
    }

    /// Forgets questions of long ago.
    pub(crate) fn tidy(&mut self, now: Duration) {
        self.asked.retain(|_, pause| now < pause.answered + FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_asks_again_at_once_waits_longer_each_time_and_is_forgiven() {
        let mut owed = Owed::default();
        let whole = (ShardId(0), Some(GatewayKey::new("team-a", "web")));
        let mut now = MS * 1000;
        assert!(!owed.asked(whole.clone(), now));
        assert_eq!(owed.take(now), vec![whole.clone()]);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert!(owed.asked(whole.clone(), now));
            assert!(!owed.asked(whole.clone(), now), "it is owed already");
            let begun = now;
            while owed.take(now).is_empty() {
                now += MS * 50;
            }
            waits.push((now - begun).as_millis());
        }
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        now += FORGET;
        assert!(!owed.asked(whole.clone(), now));
        owed.disconnected(ShardId(0));
        assert!(!owed.is_due(now));
        assert!(!owed.asked(whole, now), "another stream, another time");
    }
}
