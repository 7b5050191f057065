//! FROST(secp256k1, SHA-256) with Taproot tweaks (RFC 9591, BIP-340, BIP-341), behind types that cannot be misused.
//!
//! The only folder that names `frost_secp256k1_tr` and `frost_core`. The key that a key generation yields is the BIP-341
//! *internal* key; every signature is made and verified under the *output* key, with the Merkle root or without one. A plain
//! `sign` does not exist here, so the two uses never mix.
//!
//! | hazard of the crate | closed by |
//! | --- | --- |
//! | nonces sign by reference, any number of times | [`Nonces`]: by value, no `Clone` (I6) |
//! | `sign` takes unknown members, equal commitments, any message | [`SigningPackage`], [`SigningPackage::check_against`] |
//! | decoders take trailing bytes, duplicates, a missing threshold, a wrong share | every decoder encodes again and compares |
//! | verifying shares of another key are taken | [`GroupKey::from_bytes`] checks that they lie on one polynomial with the key |
//! | refresh and repair return wrong shares | absent; every new share is checked against its verifying share |
//! | freed memory keeps secrets | fixed wiped buffers here, a wiping allocator in the binary (I10) |
//! | key generation ends without agreement | the certificate of [`crate::keygen`] |
//! | `serde` prints secrets | no secret type here is `Serialize` or `Debug` |
#![allow(clippy::disallowed_types, reason = "the one place that wraps them")]

#[cfg(any(test, feature = "danger-dealer"))]
pub mod danger_dealer;
mod dkg;
mod group;
mod package;
mod polynomial;
mod share;
mod sign;
#[cfg(test)]
mod tests;

pub use dkg::{DkgError, DkgRoundOne, DkgRoundTwo, RoundOnePackage, RoundTwoPackage};
pub use group::{AggregateError, GroupKey, ShareInvalid, SignatureInvalid};
pub use package::{Commitments, PackageError, Signature, SignatureShare, SigningPackage};
pub use share::{EncodedKeyShare, KEY_SHARE_BYTES_MAX, KeyShare};
pub use sign::{Nonces, SignError, commit, sign};

use frost_secp256k1_tr::Identifier;

use crate::ids::Member;

/// Bytes that are not the canonical encoding of a valid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
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
    /// Not an encoding at all: truncated, a point off the curve, a number out of range, another ciphersuite.
    #[error("{what}: not a valid encoding")]
    Malformed {
        /// What was being read.
        what: &'static str,
    },
    /// A valid value, but not the one encoding of it: trailing bytes, unsorted or repeated entries.
    #[error("{what}: not the canonical encoding")]
    NotCanonical {
        /// What was being read.
        what: &'static str,
    },
    /// A package without its threshold, or one that no group of this size can have.
    #[error("{what}: threshold {found} is not valid for {members} members")]
    Threshold {
        /// What was being read.
        what: &'static str,
        /// The threshold found, zero when it is missing.
        found: u16,
        /// Members of the group.
        members: usize,
    },
    /// Verifying shares that do not interpolate to the group key.
    #[error("{what}: the verifying shares are not those of one key with threshold {threshold}")]
    VerifyingShares {
        /// What was being read.
        what: &'static str,
        /// The threshold found.
        threshold: u16,
    },
    /// A participant identifier that is no member number.
    #[error("{what}: a participant identifier is not a member number")]
    Member {
        /// What was being read.
        what: &'static str,
    },
    /// A signing share that is not the discrete logarithm of its verifying share.
    #[error("key share of member {member}: it does not match its verifying share")]
    ShareMismatch {
        /// The member.
        member: Member,
    },
    /// A signing package that breaks a rule of its own.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// The RFC 9591 identifier of a member.
fn identifier(member: Member) -> Identifier {
    Identifier::try_from(member.number()).expect("a member number is not zero, and only zero is refused")
}

/// The member with this identifier, if it is a member number.
fn member(identifier: &Identifier) -> Option<Member> {
    match identifier.serialize().split_last_chunk::<2>() {
        Some((head, number)) if head.iter().all(|&byte| byte == 0) => Member::new(u16::from_be_bytes(*number)).ok(),
        _ => None,
    }
}

/// Serde of a public value as its canonical bytes.
macro_rules! serde_as_bytes {
    ($name:ident, $encode:expr, $decode:expr) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let bytes = $encode(self);
                serializer.serialize_bytes(bytes.as_ref())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Bytes;
                impl serde::de::Visitor<'_> for Bytes {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("the bytes of a ", stringify!($name)))
                    }
                    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        $decode(bytes).map_err(E::custom)
                    }
                }
                deserializer.deserialize_bytes(Bytes)
            }
        }
    };
}
use serde_as_bytes;
