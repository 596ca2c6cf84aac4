//! A network that loses, doubles, reorders and delays messages, and that is cut.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::StdRng;

/// Messages that wait; of more than these the oldest are lost.
const WAITING_MAX: usize = 400;

#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) snapshot: bool,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    waiting: Vec<Sent>,
    /// From, to: nothing passes.
    cut: BTreeSet<(u64, u64)>,
    /// Chances of a message.
    pub(super) lost: f64,
    pub(super) doubled: f64,
    pub(super) delayed: f64,
}

impl Network {
    pub(super) fn send(&mut self, sent: Sent) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.remove(0);
        }
        self.waiting.push(sent);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next message, and whether it arrives. Mostly an old one, sometimes any, sometimes one that comes again.
    pub(super) fn next(&mut self, random: &mut StdRng) -> Option<(Sent, bool)> {
        if self.waiting.is_empty() {
            return None;
        }
        let among = if random.random_bool(self.delayed) {
            self.waiting.len()
        } else {
            self.waiting.len().min(3)
        };
        let at = random.random_range(0..among);
        let sent = if random.random_bool(self.doubled) {
            self.waiting[at].clone()
        } else {
            self.waiting.remove(at)
        };
        let arrives = !self.cut.contains(&(sent.from, sent.to)) && !random.random_bool(self.lost);
        Some((sent, arrives))
    }

    /// Cuts the members into two halves, one of them off, or one way between two.
    pub(super) fn cut(&mut self, ids: &[u64], leader: Option<u64>, random: &mut StdRng) {
        self.cut.clear();
        let any = |random: &mut StdRng| {
            let leader = leader.filter(|_| random.random_bool(0.5));
            leader.unwrap_or(ids[random.random_range(0..ids.len())])
        };
        match random.random_range(0..4) {
            0 => {
                let one = any(random);
                for id in ids {
                    self.cut.extend([(one, *id), (*id, one)]);
                }
            }
            1 => {
                let one = any(random);
                // It hears all and nobody hears it, or the other way round.
                let hears = random.random_bool(0.5);
                let pairs = ids
                    .iter()
                    .map(|id| if hears { (one, *id) } else { (*id, one) });
                self.cut.extend(pairs);
            }
            2 => {
                let pair = (any(random), any(random));
                self.cut.insert(pair);
            }
            _ => {
                let left: BTreeSet<u64> = ids
                    .iter()
                    .copied()
                    .filter(|_| random.random_bool(0.5))
                    .collect();
                for from in ids {
                    for to in ids {
                        if left.contains(from) != left.contains(to) {
                            self.cut.insert((*from, *to));
                        }
                    }
                }
            }
        }
    }

    pub(super) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Works from now on.
    pub(super) fn heal(&mut self) {
        self.mend();
        (self.lost, self.doubled, self.delayed) = (0.0, 0.0, 0.0);
    }
}
