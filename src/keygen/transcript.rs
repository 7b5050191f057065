//! What was said in a ceremony, and a node's word that it heard exactly that.

use serde::{Deserialize, Serialize};

use super::{EncodingError, Parameters, decode, encode};
use crate::frost::GroupKey;
use crate::hash::Framed;
use crate::identity::{IdentityError, IdentityKey, IdentitySignature, NodeIdentity};
use crate::ids::Member;
use crate::limits::RECORD_BYTES_MAX;

const STATEMENT: &str = "frostkeep-keygen-transcript-signature-v1";

/// Parameters, a digest of every round-one message (package and envelope key) and of every round-two message (all
/// ciphertexts), verifying shares and group key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Transcript {
    raw: Raw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Raw {
    parameters: Parameters,
    /// Round one, round two; in the order of the members.
    digests: Vec<([u8; 32], [u8; 32])>,
    group: GroupKey,
}

impl TryFrom<Raw> for Transcript {
    type Error = EncodingError;
    fn try_from(raw: Raw) -> Result<Self, EncodingError> {
        let members = raw.parameters.seats().keys();
        if raw.digests.len() == members.len()
            && raw.group.members().iter().eq(members)
            && raw.group.threshold() == raw.parameters.threshold()
        {
            Ok(Self { raw })
        } else {
            Err(EncodingError::Malformed { what: "transcript" })
        }
    }
}

impl From<Transcript> for Raw {
    fn from(transcript: Transcript) -> Raw {
        transcript.raw
    }
}

impl Transcript {
    pub(super) fn new(
        parameters: Parameters,
        digests: Vec<([u8; 32], [u8; 32])>,
        group: GroupKey,
    ) -> Result<Self, EncodingError> {
        Raw { parameters, digests, group }.try_into()
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`EncodingError`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
        decode("transcript", bytes, RECORD_BYTES_MAX)
    }

    /// The canonical encoding: less than 180 bytes a member.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// What the ceremony was about.
    pub fn parameters(&self) -> &Parameters {
        &self.raw.parameters
    }

    /// The key that it made.
    pub fn group(&self) -> &GroupKey {
        &self.raw.group
    }

    /// The hash that every node signs.
    pub fn hash(&self) -> [u8; 32] {
        Framed::new("frostkeep-keygen-transcript-v1").part(&self.to_bytes()).finish()
    }

    /// Members from whom this node and another heard different things: one of them equivocated, or the other node's
    /// transcript is false.
    pub fn differences(&self, other: &Transcript) -> Vec<Member> {
        let ours = self.raw.parameters.seats().keys().zip(&self.raw.digests);
        ours.zip(&other.raw.digests).filter(|((_, a), b)| a != b).map(|((member, _), _)| *member).collect()
    }
}

/// A node's signature on a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    identity: IdentityKey,
    transcript: [u8; 32],
    signature: IdentitySignature,
}

impl Statement {
    pub(super) fn sign(transcript: &Transcript, identity: &NodeIdentity) -> Self {
        let hash = transcript.hash();
        let ceremony = transcript.parameters().ceremony();
        let signature = identity.sign(STATEMENT, &[ceremony.as_bytes(), &hash]);
        Self { identity: identity.public(), transcript: hash, signature }
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// [`EncodingError`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
        decode("transcript statement", bytes, 128)
    }

    /// The canonical encoding, 128 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// The node.
    pub fn identity(&self) -> IdentityKey {
        self.identity
    }

    /// The hash of the transcript that it signed.
    pub fn transcript(&self) -> [u8; 32] {
        self.transcript
    }

    /// Verifies the signature of the node, on whatever transcript of this ceremony.
    ///
    /// # Errors
    /// [`IdentityError::Signature`].
    pub fn verify(&self, parameters: &Parameters) -> Result<(), IdentityError> {
        self.identity.verify(STATEMENT, &[parameters.ceremony().as_bytes(), &self.transcript], &self.signature)
    }
}
