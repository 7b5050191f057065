//! `FinalizeSignRound`: shares or a finished signature in, a verified BIP-340 signature that ends the session.

use std::sync::Arc;

use super::advance::Facts;
use super::caller::{Caller, Role};
use super::core::{Core, Env, encode};
use super::record::{Record, RoundBody};
use super::refusal::Refusal;
use super::request::{FinalizeRequest, Finish, Subject, SubmittedShare};
use super::state::{Finished, KeyGroup, Outcome, subject_hash};
use crate::frost::{AggregateError, Signature, SignatureShare, SigningPackage};
use crate::ids::{KeyGroupId, Member, SessionId};
use crate::roast::{ShareVerdict, SignedRound};
use crate::store::{Durable, Position, SlotKind};

/// What to do next for a `FinalizeSignRound`.
pub(crate) enum FinalizeStep {
    /// Durable: hand the signature out.
    Serve(Durable<Finished>),
    /// In line: wait for its position, then ask again.
    Wait(Position),
    /// This node has no such session: nothing to end, nothing recorded (trap 11).
    NotHere,
    /// Verify off the lock.
    Compute(Box<FinalizeJob>),
}

/// A finalisation to be verified off the lock.
pub(crate) struct FinalizeJob {
    key_group: KeyGroupId,
    session: SessionId,
    subject: Subject,
    facts: Facts,
    work: Work,
}

enum Work {
    Signature(Signature),
    Shares { body: Arc<RoundBody>, shares: Vec<SubmittedShare> },
}

/// A verified signature.
pub(crate) struct Verified {
    key_group: KeyGroupId,
    session: SessionId,
    subject: Subject,
    signature: [u8; 64],
}

fn check_tombstone(group: &KeyGroup, request: &FinalizeRequest) -> Result<Option<Finished>, Refusal> {
    let Some(tombstone) = group.tombstone(&request.session) else {
        return Ok(None);
    };
    if tombstone.subject_hash != subject_hash(&request.subject) {
        return Err(Refusal::SessionConflict(request.session.clone()));
    }
    match &tombstone.outcome {
        Outcome::Finalized(signature) => Ok(Some(Finished { signature: **signature, position: tombstone.position })),
        Outcome::Aborted => Err(Refusal::SessionAborted(request.session.clone())),
        Outcome::Closed => Err(Refusal::SessionClosed(request.session.clone())),
    }
}

impl Core {
    /// Everything that is decided under the lock before the verification.
    pub(crate) fn admit_finalize(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        request: &FinalizeRequest,
    ) -> Result<FinalizeStep, Refusal> {
        caller.require(&[Role::Coordinator])?;
        self.settle(env.line)?;
        let group = self.durable_group(&request.key_group)?;
        env.check_release(&request.key_group)?;
        if let Some(finished) = check_tombstone(group, request)? {
            let finished = env.line.durable().prove(finished);
            return finished
                .map(FinalizeStep::Serve)
                .map_err(|_| Refusal::Internal("a durable end above the durable position".into()));
        }
        let group = self.admitted_group(&request.key_group)?;
        if let Some(tombstone) = group.tombstone(&request.session) {
            // Its end is in line: nothing of it shows before it is durable.
            env.admit_work()?;
            return Ok(FinalizeStep::Wait(tombstone.position));
        }
        let Some(session) = group.sessions.get(&request.session) else {
            self.check_no_flight(&request.key_group, &request.session)?;
            return Ok(FinalizeStep::NotHere);
        };
        if session.subject != request.subject {
            return Err(Refusal::SessionConflict(request.session.clone()));
        }
        let work = match &request.finish {
            Finish::Signature(signature) => Work::Signature(*signature),
            Finish::Shares { attempt, shares } => {
                // A pending advance clears nothing: what was durable before it still counts.
                let durable = self.durable_group(&request.key_group)?.sessions.get(&request.session);
                let mut rounds = [Some(session), durable].into_iter().flatten().flat_map(|view| view.rounds.values());
                let answered = rounds.find(|round| round.body.context.attempt_id == *attempt.as_bytes());
                let round = answered.ok_or_else(|| {
                    Refusal::InvalidRequest(format!("no member of this node has a round of attempt {attempt}"))
                })?;
                Work::Shares { body: Arc::clone(&round.body), shares: shares.clone() }
            }
        };
        env.admit_work()?;
        Ok(FinalizeStep::Compute(Box::new(FinalizeJob {
            key_group: request.key_group,
            session: request.session.clone(),
            subject: request.subject,
            // By the identities that are in force durably: who is blamed is a reply.
            facts: Facts::of(&request.key_group, self.durable_group(&request.key_group)?),
            work,
        })))
    }

