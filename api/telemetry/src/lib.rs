//! Tracing, metrics and their names: everything that leaves a process to be looked at.
//!
//! ```text
//!   counters in the stages --Source::collect--> Prometheus text on /metrics
//!                                         `---> OTLP metrics (OTEL_* variables)
//!   tracing spans --------------------------> log lines, OTLP traces
//! ```
//!
//! **Invariants**
//! - A metric or a log field has one name, written in [`names`], with its unit.
//! - Collecting never blocks a request: sources keep relaxed atomics and add them up when asked.
//! - Exporting never blocks either: queues are bounded and drop, counting what they drop.
//!
//! It deliberately does not know what the stages do.

pub mod admin;
mod error;
mod gather;
mod init;
pub mod metrics;
pub mod names;
mod otlp;
pub mod prometheus;
pub mod task;
pub mod trace;

pub use error::Chain;
pub use init::{InitError, LogFormat, TelemetryGuard, init};
