//! shard-proxy-subscribe
