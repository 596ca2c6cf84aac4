//! operator-status
