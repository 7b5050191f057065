//! What comes in, counted: connections, and what is refused before it reaches the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Status;

use crate::reasons::Reason;
use crate::wire::status::Problem;

macro_rules! causes {
    ($($variant:ident $name:literal $meaning:literal;)+) => {
        /// Why a connection is refused or closed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Cause {
            $(#[doc = $meaning] $variant,)+
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)+];

            /// The stable name, as in the status.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

causes! {
    ConnectionLimit "connection_limit" "As many connections as there may be.";
    HandshakeLimit "handshake_limit" "As many TLS handshakes as there may be.";
    HandshakeTimeout "handshake_timeout" "The TLS handshake, or the opening of HTTP/2 after it, did not come in time.";
    Http2 "http2" "What is no HTTP/2, or floods.";
    PingTimeout "ping_timeout" "A silent connection did not say in time that it lives.";
    ReplyTimeout "reply_timeout" "What was sent was not read in time: the call, or the connection, is ended.";
    Tls "tls" "No TLS 1.3 handshake, or one without a certificate.";
    UnknownPin "unknown_pin" "A key that the roster does not know.";
    PinLimit "pin_limit" "As many connections of one client key as there may be.";
    Revoked "revoked" "A key that a new roster does not know any more.";
    SocketLimit "socket_limit" "As many connections of the Unix socket as there may be.";
    SocketUser "socket_user" "A user that may not use the Unix socket.";
}

/// The counters of a server.
pub(super) struct Counters {
    open: Arc<AtomicU64>,
    accepted: AtomicU64,
    refused: [AtomicU64; Cause::ALL.len()],
    calls_refused: [AtomicU64; Reason::ALL.len()],
}

/// A connection that is counted as open while this lives.
pub(super) struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A reading of the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountersView {
    /// Connections that are open now.
    pub open: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were refused or closed, by cause; causes without any are left out.
    pub refused: Vec<(Cause, u64)>,
    /// Calls that were refused before they reached the engine, by reason; reasons without any are left out.
    pub calls_refused: Vec<(Reason, u64)>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            open: Arc::default(),
            accepted: AtomicU64::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            calls_refused: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Counters {
    /// Counts a connection as accepted and open.
    pub(super) fn accept(&self) -> Open {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }

    /// Counts a connection as refused or closed.
    pub(super) fn refuse(&self, cause: Cause) {
        add(Cause::ALL, &self.refused, cause);
    }

    /// Counts a call as refused before it reached the engine.
    pub(super) fn refuse_call(&self, reason: Reason) {
        add(Reason::ALL, &self.calls_refused, reason);
    }

    /// The same for a call that was refused with this status.
    pub(super) fn refuse_status(&self, refused: &Status) {
        if let Some(problem) = Problem::from_status(refused) {
            self.refuse_call(problem.reason);
        }
    }

    pub(super) fn view(&self) -> CountersView {
        CountersView {
            open: self.open.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: read(Cause::ALL, &self.refused),
            calls_refused: read(Reason::ALL, &self.calls_refused),
        }
    }
}

fn add<T: PartialEq>(kinds: &[T], counters: &[AtomicU64], kind: T) {
    if let Some((_, counter)) = kinds.iter().zip(counters).find(|(known, _)| **known == kind) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn read<T: Copy>(kinds: &[T], counters: &[AtomicU64]) -> Vec<(T, u64)> {
    let counts = kinds.iter().zip(counters).map(|(kind, counter)| (*kind, counter.load(Ordering::Relaxed)));
    counts.filter(|(_, count)| *count > 0).collect()
}
