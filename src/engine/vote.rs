//! `VoteTimeout`: this node's signed word that the coordinator of an attempt stayed silent, by its own timer.

use std::sync::Arc;

use super::advance::{Authorised, Standing, stand_above};
use super::caller::{Caller, Role};
use super::checks::{check_policy, check_session, parse_context};
use super::core::{Core, Env};
use super::refusal::Refusal;
use super::request::VoteRequest;
use crate::identity::NodeIdentity;
use crate::ids::{AttemptPolicy, Member};
use crate::roast::{AgainstActive, AttemptContext, timeout_vote_message};

/// A vote to be signed off the lock.
pub(crate) struct VoteJob {
    pub(crate) identity: Arc<NodeIdentity>,
    pub(crate) message: [u8; 32],
    pub(crate) voter: Member,
}

/// What to do next for a `VoteTimeout`.
pub(crate) enum VoteStep {
    /// Verify the evidence off the lock, from this attempt.
    Verify { active: AttemptContext },
    /// Sign it off the lock.
    Sign(VoteJob),
}

impl Core {
    /// Steps 2 to 6 of a sign round, then the timer.
    pub(crate) fn admit_vote(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        request: &VoteRequest,
        context: &AttemptContext,
        output_key: &[u8; 32],
        authorised: Option<&Authorised>,
    ) -> Result<VoteStep, Refusal> {
        caller.require(&[Role::Coordinator, Role::Peer])?;
        self.settle(env.line)?;
        let group = self.durable_group(&request.key_group)?;
        env.check_release(&request.key_group)?;
        if group.attempt_policy != AttemptPolicy::Evidence {
            return Err(Refusal::InvalidRequest("votes exist under the policy evidence only".into()));
        }
        if !group.seats.contains_key(&request.member) {
            return Err(Refusal::MemberNotLocal { key_group: request.key_group, member: request.member });
        }
        if !context.includes(request.member) || context.coordinator() == request.member {
            return Err(Refusal::InvalidRequest(format!(
                "member {} has no vote in this attempt: included members other than the coordinator have",
                request.member
            )));
        }
        let session = check_session(group, &request.session, &request.subject)?;
        check_policy(group, &request.session, &request.subject, output_key, env)?;
        if let Some(active) = session.and_then(|session| session.active.as_ref()) {
            let threshold = group.group_key.threshold();
            let active = parse_context(&request.key_group, &request.session, &request.subject, threshold, active)?;
            match context.against(&active) {
                AgainstActive::Same => {}
                AgainstActive::Next | AgainstActive::Future { .. } => {
                    match stand_above(context, active, &request.evidence, authorised, &group.identities)? {
                        Standing::Verify(active) => return Ok(VoteStep::Verify { active }),
                        Standing::Answerable | Standing::Advance => {}
                    }
                }
                AgainstActive::Stale { number, active } => {
                    return Err(Refusal::AttemptStale { number, active });
                }
                AgainstActive::Conflict { .. } => {
                    return Err(Refusal::AttemptConflict { attempt: context.id(), member: request.member });
                }
            }
        }
        let started = self.start_timer(env, &request.key_group, &request.session, context);
        let left_ms = env.config.attempt_timeout_ms.saturating_sub(env.now.since(started));
        if left_ms > 0 {
            return Err(Refusal::VoteTooEarly { number: context.number(), left_ms });
        }
        let identity = self.identity()?;
        let message = timeout_vote_message(&request.key_group, &request.session, context, request.member);
        Ok(VoteStep::Sign(VoteJob { identity, message, voter: request.member }))
    }

    /// The node identity, which every open state has.
    pub(crate) fn identity(&self) -> Result<Arc<NodeIdentity>, Refusal> {
        self.ledger
            .durable()
            .identity
            .clone()
            .ok_or_else(|| Refusal::Internal("the state holds no node identity".into()))
    }
}
