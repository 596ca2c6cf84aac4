//! Lines that say what happens, with seconds since the start and of the step.

#![allow(clippy::print_stdout)] // what it prints is what it is for

use std::time::Instant;

/// A clock for the lines of one command.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    last: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
        }
    }

    /// Says what was just done and how long it took.
    pub(crate) fn done(&mut self, text: &str) {
        let now = Instant::now();
        println!(
            "cluster: {:6.1} s  {text} ({:.1} s)",
            (now - self.began).as_secs_f64(),
            (now - self.last).as_secs_f64()
        );
        self.last = now;
    }

    /// Says something that took no time.
    pub(crate) fn note(&self, text: &str) {
        println!(
            "cluster: {:6.1} s  {text}",
            self.began.elapsed().as_secs_f64()
        );
    }
}