    /// Installs the end of the session; a concurrent one of the same session is waited for instead.
    pub(crate) fn complete_finalize(&mut self, env: &Env<'_>, verified: Verified) -> Result<Position, Refusal> {
        let Verified { key_group, session, subject, signature } = verified;
        self.settle(env.line)?;
        env.check_release(&key_group)?;
        let group = self.admitted_group(&key_group)?;
        if let Some(tombstone) = group.tombstone(&session) {
            return Ok(tombstone.position);
        }
        match group.sessions.get(&session) {
            Some(open) if open.subject == subject => {}
            _ => return Err(Refusal::SessionConflict(session)),
        }
        let record = Record::Finalized { key_group, session: session.clone(), signature };
        let encoded = encode(&record)?;
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        let position = self.install(env.line, slot, record, encoded)?;
        self.nonces.wipe_session(&key_group, &session);
        self.forget_session(&key_group, &session);
        Ok(position)
    }
}

/// Aggregates with the tweak and verifies BIP-340, off the lock. Blame needs the share, the whole package and the round
/// signature under the identity of the certificate: a coordinator can alter an honest share.
pub(crate) fn verify(job: FinalizeJob) -> Result<Verified, Refusal> {
    let FinalizeJob { key_group, session, subject, facts, work } = job;
    let signature = match work {
        Work::Signature(signature) => {
            let verified = facts.group_key.verify(subject.message, subject.root.as_ref(), &signature);
            verified.map_err(|_| Refusal::SignatureInvalid)?;
            signature
        }
        Work::Shares { body, shares } => {
            let package = SigningPackage::from_bytes(&body.package)
                .map_err(|error| Refusal::Internal(format!("a durable package does not decode: {error}")))?;
            let pairs: Vec<(Member, SignatureShare)> =
                shares.iter().map(|submitted| (submitted.member, submitted.share.clone())).collect();
            let aggregated = facts.group_key.aggregate(&package, &pairs, subject.root.as_ref());
            aggregated.map_err(|error| match error {
                AggregateError::Invalid { culprits } => blame(&facts, &session, &subject, &body, &shares, culprits),
                AggregateError::Disagreement => Refusal::Internal(error.to_string()),
                other => Refusal::InvalidRequest(other.to_string()),
            })?
        }
    };
    Ok(Verified { key_group, session, subject, signature: *signature.as_bytes() })
}

/// Splits the members whose shares are bad into the proved culprits and the rest.
fn blame(
    facts: &Facts,
    session: &SessionId,
    subject: &Subject,
    body: &RoundBody,
    shares: &[SubmittedShare],
    bad: Vec<Member>,
) -> Refusal {
    let proved = |member: &Member| {
        shares.iter().filter(|submitted| submitted.member == *member).any(|submitted| {
            let round = SignedRound {
                member: member.number(),
                attempt: body.context.clone(),
                root: body.root,
                package: body.package.clone(),
                share: submitted.share.to_bytes().to_vec(),
                round_signature: submitted.round_signature.map_or_else(Vec::new, Vec::from),
            };
            facts.verdict(session, subject, &round) == ShareVerdict::Invalid
        })
    };
    let (culprits, indeterminate) = bad.into_iter().partition(proved);
    Refusal::SharesInvalid { culprits, indeterminate }
}
