//! operator-placement
