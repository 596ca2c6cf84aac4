//! What a table is compared with: entries, an oracle written from the specification, and requests.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod explains;
mod fixture;
mod oracle;
mod precedence;
mod property;
mod sharing;
