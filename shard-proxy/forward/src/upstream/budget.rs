//! How many requests to a backend may be on a second attempt at once.

use std::sync::atomic::{AtomicU32, Ordering};

/// Requests that may always be.
const RETRIES_MIN: u32 = 32;
/// Of the requests in flight to the backend, one in so many may be.
const RETRIES_SHARE: u32 = 5;

/// The retry budget of one backend, shared by all workers: 32 requests at once, or a fifth of those in flight, so that a
/// backend that is down or overloaded gets no multiple of its load. Nothing is counted for a request that is sent once.
#[derive(Debug, Default)]
pub(super) struct RetryBudget(AtomicU32);

/// A request that is sent again, while it waits for its answer.
#[derive(Debug)]
pub(crate) struct Retry<'a>(&'a AtomicU32);

impl RetryBudget {
    /// Lets one more request be sent again, if there are not too many. `in_flight` is asked for when it matters.
    pub(super) fn take(&self, in_flight: impl FnOnce() -> u32) -> Option<Retry<'_>> {
        let retry = Retry(&self.0);
        let count = self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let fits = count <= RETRIES_MIN || count <= in_flight() / RETRIES_SHARE;
        fits.then_some(retry)
    }
}

impl Drop for Retry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_what_is_in_flight_is_sent_again_at_once_and_a_few_in_any_case() {
        let budget = RetryBudget::default();
        for (in_flight, expected) in [(0, 32), (160, 32), (500, 100)] {
            let mut held = Vec::new();
            while let Some(retry) = budget.take(|| in_flight) {
                held.push(retry);
            }
            assert_eq!(held.len(), expected, "{in_flight}");
        }
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
