//! A bucket that fills with time: so many at once after a pause, so many in a second over time. [pure]

use std::time::Duration;

use tokio::time::Instant;

/// A bucket. What is taken from it beyond what it holds has to wait, or is refused.
#[derive(Debug)]
pub(crate) struct Pace {
    per_sec: f64,
    at_once: f64,
    filled: f64,
    at: Instant,
}

impl Pace {
    /// A full one.
    pub(crate) fn new(per_sec: f64, at_once: f64, now: Instant) -> Self {
        Self {
            per_sec,
            at_once,
            filled: at_once,
            at: now,
        }
    }

    /// Takes one; how long it has to wait.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.filled -= 1.0;
        if self.filled >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.filled / self.per_sec)
        }
    }

    /// Takes one if it need not wait.
    pub(crate) fn try_take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.filled >= 1.0;
        if is_there {
            self.filled -= 1.0;
        }
        is_there
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.filled = (self.filled + passed * self.per_sec).min(self.at_once);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_paced() {
        let now = Instant::now();
        let mut pace = Pace::new(100.0, 200.0, now);
        for _ in 0..200 {
            assert_eq!(pace.take(now), Duration::ZERO);
        }
        let wait = pace.take(now);
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(20));
        assert!(!pace.try_take(now));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(later), Duration::ZERO);
        assert!(pace.try_take(later));
    }
}
