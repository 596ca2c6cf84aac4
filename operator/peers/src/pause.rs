//! Time between two attempts.

use std::time::Duration;

/// First pause after a connection broke; it doubles up to [`MAX`] and is cut by up to a half at random.
const MIN: Duration = Duration::from_millis(25);
/// Longest pause: an election takes longer.
const MAX: Duration = Duration::from_millis(800);
/// An attempt that lasted so long is no failure: the next one comes soon.
const LASTED: Duration = Duration::from_secs(2);

/// Pauses that grow while attempts fail.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
    random: u64,
}

impl Pause {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            next: MIN,
            random: seed.wrapping_add(1),
        }
    }

    /// The pause after an attempt that lasted `lasted`.
    pub(crate) fn next(&mut self, lasted: Duration) -> Duration {
        if lasted > LASTED {
            self.next = MIN;
        }
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let half = self.next.as_micros() as u64 / 2;
        self.next = (self.next * 2).min(MAX);
        Duration::from_micros(half + (self.random >> 33) % half.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_a_connection_that_lasted() {
        let mut pause = Pause::new(1);
        let pauses: Vec<Duration> = (0..10).map(|_| pause.next(Duration::ZERO)).collect();
        assert!(pauses[0] <= MIN);
        assert!(pauses[9] >= MAX / 2 && pauses[9] <= MAX);
        assert!(pause.next(LASTED * 2) <= MIN);
    }
}
