//! Who is to blame when a ceremony fails, and with what proof.

use serde::{Deserialize, Serialize};

use super::message::{Message, Round, round_one};
use super::{Body, EncodingError, Envelope, Parameters, decode, encode};
use crate::frost::DkgError;
use crate::ids::{CeremonyId, Member};
use crate::limits::KEYGEN_MESSAGE_BYTES_MAX;

/// What is wrong with a signed round-one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RoundOneFault {
    /// Not a round-one package.
    #[error("its package is not an encoding of one")]
    Malformed,
    /// A wrong number of coefficients, or a proof of knowledge that does not verify.
    #[error("its coefficients or its proof of knowledge do not verify")]
    Proof,
    /// A key of small order: every envelope to it could be read by anybody.
    #[error("its envelope key is of small order")]
    Key,
}

/// One reason for which a ceremony failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// Nothing came from a member.
    #[error("nothing came from member {member} in {round}")]
    Absent {
        /// The member.
        member: Member,
        /// The round.
        round: Round,
    },
    /// A signed round-one message that is wrong in itself: proved.
    #[error("round one of member {}: {reason}", .proof.sender())]
    RoundOne {
        /// What is wrong.
        reason: RoundOneFault,
        /// The message.
        proof: Box<Message>,
    },
    /// A signed round-two message without exactly one envelope for every other member: proved.
    #[error("round two of member {}: not exactly one envelope for every other member", .proof.sender())]
    Envelopes {
        /// The message.
        proof: Box<Message>,
    },
    /// Two different signed messages of one round: proved.
    #[error("member {} sent two different messages of {}", .first.sender(), .first.round())]
    Equivocation {
        /// One.
        first: Box<Message>,
        /// The other.
        second: Box<Message>,
    },
    /// A complaint: either the accused sent a wrong package or the accuser lies. Nothing proves which.
    #[error("member {accuser} says that member {accused} sent it a wrong round-two package; either may be at fault")]
    Complaint {
        /// Who complains.
        accuser: Member,
        /// About whom.
        accused: Member,
    },
}

/// A fault that does not prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fault is not proved")]
pub struct FaultUnproved;

impl Fault {
    /// Every member that it names: both sides of a complaint.
    pub fn members(&self) -> Vec<Member> {
        match self {
            Self::Absent { member, .. } => vec![*member],
            Self::RoundOne { proof, .. } | Self::Envelopes { proof } => vec![proof.sender()],
            Self::Equivocation { first, .. } => vec![first.sender()],
            Self::Complaint { accuser, accused } => vec![*accuser, *accused],
        }
    }

    /// The encoding, for whoever is to check the proof: at most two messages and what names them.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads the canonical encoding. What it says is not yet verified.
    ///
    /// # Errors
    /// [`EncodingError`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
        decode("fault", bytes, 2 * KEYGEN_MESSAGE_BYTES_MAX + 64)
    }

    /// Checks the proof from nothing but the parameters: for whoever is shown a fault that another node found.
    ///
    /// # Errors
    /// [`FaultUnproved`] for absence and complaints, which have no proof, and for a proof that does not hold.
    pub fn verify(&self, parameters: &Parameters) -> Result<(), FaultUnproved> {
        let signed = |message: &Message| message.verify(parameters).is_ok();
        let holds = match self {
            Self::Absent { .. } | Self::Complaint { .. } => false,
            Self::RoundOne { proof, reason } => signed(proof) && check_round_one(proof, parameters) == Err(*reason),
            Self::Envelopes { proof } => {
                signed(proof) && proof.round() == Round::Two && !envelopes_complete(proof, parameters)
            }
            Self::Equivocation { first, second } => {
                signed(first)
                    && signed(second)
                    && first.sender() == second.sender()
                    && first.round() == second.round()
                    && first.round() != Round::Complaint
                    && first.digest() != second.digest()
            }
        };
        if holds { Ok(()) } else { Err(FaultUnproved) }
    }
}

/// Checks what a round-one message says about its own sender. Anything but a round-one message passes.
pub(super) fn check_round_one(message: &Message, parameters: &Parameters) -> Result<(), RoundOneFault> {
    if message.round() != Round::One {
        return Ok(());
    }
    let (package, key) = round_one(message).ok_or(RoundOneFault::Malformed)?;
    if !package.verifies(message.sender(), parameters.threshold()) {
        return Err(RoundOneFault::Proof);
    }
    if !Envelope::accepts(&key) {
        return Err(RoundOneFault::Key);
    }
    Ok(())
}

/// Whether a round-two message holds exactly one envelope for every other member, ascending.
pub(super) fn envelopes_complete(message: &Message, parameters: &Parameters) -> bool {
    let others = parameters.seats().keys().copied().filter(|member| *member != message.sender());
    matches!(message.body(), Body::RoundTwo { envelopes } if envelopes.iter().map(Envelope::receiver).eq(others))
}

/// A ceremony that failed. Its secrets are gone; a new one needs a new id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ceremony {ceremony} failed: {}", .faults.iter().map(Fault::to_string).chain(.defect.iter().map(DkgError::to_string)).collect::<Vec<_>>().join("; "))]
pub struct Failure {
    /// The ceremony.
    pub ceremony: CeremonyId,
    /// Every reason that is known.
    pub faults: Vec<Fault>,
    /// Signed complaints, for all other nodes.
    pub complaints: Vec<Message>,
    /// Our fault: what the key generation refused although every message was right.
    pub defect: Option<DkgError>,
}
