//! The wire: messages of `frostkeep.proto`, and their way from and to the engine's own types.
//!
//! - [`v1`]: the messages and services, compiled from the proto file, which documents every field

/// Messages and services of the package `frostkeep.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the proto file documents every field")]
pub mod v1 {
    tonic::include_proto!("frostkeep.v1");
}
