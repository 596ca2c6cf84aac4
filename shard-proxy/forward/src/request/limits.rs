//! How long a request may take.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use api_snapshot::config::Timeouts;

use crate::body::{BodyLimits, Progress};
use crate::cause::Cause;
use crate::config::ForwardConfig;
use crate::timer::Timer;

/// Time limits of one request.
pub(super) struct Limits {
    pub(super) upload: Option<Rc<Progress>>,
    /// End of the request's own limit (gateway-api v1 `HTTPRouteTimeouts.request`).
    deadline: Option<Instant>,
    /// For one attempt, to the end of its response (`backendRequest`).
    attempt: Option<Duration>,
    /// Without a byte from the endpoint. A rule that sets limits of its own, 0 for none included, has no other.
    idle: Option<Duration>,
    /// Without a byte of the request's body that the endpoint waits for.
    client_idle: Duration,
}

impl Limits {
    pub(super) fn new(
        timeouts: &Timeouts,
        started: Instant,
        upload: Option<Rc<Progress>>,
        config: &ForwardConfig,
    ) -> Self {
        let set = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        let own = timeouts.request_ms.is_some() || timeouts.backend_request_ms.is_some();
        Self {
            upload,
            deadline: set(timeouts.request_ms).map(|limit| started + limit),
            attempt: set(timeouts.backend_request_ms),
            idle: (!own).then_some(config.upstream_idle_timeout),
            client_idle: config.client_idle_timeout,
        }
    }

    /// End of an attempt that begins now.
    pub(super) fn attempt(&self) -> Option<Instant> {
        match (self.attempt, self.deadline) {
            (Some(limit), Some(request)) => Some(request.min(Instant::now() + limit)),
            (Some(limit), None) => Some(Instant::now() + limit),
            (None, request) => request,
        }
    }

    /// Whether the request's own time has run out.
    pub(super) fn are_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Whether it is the client that keeps the endpoint waiting.
    pub(super) fn waits_for_client(&self) -> bool {
        self.upload.as_deref().is_some_and(Progress::is_awaited)
    }

    /// What holds for the response's body, of an attempt that ends at `until`.
    pub(super) fn of_body(self, until: Option<Instant>) -> BodyLimits {
        BodyLimits {
            upload: self.upload,
            idle: self.idle,
            until,
        }
    }

    /// Runs one attempt up to the response's head. Without progress of the request's body or an answer it ends after
    /// the idle limit of whoever keeps it waiting, the client or the endpoint; at `hard` in any case.
    pub(super) async fn apply<F: Future>(
        &self,
        hard: Option<Instant>,
        mut attempt: Pin<&mut F>,
    ) -> Result<F::Output, Cause> {
        let begun = Instant::now();
        loop {
            let upload = self.upload.as_deref();
            let moved = upload.map_or(begun, Progress::last);
            let awaited = upload.is_some_and(Progress::is_awaited);
            let idle = if awaited {
                Some(moved + self.client_idle)
            } else {
                self.idle.map(|limit| moved.max(begun) + limit)
            };
            let until = match (idle, hard) {
                (Some(idle), Some(hard)) => Some(idle.min(hard)),
                (idle, hard) => idle.or(hard),
            };
            // Without any limit it is looked at again now and then: the client may come to keep us waiting.
            let until = until.unwrap_or_else(|| Instant::now() + self.client_idle);
            let mut timer = Timer::new(until, until.saturating_duration_since(begun));
            let done = poll_fn(|cx| match attempt.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => Pin::new(&mut timer).poll(cx).map(|()| None),
            });
            if let Some(done) = done.await {
                return Ok(done);
            }
            if hard.is_some_and(|hard| hard <= until) {
                return Err(Cause::UpstreamTimeout);
            }
            // Something moved, or the one that keeps us waiting changed: look again, with that one's limit.
            let same = upload
                .is_none_or(|upload| upload.last() == moved && upload.is_awaited() == awaited);
            if idle.is_some() && same {
                return Err(if awaited {
                    Cause::ClientTimeout
                } else {
                    Cause::UpstreamTimeout
                });
            }
        }
    }
}
