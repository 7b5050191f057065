//! Randomness as an argument: the one place that asks the operating system for it (I6).

use rand_core::{CryptoRng, RngCore};

/// What every consumer of randomness takes.
pub trait Entropy: RngCore + CryptoRng + Send {}
impl<T: RngCore + CryptoRng + Send> Entropy for T {}

/// The operating system's generator, without a state of its own that a snapshot could copy.
#[allow(clippy::disallowed_types, reason = "the one place")]
pub fn os() -> rand_core::OsRng {
    rand_core::OsRng
}
