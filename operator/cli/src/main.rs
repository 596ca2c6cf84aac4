//! operator-cli

fn main() {}
