//! What a TLS peer is known by: the hash of its public key.

use std::fmt;
use std::str::FromStr;

use crate::hash::sha256;
use crate::ids::{IdError, from_hex, to_hex};

/// SHA-256 of a certificate's SubjectPublicKeyInfo (DER). Shown as 64 digits of lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The pin of a key, given as SubjectPublicKeyInfo (DER).
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(sha256(spki))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Pin {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        from_hex("pin", text).map(Self)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}
