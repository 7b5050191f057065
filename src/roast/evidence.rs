//! What authorises an advance under the `evidence` policy: exactly one attempt further, proved, not believed.
//!
//! This file checks the structure of evidence; whether a signature or a share is good is asked of an [`EvidenceOracle`].
//! Nothing here changes anything: a refused chain leaves the active attempt as it was (I3).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{AttemptBinding, AttemptContext, AttemptContextParts, ContextError};
use crate::ids::{AttemptId, Member, MerkleRoot};
use crate::limits::{EVIDENCE_STEPS_MAX, SIGNING_PACKAGE_BYTES_MAX};
use crate::reasons::Reason;

/// A signature share, bytes.
const SHARE_BYTES: usize = 32;
/// An Ed25519 signature, bytes.
const SIGNATURE_BYTES: usize = 64;

/// One member's answer with everything that a third party needs to judge it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRound {
    /// The member that answered.
    pub member: u16,
    /// The attempt that it answered.
    pub attempt: AttemptContextParts,
    /// The Taproot Merkle root of the tweak, if any.
    pub root: Option<MerkleRoot>,
    /// The signing package, canonical bytes.
    pub package: Vec<u8>,
    /// The signature share, 32 bytes.
    pub share: Vec<u8>,
    /// The round signature, 64 bytes, over [`super::round_signature_message`]. Without it a coordinator could alter an
    /// honest share and blame the member.
    pub round_signature: Vec<u8>,
}

/// One member's word that the coordinator of an attempt has not come in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutVote {
    /// The member that votes.
    pub voter: u16,
    /// Its identity's signature, 64 bytes, over [`super::timeout_vote_message`].
    pub signature: Vec<u8>,
}

/// Why an attempt is given up, with the proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Members answered with shares that do not verify.
    InvalidShare {
        /// The answer of each of them.
        accused: Vec<SignedRound>,
    },
    /// The coordinator did not come in time.
    CoordinatorTimeout {
        /// Votes of min(t, included - 1) distinct included members other than the coordinator, or more.
        votes: Vec<TimeoutVote>,
    },
}

/// One step from an attempt to the next. It names the attempt that it leaves by number, id and coordinator, never by a
/// round id or a request fingerprint: those differ between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The number of the attempt that is left.
    pub active_number: u32,
    /// Its id.
    pub active_id: AttemptId,
    /// Its coordinator.
    pub active_coordinator: u16,
    /// Members that are not in the next attempt, by name.
    pub excluded: Vec<u16>,
    /// The proof.
    pub evidence: Evidence,
    /// The attempt that the step leads to.
    pub next: AttemptContextParts,
}

/// Why an attempt was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TransitionReason {
    /// Proved invalid shares.
    InvalidShare,
    /// The coordinator's timeout.
    CoordinatorTimeout,
}

impl TransitionReason {
    /// The reason as RFC-21 writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidShare => "invalid_share_proof",
            Self::CoordinatorTimeout => "coordinator_timeout",
        }
    }
}

/// What a judge says of one signed round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareVerdict {
    /// The share verifies.
    Valid,
    /// The member signed this round and its share does not verify.
    Invalid,
    /// The share does not verify, but nothing shows that the member made it so.
    Indeterminate,
}

/// The cryptographic facts, asked of whoever holds the key group's certificate.
pub trait EvidenceOracle {
    /// Whether the voter's identity signed that the coordinator of `active` has not come in time.
    fn vote_is_genuine(&self, active: &AttemptContext, vote: &TimeoutVote) -> bool;

    /// What the share of `round`, an answer to `active`, is.
    fn verdict(&self, active: &AttemptContext, round: &SignedRound) -> ShareVerdict;
}

