//! Signed rounds, votes and transitions, both ways. The structure is checked by [`crate::roast::evidence`], not here.

use super::{named, root, root_bytes, subject};
use crate::engine::Subject;
use crate::ids::{AttemptId, KeyGroupId, SessionId};
use crate::limits::MEMBERS_MAX;
use crate::roast::{Evidence, ShareVerdict, SignedRound, TimeoutVote, Transition};
use crate::wire::field::{FieldError, at_most, exact, present, sixteen};
use crate::wire::v1;

impl From<&SignedRound> for v1::SignedRound {
    fn from(round: &SignedRound) -> Self {
        Self {
            member: round.member.into(),
            attempt: Some((&round.attempt).into()),
            taproot_merkle_root: root_bytes(round.root.as_ref()),
            signing_package: round.package.clone(),
            signature_share: round.share.clone(),
            round_signature: round.round_signature.clone(),
        }
    }
}

impl TryFrom<v1::SignedRound> for SignedRound {
    type Error = FieldError;
    fn try_from(round: v1::SignedRound) -> Result<Self, FieldError> {
        Ok(Self {
            member: sixteen("member", round.member)?,
            attempt: super::attempt(round.attempt)?,
            root: root(round.taproot_merkle_root.as_ref())?,
            package: round.signing_package,
            share: round.signature_share,
            round_signature: round.round_signature,
        })
    }
}

impl From<&TimeoutVote> for v1::TimeoutVote {
    fn from(vote: &TimeoutVote) -> Self {
        Self { voter: vote.voter.into(), signature: vote.signature.clone() }
    }
}

impl TryFrom<v1::TimeoutVote> for TimeoutVote {
    type Error = FieldError;
    fn try_from(vote: v1::TimeoutVote) -> Result<Self, FieldError> {
        Ok(Self { voter: sixteen("voter", vote.voter)?, signature: vote.signature })
    }
}

impl From<&Transition> for v1::Transition {
    fn from(step: &Transition) -> Self {
        use v1::transition::Evidence as Wire;
        let evidence = match &step.evidence {
            Evidence::InvalidShare { accused } => {
                Wire::InvalidShares(v1::InvalidShares { accused: accused.iter().map(Into::into).collect() })
            }
            Evidence::CoordinatorTimeout { votes } => {
                Wire::CoordinatorTimeout(v1::CoordinatorTimeout { votes: votes.iter().map(Into::into).collect() })
            }
        };
        Self {
            active_number: step.active_number,
            active_id: step.active_id.as_bytes().to_vec(),
            active_coordinator: step.active_coordinator.into(),
            excluded: step.excluded.iter().map(|&member| member.into()).collect(),
            evidence: Some(evidence),
            next: Some((&step.next).into()),
        }
    }
}

impl TryFrom<v1::Transition> for Transition {
    type Error = FieldError;
    fn try_from(step: v1::Transition) -> Result<Self, FieldError> {
        use v1::transition::Evidence as Wire;
        at_most("excluded", &step.excluded, MEMBERS_MAX)?;
        let evidence = match present("evidence", step.evidence)? {
            Wire::InvalidShares(shares) => {
                at_most("accused", &shares.accused, MEMBERS_MAX)?;
                Evidence::InvalidShare {
                    accused: shares.accused.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                }
            }
            Wire::CoordinatorTimeout(timeout) => {
                at_most("votes", &timeout.votes, MEMBERS_MAX)?;
                Evidence::CoordinatorTimeout {
                    votes: timeout.votes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                }
            }
        };
        let excluded = step.excluded.iter().map(|&number| sixteen("excluded", number));
        Ok(Self {
            active_number: step.active_number,
            active_id: AttemptId::new(exact("active_id", &step.active_id)?),
            active_coordinator: sixteen("active_coordinator", step.active_coordinator)?,
            excluded: excluded.collect::<Result<_, _>>()?,
            evidence,
            next: present("next", step.next)?.try_into()?,
        })
    }
}

/// `VerifySignatureShare`, read.
pub struct VerifyRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
    /// What is signed.
    pub subject: Subject,
    /// The answer to judge.
    pub round: SignedRound,
}

impl TryFrom<v1::VerifySignatureShareRequest> for VerifyRequest {
    type Error = FieldError;
    fn try_from(request: v1::VerifySignatureShareRequest) -> Result<Self, FieldError> {
        let (session, key_group) = named(request.session)?;
        let round = present("round", request.round)?.try_into()?;
        Ok(Self { session, key_group, subject: subject(request.subject)?, round })
    }
}

impl From<ShareVerdict> for v1::ShareVerdict {
    fn from(verdict: ShareVerdict) -> Self {
        match verdict {
            ShareVerdict::Valid => Self::Valid,
            ShareVerdict::Invalid => Self::Invalid,
            ShareVerdict::Indeterminate => Self::Indeterminate,
        }
    }
}
