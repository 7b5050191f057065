//! One connection: HTTP/2 and nothing else, with every limit set.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::call::Streams;
use super::counters::Cause;
use super::gate::{Gate, Who};
use super::shared::{Shared, Stage};
use crate::limits;

/// Length of the client's preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// Serves a connection to its end: the peer's, the roster's, or the server's.
pub(super) async fn serve<T>(io: T, gate: Gate, streams: Streams)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&gate.shared);
    let settings = &shared.limits;
    let mut http = http2::Builder::new(streams);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(gate.streams_max())
        .max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits::RESET_STREAMS_PENDING_MAX)
        .max_local_error_reset_streams(limits::RESET_STREAMS_OWN_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(Duration::from_millis(settings.ping_ms))
        .keep_alive_timeout(Duration::from_millis(settings.ping_timeout_ms));
    let who = gate.who;
    let io = Opening::new(io, Arc::clone(&shared));
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), gate));
    let mut stage = shared.stage.subscribe();
    let mut revoked = pin!(revoked(&shared, who));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(?who, %error, "a connection broke off");
                }
                return;
            }
            () = revoked.as_mut() => {
                shared.counters.refuse(Cause::Revoked);
                tracing::info!(?who, "a connection is closed: the roster does not know its key any more");
                return;
            }
            // The sender outlives every connection.
            _ = stage.changed() => match *stage.borrow_and_update() {
                Stage::Serving | Stage::Stopping => {}
                Stage::Closing => connection.as_mut().graceful_shutdown(),
                Stage::Over => return,
            },
        }
    }
}

async fn revoked(shared: &Shared, who: Who) {
    match who {
        Who::Pin(pin) => shared.rosters.revoked(pin).await,
        Who::User(_) => std::future::pending().await,
    }
}

/// A connection whose peer has to send the preface in time: HTTP/2's own pings begin after it.
struct Opening<T> {
    io: T,
    awaited: Option<Awaited>,
    shared: Arc<Shared>,
}

struct Awaited {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<T> Opening<T> {
    fn new(io: T, shared: Arc<Shared>) -> Self {
        let deadline = Box::pin(sleep(shared.limits.handshake()));
        Self { io, awaited: Some(Awaited { bytes: PREFACE_BYTES, deadline }), shared }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Opening<T> {
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

impl<T: AsyncWrite + Unpin> AsyncWrite for Opening<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