/// Why evidence authorises nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// More steps than a node takes at once.
    #[error("a chain of {steps} steps of evidence: at most {EVIDENCE_STEPS_MAX} are allowed")]
    ChainTooLong {
        /// Steps given.
        steps: usize,
    },
    /// The chain stops short.
    #[error("the evidence leads to attempt {reached}: attempt {wanted} was asked for")]
    ChainIncomplete {
        /// Where it ends.
        reached: u32,
        /// Where it should.
        wanted: u32,
    },
    /// The chain goes on after the attempt that was asked for, or ends in another one of its number.
    #[error("the evidence leads to attempt {reached} with id {id}: another attempt was asked for")]
    OtherTarget {
        /// The number it leads to.
        reached: u32,
        /// The id.
        id: AttemptId,
    },
    /// The step leaves another attempt.
    #[error(
        "the evidence leaves attempt {number} (id {id}, coordinator {coordinator}): \
         the active one is {active_number} (id {active_id}, coordinator {active_coordinator})"
    )]
    OtherActive {
        /// Number named.
        number: u32,
        /// Id named.
        id: AttemptId,
        /// Coordinator named.
        coordinator: u16,
        /// The active number.
        active_number: u32,
        /// The active id.
        active_id: AttemptId,
        /// The active coordinator.
        active_coordinator: u16,
    },
    /// The step does not lead exactly one further.
    #[error("the evidence leads from attempt {from} to {to}: exactly one further is allowed")]
    NotNext {
        /// The attempt left.
        from: u32,
        /// The attempt named next.
        to: u32,
    },
    /// The attempt that the step leads to is not valid.
    #[error("the attempt that the evidence leads to is not valid")]
    Next(#[source] ContextError),
    /// Members are numbered from 1.
    #[error("member 0 is excluded: members are 1 to 65535")]
    ExcludedZero,
    /// A member twice.
    #[error("member {member} is excluded twice")]
    ExcludedTwice {
        /// The member.
        member: u16,
    },
    /// Not there to be excluded.
    #[error("excluded member {member} was not in attempt {active}")]
    ExcludedOutside {
        /// The member.
        member: u16,
        /// The active number.
        active: u32,
    },
    /// The new coordinator cannot be excluded.
    #[error("excluded member {member} is the coordinator of the next attempt")]
    ExcludedCoordinates {
        /// The member.
        member: u16,
    },
    /// Excluded and included at once.
    #[error("excluded member {member} is included in the next attempt")]
    ExcludedIncluded {
        /// The member.
        member: u16,
    },
    /// Excluded without proof.
    #[error("member {member} is excluded and nothing proves its fault")]
    ExcludedUnproved {
        /// The member.
        member: u16,
    },
    /// Proved at fault and kept.
    #[error("member {member} is accused and not excluded")]
    AccusedKept {
        /// The member.
        member: u16,
    },
    /// Nobody is accused.
    #[error("an invalid share is claimed and nobody is accused")]
    AccusedEmpty,
    /// A member twice.
    #[error("member {member} is accused twice")]
    AccusedTwice {
        /// The member.
        member: u16,
    },
    /// The signed round is of another attempt or another root.
    #[error("the round of accused member {member} is not of the active attempt and its root")]
    RoundOfOther {
        /// The member.
        member: u16,
    },
    /// A signed round whose parts have impossible sizes.
    #[error("the round of accused member {member} holds {found} bytes of {what}: {allowed} are allowed")]
    RoundSize {
        /// The member.
        member: u16,
        /// Which part.
        what: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// The accused share is good, or nothing shows whose fault it is.
    #[error("the share of accused member {member} is not proved invalid: the verdict is {verdict:?}")]
    NotProved {
        /// The member.
        member: u16,
        /// The verdict.
        verdict: ShareVerdict,
    },
    /// The voter has no vote.
    #[error("voter {voter} is not an included member other than the coordinator")]
    VoterOutside {
        /// The voter.
        voter: u16,
    },
    /// A voter twice.
    #[error("member {voter} votes twice")]
    VotedTwice {
        /// The voter.
        voter: u16,
    },
    /// A signature that is not the voter's.
    #[error("the vote of member {voter} is not signed by its identity")]
    VoteForged {
        /// The voter.
        voter: u16,
    },
    /// Too few.
    #[error("{found} votes for a timeout: {needed} are needed")]
    TooFewVotes {
        /// Distinct votes.
        found: usize,
        /// Votes needed.
        needed: usize,
    },
}

impl TransitionError {
    /// The stable reason of a refusal.
    pub fn reason(&self) -> Reason {
        Reason::AttemptTransitionUnauthorized
    }
}

/// A step that was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorised {
    /// The attempt that is left.
    pub from: AttemptContext,
    /// The attempt that becomes active.
    pub to: AttemptContext,
    /// Why.
    pub reason: TransitionReason,
    /// The excluded, ascending.
    pub excluded: Vec<Member>,
    /// Distinct genuine votes, zero unless the reason is a timeout.
    pub votes: usize,
}

