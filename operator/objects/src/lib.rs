//! operator-objects
pub mod spec;
