//! Advances under the `evidence` policy: the cryptographic facts behind the evidence, checked off the lock, and what a
//! round's record keeps of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SIGNED_HASH_DOMAIN;
use super::checks::parse_context;
use super::record::Advance;
use super::refusal::Refusal;
use super::request::Subject;
use super::state::KeyGroup;
use crate::frost::{GroupKey, ShareInvalid, SignatureShare, SigningPackage};
use crate::identity::{IdentityKey, IdentitySignature};
use crate::ids::{AttemptId, KeyGroupId, Member, SessionId};
use crate::roast::transcript::TransitionRecord;
use crate::roast::{
    AttemptBinding, AttemptContext, EvidenceOracle, RoundBinding, ShareVerdict, SignedRound, TimeoutVote, Transition,
    TransitionReason, evidence, round_signature_message, timeout_vote_message,
};

/// A verified chain of advances, from the attempt that was active when it was verified.
#[derive(Debug, Clone)]
pub(crate) struct Authorised {
    /// By these identities: a chain that others had signed is judged again.
    pub(crate) identities: Arc<BTreeMap<Member, IdentityKey>>,
    pub(crate) from: AttemptId,
    pub(crate) to: AttemptId,
    pub(crate) advances: Vec<Advance>,
}

/// The public facts of a key group that verdicts need. Cheap to clone out of the lock.
#[derive(Clone)]
pub(crate) struct Facts {
    pub(crate) key_group: KeyGroupId,
    pub(crate) group_key: Arc<GroupKey>,
    pub(crate) identities: Arc<BTreeMap<Member, IdentityKey>>,
}

impl Facts {
    pub(crate) fn of(key_group: &KeyGroupId, group: &KeyGroup) -> Self {
        Self {
            key_group: *key_group,
            group_key: Arc::clone(&group.group_key),
            identities: Arc::clone(&group.identities),
        }
    }

    /// What a member's share is. Blame needs the share, the whole package, and the round signature under the identity that
    /// is in force for the member: a coordinator can alter an honest share, and its fault must never read as a
    /// member's.
    pub(crate) fn verdict(&self, session: &SessionId, subject: &Subject, round: &SignedRound) -> ShareVerdict {
        self.judge(session, subject, round).unwrap_or(ShareVerdict::Indeterminate)
    }

    fn judge(&self, session: &SessionId, subject: &Subject, round: &SignedRound) -> Option<ShareVerdict> {
        let member = Member::new(round.member).ok()?;
        let package = SigningPackage::from_bytes(&round.package).ok()?;
        if package.message() != subject.message || round.root != subject.root {
            return None;
        }
        let threshold = self.group_key.threshold();
        let context = parse_context(&self.key_group, session, subject, threshold, &round.attempt).ok()?;
        if !package.members().eq(context.included().iter().copied()) {
            return None;
        }
        let share = <[u8; 32]>::try_from(round.share.as_slice()).ok()?;
        let signed = self.is_signed(session, subject, round, &context, member, &share);
        let Ok(parsed) = SignatureShare::from_bytes(&share) else {
            return signed.then_some(ShareVerdict::Invalid);
        };
        match self.group_key.verify_share(member, &package, &parsed, subject.root.as_ref()) {
            Ok(()) => Some(ShareVerdict::Valid),
            Err(ShareInvalid::Wrong { .. }) if signed => Some(ShareVerdict::Invalid),
            Err(_) => None,
        }
    }

    fn is_signed(
        &self,
        session: &SessionId,
        subject: &Subject,
        round: &SignedRound,
        context: &AttemptContext,
        member: Member,
        share: &[u8],
    ) -> bool {
        let binding = RoundBinding {
            key_group: &self.key_group,
            session,
            message: &subject.message,
            root: subject.root.as_ref(),
            attempt: context,
            member,
        };
        let message = round_signature_message(&binding.round_id(&round.package), member, share);
        self.genuine(member, &message, &round.round_signature)
    }

