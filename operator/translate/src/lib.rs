//! operator-translate
