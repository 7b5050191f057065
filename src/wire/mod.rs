//! The wire: messages of `frostkeep.proto`, and their way from and to the engine's own types.
//!
//! - [`v1`]: the messages and services, compiled from the proto file, which documents every field
//! - [`request`], [`reply`]: requests and replies of the engine, both ways, so that a field is read beside where it is written
//! - [`ceremony`], [`drill`]: the same for key generation and for outage drills
//! - `bounds`: what a request may hold, counted before it is decoded
//! - [`status`]: a refusal as a gRPC status with `google.rpc.ErrorInfo`, and back
//!
//! Everything that comes in is bounded before it is looked at: a message by [`crate::limits::WIRE_MESSAGE_BYTES_MAX`], its
//! fields by the types that they become. A field that does not fit is named, with the value and the limit.

pub(crate) mod bounds;
pub mod ceremony;
pub mod drill;
mod field;
pub mod reply;
pub mod request;
pub mod status;

pub use field::FieldError;

/// Messages and services of the package `frostkeep.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the proto file documents every field")]
pub mod v1 {
    tonic::include_proto!("frostkeep.v1");
}