/// Votes that prove a timeout: min(t, included - 1). An attempt of one has nobody to vote, so none is ever enough.
pub fn votes_needed(threshold: u16, included: usize) -> usize {
    usize::from(threshold).min(included.saturating_sub(1)).max(1)
}

/// Proves the way from `active` to `target` through `chain`, one self-contained step each. Steps that leave an attempt
/// before the active one are passed over, so that one chain serves nodes that missed different attempts.
///
/// # Errors
/// [`TransitionError`], the first fault found.
pub fn authorise(
    binding: &AttemptBinding<'_>,
    root: Option<&MerkleRoot>,
    active: &AttemptContext,
    target: &AttemptContext,
    chain: &[Transition],
    oracle: &impl EvidenceOracle,
) -> Result<Vec<Authorised>, TransitionError> {
    if chain.len() > EVIDENCE_STEPS_MAX {
        return Err(TransitionError::ChainTooLong { steps: chain.len() });
    }
    let mut steps: Vec<Authorised> = Vec::new();
    let mut current = active.clone();
    for transition in chain.iter().skip_while(|transition| transition.active_number < active.number()) {
        let step = authorise_step(binding, root, &current, transition, oracle)?;
        current = step.to.clone();
        steps.push(step);
    }
    if current.number() < target.number() || steps.is_empty() {
        return Err(TransitionError::ChainIncomplete { reached: current.number(), wanted: target.number() });
    }
    if current != *target {
        return Err(TransitionError::OtherTarget { reached: current.number(), id: current.id() });
    }
    Ok(steps)
}

fn authorise_step(
    binding: &AttemptBinding<'_>,
    root: Option<&MerkleRoot>,
    active: &AttemptContext,
    transition: &Transition,
    oracle: &impl EvidenceOracle,
) -> Result<Authorised, TransitionError> {
    let coordinator = active.coordinator().number();
    if (transition.active_number, transition.active_id, transition.active_coordinator)
        != (active.number(), active.id(), coordinator)
    {
        return Err(TransitionError::OtherActive {
            number: transition.active_number,
            id: transition.active_id,
            coordinator: transition.active_coordinator,
            active_number: active.number(),
            active_id: active.id(),
            active_coordinator: coordinator,
        });
    }
    // The id covers the number: one further is always another id.
    if Some(transition.next.number) != active.number().checked_add(1) {
        return Err(TransitionError::NotNext { from: active.number(), to: transition.next.number });
    }
    let to = AttemptContext::parse(binding, &transition.next).map_err(TransitionError::Next)?;
    let excluded = check_excluded(active, &to, &transition.excluded)?;
    let (reason, votes) = match &transition.evidence {
        Evidence::InvalidShare { accused } => {
            check_accused(root, active, &excluded, accused, oracle)?;
            (TransitionReason::InvalidShare, 0)
        }
        Evidence::CoordinatorTimeout { votes } => {
            // Votes speak of the coordinator alone: they prove nothing about anybody else.
            if let Some(member) = excluded.iter().find(|&&member| member != active.coordinator()) {
                return Err(TransitionError::ExcludedUnproved { member: member.number() });
            }
            (TransitionReason::CoordinatorTimeout, count_votes(binding.threshold, active, votes, oracle)?)
        }
    };
    Ok(Authorised { from: active.clone(), to, reason, excluded: excluded.into_iter().collect(), votes })
}

