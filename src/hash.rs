//! Framed, domain-separated SHA-256: `frame(x) = u32 big-endian length || x`, and
//! `H(domain, c1..cn) = SHA-256(frame(domain) || frame(c1) || ...)`.

use sha2::{Digest, Sha256};

/// A hash under way.
pub struct Framed(Sha256);

impl Framed {
    /// Starts with the frame of `domain`.
    pub fn new(domain: &str) -> Self {
        Self(Sha256::new()).part(domain.as_bytes())
    }

    /// Adds one framed component (shorter than 4 GiB, as every bound in [`crate::limits`] is).
    pub fn part(mut self, component: &[u8]) -> Self {
        self.0.update(u32::try_from(component.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.update(component);
        self
    }

    /// The hash, 32 bytes.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// SHA-256 of `bytes`, unframed.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
