//! Records: the entries of the journal. Everything that the engine must remember is one of these, and nothing else is.
//!
//! The encoding is postcard 1 over these types, in this order: variants are only ever appended, and the fields of one never
//! change, since an old record would not decode with another field. Nonces are
//! never in a record (I6).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::bitcoin::Prevout;
use crate::identity::IdentityKey;
use crate::ids::{AttemptId, CeremonyId, FreezeId, KeyGroupId, Member, MerkleRoot, Message, RoundId, SessionId};
use crate::keygen::Certificate;
use crate::policy::{Charge, SigningPolicy};
use crate::roast::AttemptContextParts;

/// Secret bytes: wiped on drop, never printed, read in one piece so that no growing vector leaves a copy (trap 19). Clones
/// share one copy: both views of the state, and every node of its maps that an install copies, hold the same one.
#[derive(Clone)]
pub struct SecretBytes(Arc<Zeroizing<Box<[u8]>>>);

impl SecretBytes {
    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.as_slice().into())))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = SecretBytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("secret bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<SecretBytes, E> {
                Ok(SecretBytes(Arc::new(Zeroizing::new(bytes.into()))))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// A member's answer to an attempt, as it is remembered and served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundBody {
    /// The key group.
    pub key_group: KeyGroupId,
    /// The session.
    pub session: SessionId,
    /// The session's message.
    pub message: Message,
    /// The session's Taproot root.
    pub root: Option<MerkleRoot>,
    /// The attempt.
    pub context: AttemptContextParts,
    /// The member that answered.
    pub member: Member,
    /// Fingerprint of the request, transition evidence left out.
    pub fingerprint: [u8; 32],
    /// The round's name.
    pub round_id: RoundId,
    /// The signing package, canonical.
    pub package: Vec<u8>,
    /// The signature share.
    pub share: [u8; 32],
    /// The identity's signature over domain, round id, member and share.
    #[serde(with = "sixty_four")]
    pub round_signature: [u8; 64],
}

/// One authorised advance under the `evidence` policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// The attempt that was left.
    pub from: AttemptId,
    /// The number that it leads to.
    pub number: u32,
    /// Hash of the transition record: the same on every node.
    pub hash: [u8; 32],
    /// Whether the coordinator's timeout is the reason; proved bad shares otherwise.
    pub timeout: bool,
    /// Distinct genuine votes, for a timeout.
    pub votes: u16,
    /// Who is to blame: the silent coordinator, or those whose shares are proved bad.
    pub blamed: Vec<Member>,
}

/// The end of a session without a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// `AbortSession`.
    Aborted,
    /// Idle for too long.
    Closed,
}

/// A prepared key group: the shares of this node's seats, and its signature on the transcript (one record, so that
/// *prepared* and *has signed* are one state).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PreparedRecord {
    /// The key generation.
    pub ceremony: CeremonyId,
    /// The key group that it makes.
    pub key_group: KeyGroupId,
    /// Shares, transcript and this node's signature on it, encoded by `keygen`.
    pub prepared: SecretBytes,
    /// The signing policy whose hash the transcript holds.
    pub policy: SigningPolicy,
}

/// One entry of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// The node identity's seed, made at `init`.
    Identity(SecretBytes),
    /// A key group's shares, prepared.
    Prepared(Box<PreparedRecord>),
    /// The complete certificate of a prepared key group: it is active now.
    Activated {
        /// The key group.
        key_group: KeyGroupId,
        /// The certificate; its signatures are verified when it is read, never under the state lock.
        #[serde(with = "certificate_bytes")]
        certificate: Arc<Certificate>,
    },
    /// The operator dropped a prepared share (`danger`).
    PreparedDropped {
        /// The key group.
        key_group: KeyGroupId,
    },
    /// The key group has ended: its shares are wiped, its sessions freed.
    Retired {
        /// The key group.
        key_group: KeyGroupId,
    },
    /// The policy of a key group.
    PolicySet {
        /// The key group.
        key_group: KeyGroupId,
        /// The policy.
        policy: SigningPolicy,
        /// When, seconds since 1970-01-01 UTC.
        unix: u64,
        /// By whom.
        by: String,
    },
    /// A transaction that the policy allowed.
    Approved {
        /// The key group.
        key_group: KeyGroupId,
        /// The transaction in its network encoding, without signatures.
        raw: Vec<u8>,
        /// What its inputs spend, in their order.
        prevouts: Vec<Prevout>,
        /// The group's output keys that its inputs may be of, the one without a script tree first.
        keys: Vec<[u8; 32]>,
        /// What it counts against the policy's rates, and since when.
        charge: Charge,
    },
    /// A round, with the advances that led to its attempt. It opens its session when that is new.
    Round {
        /// The round and its consumed marker.
        body: Arc<RoundBody>,
        /// Under `evidence`: the advances, oldest first.
        advances: Vec<Advance>,
    },
    /// A session has its signature.
    Finalized {
        /// The key group.
        key_group: KeyGroupId,
        /// The session.
        session: SessionId,
        /// The signature, BIP-340.
        #[serde(with = "sixty_four")]
        signature: [u8; 64],
    },
    /// A session ended without one.
    Ended {
        /// The key group.
        key_group: KeyGroupId,
        /// The session.
        session: SessionId,
        /// How.
        ending: Ending,
    },
    /// A freeze.
    Frozen {
        /// The key group.
        key_group: KeyGroupId,
        /// The freeze.
        freeze: FreezeId,
        /// Why, for people.
        reason: String,
        /// When, seconds since 1970-01-01 UTC.
        unix: u64,
    },
    /// A thaw lifts the freezes that it names.
    Thawed {
        /// The key group.
        key_group: KeyGroupId,
        /// The freezes.
        freezes: Vec<FreezeId>,
        /// When, seconds since 1970-01-01 UTC.
        unix: u64,
        /// By whom.
        by: String,
    },
    /// A key generation has begun here: its name is used up. Drawn again under the same name, its secrets would make an honest
    /// node prove its own equivocation.
    Begun {
        /// The key generation.
        ceremony: CeremonyId,
    },
    /// The key that this node calls others with, PKCS#8, made beside the identity, or by the first start of a release that
    /// knows it.
    ClientKey(SecretBytes),
    /// A member of a key group has another node identity from here on.
    IdentityReplaced {
        /// The key group.
        key_group: KeyGroupId,
        /// The member.
        member: Member,
        /// Its new identity.
        identity: IdentityKey,
        /// When, seconds since 1970-01-01 UTC.
        unix: u64,
        /// By whom.
        by: String,
    },
}