fn check_excluded(
    active: &AttemptContext,
    to: &AttemptContext,
    excluded: &[u16],
) -> Result<BTreeSet<Member>, TransitionError> {
    let mut members = BTreeSet::new();
    for &number in excluded {
        let member = Member::new(number).map_err(|_| TransitionError::ExcludedZero)?;
        if !active.includes(member) {
            return Err(TransitionError::ExcludedOutside { member: number, active: active.number() });
        }
        if to.coordinator() == member {
            return Err(TransitionError::ExcludedCoordinates { member: number });
        }
        if to.includes(member) {
            return Err(TransitionError::ExcludedIncluded { member: number });
        }
        if !members.insert(member) {
            return Err(TransitionError::ExcludedTwice { member: number });
        }
    }
    Ok(members)
}

fn check_accused(
    root: Option<&MerkleRoot>,
    active: &AttemptContext,
    excluded: &BTreeSet<Member>,
    accused: &[SignedRound],
    oracle: &impl EvidenceOracle,
) -> Result<(), TransitionError> {
    if accused.is_empty() {
        return Err(TransitionError::AccusedEmpty);
    }
    let mut proved = BTreeSet::new();
    for round in accused {
        let member = round.member;
        if !excluded.iter().any(|one| one.number() == member) {
            return Err(TransitionError::AccusedKept { member });
        }
        if !proved.insert(member) {
            return Err(TransitionError::AccusedTwice { member });
        }
        check_round_sizes(round)?;
        let mut attempt = round.attempt.clone();
        attempt.included.sort_unstable();
        if attempt != active.parts() || round.root.as_ref() != root {
            return Err(TransitionError::RoundOfOther { member });
        }
        match oracle.verdict(active, round) {
            ShareVerdict::Invalid => {}
            verdict => return Err(TransitionError::NotProved { member, verdict }),
        }
    }
    match excluded.iter().find(|member| !proved.contains(&member.number())) {
        Some(member) => Err(TransitionError::ExcludedUnproved { member: member.number() }),
        None => Ok(()),
    }
}

fn check_round_sizes(round: &SignedRound) -> Result<(), TransitionError> {
    let size = |what, found, allowed| TransitionError::RoundSize { member: round.member, what, found, allowed };
    let (package, share, signature) = (round.package.len(), round.share.len(), round.round_signature.len());
    if package > SIGNING_PACKAGE_BYTES_MAX {
        return Err(size("signing package", package, SIGNING_PACKAGE_BYTES_MAX));
    }
    if share != SHARE_BYTES {
        return Err(size("signature share", share, SHARE_BYTES));
    }
    if signature != SIGNATURE_BYTES {
        return Err(size("round signature", signature, SIGNATURE_BYTES));
    }
    Ok(())
}

/// The distinct genuine votes, when there are enough. Every vote must be good: honest collectors check theirs.
fn count_votes(
    threshold: u16,
    active: &AttemptContext,
    votes: &[TimeoutVote],
    oracle: &impl EvidenceOracle,
) -> Result<usize, TransitionError> {
    let mut voters = BTreeSet::new();
    for vote in votes {
        let voter = vote.voter;
        let member = Member::new(voter).map_err(|_| TransitionError::VoterOutside { voter })?;
        if !active.includes(member) || member == active.coordinator() {
            return Err(TransitionError::VoterOutside { voter });
        }
        if !voters.insert(member) {
            return Err(TransitionError::VotedTwice { voter });
        }
        if vote.signature.len() != SIGNATURE_BYTES || !oracle.vote_is_genuine(active, vote) {
            return Err(TransitionError::VoteForged { voter });
        }
    }
    let needed = votes_needed(threshold, active.included().len());
    if voters.len() < needed {
        return Err(TransitionError::TooFewVotes { found: voters.len(), needed });
    }
    Ok(voters.len())
}

#[cfg(test)]
mod tests;
