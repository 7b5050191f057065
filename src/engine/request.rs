//! What a caller asks, already parsed: every field is valid in itself.

use crate::frost::{Signature, SignatureShare, SigningPackage};
use crate::ids::{AttemptId, KeyGroupId, Member, MerkleRoot, Message, SessionId};
use crate::roast::{AttemptContextParts, Transition};

/// `Commit`: a member's commitments for a session.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
    /// The member, a seat of this node.
    pub member: Member,
}

/// What a session signs, and under which key. The same in every request of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The message.
    pub message: Message,
    /// The Taproot Merkle root; none for a key-path-only output (BIP-341).
    pub root: Option<MerkleRoot>,
}

/// `StartSignRound`: a signing package in, a signature share out.
#[derive(Clone)]
pub struct SignRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
    /// The member, a seat of this node.
    pub member: Member,
    /// What is signed.
    pub subject: Subject,
    /// The attempt, not validated yet.
    pub context: AttemptContextParts,
    /// The signing package.
    pub package: SigningPackage,
    /// Evidence for the advances from this node's active attempt to this one. Not part of the request fingerprint.
    pub evidence: Vec<Transition>,
}

/// `VoteTimeout`: this node's signed word that an attempt's coordinator was silent.
#[derive(Debug, Clone)]
pub struct VoteRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
    /// The member that votes, a seat of this node.
    pub member: Member,
    /// What is signed.
    pub subject: Subject,
    /// The attempt.
    pub context: AttemptContextParts,
    /// Evidence for the advances from this node's active attempt to this one, when this node has missed them.
    pub evidence: Vec<Transition>,
}

/// One share as a coordinator hands it in.
#[derive(Clone)]
pub struct SubmittedShare {
    /// Whose share.
    pub member: Member,
    /// The share.
    pub share: SignatureShare,
    /// The member's round signature. Without it a bad share names nobody.
    pub round_signature: Option<[u8; 64]>,
}

/// What finishes a session.
#[derive(Clone)]
pub enum Finish {
    /// The shares of an attempt that a member of this node answered.
    Shares {
        /// The attempt.
        attempt: AttemptId,
        /// The shares, one a member of its set.
        shares: Vec<SubmittedShare>,
    },
    /// A finished signature, which proves itself.
    Signature(Signature),
}

/// `FinalizeSignRound`.
#[derive(Clone)]
pub struct FinalizeRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
    /// What was signed.
    pub subject: Subject,
    /// The shares or the signature.
    pub finish: Finish,
}

/// `AbortSession` and `GetSession`.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
}
