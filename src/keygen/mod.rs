//! Key generation without a dealer: a ceremony among all members, sans-io.
//!
//! ```text
//!   Parameters -> AwaitingRoundOne -> AwaitingRoundTwo -> Prepared (one record, with the node's own signature)
//!                                                            |  every node's Statement on the same transcript
//!                                                            v
//!                                                       Certificate (proves itself, kept by every node)
//!                                                            |  every node's Confirmation
//!                                                            v
//!                                                     ConfirmedKeyGroup: only now is there an address
//! ```
//!
//! Every message is signed by its sender's identity and names ceremony, parameters, round, sender and receiver. Round-two
//! packages are encrypted end to end to keys that live in RAM for one ceremony, so that a relaying coordinator learns nothing
//! and can replace nothing. FROST's key generation ends without agreement; the certificate supplies it.
//!
//! Three things are the engine's: nothing is begun before token, disk and every peer were seen; [`Prepared`] is one record,
//! and its statement leaves only when that record is durable; a restart without that record voids the ceremony, by its id.

mod ceremony;
mod certificate;
mod envelope;
mod fault;
mod message;
mod parameters;
mod prepared;
#[cfg(test)]
mod tests;
mod transcript;

pub use ceremony::{AwaitingRoundOne, AwaitingRoundTwo, BeginError, Receipt, ReceiveError, begin};
pub use certificate::{Certificate, CertificateError, Confirmation, ConfirmedKeyGroup};
pub use envelope::Envelope;
pub use fault::{Failure, Fault, FaultUnproved, RoundOneFault};
pub use message::{Body, Message, MessageError, Round};
pub use parameters::{Parameters, ParametersError};
pub use prepared::{ActivateError, Prepared, PreparedError};
pub use transcript::{Statement, Transcript};

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not the canonical encoding of a valid value of a ceremony.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// More bytes than any valid value has.
    #[error("{what}: {found} bytes, at most {limit} are allowed")]
    Length {
        /// What was being read.
        what: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Truncated, out of range, or against a rule of the value itself.
    #[error("{what}: not a valid encoding")]
    Malformed {
        /// What was being read.
        what: &'static str,
    },
    /// A valid value, but not the one encoding of it.
    #[error("{what}: not the canonical encoding")]
    NotCanonical {
        /// What was being read.
        what: &'static str,
    },
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value)
        .expect("public values of a ceremony have lengths that are known, and a buffer that grows has room")
}

fn decode<T: Serialize + DeserializeOwned>(what: &'static str, bytes: &[u8], limit: usize) -> Result<T, EncodingError> {
    if bytes.len() > limit {
        return Err(EncodingError::Length { what, found: bytes.len(), limit });
    }
    let (value, _): (T, _) = postcard::take_from_bytes(bytes).map_err(|_| EncodingError::Malformed { what })?;
    if encode(&value) == bytes { Ok(value) } else { Err(EncodingError::NotCanonical { what }) }
}
