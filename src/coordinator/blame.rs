//! What shows that a member is at fault.

use crate::roast::SignedRound;

/// Why a member is left out for the rest of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blame {
    /// The member's identity signed a share that does not verify: anybody who has the certificate can check it.
    Proved(Box<SignedRound>),
    /// Its authenticated channel delivered what no honest member sends. This coordinator knows it, and cannot prove it.
    Unproved(Fault),
}

impl Blame {
    /// The fault, as a sentence without its subject.
    pub fn sentence(&self) -> &'static str {
        match self {
            Self::Proved(_) => "sent a bad share and signed it",
            Self::Unproved(fault) => fault.sentence(),
        }
    }

    /// What anybody can check, if there is such a thing.
    pub fn proof(&self) -> Option<&SignedRound> {
        match self {
            Self::Proved(round) => Some(round),
            Self::Unproved(_) => None,
        }
    }
}

/// What no honest member sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Bytes that are not what was asked for, in length or in form.
    Malformed,
    /// A share that does not verify, without the member's signature.
    BadShareUnsigned,
    /// An answer to something that the member was not asked, and that repeats nothing.
    Unsolicited,
    /// A second, different answer to the same package.
    TwoAnswers,
    /// Commitments offered in a first answer that an earlier package of this member had used.
    CommitmentsAgain,
    /// A finished signature that does not verify.
    BadSignature,
    /// A timeout vote that its identity did not sign.
    BadVote,
    /// Rounds that cannot belong to the session.
    BadSession,
}

impl Fault {
    /// The fault, as a sentence without its subject.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "sent bytes that are no answer",
            Self::BadShareUnsigned => "sent a bad share without its signature",
            Self::Unsolicited => "answered what it was not asked",
            Self::TwoAnswers => "answered one package twice, differently",
            Self::CommitmentsAgain => "offered commitments that it had used before",
            Self::BadSignature => "sent a finished signature that does not verify",
            Self::BadVote => "sent a timeout vote that it did not sign",
            Self::BadSession => "sent rounds that cannot belong to the session",
        }
    }
}
