//! Backends and load for `up`, tests and benchmarks.
//!
//! **Invariants**
//! - Everything is bounded, in count and time, and stays on this machine.
//! - What is sent is sent once: no client retries, so that a failed request is seen.

pub mod echo;
pub mod open_loop;
