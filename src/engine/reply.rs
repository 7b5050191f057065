//! What goes out. A reply that carries a share is made of a [`Durable`] round and nothing else (I1).

use super::state::{Approval, Finished, Round};
use crate::bitcoin::TransactionId;
use crate::frost::Commitments;
use crate::ids::{AttemptId, Member, Message, RoundId};
use crate::store::{Durable, Position};

/// A durable round on its way out, with the member's current commitments.
pub(crate) struct ReleasedRound {
    pub(crate) round: Durable<Round>,
    pub(crate) current: Option<Box<Commitments>>,
}

/// The answer to a `StartSignRound`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundReply {
    round_id: RoundId,
    attempt: AttemptId,
    member: Member,
    share: [u8; 32],
    position: Position,
    round_signature: [u8; 64],
    next: Option<Box<Commitments>>,
}

impl RoundReply {
    pub(crate) fn new(released: ReleasedRound) -> Self {
        let round = released.round.get();
        Self {
            round_id: round.body.round_id,
            attempt: AttemptId::new(round.body.context.attempt_id),
            member: round.body.member,
            share: round.body.share,
            position: round.position,
            round_signature: round.body.round_signature,
            next: released.current,
        }
    }

    /// The round's name.
    pub fn round_id(&self) -> RoundId {
        self.round_id
    }

    /// The attempt.
    pub fn attempt(&self) -> AttemptId {
        self.attempt
    }

    /// The member that answered.
    pub fn member(&self) -> Member {
        self.member
    }

    /// The signature share.
    pub fn share(&self) -> &[u8; 32] {
        &self.share
    }

    /// The position of the round's record, which is durable.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The identity's signature over domain, round id, member and share.
    pub fn round_signature(&self) -> &[u8; 64] {
        &self.round_signature
    }

    /// The member's current commitments, for the next attempt. Not part of what is durable.
    pub fn next_commitments(&self) -> Option<&Commitments> {
        self.next.as_deref()
    }

    /// The durable part, which every serve repeats byte for byte: round id, attempt id, member, share, position, round
    /// signature; integers big-endian.
    pub fn durable_part(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + 32 + 2 + 32 + 8 + 64);
        bytes.extend_from_slice(self.round_id.as_bytes());
        bytes.extend_from_slice(self.attempt.as_bytes());
        bytes.extend_from_slice(&self.member.number().to_be_bytes());
        bytes.extend_from_slice(&self.share);
        bytes.extend_from_slice(&self.position.number().to_be_bytes());
        bytes.extend_from_slice(&self.round_signature);
        bytes
    }
}

/// The answer to a `FinalizeSignRound`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finalized {
    signature: [u8; 64],
    position: Position,
}

impl Finalized {
    pub(crate) fn new(finished: &Durable<Finished>) -> Self {
        Self { signature: finished.get().signature, position: finished.get().position }
    }

    /// The signature, BIP-340, under the output key of the session's root.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The position of the record, which is durable.
    pub fn position(&self) -> Position {
        self.position
    }
}

/// The answer to a `BuildTaprootTx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalReply {
    id: TransactionId,
    sighashes: Vec<(Message, usize)>,
    position: Position,
}

impl ApprovalReply {
    pub(crate) fn new(approval: &Durable<Approval>) -> Self {
        let approval = approval.get();
        Self {
            id: approval.transaction.id(),
            sighashes: approval.transaction.signature_hashes(),
            position: approval.position,
        }
    }

    /// The transaction.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// The key-path signature hashes with their inputs: for each Taproot input `SIGHASH_DEFAULT`, then `SIGHASH_ALL`.
    /// Sessions may sign those of inputs that spend the group's outputs.
    pub fn sighashes(&self) -> &[(Message, usize)] {
        &self.sighashes
    }

    /// The position of the record, which is durable.
    pub fn position(&self) -> Position {
        self.position
    }
}
