//! How many files the process may have open: each connection is one, and one more to its endpoint.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside connections: listening sockets, the disk copy, the delta stream, the admin endpoint.
const OTHERS: u64 = 1024;

/// Raises the soft limit to the hard one, which no privilege is needed for; many systems start processes with 1,024.
/// Returns the limit that holds now, `u64::MAX` for none.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "limit of open files cannot be raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Files that so many client connections need at most.
pub(crate) fn needed(connections_max: usize) -> u64 {
    OTHERS.saturating_add((connections_max as u64).saturating_mul(2))
}

/// Raises the limit, and says so when it is lower than the settings want.
pub(crate) fn prepare(connections_max: usize) {
    let (limit, needed) = (raise_limit(), needed(connections_max));
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            connections_max,
            "too few open files are allowed for all connections; raise the limit of the service or lower connections-max"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(before.current.unwrap_or(4096).min(512)),
            maximum: before.maximum,
        };
        assert!(setrlimit(Resource::Nofile, low).is_ok());
        assert_eq!(raise_limit(), before.maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    fn each_connection_needs_two() {
        assert_eq!(needed(50_000), 101_024);
    }
}
