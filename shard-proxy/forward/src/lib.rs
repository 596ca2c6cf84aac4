//! shard-proxy-forward
