//! The client's byte stream: what was read before HTTP began, and a limit for clients that stop reading.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant as StdInstant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::small_writes::poll_write_slices;

/// Bytes that the first read takes at most; more are left in the socket.
const FIRST_READ_BYTES: usize = 4096;

/// How an HTTP/2 client begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No HTTP/1.1 method is called PRI, so the preface's start decides what is spoken.
const PREFACE_START: usize = 4;

/// Bytes that a write of control frames alone has at most (two PINGs and the like): it says nothing of a client that
/// takes what it asked for.
const CONTROL_BYTES: usize = 64;

/// What a clear-text client begins to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

/// Reads a client's first bytes, as many as it takes to tell HTTP/2 from HTTP/1.1, and the whole preface of HTTP/2:
/// hyper would wait for its end without limit. None when the client ends before.
///
/// It waits without limit; the caller bounds it.
pub(crate) async fn first_bytes<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> io::Result<Option<(BytesMut, Spoken)>> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ_BYTES);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
        let compared = bytes.len().min(PREFACE.len());
        if bytes[..compared] != PREFACE[..compared] {
            let spoken =
                if compared > PREFACE_START && bytes[..PREFACE_START] == PREFACE[..PREFACE_START] {
                    Spoken::Http2 // and wrong: hyper says so in its terms
                } else {
                    Spoken::Http1
                };
            return Ok(Some((bytes, spoken)));
        }
        if compared == PREFACE.len() {
            return Ok(Some((bytes, Spoken::Http2)));
        }
    }
}

/// A client's stream. A write that waits longer than the limit fails: a client that does not read holds buffers and a
/// connection to an endpoint.
pub(crate) struct ClientStream<S> {
    inner: S,
    first: BytesMut,
    limit: Duration,
    /// Made at the first wait and kept; armed again at each wait that follows a write.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Where a write of more than control frames is noted.
    wrote: Option<Rc<Cell<StdInstant>>>,
}

impl<S> ClientStream<S> {
    pub(crate) fn new(inner: S, first: BytesMut, limit: Duration) -> Self {
        Self {
            inner,
            first,
            limit,
            timer: None,
            waiting: false,
            wrote: None,
        }
    }

    /// Notes in `wrote` when the client last took something.
    pub(crate) fn noting(mut self, wrote: Rc<Cell<StdInstant>>) -> Self {
        self.wrote = Some(wrote);
        self
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if let (Some(wrote), Poll::Ready(Ok(count))) = (&self.wrote, written)
            && *count > CONTROL_BYTES
        {
            wrote.set(StdInstant::now());
        }
    }

    fn poll_limited<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let until = Instant::now() + self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "client does not read",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        let count = this.first.len().min(buffer.remaining());
        buffer.put_slice(&this.first[..count]);
        this.first.advance(count);
        if this.first.is_empty() {
            // Gives its memory back: connections are many and live long.
            this.first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.note(&written);
        this.poll_limited(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = poll_write_slices(&mut this.inner, cx, slices);
        this.note(&written);
        this.poll_limited(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.poll_limited(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.poll_limited(cx, ended)
    }
}
