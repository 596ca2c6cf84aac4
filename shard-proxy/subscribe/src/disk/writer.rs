//! The thread that writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::GatewayKey;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::{Chain, names};
use parking_lot::{Condvar, Mutex};
use redb::Database;

use super::file::{self, Failure};
use super::pending::{Change, Pending};
use super::{Disk, move_aside};

/// Time between a change and its write: what comes meanwhile is written with it. A shard that is killed and comes back
/// without an operator is older by this.
const LINGER: Duration = Duration::from_millis(50);
/// Time between two tries on a disk that fails.
const RETRY: Duration = Duration::from_secs(1);
/// Time for the last write at the end; a disk that hangs does not hold the process.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Handle to the writing thread. Dropping it writes what waits and ends the thread.
pub struct Writer {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something to do for the thread.
    wake: Condvar,
    /// Something done by it.
    done: Condvar,
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Pending,
    /// Since when something waits, or is being written.
    since: Option<Instant>,
    lost: BTreeSet<Option<GatewayKey>>,
    /// The file was begun anew, or only now could be opened: all is lost.
    all_lost: bool,
    closing: bool,
    ended: bool,
}

impl Disk {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn writer(self) -> std::io::Result<Writer> {
        self.writer_that_retries(RETRY)
    }

    pub(super) fn writer_that_retries(self, retry: Duration) -> std::io::Result<Writer> {
        let shared: Arc<Shared> = Arc::default();
        let thread = Thread {
            disk: self,
            retry,
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("disk".into())
            .spawn(move || thread.run())?;
        Ok(Writer { shared })
    }
}

impl Writer {
    /// Hands in a change. Never waits for the disk.
    pub(crate) fn write(&self, change: Change) {
        let mut state = self.shared.state.lock();
        state.pending.add(change);
        state.since.get_or_insert_with(Instant::now);
        self.shared.wake.notify_one();
    }

    /// What the file has lost since this was last asked: Gateways, and (none) the facts. The second is true when that is
    /// everything.
    pub(crate) fn take_lost(&self) -> (BTreeSet<Option<GatewayKey>>, bool) {
        let mut state = self.shared.state.lock();
        let all = std::mem::take(&mut state.all_lost);
        (std::mem::take(&mut state.lost), all)
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::new(WriterMetrics(Arc::clone(&self.shared)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.wake.notify_one();
        let ended = |state: &mut State| !state.ended;
        let late = self
            .shared
            .done
            .wait_while_for(&mut state, ended, END_WITHIN);
        if late.timed_out() {
            tracing::error!(
                "disk does not answer; the copy of the table is older than what was served"
            );
        }
    }
}

struct WriterMetrics(Arc<Shared>);

impl Source for WriterMetrics {
    fn collect(&self, sink: &mut dyn Sink) {
        let (waiting, since) = {
            let state = self.0.state.lock();
            (state.pending.len(), state.since)
        };
        let behind = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        sink.gauge(names::DISK_WAITING, &[], waiting as f64);
        sink.gauge(names::DISK_BEHIND, &[], behind);
        let failures = self.0.failures.load(Ordering::Relaxed);
        sink.counter(names::DISK_FAILURES, &[], failures);
    }
}

struct Thread {
    disk: Disk,
    retry: Duration,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(self) {
        let Disk {
            path,
            opener,
            database,
        } = self.disk;
        let mut database = database;
        let mut failing = database.is_none();
        // Nobody has read it yet: what it holds is older than what is served.
        let mut unread = failing;
        loop {
            let (pending, closing) = self.shared.next(failing.then_some(self.retry));
            let written = match &database {
                Some(database) => file::write(database, &pending),
                None => reopen(&path, &opener, unread, &self.shared).and_then(|opened| {
                    unread = false;
                    file::write(database.insert(opened), &pending)
                }),
            };
            match written {
                Ok(lost) => {
                    if failing {
                        tracing::info!("table is written to disk again");
                    }
                    failing = false;
                    self.shared.written(lost);
                }
                Err(failure) => {
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    // Once for each time that it fails: serving goes on.
                    if !failing {
                        tracing::error!(error = %Chain(&failure), "table is not written to disk; a restart without an operator would serve an older one");
                    }
                    failing = true;
                    self.shared.put_back(pending);
                    close(database.take());
                    if let Failure::Damaged(error) = &failure
                        && let Err(error) = move_aside(&path, &**error)
                    {
                        tracing::debug!(%error, "damaged table file stays where it is");
                    }
                }
            }
            if closing {
                close(database.take());
                self.shared.state.lock().ended = true;
                self.shared.done.notify_all();
                return;
            }
        }
    }
}

/// Opens the file after a failure: redb writes no more to one that has failed it.
fn reopen(
    path: &std::path::Path,
    opener: &file::Opener,
    unread: bool,
    shared: &Shared,
) -> Result<Database, Failure> {
    let existed = path.exists();
    let (database, _) = file::open(path, opener)?;
    if unread || !existed {
        shared.state.lock().all_lost = true;
    }
    Ok(database)
}

/// Closes a database; one that failed may panic then.
fn close(database: Option<Database>) {
    let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(database)));
    if closed.is_err() {
        tracing::debug!("closing the table file failed");
    }
}

impl Shared {
    /// Waits for changes, or for the end; after a failure for `retry` at least. Gives what is to be written.
    fn next(&self, retry: Option<Duration>) -> (Pending, bool) {
        let mut state = self.state.lock();
        let idle = |state: &mut State| state.pending.is_empty() && !state.closing;
        self.wake.wait_while(&mut state, idle);
        let open = |state: &mut State| !state.closing;
        let pause = retry.unwrap_or(LINGER);
        self.wake.wait_while_for(&mut state, open, pause);
        (std::mem::take(&mut state.pending), state.closing)
    }

    fn written(&self, lost: Vec<Option<GatewayKey>>) {
        let mut state = self.state.lock();
        state.lost.extend(lost);
        state.since = (!state.pending.is_empty()).then(Instant::now);
    }

    /// What could not be written comes before what has come since.
    fn put_back(&self, mut pending: Pending) {
        let mut state = self.state.lock();
        pending.absorb(std::mem::take(&mut state.pending));
        state.pending = pending;
    }
}
