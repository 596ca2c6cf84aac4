//! perf-load
