//! A member's long-term secret.

use frost_secp256k1_tr as tr;
use tr::keys::VerifyingShare;
use zeroize::{Zeroize, Zeroizing};

use super::{DecodeError, member};
use crate::ids::{KeyGroupId, Member};
use crate::limits::MEMBERS_MAX;

/// Length of the longest encoded key share, bytes: 135 and a threshold of at most three.
pub const KEY_SHARE_BYTES_MAX: usize = 138;

/// One member's long-term secret with its public facts.
///
/// # Security
/// Boxed, wiped on drop. No `Clone`, no `Debug`, no `Serialize`: [`KeyShare::encode`] into a fixed wiped buffer is the only
/// way out (I10).
pub struct KeyShare {
    member: Member,
    key_group: KeyGroupId,
    package: Box<tr::keys::KeyPackage>,
}

/// An encoded key share: a fixed buffer that never grows and is wiped on drop (I10).
pub struct EncodedKeyShare {
    bytes: Box<Zeroizing<[u8; KEY_SHARE_BYTES_MAX]>>,
    len: usize,
}

impl EncodedKeyShare {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for EncodedKeyShare {
    fn drop(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
    }
}

impl KeyShare {
    /// Checks the package: G * share equals the verifying share, the identifier is a member number, the threshold is one.
    pub(super) fn wrap(package: Box<tr::keys::KeyPackage>) -> Result<Self, DecodeError> {
        const WHAT: &str = "key share";
        let member = member(package.identifier()).ok_or(DecodeError::Member { what: WHAT })?;
        let threshold = *package.min_signers();
        if !(2..=MEMBERS_MAX).contains(&usize::from(threshold)) {
            return Err(DecodeError::Threshold { what: WHAT, found: threshold, members: MEMBERS_MAX });
        }
        if VerifyingShare::from(*package.signing_share()) != *package.verifying_share() {
            return Err(DecodeError::ShareMismatch { member });
        }
        let key_group = key_group_id(package.verifying_key()).ok_or(DecodeError::Malformed { what: WHAT })?;
        Ok(Self { member, key_group, package })
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else, and for a share that does not match its verifying share.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "key share";
        if bytes.len() > KEY_SHARE_BYTES_MAX {
            return Err(DecodeError::Length { what: WHAT, found: bytes.len(), limit: KEY_SHARE_BYTES_MAX });
        }
        let (package, _) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed { what: WHAT })?;
        let share = Self::wrap(Box::new(package))?;
        if share.encode().as_bytes() == bytes { Ok(share) } else { Err(DecodeError::NotCanonical { what: WHAT }) }
    }

    /// The canonical encoding, in a wiped buffer.
    pub fn encode(&self) -> EncodedKeyShare {
        let mut bytes = Box::new(Zeroizing::new([0; KEY_SHARE_BYTES_MAX]));
        let len = postcard::to_slice(self.package.as_ref(), bytes.as_mut_slice())
            .expect("a checked package has no identity element and at most KEY_SHARE_BYTES_MAX bytes")
            .len();
        EncodedKeyShare { bytes, len }
    }

    /// The member that this share belongs to.
    pub fn member(&self) -> Member {
        self.member
    }

    /// The key group that this share belongs to.
    pub fn key_group(&self) -> KeyGroupId {
        self.key_group
    }

    /// The threshold of the key group.
    pub fn threshold(&self) -> u16 {
        *self.package.min_signers()
    }

    /// The verifying share, 33 bytes, compressed SEC1.
    pub fn verifying_share(&self) -> [u8; 33] {
        point(self.package.verifying_share())
    }

    pub(super) fn inner(&self) -> &tr::keys::KeyPackage {
        &self.package
    }
}

/// The compressed encoding of a verifying share that was checked not to be the identity.
pub(super) fn point(share: &VerifyingShare) -> [u8; 33] {
    share
        .serialize()
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .expect("a checked verifying share is a point other than the identity, encoded as 33 bytes")
}

/// The id of the key group with this verifying key; none for the identity.
pub(super) fn key_group_id(key: &tr::VerifyingKey) -> Option<KeyGroupId> {
    KeyGroupId::new(key.serialize().ok()?.try_into().ok()?).ok()
}
