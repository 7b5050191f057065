//! The one message of a ceremony: signed by its sender's identity, bound to ceremony, parameters, round, sender and receiver.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{EncodingError, Envelope, Parameters, decode, encode};
use crate::frost::RoundOnePackage;
use crate::hash::Framed;
use crate::identity::{IdentitySignature, NodeIdentity};
use crate::ids::{CeremonyId, Member};
use crate::limits::KEYGEN_MESSAGE_BYTES_MAX;

const SIGNATURE: &str = "frostkeep-keygen-message-signature-v1";

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Round {
    /// Commitment to a polynomial, proof of knowledge, key for envelopes.
    One,
    /// One envelope for every other member.
    Two,
    /// A round-two package was wrong.
    Complaint,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "round one",
            Self::Two => "round two",
            Self::Complaint => "complaint",
        })
    }
}

/// What a message says. Every message goes to all members; envelopes name their own receivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Round one. The package is decoded after the signature, so that a malformed one has an author.
    RoundOne {
        /// A [`RoundOnePackage`], encoded.
        package: Vec<u8>,
        /// The sender's X25519 key for this ceremony.
        key: [u8; 32],
    },
    /// Round two.
    RoundTwo {
        /// One for every other member, ascending.
        envelopes: Vec<Envelope>,
    },
    /// The sender could not use what `accused` sent it in round two. There is no proof: it would show a secret (I10).
    Complaint {
        /// Who sent it.
        accused: Member,
    },
}

impl Body {
    pub(super) fn round(&self) -> Round {
        match self {
            Self::RoundOne { .. } => Round::One,
            Self::RoundTwo { .. } => Round::Two,
            Self::Complaint { .. } => Round::Complaint,
        }
    }
}

/// Why a message is not one of this ceremony. It says nothing about the named sender: anybody can write such bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a message at all.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A message of another ceremony.
    #[error("message of ceremony {found}, this is {expected}")]
    WrongCeremony {
        /// This ceremony.
        expected: CeremonyId,
        /// The one that the message names.
        found: CeremonyId,
    },
    /// The sender was told other parameters for the same ceremony.
    #[error("member {sender} has other parameters for ceremony {ceremony}")]
    WrongParameters {
        /// The ceremony.
        ceremony: CeremonyId,
        /// The sender.
        sender: Member,
    },
    /// A sender that has no seat.
    #[error("member {sender} has no seat in this ceremony")]
    UnknownSender {
        /// The sender.
        sender: Member,
    },
    /// A complaint about the sender itself or about nobody.
    #[error("complaint of member {sender} about member {accused}, which is not another member")]
    Accused {
        /// The sender.
        sender: Member,
        /// About whom.
        accused: Member,
    },
    /// A signature that is not the sender's.
    #[error("message of member {sender} is not signed by the identity that holds its seat")]
    Signature {
        /// The sender that the message names.
        sender: Member,
    },
}

/// A message of a ceremony.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    ceremony: CeremonyId,
    parameters: [u8; 32],
    sender: Member,
    body: Body,
    signature: IdentitySignature,
}

impl Message {
    pub(super) fn sign(parameters: &Parameters, sender: Member, body: Body, identity: &NodeIdentity) -> Self {
        let mut message = Self {
            ceremony: parameters.ceremony(),
            parameters: parameters.hash(),
            sender,
            body,
            signature: IdentitySignature::new([0; 64]),
        };
        message.signature = identity.sign(SIGNATURE, &[&message.digest()]);
        message
    }

    /// Reads a message of the ceremony with these parameters, and verifies that the holder of the sender's seat signed it.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn open(bytes: &[u8], parameters: &Parameters) -> Result<Self, MessageError> {
        let message: Self = decode("key generation message", bytes, KEYGEN_MESSAGE_BYTES_MAX)?;
        message.verify(parameters)?;
        Ok(message)
    }

    pub(super) fn verify(&self, parameters: &Parameters) -> Result<(), MessageError> {
        let sender = self.sender;
        if self.ceremony != parameters.ceremony() {
            return Err(MessageError::WrongCeremony { expected: parameters.ceremony(), found: self.ceremony });
        }
        let identity = parameters.identity_of(sender).ok_or(MessageError::UnknownSender { sender })?;
        identity
            .verify(SIGNATURE, &[&self.digest()], &self.signature)
            .map_err(|_| MessageError::Signature { sender })?;
        if self.parameters != parameters.hash() {
            return Err(MessageError::WrongParameters { ceremony: self.ceremony, sender });
        }
        match self.body {
            Body::Complaint { accused } if accused == sender || !parameters.seats().contains_key(&accused) => {
                Err(MessageError::Accused { sender, accused })
            }
            _ => Ok(()),
        }
    }

    /// The encoding, at most [`KEYGEN_MESSAGE_BYTES_MAX`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Who sent it.
    pub fn sender(&self) -> Member {
        self.sender
    }

    /// What it is for.
    pub fn round(&self) -> Round {
        self.body.round()
    }

    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// What is signed, and what the transcript holds: everything but the signature.
    pub(super) fn digest(&self) -> [u8; 32] {
        let round: &[u8] = match self.round() {
            Round::One => b"one",
            Round::Two => b"two",
            Round::Complaint => b"complaint",
        };
        Framed::new("frostkeep-keygen-message-v1")
            .part(self.ceremony.as_bytes())
            .part(&self.parameters)
            .part(round)
            .part(&self.sender.number().to_be_bytes())
            .part(b"to all members")
            .part(&encode(&self.body))
            .finish()
    }
}

/// The package and the key of a round-one message; none for one that its sender should not have signed.
pub(super) fn round_one(message: &Message) -> Option<(RoundOnePackage, [u8; 32])> {
    match &message.body {
        Body::RoundOne { package, key } => Some((RoundOnePackage::from_bytes(package).ok()?, *key)),
        _ => None,
    }
}
