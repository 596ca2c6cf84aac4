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

/// Client connections that so many files are enough for.
fn connections(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(OTHERS) / 2)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Raises the limit. Returns how many client connections to take: as many as were asked for, or as there are files for,
/// so that a flood is refused and does not take the files of everything else.
pub(crate) fn prepare(connections_max: usize) -> usize {
    let limit = raise_limit();
    let possible = connections(limit);
    if possible < connections_max {
        tracing::info!(
            limit,
            possible,
            connections_max,
            "fewer connections are taken than connections-max: no more files may be open; raise the limit of the service"
        );
    }
    possible.min(connections_max)
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
        assert_eq!(connections(101_024), 50_000);
        assert_eq!(connections(20_000), 9_488);
        assert_eq!(connections(100), 1);
    }
}
