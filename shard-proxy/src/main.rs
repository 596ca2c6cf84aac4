//! shard-proxy

fn main() {}
