//! What travels in a signing session: commitments, the signing package, signature shares, the signature. All public.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use frost_secp256k1_tr as tr;

use super::{DecodeError, GroupKey, identifier, member, serde_as_bytes};
use crate::ids::{KeyGroupId, Member, Message, to_hex};
use crate::limits::MEMBERS_MAX;

/// FROST round one output of one member: 71 bytes, for exactly one signature.
#[derive(Clone)]
pub struct Commitments {
    bytes: [u8; Commitments::BYTES],
    inner: tr::round1::SigningCommitments,
}

impl Commitments {
    /// Length of the encoding.
    pub const BYTES: usize = 71;

    pub(super) fn wrap(inner: tr::round1::SigningCommitments) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed { what: "commitments" };
        let mut bytes = [0; Self::BYTES];
        match postcard::to_slice(&inner, &mut bytes) {
            Ok(used) if used.len() == Self::BYTES => Ok(Self { bytes, inner }),
            _ => Err(malformed),
        }
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (inner, rest) =
            postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed { what: "commitments" })?;
        let read = Self::wrap(inner)?;
        if rest.is_empty() && read.bytes == bytes {
            Ok(read)
        } else {
            Err(DecodeError::NotCanonical { what: "commitments" })
        }
    }

    /// The canonical encoding.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.bytes
    }

    pub(super) fn inner(&self) -> &tr::round1::SigningCommitments {
        &self.inner
    }
}

impl PartialEq for Commitments {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Commitments {}

impl fmt::Debug for Commitments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commitments({})", to_hex(&self.bytes))
    }
}

serde_as_bytes!(Commitments, Commitments::as_bytes, Commitments::from_bytes);

/// A set of commitments and a message that no group, or not this group, can sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// Nobody is included.
    #[error("signing package without members")]
    Empty,
    /// More members than a key group has.
    #[error("signing package of {found} members: at most {MEMBERS_MAX} are allowed")]
    TooMany {
        /// Members found.
        found: usize,
    },
    /// Two members with the same commitments: one of them copied.
    #[error("members {first} and {second} have the same commitments")]
    SameCommitments {
        /// The lower member.
        first: Member,
        /// The higher member.
        second: Member,
    },
    /// A member that the key group does not have.
    #[error("member {member} is not in key group {key_group}")]
    UnknownMember {
        /// The member.
        member: Member,
        /// The key group.
        key_group: KeyGroupId,
    },
    /// Fewer members than the threshold.
    #[error("signing package of {found} members: the threshold is {threshold}")]
    BelowThreshold {
        /// Members found.
        found: usize,
        /// The threshold.
        threshold: u16,
    },
}

/// The commitments of exactly the included members, and the message. It exists only if its members are sorted and unique,
/// their commitments are distinct, and the message has 32 bytes; 39 + 103 t bytes long.
#[derive(Clone)]
pub struct SigningPackage(Arc<Inner>);

struct Inner {
    bytes: Box<[u8]>,
    message: Message,
    commitments: BTreeMap<Member, Commitments>,
    package: tr::SigningPackage,
}

impl SigningPackage {
    /// Length of the longest encoding: [`MEMBERS_MAX`] members, a two-byte count.
    pub const BYTES_MAX: usize = 40 + 103 * MEMBERS_MAX;

