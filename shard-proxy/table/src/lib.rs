//! shard-proxy-table
