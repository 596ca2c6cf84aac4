//! operator-consensus
