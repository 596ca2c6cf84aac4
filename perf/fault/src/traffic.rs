//! Traffic from the cluster's network, in a thread of its own, and what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use perf_cluster::Cluster;
use perf_load::open_loop::{self, Failure, Kind, Report, Settings, Target};

/// A request that has no answer by then has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Traffic before a fault: without it nobody knows that all was well.
const BEFORE: Duration = Duration::from_secs(3);
/// Traffic after it.
const AFTER: Duration = Duration::from_secs(3);

/// Traffic that runs.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Report>>,
}

impl Traffic {
    /// Starts it and lets it run for a while.
    pub(crate) fn start(cluster: &Cluster, targets: Vec<Target>, per_sec: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let cluster = cluster.clone();
        let settings = Settings {
            targets,
            per_sec,
            answer_within: ANSWER_WITHIN,
        };
        let thread = std::thread::spawn(move || {
            // Sockets are in the network of the thread that makes them.
            cluster.inside(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("start a runtime")?;
                let tasks = tokio::task::LocalSet::new();
                Ok(tasks.block_on(&runtime, open_loop::run(&settings, &stopped)))
            })
        });
        println!("fault: traffic began");
        std::thread::sleep(BEFORE);
        Self { stop, thread }
    }

    /// Lets it run for a while more and ends it.
    pub(crate) fn end(self) -> anyhow::Result<Report> {
        std::thread::sleep(AFTER);
        self.stop.store(true, Ordering::Relaxed);
        let report = self.thread.join();
        report.map_err(|_| anyhow!("the traffic's thread panicked"))?
    }
}

/// A time in which failures are a crash's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

/// Prints the figures of a removal that was planned; nothing may have failed.
pub(crate) fn planned(report: &Report) -> bool {
    println!(
        "      {} requests sent, {} failed; slowest answer {:.0} ms",
        report.sent,
        report.failed,
        report.slowest.as_secs_f64() * 1000.0
    );
    tell(report, &report.failures);
    report.failed == 0 && report.sent > 0
}

/// Prints the figures of a crash: what failed within its window, apart by kind, and what failed outside. Nothing may have
/// failed outside, and within it only what was in flight and new connections.
pub(crate) fn crash(report: &Report, window: Window) -> bool {
    let at = |of: Instant| of.saturating_duration_since(report.began);
    let (from, until) = (at(window.from), at(window.until));
    let (within, outside): (Vec<Failure>, Vec<Failure>) = report
        .failures
        .iter()
        .partition(|failure| failure.failed >= from && failure.sent <= until);
    let count = |kind: fn(Kind) -> bool| within.iter().filter(|f| kind(f.kind)).count();
    let broken = count(|kind| kind == Kind::Broken);
    let connect = count(|kind| matches!(kind, Kind::Connect(_)));
    let late = count(|kind| kind == Kind::Late);
    println!(
        "      {} requests sent, {} failed; slowest answer {:.0} ms",
        report.sent,
        report.failed,
        report.slowest.as_secs_f64() * 1000.0
    );
    println!(
        "      of the crash, within {:.1} s: {} in flight, {} new connections, {} without an answer in time, {} others; at other times: {}",
        (until - from).as_secs_f64(),
        broken,
        connect,
        late,
        within.len() - broken - connect - late,
        outside.len(),
    );
    if let (Some(first), Some(last)) = (within.first(), within.last()) {
        println!(
            "      the first failed {:.2} s after it, the last {:.2} s after it",
            (first.failed.saturating_sub(from)).as_secs_f64(),
            (last.failed.saturating_sub(from)).as_secs_f64()
        );
    }
    tell(report, &outside);
    let others = within
        .iter()
        .any(|failure| matches!(failure.kind, Kind::Status(_) | Kind::Shed));
    outside.is_empty() && !others && report.sent > 0
}

/// Failures by kind, with the times of the first and the last of each.
fn tell(report: &Report, failures: &[Failure]) {
    let mut kinds: BTreeMap<(Kind, bool), Vec<&Failure>> = BTreeMap::new();
    for failure in failures {
        let kind = (failure.kind, failure.kept);
        kinds.entry(kind).or_default().push(failure);
    }
    for ((kind, kept), failures) in kinds {
        let connection = if kept { "kept" } else { "new" };
        let times = |time: fn(&Failure) -> Duration| {
            let times = failures.iter().map(|failure| time(failure).as_secs_f64());
            let first = times.clone().fold(f64::MAX, f64::min);
            format!("{first:.2} to {:.2} s", times.fold(0.0, f64::max))
        };
        println!(
            "      {} x {kind}, on a {connection} connection: sent {} after the traffic began, failed {}",
            failures.len(),
            times(|failure| failure.sent),
            times(|failure| failure.failed)
        );
    }
    if report.failures.len() < usize::try_from(report.failed).unwrap_or(usize::MAX) {
        println!(
            "      (only the first {} are told apart)",
            report.failures.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Kind = Kind::Connect(std::io::ErrorKind::ConnectionRefused);

    fn report(failures: &[(u64, Kind)]) -> Report {
        let failures: Vec<Failure> = failures
            .iter()
            .map(|(at, kind)| Failure {
                sent: Duration::from_millis(*at),
                failed: Duration::from_millis(*at + 1),
                kind: *kind,
                kept: false,
            })
            .collect();
        Report {
            began: Instant::now(),
            sent: 1000,
            failed: failures.len() as u64,
            failures,
            slowest: Duration::ZERO,
        }
    }

    fn passes(failures: &[(u64, Kind)]) -> bool {
        let report = report(failures);
        let at = |ms| report.began + Duration::from_millis(ms);
        let window = Window {
            from: at(1000),
            until: at(2000),
        };
        crash(&report, window)
    }

    #[test]
    fn a_planned_removal_fails_nothing() {
        assert!(planned(&report(&[])));
        assert!(!planned(&report(&[(5, REFUSED)])));
        let nothing_sent = Report {
            sent: 0,
            ..report(&[])
        };
        assert!(!planned(&nothing_sent));
    }

    #[test]
    fn a_crash_fails_what_was_in_flight_and_new_connections_in_its_time() {
        assert!(passes(&[(1001, Kind::Broken), (1500, REFUSED)]));
        assert!(!passes(&[(500, REFUSED)]), "before it");
        assert!(!passes(&[(2500, REFUSED)]), "after it");
        assert!(!passes(&[(1500, Kind::Status(503))]), "an answer of ours");
    }
}