    /// The package of these commitments and this message.
    ///
    /// # Errors
    /// [`PackageError`] when nobody or too many are included, or two members have the same commitments.
    pub fn new(message: Message, commitments: BTreeMap<Member, Commitments>) -> Result<Self, PackageError> {
        if commitments.is_empty() {
            return Err(PackageError::Empty);
        }
        if commitments.len() > MEMBERS_MAX {
            return Err(PackageError::TooMany { found: commitments.len() });
        }
        let mut seen = BTreeMap::new();
        for (&second, entry) in &commitments {
            if let Some(first) = seen.insert(entry.as_bytes(), second) {
                return Err(PackageError::SameCommitments { first, second });
            }
        }
        let package = tr::SigningPackage::new(
            commitments.iter().map(|(&member, entry)| (identifier(member), *entry.inner())).collect(),
            message.as_bytes(),
        );
        let bytes = package
            .serialize()
            .expect("every commitment was encoded before, and a growing buffer has room")
            .into_boxed_slice();
        Ok(Self(Arc::new(Inner { bytes, message, commitments, package })))
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else, and for a package that breaks a rule of its own.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "signing package";
        if bytes.len() > Self::BYTES_MAX {
            return Err(DecodeError::Length { what: WHAT, found: bytes.len(), limit: Self::BYTES_MAX });
        }
        let (package, _): (tr::SigningPackage, _) =
            postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        let message: [u8; 32] =
            package.message().as_slice().try_into().map_err(|_| DecodeError::Malformed { what: WHAT })?;
        let mut commitments = BTreeMap::new();
        for (id, entry) in package.signing_commitments() {
            let member = member(id).ok_or(DecodeError::Member { what: WHAT })?;
            commitments.insert(member, Commitments::wrap(*entry)?);
        }
        let read = Self::new(Message::new(message), commitments)?;
        if read.as_bytes() == bytes { Ok(read) } else { Err(DecodeError::NotCanonical { what: WHAT }) }
    }

    /// The canonical encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// A copy of the canonical encoding.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.bytes.to_vec()
    }

    /// The message.
    pub fn message(&self) -> Message {
        self.0.message
    }

    /// The included members, ascending.
    pub fn members(&self) -> impl ExactSizeIterator<Item = Member> + '_ {
        self.0.commitments.keys().copied()
    }

    /// How many members are included.
    pub fn member_count(&self) -> usize {
        self.0.commitments.len()
    }

    /// Whether `member` is included.
    pub fn includes(&self, member: Member) -> bool {
        self.0.commitments.contains_key(&member)
    }

    /// The commitments of `member`, if it is included.
    pub fn commitments_of(&self, member: Member) -> Option<&Commitments> {
        self.0.commitments.get(&member)
    }

    /// Checks that `group` knows every included member and that they are at least its threshold.
    ///
    /// # Errors
    /// [`PackageError::UnknownMember`], [`PackageError::BelowThreshold`].
    pub fn check_against(&self, group: &GroupKey) -> Result<(), PackageError> {
        if let Some(member) = self.members().find(|member| group.members().binary_search(member).is_err()) {
            return Err(PackageError::UnknownMember { member, key_group: group.id() });
        }
        if self.member_count() < usize::from(group.threshold()) {
            return Err(PackageError::BelowThreshold { found: self.member_count(), threshold: group.threshold() });
        }
        Ok(())
    }

    pub(super) fn inner(&self) -> &tr::SigningPackage {
        &self.0.package
    }
}

impl PartialEq for SigningPackage {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for SigningPackage {}

impl fmt::Debug for SigningPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<u16> = self.members().map(Member::number).collect();
        f.debug_struct("SigningPackage").field("message", &self.message()).field("members", &members).finish()
    }
}

serde_as_bytes!(SigningPackage, SigningPackage::as_bytes, SigningPackage::from_bytes);

/// One member's part of a signature: a scalar below the group order, 32 bytes, big-endian.
#[derive(Clone, PartialEq, Eq)]
pub struct SignatureShare(tr::round2::SignatureShare);

impl SignatureShare {
    pub(super) fn wrap(inner: tr::round2::SignatureShare) -> Self {
        Self(inner)
    }

    /// Reads the 32 bytes.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] for another length or a number that is not below the group order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        tr::round2::SignatureShare::deserialize(bytes)
            .map(Self)
            .map_err(|_| DecodeError::Malformed { what: "signature share" })
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.serialize().try_into().expect("a scalar of secp256k1 is encoded as 32 bytes")
    }

    pub(super) fn inner(&self) -> &tr::round2::SignatureShare {
        &self.0
    }
}

impl fmt::Debug for SignatureShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignatureShare({})", to_hex(&self.to_bytes()))
    }
}

serde_as_bytes!(SignatureShare, SignatureShare::to_bytes, SignatureShare::from_bytes);

/// A BIP-340 signature, 64 bytes. It proves itself: see [`GroupKey::verify`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// The signature with these bytes, not yet verified.
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Reads the 64 bytes.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map(Self).map_err(|_| DecodeError::Malformed { what: "signature" })
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

serde_as_bytes!(Signature, Signature::as_bytes, Signature::from_bytes);
