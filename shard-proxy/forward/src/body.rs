//! Bodies as they pass through: frame by frame, with the peer's pace, trailers cleaned.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::cause::Cause;
use crate::hygiene::clean_trailers;
use crate::log::RequestRecord;
use crate::streams::Stream;
use crate::timer::Timer;
use crate::upstream::Lease;

/// A body could not be passed on whole; the connection that it went to is broken off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("body broke off")]
    Broken(#[source] hyper::Error),
    #[error("body stalled")]
    TimedOut,
}

/// How a request's body comes along; seen by who waits for the response.
#[derive(Debug)]
pub(crate) struct Progress {
    last: Cell<Instant>,
    state: Cell<BodyState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyState {
    /// The endpoint has not asked for more.
    Idle,
    /// The endpoint takes more, the client has not sent it.
    Awaited,
    Ended,
    /// The client broke it off.
    Broken,
}

impl Progress {
    /// When it last moved.
    pub(crate) fn last(&self) -> Instant {
        self.last.get()
    }

    /// Whether it is the client that keeps us waiting.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state.get() == BodyState::Awaited
    }

    /// Whether the client broke it off.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.get() == BodyState::Broken
    }
}

/// The client's body on its way to the endpoint.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Incoming(Incoming, Rc<Progress>),
}

impl RequestBody {
    pub(crate) fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let progress = Progress {
            last: Cell::new(Instant::now()),
            state: Cell::new(BodyState::Idle),
        };
        Self::Incoming(body, Rc::new(progress))
    }

    pub(crate) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Incoming(_, progress) => Some(Rc::clone(progress)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Incoming(body, progress) = self.get_mut() else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        progress.state.set(match &frame {
            Poll::Pending => BodyState::Awaited,
            Poll::Ready(Some(Ok(_))) => BodyState::Idle,
            Poll::Ready(Some(Err(_))) => BodyState::Broken,
            Poll::Ready(None) => BodyState::Ended,
        });
        if frame.is_ready() {
            progress.last.set(Instant::now());
        }
        frame.map(|frame| frame.map(|frame| frame.map(clean).map_err(BodyError::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(body, _) => body.size_hint(),
        }
    }
}

/// What the client gets.
pub(crate) struct ResponseBody {
    kind: Kind,
    /// Written when the body is dropped: after its last byte or when the client is gone.
    record: Option<RequestRecord>,
    /// Of HTTP/2: told when the client keeps a piece waiting.
    stream: Option<Rc<Stream>>,
}

enum Kind {
    Full(Option<Bytes>),
    Upstream(Box<Upstream>),
}

struct Upstream {
    body: Incoming,
    /// Taken when the body has ended or failed.
    lease: Option<Lease>,
    /// The request's body, when it may still be on its way.
    upload: Option<Rc<Progress>>,
    /// Longest time without a byte, if there is a limit.
    idle: Option<Duration>,
    /// Set up when the endpoint keeps us waiting, then moved.
    idle_timer: Option<Timer>,
    /// End of the limit of the request or of its attempt.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Time limits of a response's body.
pub(crate) struct BodyLimits {
    /// The request's body: what still goes up counts as life.
    pub(crate) upload: Option<Rc<Progress>>,
    /// Longest time without a byte from the endpoint; none for no limit.
    pub(crate) idle: Option<Duration>,
    /// When it must have ended.
    pub(crate) until: Option<Instant>,
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self {
            kind: Kind::Full(None),
            record: None,
            stream: None,
        }
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Full((!bytes.is_empty()).then_some(bytes)),
            record: None,
            stream: None,
        }
    }

    /// A body from an endpoint. `lease` gives the connection back once the body has ended.
    pub(crate) fn upstream(body: Incoming, lease: Lease, limits: BodyLimits) -> Self {
        let deadline = limits
            .until
            .map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Self {
            kind: Kind::Upstream(Box::new(Upstream {
                body,
                lease: Some(lease),
                upload: limits.upload,
                idle: limits.idle,
                idle_timer: None,
                deadline,
            })),
            record: None,
            stream: None,
        }
    }

    /// Attaches the request's record.
    pub(crate) fn record(&mut self, record: RequestRecord) {
        self.record = Some(record);
    }

    /// Lets its stream be ended from outside: hyper asks for nothing while the client's window is shut.
    pub(crate) fn watched(mut self, stream: Rc<Stream>) -> Self {
        let deadline = match &self.kind {
            Kind::Full(_) => None,
            Kind::Upstream(upstream) => upstream.deadline.as_ref().map(|at| at.deadline().into()),
        };
        stream.answers(deadline);
        self.stream = Some(stream);
        self
    }

    fn fail(&mut self, cause: Cause) {
        if let Some(record) = &mut self.record {
            record.cause.get_or_insert(cause);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(stream) = &this.stream {
            stream.asked();
        }
        let frame = match &mut this.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(upstream) => upstream.poll_frame(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.bytes_sent += data.remaining() as u64;
                }
                if let (Some(stream), Some(data)) = (&this.stream, frame.data_ref()) {
                    stream.gave(data.remaining() as u64);
                }
            }
            Poll::Ready(Some(Err(BodyError::Broken(_)))) => this.fail(Cause::UpstreamTruncated),
            Poll::Ready(Some(Err(BodyError::TimedOut))) => this.fail(Cause::UpstreamTimeout),
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

impl Upstream {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle_timer = None;
                Poll::Ready(Some(Ok(clean(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.finish();
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                let stalled = self.poll_idle(cx).is_ready()
                    || self
                        .deadline
                        .as_mut()
                        .is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if stalled {
                    self.lease = None;
                    return Poll::Ready(Some(Err(BodyError::TimedOut)));
                }
                Poll::Pending
            }
        }
    }
}

impl Upstream {
    /// Ready when nothing has come for too long, and nothing has gone up either.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(idle) = self.idle else {
            return Poll::Pending;
        };
        let timer = self
            .idle_timer
            .get_or_insert_with(|| Timer::new(Instant::now() + idle, idle));
        while Pin::new(&mut *timer).poll(cx).is_ready() {
            let moved = self.upload.as_ref().map(|upload| upload.last() + idle);
            match moved {
                Some(until) if until > Instant::now() => *timer = Timer::new(until, idle),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.stream.as_ref().is_some_and(|stream| stream.is_ended()) {
            self.fail(Cause::ClientTimeout);
        }
        let Kind::Upstream(upstream) = &mut self.kind else {
            return;
        };
        let Some(lease) = upstream.lease.take() else {
            return; // ended or failed, and said so then
        };
        if upstream.body.is_end_stream() {
            lease.finish();
        } else if let Some(record) = &mut self.record {
            // Without a cause of its own: the client left before the end.
            record.cause.get_or_insert(Cause::DownstreamClosed);
        }
    }
}

fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
