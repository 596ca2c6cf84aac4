//! Open streams of one client's HTTP/2 connection: ends those whose client does not read, and says when the connection
//! has been idle for too long or resets too much.
//!
//! hyper does not ask for a body while the client's window is shut, so no timer within the body runs then; these are
//! looked at from outside, by the connection's own task.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::ForwardConfig;

/// A request that the client resets sooner than this counts against its budget. Later ones cost the client waiting.
pub(crate) const RAPID: Duration = Duration::from_secs(1);
/// Time over which rapid resets are counted.
const RESETS_WINDOW: Duration = Duration::from_secs(10);
/// Time for the client to close an idle connection after GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(5);
/// Pace below which a client counts as not reading, once it was given a large piece.
const PACE_BYTES_PER_SEC: u64 = 4096;
/// Looks at streams no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Idle for too long.
    Idle,
    /// More rapid resets than its budget.
    Resets,
}

/// Streams of one connection. Bounded by `h2_streams_max`.
#[derive(Debug)]
pub(crate) struct Streams {
    open: RefCell<Vec<Rc<Stream>>>,
    /// Made for the request that hyper hands over right now, taken by its task.
    opening: RefCell<Option<OpenStream>>,
    idle_since: Cell<Instant>,
    /// When the client last took more than a control frame.
    wrote: Rc<Cell<Instant>>,
    goaway: Cell<bool>,
    resets: Cell<(Instant, u32)>,
    over_budget: Notify,
    /// A response with a time limit has begun.
    limited: Rc<Notify>,
}

/// One stream, as far as its end may have to come from outside.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Its place among the open ones.
    index: Cell<usize>,
    task: RefCell<Option<AbortHandle>>,
    /// Since when a piece waits for the client's window, and the size of the piece before it.
    waits: Cell<Option<(Instant, u64)>>,
    given: Cell<u64>,
    /// End of the request's own time limit.
    deadline: Cell<Option<Instant>>,
    ended: Cell<bool>,
    limited: Rc<Notify>,
}

/// Keeps a stream among the open ones.
#[derive(Debug)]
pub(crate) struct OpenStream {
    streams: Rc<Streams>,
    stream: Rc<Stream>,
}

impl Streams {
    pub(crate) fn new() -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            open: RefCell::default(),
            opening: RefCell::default(),
            idle_since: Cell::new(now),
            wrote: Rc::new(Cell::new(now)),
            goaway: Cell::new(false),
            resets: Cell::new((now, 0)),
            over_budget: Notify::new(),
            limited: Rc::default(),
        })
    }

    /// Where writes are noted.
    pub(crate) fn wrote(&self) -> Rc<Cell<Instant>> {
        Rc::clone(&self.wrote)
    }

    /// A request has come; [`Streams::opened`] takes it over.
    pub(crate) fn begin(self: &Rc<Self>) -> Rc<Stream> {
        let mut open = self.open.borrow_mut();
        let stream = Rc::new(Stream {
            index: Cell::new(open.len()),
            task: RefCell::default(),
            waits: Cell::new(None),
            given: Cell::new(0),
            deadline: Cell::new(None),
            ended: Cell::new(false),
            limited: Rc::clone(&self.limited),
        });
        open.push(Rc::clone(&stream));
        drop(open);
        let opening = OpenStream {
            streams: Rc::clone(self),
            stream: Rc::clone(&stream),
        };
        let before = self.opening.borrow_mut().replace(opening);
        drop(before); // hyper has let go of it
        stream
    }

    /// The stream of the request that has just come; its task keeps it.
    pub(crate) fn opened(&self) -> Option<OpenStream> {
        self.opening.borrow_mut().take()
    }

    /// GOAWAY was sent: once idle, the connection gets a short grace.
    pub(crate) fn goaway(&self) {
        self.goaway.set(true);
        self.idle_since.set(Instant::now());
    }

    /// A request that ran for `took` ended because the client reset it.
    pub(crate) fn reset(&self, took: Duration, budget: u32) {
        if took >= RAPID {
            return;
        }
        let now = Instant::now();
        let (begun, count) = self.resets.get();
        let (begun, count) = if now.duration_since(begun) < RESETS_WINDOW {
            (begun, count + 1)
        } else {
            (now, 1)
        };
        self.resets.set((begun, count));
        if count > budget {
            self.over_budget.notify_one();
        }
    }

    /// Ends streams whose client does not read, until the connection as a whole is to end.
    ///
    /// Cancel safe.
    pub(crate) async fn watch(&self, config: &ForwardConfig) -> Verdict {
        let mut over_budget = pin!(self.over_budget.notified());
        loop {
            let now = Instant::now();
            // What begins meanwhile is seen in time: it may wait for longer than this.
            let look = now + config.client_idle_timeout / 4;
            let due = if self.open.borrow().is_empty() {
                let limit = if self.goaway.get() {
                    GOAWAY_GRACE.min(config.head_timeout)
                } else {
                    config.head_timeout
                };
                let until = self.idle_since.get().max(self.wrote.get()) + limit;
                if until <= now {
                    return Verdict::Idle;
                }
                Some(until)
            } else {
                self.end_stalled(now, config.client_idle_timeout)
            };
            let next = due.map_or(look, |due| due.min(look));
            let sleep = tokio::time::sleep_until(next.max(now + LOOK_MIN).into());
            tokio::select! {
                biased;
                () = over_budget.as_mut() => return Verdict::Resets,
                () = sleep => {}
                () = self.limited.notified() => {}
            }
        }
    }

    /// Ends what is due; returns when the next will be.
    fn end_stalled(&self, now: Instant, limit: Duration) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for stream in &*self.open.borrow() {
            let due = match stream.due(limit) {
                Some(due) if due <= now => {
                    stream.end();
                    continue;
                }
                Some(due) => due,
                // Its own timers run; whether it waits is to be looked at when its limit ends.
                None => match stream.deadline.get() {
                    Some(deadline) if deadline > now => deadline,
                    _ => continue,
                },
            };
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        next
    }
}

