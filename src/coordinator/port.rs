//! The way to the members' nodes. The network implements it, and so do tests over engines in one process.

use std::future::Future;

use crate::engine::{
    CommitRequest, FinalizeRequest, Refusal, RoundReply, SessionRequest, SessionView, SignRequest, Subject, VoteRequest,
};
use crate::ids::{AttemptId, Member, RoundId};
use crate::reasons::Reason;
use crate::roast::AttemptContextParts;

use super::ask::AttemptAsk;

/// A member's answer to `StartSignRound`, as it came: nothing in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundAnswer {
    /// The round that it claims to be.
    pub round: RoundId,
    /// The signature share.
    pub share: Vec<u8>,
    /// The round signature.
    pub round_signature: Vec<u8>,
    /// The member's current commitments, if it has any.
    pub next: Option<Vec<u8>>,
}

/// A durable round of a `GetSession`, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundReport {
    /// The member that it claims to be of.
    pub member: u16,
    /// The attempt.
    pub attempt: AttemptContextParts,
    /// The signing package.
    pub package: Vec<u8>,
    /// The signature share.
    pub share: Vec<u8>,
    /// The round signature.
    pub round_signature: Vec<u8>,
}

/// The answer to a `GetSession`, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionReport {
    /// What the session signs.
    pub subject: Subject,
    /// Under `evidence`: the active attempt's number and id.
    pub active: Option<(u32, AttemptId)>,
    /// The durable rounds of the node, those of all its members.
    pub rounds: Vec<RoundReport>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The node refused, and said why.
    #[error("{}: {}", .0.reason, .0.problem)]
    Refused(Box<Refused>),
    /// No node was reached, or it did not answer in time. The request may have been done.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// The node answered what is no answer.
    #[error("answer without sense: {0}")]
    Nonsense(String),
}

/// A typed refusal, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The stable reason.
    pub reason: Reason,
    /// The problem, for people.
    pub problem: String,
    /// What a coordinator needs of it.
    pub detail: RefusedDetail,
}

/// What a refusal carries for a coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedDetail {
    /// Nothing.
    None,
    /// `commitments_unknown`: the member's current commitments.
    Current(Vec<u8>),
    /// `session_finalized`: the signature.
    Signature(Vec<u8>),
    /// `vote_too_early`: milliseconds that the coordinator has left.
    LeftMs(u64),
    /// Outages: milliseconds after which asking again makes sense.
    RetryAfterMs(u64),
}

/// The operations that a coordinator needs, each at the node of one member. A call that is dropped may have been done:
/// every operation can be repeated.
pub trait Port: Send + Sync + 'static {
    /// `GetSession`.
    fn session(
        &self,
        member: Member,
        request: SessionRequest,
    ) -> impl Future<Output = Result<SessionReport, PortError>> + Send;

    /// `Commit`: the encoded commitments.
    fn commit(&self, member: Member, request: CommitRequest)
    -> impl Future<Output = Result<Vec<u8>, PortError>> + Send;

    /// `StartSignRound`.
    fn start_sign_round(
        &self,
        member: Member,
        request: SignRequest,
    ) -> impl Future<Output = Result<RoundAnswer, PortError>> + Send;

    /// `FinalizeSignRound`; none when the node has no such session.
    fn finalize(
        &self,
        member: Member,
        request: FinalizeRequest,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, PortError>> + Send;

    /// `AbortSession`.
    fn abort(&self, member: Member, request: SessionRequest) -> impl Future<Output = Result<(), PortError>> + Send;

    /// `VoteTimeout`: the signature of the vote.
    fn vote_timeout(
        &self,
        member: Member,
        request: VoteRequest,
    ) -> impl Future<Output = Result<Vec<u8>, PortError>> + Send;

    /// Has the node of `member` drive an attempt of the policy `evidence` that selected it; the finished signature.
    fn drive(
        &self,
        member: Member,
        session: SessionRequest,
        subject: Subject,
        ask: &AttemptAsk,
    ) -> impl Future<Output = Result<Vec<u8>, PortError>> + Send;
}

impl From<&RoundReply> for RoundAnswer {
    fn from(reply: &RoundReply) -> Self {
        Self {
            round: reply.round_id(),
            share: reply.share().to_vec(),
            round_signature: reply.round_signature().to_vec(),
            next: reply.next_commitments().map(|next| next.as_bytes().to_vec()),
        }
    }
}

impl From<&SessionView> for SessionReport {
    fn from(view: &SessionView) -> Self {
        let rounds = view.rounds.iter().map(|round| {
            let body = &round.get().body;
            RoundReport {
                member: body.member.number(),
                attempt: body.context.clone(),
                package: body.package.clone(),
                share: body.share.to_vec(),
                round_signature: body.round_signature.to_vec(),
            }
        });
        Self { subject: view.subject, active: view.active, rounds: rounds.collect() }
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let detail = match refusal {
            Refusal::CommitmentsUnknown { current: Some(current), .. } => {
                RefusedDetail::Current(current.as_bytes().to_vec())
            }
            Refusal::SessionFinalized { signature, .. } => RefusedDetail::Signature(signature.to_vec()),
            Refusal::VoteTooEarly { left_ms, .. } => RefusedDetail::LeftMs(*left_ms),
            Refusal::KeyProviderUnavailable { outage, now, .. }
            | Refusal::RoundNotDurable { outage: Some(outage), now, .. } => match outage.next_try {
                Some(next_try) => RefusedDetail::RetryAfterMs(next_try.since(*now)),
                None => RefusedDetail::None,
            },
            _ => RefusedDetail::None,
        };
        Self { reason: refusal.reason(), problem: refusal.to_string(), detail }
    }
}

impl From<&Refusal> for PortError {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused(Box::new(refusal.into()))
    }
}
