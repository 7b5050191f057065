//! The pace of a connection's peer: how long it may take to open HTTP/2, and to take what it is sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::counters::Cause;
use super::shared::Shared;

/// Length of the client's preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// A connection whose peer has to keep pace. It has to send the preface in time: HTTP/2's own pings begin after it. And it has
/// to take what it is sent: to one that does not, HTTP/2 can not even say that the connection is over, and would wait for ever.
pub(super) struct Paced<T> {
    io: T,
    awaited: Option<Awaited>,
    /// Runs while nothing can be written.
    unwritten: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
}

struct Awaited {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<T> Paced<T> {
    pub(super) fn new(io: T, shared: Arc<Shared>) -> Self {
        let deadline = Box::pin(sleep(shared.limits.handshake()));
        Self { io, awaited: Some(Awaited { bytes: PREFACE_BYTES, deadline }), unwritten: None, shared }
    }

    /// What became of a write, or an error when none has succeeded for too long.
    fn in_time<R>(&mut self, written: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.unwritten = None;
            return written;
        }
        let limit = self.shared.limits.reply();
        let deadline = self.unwritten.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        self.unwritten = None;
        self.shared.counters.refuse(Cause::ReplyTimeout);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "what was sent was not read in time")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some(awaited) = &mut this.awaited else { return polled };
        awaited.bytes = awaited.bytes.saturating_sub(buf.filled().len().saturating_sub(before));
        if awaited.bytes == 0 {
            this.awaited = None;
            return polled;
        }
        if polled.is_ready() {
            return polled;
        }
        ready!(awaited.deadline.as_mut().poll(cx));
        this.awaited = None;
        this.shared.counters.refuse(Cause::HandshakeTimeout);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "HTTP/2 was not opened in time")))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.in_time(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_flush(cx);
        self.in_time(written, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_shutdown(cx);
        self.in_time(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.in_time(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
