//! The limits of what comes in: how many, how large, how long. Every one has a default in [`crate::limits`] and bounds, so that
//! no configuration makes a node that holds memory without end or serves nobody.

use std::time::Duration;

use serde::Deserialize;

use crate::limits;

/// Limits of the network and of the Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections over the network, those that are still shaking hands included.
    pub connections: u64,
    /// Connections of one client key.
    pub connections_per_pin: u64,
    /// TLS handshakes under way. Strangers can hold these, and no more.
    pub handshakes: u64,
    /// The longest that a TLS handshake may take, milliseconds; the opening of HTTP/2 has as long again.
    pub handshake_ms: u64,
    /// Connections of the Unix socket.
    pub socket_connections: u64,
    /// Calls under way, those whose reply is not read yet included.
    pub calls: u64,
    /// The same on one connection.
    pub calls_per_connection: u64,
    /// One request, bytes.
    pub message_bytes: u64,
    /// Requests that are being read or worked on, and long replies that wait to be read: bytes in all.
    pub buffered_bytes: u64,
    /// The longest that the body of a request may take to come, milliseconds.
    pub body_ms: u64,
    /// The longest that a caller may take to read its reply, or a connection to take anything at all, milliseconds.
    pub reply_ms: u64,
    /// Headers of one request, bytes.
    pub header_bytes: u64,
    /// Silence after which a connection is asked whether it lives, milliseconds.
    pub ping_ms: u64,
    /// The longest that it may take to say so, milliseconds.
    pub ping_timeout_ms: u64,
    /// The longest that a stopping node waits for the calls under way, milliseconds.
    pub stop_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: limits::CONNECTIONS_MAX,
            connections_per_pin: limits::CONNECTIONS_PER_PIN_MAX,
            handshakes: limits::HANDSHAKES_MAX,
            handshake_ms: limits::HANDSHAKE_MS_MAX,
            socket_connections: limits::SOCKET_CONNECTIONS_MAX,
            calls: limits::CALLS_MAX,
            calls_per_connection: limits::CALLS_PER_CONNECTION_MAX,
            message_bytes: limits::WIRE_MESSAGE_BYTES_MAX as u64,
            buffered_bytes: limits::BUFFERED_BYTES_MAX,
            body_ms: limits::REQUEST_BODY_MS_MAX,
            reply_ms: limits::REPLY_READ_MS_MAX,
            header_bytes: limits::HEADER_LIST_BYTES_MAX,
            ping_ms: limits::PING_INTERVAL_MS,
            ping_timeout_ms: limits::PING_TIMEOUT_MS,
            stop_ms: limits::STOP_MS_MAX,
        }
    }
}

/// A setting with what it may be.
pub(super) struct Bound {
    pub(super) setting: &'static str,
    pub(super) value: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// Refuses a value out of its bounds.
pub(super) fn bounded(bound: &Bound) -> Result<(), (&'static str, String)> {
    let Bound { setting, value, min, max } = *bound;
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err((setting, format!("is {value}: {min} to {max} are allowed")))
}

impl Limits {
    /// Refuses limits out of their bounds.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let message = limits::WIRE_MESSAGE_BYTES_MAX as u64;
        let bounds = [
            ("limits.connections", self.connections, 1, 65_536),
            ("limits.connections_per_pin", self.connections_per_pin, 1, 65_536),
            ("limits.handshakes", self.handshakes, 1, self.connections),
            ("limits.handshake_ms", self.handshake_ms, 100, 60_000),
            ("limits.socket_connections", self.socket_connections, 1, 1_024),
            ("limits.calls", self.calls, 1, 65_536),
            ("limits.calls_per_connection", self.calls_per_connection, 1, 4_096),
            ("limits.message_bytes", self.message_bytes, 64 << 10, message),
            // The longest reply has to fit beside a request.
            ("limits.buffered_bytes", self.buffered_bytes, 2 * message, 16 << 30),
            ("limits.body_ms", self.body_ms, 100, 10 * 60_000),
            ("limits.reply_ms", self.reply_ms, 100, 10 * 60_000),
            ("limits.header_bytes", self.header_bytes, 4 << 10, 64 << 10),
            ("limits.ping_ms", self.ping_ms, 100, limits::DAY_MS),
            ("limits.ping_timeout_ms", self.ping_timeout_ms, 100, 10 * 60_000),
            ("limits.stop_ms", self.stop_ms, 0, 60 * 60_000),
        ];
        let bounds = bounds.map(|(setting, value, min, max)| Bound { setting, value, min, max });
        bounds.iter().try_for_each(bounded)
    }

    pub(super) const fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }

    pub(super) const fn body(&self) -> Duration {
        Duration::from_millis(self.body_ms)
    }

    pub(super) const fn reply(&self) -> Duration {
        Duration::from_millis(self.reply_ms)
    }

    pub(super) const fn stop(&self) -> Duration {
        Duration::from_millis(self.stop_ms)
    }
}

/// A limit as the number of things that a semaphore or a buffer counts. Limits are far below either's range.
pub(super) fn count(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