/// A certificate as the bytes that `keygen` gives it.
mod certificate_bytes {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::keygen::Certificate;

    pub(super) fn serialize<S: Serializer>(certificate: &Arc<Certificate>, serializer: S) -> Result<S::Ok, S::Error> {
        certificate.to_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Certificate>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Certificate::from_bytes(&bytes).map(Arc::new).map_err(serde::de::Error::custom)
    }
}

/// 64-byte arrays, which serde does not know by itself.
pub(crate) mod sixty_four {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (head, tail) = bytes.split_at(32);
        let half = |part: &[u8]| <[u8; 32]>::try_from(part).unwrap_or_default();
        (half(head), half(tail)).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let (head, tail) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(head.into_iter().chain(tail)) {
            *to = from;
        }
        Ok(bytes)
    }
}

/// Bytes that are no record or snapshot item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They do not decode.
    #[error("{bytes} bytes do not decode: {detail}")]
    Decode {
        /// How many.
        bytes: usize,
        /// What postcard says.
        detail: String,
    },
    /// They decode and something is left over.
    #[error("{left} bytes are left over after a record")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// The value does not encode within the limit.
    #[error("a record of {bytes} bytes: {limit} are allowed")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Encodes into a wiped buffer of the exact size.
///
/// # Errors
/// [`RecordError::TooLarge`] above `limit` bytes.
pub(crate) fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Zeroizing<Vec<u8>>, RecordError> {
    let bytes = postcard::experimental::serialized_size(value)
        .map_err(|error| RecordError::Decode { bytes: 0, detail: error.to_string() })?;
    if bytes > limit {
        return Err(RecordError::TooLarge { bytes, limit });
    }
    let mut buffer = Zeroizing::new(vec![0; bytes]);
    postcard::to_slice(value, &mut buffer).map_err(|error| RecordError::Decode { bytes, detail: error.to_string() })?;
    Ok(buffer)
}

/// Decodes all of `bytes`.
///
/// # Errors
/// [`RecordError`].
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    let (value, rest) = postcard::take_from_bytes(bytes)
        .map_err(|error| RecordError::Decode { bytes: bytes.len(), detail: error.to_string() })?;
    if rest.is_empty() { Ok(value) } else { Err(RecordError::Trailing { left: rest.len() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeIdentity;

    fn key_group() -> KeyGroupId {
        KeyGroupId::new([2; 33]).unwrap()
    }

    /// The bytes that the manual gives: another order of variants or fields makes every journal unreadable.
    #[test]
    fn the_encoding_of_a_record_never_changes() {
        let key = Record::ClientKey(SecretBytes::new(Zeroizing::new(vec![0xaa, 0xbb])));
        assert_eq!(*encode(&key, 100).unwrap(), [13, 2, 0xaa, 0xbb]);
        let identity = NodeIdentity::from_seed(&[1; 32]).public();
        let member = Member::new(300).unwrap();
        let replaced = Record::IdentityReplaced { key_group: key_group(), member, identity, unix: 5, by: "ab".into() };
        let bytes = encode(&replaced, 100).unwrap();
        let expected = [&[14][..], &[2; 33], &[0xac, 0x02], identity.as_bytes(), &[5, 2], b"ab"].concat();
        assert_eq!(*bytes, expected);
        assert!(matches!(decode(&bytes), Ok(Record::IdentityReplaced { unix: 5, .. })));
        let numbers = [
            (Record::Retired { key_group: key_group() }, 4),
            (Record::Thawed { key_group: key_group(), freezes: vec![], unix: 0, by: String::new() }, 11),
            (Record::Begun { ceremony: CeremonyId::new([0; 16]) }, 12),
        ];
        for (record, number) in numbers {
            assert_eq!(encode(&record, 100).unwrap().first(), Some(&number), "{record:?}");
        }
    }
}