impl Stream {
    /// A response begins; it has to end by `deadline`.
    pub(crate) fn answers(&self, deadline: Option<Instant>) {
        self.deadline.set(deadline);
        if deadline.is_some() {
            self.limited.notify_one();
        }
    }

    /// The body is asked for a piece: the one before was taken.
    pub(crate) fn asked(&self) {
        self.waits.set(None);
    }

    /// The body has given a piece of this size.
    pub(crate) fn gave(&self, bytes: u64) {
        let before = self.given.replace(bytes);
        self.waits.set(Some((Instant::now(), before)));
    }

    /// Whether it was ended because the client did not read.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// When it is to end, unless the client takes what waits.
    fn due(&self, limit: Duration) -> Option<Instant> {
        let (since, before) = self.waits.get()?;
        let stalled = since + limit + Duration::from_secs(before / PACE_BYTES_PER_SEC);
        Some(self.deadline.get().map_or(stalled, |at| at.min(stalled)))
    }

    /// Drops the stream's task, and with it the body and the connection to the endpoint; hyper resets the stream then.
    fn end(&self) {
        self.waits.set(None);
        self.ended.set(true);
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl OpenStream {
    /// Names the task that runs the stream.
    pub(crate) fn runs_in(stream: &Stream, task: AbortHandle) {
        stream.task.replace(Some(task));
    }

    pub(crate) fn stream(&self) -> Rc<Stream> {
        Rc::clone(&self.stream)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.open.borrow_mut();
        let index = self.stream.index.get();
        open.swap_remove(index);
        if let Some(moved) = open.get(index) {
            moved.index.set(index);
        }
        if open.is_empty() {
            self.streams.idle_since.set(Instant::now());
        }
    }
}

/// Runs a connection's streams on this thread.
#[derive(Debug, Clone)]
pub(crate) struct StreamExecutor(pub(crate) Rc<Streams>);

impl<F: Future + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let Some(open) = self.0.opened() else {
            tokio::task::spawn_local(async move {
                future.await;
            });
            return;
        };
        let stream = open.stream();
        let task = tokio::task::spawn_local(async move {
            future.await;
            drop(open);
        });
        OpenStream::runs_in(&stream, task.abort_handle());
    }
}
