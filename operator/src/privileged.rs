//! Whether ports below 1024 may be bound here.

use crate::config::PrivilegedPorts;

/// CAP_NET_BIND_SERVICE, linux/capability.h.
const NET_BIND_SERVICE: u64 = 1 << 10;

/// Ports below this one may not be bound.
pub(crate) fn below(asked: PrivilegedPorts) -> u16 {
    match asked {
        PrivilegedPorts::Yes => 0,
        PrivilegedPorts::No => 1024,
        PrivilegedPorts::Auto if has_capability() => 0,
        PrivilegedPorts::Auto => {
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(1024)
        }
    }
}

/// Shards run as this process does, so its own effective capabilities tell.
fn has_capability() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|effective| effective & NET_BIND_SERVICE != 0)
}
