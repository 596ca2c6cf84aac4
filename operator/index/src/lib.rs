//! operator-index
