//! Timers for limits that are long and seldom reached.
//!
//! Each request sets several limits of a minute and drops them microseconds later: in the runtime's wheel that costs a
//! lock, two list operations and an allocation each. Here a timer is a slot in a list of its worker, looked through once
//! a second. Bounds: one slot for each timer that waits, 32 bytes; looking through 50,000 takes some 150 us.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// From here on a limit may end up to a second late.
const LONG_MIN: Duration = Duration::from_secs(10);

thread_local! {
    static SLOTS: RefCell<Slots> = const { RefCell::new(Slots { all: Vec::new(), free: Vec::new() }) };
}

struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    /// None once it is reached, and for a free slot.
    deadline: Option<Instant>,
    waker: Option<Waker>,
}

/// Wakes whoever waits for a limit that is reached. Called by each worker once a second.
pub(crate) fn fire() {
    let now = Instant::now();
    let mut due = Vec::new();
    SLOTS.with_borrow_mut(|slots| {
        for slot in &mut slots.all {
            if slot.deadline.is_some_and(|deadline| deadline <= now) {
                slot.deadline = None;
                due.extend(slot.waker.take());
            }
        }
    });
    for waker in due {
        waker.wake();
    }
}

/// Ends at its deadline, or up to a second later when that is far away. Belongs to the worker that first polls it.
pub(crate) enum Timer {
    Exact(Pin<Box<tokio::time::Sleep>>),
    Long(Long),
}

impl Timer {
    /// A timer for a deadline `limit` from now.
    pub(crate) fn new(deadline: Instant, limit: Duration) -> Self {
        if limit < LONG_MIN {
            Self::Exact(Box::pin(tokio::time::sleep_until(deadline.into())))
        } else {
            Self::Long(Long {
                deadline,
                slot: None,
            })
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Self::Exact(sleep) => sleep.as_mut().poll(cx),
            Self::Long(long) => long.poll(cx),
        }
    }
}

impl hyper::rt::Sleep for Timer {}

/// A timer in the worker's list.
pub(crate) struct Long {
    deadline: Instant,
    /// Its slot, once polled.
    slot: Option<usize>,
}

impl Long {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A waker is dropped after the borrow has ended: it may be the last of a task that has timers itself.
        let (polled, _replaced) = SLOTS.with_borrow_mut(|slots| {
            let Some(index) = self.slot else {
                let slot = Slot {
                    deadline: Some(self.deadline),
                    waker: Some(cx.waker().clone()),
                };
                self.slot = Some(slots.insert(slot));
                return (Poll::Pending, None);
            };
            let slot = &mut slots.all[index];
            if slot.deadline.is_none() {
                return (Poll::Ready(()), None);
            }
            let same = slot
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()));
            if same {
                return (Poll::Pending, None);
            }
            (Poll::Pending, slot.waker.replace(cx.waker().clone()))
        });
        polled
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        if let Some(index) = self.slot {
            // The list is gone when the thread ends.
            let _removed = SLOTS.try_with(|slots| slots.borrow_mut().remove(index));
        }
    }
}

impl Slots {
    fn insert(&mut self, slot: Slot) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.all[index] = slot;
                index
            }
            None => {
                self.all.push(slot);
                self.all.len() - 1
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<Waker> {
        let slot = &mut self.all[index];
        slot.deadline = None;
        self.free.push(index);
        slot.waker.take()
    }
}

/// Timers for one limit of hyper's, of this length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongTimers(pub(crate) Duration);

impl hyper::rt::Timer for LongTimers {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Timer::new(Instant::now() + duration, duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Timer::new(deadline, self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_timers_are_reached_wake_and_give_their_slots_back() {
        let mut cx = Context::from_waker(Waker::noop());
        let begun = Instant::now();
        let slots = || SLOTS.with_borrow(|slots| (slots.all.len(), slots.free.len()));
        {
            let mut far = Timer::new(begun + LONG_MIN, LONG_MIN);
            // Its deadline has passed by the time that it is looked at.
            let mut near = Timer::new(begun, LONG_MIN);
            for timer in [&mut far, &mut near] {
                assert!(Pin::new(timer).poll(&mut cx).is_pending());
            }
            assert_eq!(slots(), (2, 0));
            fire();
            assert!(Pin::new(&mut far).poll(&mut cx).is_pending());
            assert!(Pin::new(&mut near).poll(&mut cx).is_ready());
        }
        assert_eq!(slots(), (2, 2));
        let mut again = Timer::new(begun + LONG_MIN, LONG_MIN);
        assert!(Pin::new(&mut again).poll(&mut cx).is_pending());
        assert_eq!(slots(), (2, 1));
    }
}