    /// Whether the identity of `member` signed `message`.
    pub(crate) fn genuine(&self, member: Member, message: &[u8; 32], signature: &[u8]) -> bool {
        let Ok(signature) = <[u8; 64]>::try_from(signature) else {
            return false;
        };
        let signature = IdentitySignature::new(signature);
        self.identities
            .get(&member)
            .is_some_and(|identity| identity.verify(SIGNED_HASH_DOMAIN, &[message], &signature).is_ok())
    }
}

/// The judge of evidence about one session.
pub(crate) struct Oracle<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) session: &'a SessionId,
    pub(crate) subject: &'a Subject,
}

impl EvidenceOracle for Oracle<'_> {
    fn vote_is_genuine(&self, active: &AttemptContext, vote: &TimeoutVote) -> bool {
        let Ok(voter) = Member::new(vote.voter) else {
            return false;
        };
        let message = timeout_vote_message(&self.facts.key_group, self.session, active, voter);
        self.facts.genuine(voter, &message, &vote.signature)
    }

    fn verdict(&self, active: &AttemptContext, round: &SignedRound) -> ShareVerdict {
        if round.attempt.attempt_id != *active.id().as_bytes() {
            return ShareVerdict::Indeterminate;
        }
        self.facts.verdict(self.session, self.subject, round)
    }
}

/// A chain of evidence as a request brings it.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) session: SessionId,
    pub(crate) subject: Subject,
    pub(crate) evidence: Vec<Transition>,
    pub(crate) target: AttemptContext,
}

/// How a valid attempt stands to the active one, the stale left apart.
pub(crate) enum Standing {
    /// It is the active one, or there is none.
    Answerable,
    /// Its chain of evidence is verified.
    Advance,
    /// Its chain is to be verified, from this attempt.
    Verify(AttemptContext),
}

/// Step 6 for an attempt above the active one: its chain is verified, is to be verified, or cannot reach it.
pub(crate) fn stand_above(
    context: &AttemptContext,
    active: AttemptContext,
    evidence: &[Transition],
    authorised: Option<&Authorised>,
    identities: &Arc<BTreeMap<Member, IdentityKey>>,
) -> Result<Standing, Refusal> {
    let holds =
        |chain: &Authorised| chain.from == active.id() && chain.to == context.id() && chain.identities == *identities;
    if authorised.is_some_and(holds) {
        return Ok(Standing::Advance);
    }
    let steps = context.number().saturating_sub(active.number());
    if evidence.len() < usize::try_from(steps).unwrap_or(usize::MAX) && steps > 1 {
        return Err(Refusal::AttemptFuture { number: context.number(), active: active.number() });
    }
    Ok(Standing::Verify(active))
}

/// Verifies a chain of evidence from `active` to its target, off the lock.
pub(crate) fn verify_chain(facts: &Facts, chain: &Chain, active: &AttemptContext) -> Result<Authorised, Refusal> {
    let Chain { session, subject, evidence: transitions, target } = chain;
    let binding = AttemptBinding {
        key_group: &facts.key_group,
        session,
        message: &subject.message,
        threshold: facts.group_key.threshold(),
    };
    let oracle = Oracle { facts, session, subject };
    let steps = evidence::authorise(&binding, subject.root.as_ref(), active, target, transitions, &oracle)?;
    let advances = steps
        .iter()
        .map(|step| Advance {
            from: step.from.id(),
            number: step.to.number(),
            hash: TransitionRecord::new(&facts.key_group, session, step).hash(),
            votes: u16::try_from(step.votes).unwrap_or(u16::MAX),
            timeout: step.reason == TransitionReason::CoordinatorTimeout,
            blamed: match step.reason {
                TransitionReason::CoordinatorTimeout => vec![step.from.coordinator()],
                TransitionReason::InvalidShare => step.excluded.clone(),
            },
        })
        .collect();
    Ok(Authorised { identities: Arc::clone(&facts.identities), from: active.id(), to: target.id(), advances })
}
