//! One connection: HTTP/2 and nothing else, with every limit set.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::call::Streams;
use super::counters::Cause;
use super::gate::{Gate, Who};
use super::paced::Paced;
use super::shared::{Shared, Stage};
use crate::limits;

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
    let io = Paced::new(io, Arc::clone(&shared));
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), gate));
    let mut stage = shared.stage.subscribe();
    let mut revoked = pin!(revoked(&shared, who));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    if let Some(cause) = cause_of(&error) {
                        shared.counters.refuse(cause);
                    }
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

/// Why a connection ended by an error, unless it is that the peer went away.
fn cause_of(error: &hyper::Error) -> Option<Cause> {
    if error.is_timeout() {
        return Some(Cause::PingTimeout);
    }
    let went_away = error.source().is_some_and(|source| source.is::<io::Error>());
    (!went_away).then_some(Cause::Http2)
}
