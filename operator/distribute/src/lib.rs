//! operator-distribute
