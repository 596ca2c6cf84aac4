//! Bodies as they pass through: frame by frame, with the peer's pace, trailers cleaned.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::cause::Cause;
use crate::hygiene::clean_trailers;
use crate::log::RequestRecord;
use crate::upstream::Lease;

/// A body could not be passed on whole; the connection that it went to is broken off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("body broke off")]
    Broken(#[source] hyper::Error),
    #[error("body stalled")]
    TimedOut,
}

/// The client's body on its way to the endpoint.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Incoming(Incoming),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(clean).map_err(BodyError::Broken))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(body) => body.size_hint(),
        }
    }
}

/// What the client gets.
pub(crate) struct ResponseBody {
    kind: Kind,
    /// Written when the body is dropped: after its last byte or when the client is gone.
    record: Option<RequestRecord>,
}

enum Kind {
    Full(Option<Bytes>),
    Upstream(Box<Upstream>),
}

struct Upstream {
    body: Incoming,
    lease: Option<Lease>,
    idle: Duration,
    /// Set up when the endpoint keeps us waiting, then moved.
    idle_timer: Option<Pin<Box<Sleep>>>,
    /// End of the request's own time limit.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self {
            kind: Kind::Full(None),
            record: None,
        }
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Full((!bytes.is_empty()).then_some(bytes)),
            record: None,
        }
    }

    /// A body from an endpoint. `lease` gives the connection back once the body has ended.
    pub(crate) fn upstream(
        body: Incoming,
        lease: Lease,
        idle: Duration,
        deadline: Option<Instant>,
    ) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Self {
            kind: Kind::Upstream(Box::new(Upstream {
                body,
                lease: Some(lease),
                idle,
                idle_timer: None,
                deadline,
            })),
            record: None,
        }
    }

    /// Attaches the request's record.
    pub(crate) fn recorded(mut self, record: RequestRecord) -> Self {
        self.record = Some(record);
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
        let frame = match &mut this.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(upstream) => upstream.poll_frame(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.bytes_sent += data.remaining() as u64;
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
                let idle = self
                    .idle_timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.idle)));
                let stalled = idle.as_mut().poll(cx).is_ready()
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

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Kind::Upstream(upstream) = &mut self.kind else {
            return;
        };
        if upstream.body.is_end_stream() {
            if let Some(lease) = upstream.lease.take() {
                lease.finish();
            }
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
