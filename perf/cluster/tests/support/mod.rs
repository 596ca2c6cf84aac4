//! What tests with a cluster share.

use std::io::Write;
use std::path::{Path, PathBuf};

use perf_cluster::{Cluster, down};

/// Takes the cluster down when a check fails half-way.
pub(crate) struct Ended<'a>(pub(crate) &'a Cluster);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Err(error) = down::down(self.0)
        {
            eprintln!("{error:#}");
        }
    }
}

/// Why there can be no cluster here.
pub(crate) fn reason_to_skip() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces and mounts need root");
    }
    if std::env::var("SHARDWAY_CLUSTER").as_deref() != Ok("1") {
        return Some("SHARDWAY_CLUSTER is not 1");
    }
    None
}

/// Says why a test is skipped, past the test runner, which shows what a test prints only when it fails.
pub(crate) fn say_skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Folder of the cluster's own programs.
pub(crate) fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_shardway-cluster"))
        .parent()
        .unwrap()
}

/// The tools of all clusters are below the folder that cargo builds to.
pub(crate) fn home() -> PathBuf {
    programs().parent().unwrap().join("cluster")
}
