//! TLS between nodes: version 1.3 alone, P-256 alone, mutual, and no authority to run. A peer is its public key: the client
//! expects one pin, the server asks whether a pin is known. Names and dates of a certificate mean nothing.
//!
//! Nothing is resumed: every connection shows its key again, so that one who was taken out of the roster stays out.

mod config;
mod key;
mod pem;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;

pub use config::{client_config, server_config};
pub use key::TlsKey;
pub use verify::{UnexpectedPin, peer_pin};

use crate::limits::TLS_FILE_BYTES_MAX;

/// The name that every certificate carries and every client asks for. It only has to be the same everywhere.
pub const SERVER_NAME: &str = "frostkeep";

/// The protocol spoken inside: HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// Why a TLS key, a file of one, or a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No new key: the system gives no randomness.
    #[error("a TLS key cannot be made: {0}")]
    Generate(String),
    /// Bytes that are no P-256 key in PKCS#8.
    #[error("{0} bytes are no P-256 private key in PKCS#8")]
    Key(usize),
    /// The certificate of a key cannot be made or used.
    #[error("the TLS certificate cannot be used: {0}")]
    Certificate(String),
    /// A file that cannot be read or written.
    #[error("{}: {action} failed", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A key file that others than its owner can open.
    #[error("{}: mode {mode:04o}: a private key is for its owner alone, mode 0600", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file above the limit.
    #[error("{}: more than {TLS_FILE_BYTES_MAX} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not one PEM block of the expected kind.
    #[error("{}: expected one PEM block {expected:?}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The label expected.
        expected: &'static str,
    },
    /// A certificate that is of another key than the one beside it.
    #[error("{}: the certificate is not of the key {}", .certificate.display(), .key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// rustls refuses the configuration.
    #[error("no TLS configuration: {0}")]
    Configuration(#[from] rustls::Error),
}
