//! A node's identity: an Ed25519 key (RFC 8032) that signs rounds, votes and ceremony messages, each under its own domain.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hash::Framed;
use crate::ids::{IdError, from_hex, to_hex};

/// Why bytes are not an identity, or a signature not one of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Text that is not hexadecimal of 32 bytes.
    #[error(transparent)]
    Text(#[from] IdError),
    /// Bytes that are no Ed25519 point, or one of small order, for which signatures of everything verify.
    #[error("{} is not a valid identity key", to_hex(.0))]
    Key([u8; 32]),
    /// A signature that does not verify.
    #[error("signature of identity {identity} does not verify under domain {domain}")]
    Signature {
        /// The identity.
        identity: IdentityKey,
        /// The domain.
        domain: &'static str,
    },
}

/// The secret side of a node's identity.
///
/// # Security
/// Boxed, wiped on drop. No `Clone`, no `Debug`, no `Serialize` (I10).
pub struct NodeIdentity {
    key: Box<SigningKey>,
    public: IdentityKey,
}

impl NodeIdentity {
    /// A new identity from `entropy`.
    pub fn generate<R: RngCore + CryptoRng>(entropy: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill_bytes(seed.as_mut_slice());
        Self::from_seed(&seed)
    }

    /// The identity with this secret seed, 32 bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = Box::new(SigningKey::from_bytes(seed));
        let public = IdentityKey(key.verifying_key().to_bytes());
        Self { key, public }
    }

    /// The secret seed, in a wiped buffer: for the sealed state only.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    /// The public side.
    pub fn public(&self) -> IdentityKey {
        self.public
    }

    /// Signs the framed hash of `parts` under `domain`.
    pub fn sign(&self, domain: &'static str, parts: &[&[u8]]) -> IdentitySignature {
        IdentitySignature(self.key.sign(&framed(domain, parts)).to_bytes())
    }
}

fn framed(domain: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Framed::new(domain), |hash, part| hash.part(part)).finish()
}

/// The public side of a node's identity: 32 bytes, a valid Ed25519 key that is not of small order. Shown as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u8; 32]", into = "[u8; 32]")]
pub struct IdentityKey([u8; 32]);

impl IdentityKey {
    /// The identity with these bytes.
    ///
    /// # Errors
    /// [`IdentityError::Key`].
    pub fn new(bytes: [u8; 32]) -> Result<Self, IdentityError> {
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(IdentityError::Key(bytes)),
        }
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Verifies a signature of `parts` under `domain`, strictly: one signature for one key and message.
    ///
    /// # Errors
    /// [`IdentityError::Signature`].
    pub fn verify(
        &self,
        domain: &'static str,
        parts: &[&[u8]],
        signature: &IdentitySignature,
    ) -> Result<(), IdentityError> {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(&framed(domain, parts), &Signature::from_bytes(&signature.0)))
            .map_err(|_| IdentityError::Signature { identity: *self, domain })
    }
}

impl TryFrom<[u8; 32]> for IdentityKey {
    type Error = IdentityError;
    fn try_from(bytes: [u8; 32]) -> Result<Self, IdentityError> {
        Self::new(bytes)
    }
}

impl From<IdentityKey> for [u8; 32] {
    fn from(key: IdentityKey) -> [u8; 32] {
        key.0
    }
}

impl FromStr for IdentityKey {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::new(from_hex("identity key", text)?)
    }
}

impl fmt::Display for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({self})")
    }
}

/// An Ed25519 signature, 64 bytes, not yet verified.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "([u8; 32], [u8; 32])", into = "([u8; 32], [u8; 32])")]
pub struct IdentitySignature([u8; 64]);

impl IdentitySignature {
    /// The signature with these bytes.
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl From<([u8; 32], [u8; 32])> for IdentitySignature {
    fn from((left, right): ([u8; 32], [u8; 32])) -> Self {
        let mut bytes = [0; 64];
        let (head, tail) = bytes.split_at_mut(32);
        head.copy_from_slice(&left);
        tail.copy_from_slice(&right);
        Self(bytes)
    }
}

impl From<IdentitySignature> for ([u8; 32], [u8; 32]) {
    fn from(signature: IdentitySignature) -> Self {
        let (mut left, mut right) = ([0; 32], [0; 32]);
        let (head, tail) = signature.0.split_at(32);
        left.copy_from_slice(head);
        right.copy_from_slice(tail);
        (left, right)
    }
}

impl fmt::Debug for IdentitySignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentitySignature({})", to_hex(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use frostkeep_hsm::entropy;

    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_domain_and_parts_alone() {
        let (ours, other) = (NodeIdentity::generate(&mut entropy::os()), NodeIdentity::generate(&mut entropy::os()));
        let signature = ours.sign("a", &[b"one", b"two"]);
        ours.public().verify("a", &[b"one", b"two"], &signature).unwrap();
        assert!(ours.public().verify("b", &[b"one", b"two"], &signature).is_err());
        assert!(ours.public().verify("a", &[b"onet", b"wo"], &signature).is_err(), "the frames keep parts apart");
        assert!(other.public().verify("a", &[b"one", b"two"], &signature).is_err());
        for bit in 0..512 {
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ours.public().verify("a", &[b"one", b"two"], &IdentitySignature::new(bytes)).is_err());
        }
    }

    #[test]
    fn a_seed_gives_the_same_identity_again() {
        let ours = NodeIdentity::generate(&mut entropy::os());
        assert_eq!(NodeIdentity::from_seed(&ours.seed()).public(), ours.public());
        assert_eq!(ours.public().to_string().parse::<IdentityKey>().unwrap(), ours.public());
    }

    #[test]
    fn a_key_of_small_order_is_no_identity() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(IdentityKey::new(neutral), Err(IdentityError::Key(neutral)));
        assert_eq!(IdentityKey::new([0; 32]), Err(IdentityError::Key([0; 32])));
    }

    #[test]
    fn keys_and_signatures_survive_postcard() {
        let ours = NodeIdentity::generate(&mut entropy::os());
        let both = (ours.public(), ours.sign("a", &[]));
        let bytes = postcard::to_allocvec(&both).unwrap();
        assert_eq!(bytes.len(), 96);
        assert_eq!(postcard::from_bytes::<(IdentityKey, IdentitySignature)>(&bytes).unwrap(), both);
    }
}
