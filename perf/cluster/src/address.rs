//! Addresses inside the namespace. No other network sees them, so every cluster has the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The node's own.
pub const NODE: &str = "10.99.0.1";
/// The node's own, IPv6.
pub const NODE_6: &str = "fd00:10:99::1";
/// Where the API server answers.
pub const API_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 6443);
/// Where etcd answers.
pub const ETCD: &str = "http://127.0.0.1:2379";
/// Range of pods.
pub const PODS: &str = "10.244.0.0/16";
/// Range of pods, IPv6.
pub const PODS_6: &str = "fd00:10:244::/64";
/// Range of Services inside the cluster.
pub const SERVICES: &str = "10.96.0.0/16";
/// Range of Services inside the cluster, IPv6.
pub const SERVICES_6: &str = "fd00:10:96::/112";
/// The first of [`SERVICES`], which the API server takes for itself.
pub const KUBERNETES_SERVICE: &str = "10.96.0.1";
/// Address of the cluster's DNS.
pub const DNS: &str = "10.96.0.10";
/// Range that the load-balancer allocator gives from.
pub const LOAD_BALANCERS: &str = "10.98.0.0/24";
/// Range that the load-balancer allocator gives from, IPv6.
pub const LOAD_BALANCERS_6: &str = "fd00:10:98::/120";
/// Name of the only node.
pub const NODE_NAME: &str = "node-0";
