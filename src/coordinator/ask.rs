//! What a machine asks of members, what comes back, and what it tells: the whole of its world. No clock, no sockets.

use std::sync::Arc;

use super::blame::Blame;
use super::port::{PortError, RoundAnswer, SessionReport};
use crate::frost::{Signature, SigningPackage};
use crate::ids::{AttemptId, Member, RoundId};
use crate::reasons::Reason;
use crate::roast::{AttemptContext, Transition};

/// One attempt, as a member is asked to answer it.
#[derive(Debug, PartialEq, Eq)]
pub struct RoundAsk {
    /// The name of the answer that is asked for.
    pub round: RoundId,
    /// The attempt.
    pub context: AttemptContext,
    /// The signing package.
    pub package: SigningPackage,
    /// Under `evidence`: how the session came to this attempt.
    pub evidence: Vec<Transition>,
}

/// What a member is asked for. Asked again, it is the same to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// What is durable of the session (`GetSession`).
    Session,
    /// Its unspent commitments (`Commit`).
    Commitments,
    /// Its share for an attempt (`StartSignRound`).
    Round(Arc<RoundAsk>),
    /// Under `evidence`: its word that the coordinator of this attempt is late (`VoteTimeout`).
    Vote(Arc<AttemptAsk>),
    /// Under `evidence`: that its node drives this attempt, which selected it.
    Drive(Arc<AttemptAsk>),
}

/// An attempt, for whoever is to drive it or to say that its coordinator is late.
#[derive(Debug, PartialEq, Eq)]
pub struct AttemptAsk {
    /// The attempt.
    pub context: AttemptContext,
    /// How the session came to this attempt.
    pub evidence: Vec<Transition>,
}

impl Ask {
    /// Equal for the same question to the same member.
    pub fn key(&self) -> AskKey {
        match self {
            Self::Session => AskKey::Session,
            Self::Commitments => AskKey::Commitments,
            Self::Round(ask) => AskKey::Round(ask.round),
            Self::Vote(ask) => AskKey::Vote(ask.context.id()),
            Self::Drive(ask) => AskKey::Drive(ask.context.id()),
        }
    }
}

/// Which question an [`Ask`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AskKey {
    /// [`Ask::Session`].
    Session,
    /// [`Ask::Commitments`].
    Commitments,
    /// [`Ask::Round`].
    Round(RoundId),
    /// [`Ask::Vote`].
    Vote(AttemptId),
    /// [`Ask::Drive`].
    Drive(AttemptId),
}

/// What came over the authenticated channel of `member`. What a payload says about members counts for nothing.
#[derive(Debug, Clone)]
pub enum Event {
    /// An answer. Nothing in it has been checked.
    Answer {
        /// Whose channel.
        member: Member,
        /// The answer.
        answer: Answer,
    },
    /// A refusal, or no answer at all.
    Failed {
        /// Whose channel.
        member: Member,
        /// What was asked.
        ask: Ask,
        /// Why there is no answer.
        error: PortError,
    },
    /// What [`Effect::Wake`] asked for.
    Woke {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// An unchecked answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Ask::Session`].
    Session(Box<SessionReport>),
    /// To [`Ask::Commitments`].
    Commitments(Vec<u8>),
    /// To [`Ask::Round`].
    Round(Box<RoundAnswer>),
    /// To [`Ask::Vote`]: the signature of the vote, for the attempt that was asked about.
    Vote {
        /// The attempt.
        attempt: AttemptId,
        /// The identity's signature.
        signature: Vec<u8>,
    },
    /// To [`Ask::Drive`]: the finished signature.
    Driven(Vec<u8>),
}

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask the member, now.
    Ask {
        /// Who.
        member: Member,
        /// What.
        ask: Ask,
    },
    /// Ask the member the same thing once more: `after_ms`, or after a pause of the driver's choice.
    Again {
        /// Who.
        member: Member,
        /// What.
        ask: Ask,
        /// The pause that the member named, milliseconds.
        after_ms: Option<u64>,
    },
    /// Under `evidence`: say so when this attempt has lasted long.
    Wake {
        /// The attempt.
        attempt: AttemptId,
    },
    /// For whoever watches.
    Tell(Progress),
    /// The signature, verified by libsecp256k1. Nothing more comes.
    Finished(Signature),
    /// Fewer than t members can still answer. It says so once; a member that comes back can end it.
    Stuck(Vec<(Member, Hindrance)>),
    /// This session cannot end well, because members have aborted or closed it, or because its attempt can neither be
    /// completed nor be voted away: the next try can pass.
    TryOver(Vec<(Member, Hindrance)>),
}

/// Why a member does not count on the way to the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// At fault.
    Blamed(Blame),
    /// It lost its commitments a second time, and counts as silent.
    LostTwice,
    /// Its session has ended: `session_aborted` or `session_closed`.
    Ended(Reason),
    /// Its session of this name signs something else.
    OtherSubject,
    /// It refuses, and asking again does not help by itself.
    Refused {
        /// The reason.
        reason: Reason,
        /// The problem, for people.
        problem: String,
    },
    /// No answer yet; what was last heard, if anything.
    Silent(Option<String>),
    /// It answers.
    None,
}

/// For whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// An attempt goes out.
    Started {
        /// Its number.
        number: u32,
        /// Its members.
        included: Vec<Member>,
    },
    /// An attempt of an earlier coordinator is taken up.
    Adopted {
        /// Its number.
        number: u32,
        /// The member that is asked for its share of it.
        member: Member,
    },
    /// A share came.
    Answered {
        /// Whose.
        member: Member,
        /// Of which attempt.
        number: u32,
    },
    /// A member is at fault.
    Blamed {
        /// Who.
        member: Member,
        /// What for.
        blame: Blame,
    },
    /// A member lost its commitments and takes part again with new ones.
    Readmitted {
        /// Who.
        member: Member,
    },
    /// A member refused, or could not be reached.
    Refused {
        /// Who.
        member: Member,
        /// Why.
        error: PortError,
    },
    /// Under `evidence`: an attempt was given up.
    GivenUp {
        /// Its number.
        number: u32,
        /// Who is excluded from the next, with proof.
        excluded: Vec<Member>,
        /// Votes that prove its coordinator's silence; none for a proved bad share.
        votes: usize,
    },
    /// The signature is there.
    Finished(Signature),
}

/// A coordinator without a clock and without sockets.
pub trait Machine: Send {
    /// The first effects.
    fn start(&mut self) -> Vec<Effect>;

    /// What `event` leads to.
    fn handle(&mut self, event: Event) -> Vec<Effect>;

    /// What stands between each member and the signature, for an error at the end of all patience.
    fn hindrances(&self) -> Vec<(Member, Hindrance)>;
}
