//! What a driver sees, as lines for people: the progress of a session, and why there is no signature.

use std::fmt;

use super::ask::{Hindrance, Progress};
use super::drive::DriveError;
use crate::ids::Member;
use crate::reasons::Reason;

fn list(members: &[Member]) -> String {
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { number, included } => write!(f, "attempt {number} with members {}", list(included)),
            Self::Adopted { number, member } => {
                write!(f, "attempt {number} of an earlier coordinator is taken up with member {member}")
            }
            Self::Answered { member, number } => write!(f, "member {member} answered attempt {number}"),
            Self::Blamed { member, blame } => write!(f, "member {member} {}", blame.sentence()),
            Self::Readmitted { member } => write!(f, "member {member} takes part again with new commitments"),
            Self::Refused { member, error } => write!(f, "member {member}: {error}"),
            Self::GivenUp { number, excluded, votes: 0 } => {
                write!(f, "attempt {number} is given up: members {} are excluded", list(excluded))
            }
            Self::GivenUp { number, votes, .. } => {
                write!(f, "attempt {number} is given up: {votes} members say that its coordinator is silent")
            }
            Self::Finished(_) => f.write_str("the signature is there"),
        }
    }
}

/// A sentence without its subject, the member.
impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blamed(blame) => f.write_str(blame.sentence()),
            Self::LostTwice => f.write_str("lost its commitments twice"),
            Self::Ended(reason) => write!(f, "has ended the session ({reason})"),
            Self::OtherSubject => f.write_str("signs something else in a session of this name"),
            Self::Refused { reason, problem } => write!(f, "refuses ({reason}): {problem}"),
            Self::Silent(None) => f.write_str("does not answer"),
            Self::Silent(Some(heard)) => write!(f, "does not answer: {heard}"),
            Self::None => f.write_str("answers"),
        }
    }
}

impl DriveError {
    /// What stands between each member and the signature.
    pub fn members(&self) -> &[(Member, Hindrance)] {
        match self {
            Self::Stuck { members, .. } | Self::TryOver { members, .. } | Self::Deadline { members, .. } => members,
            Self::TriesSpent => &[],
        }
    }

    /// The stable reason: that of the members, when those that refuse all refuse for one.
    pub fn reason(&self) -> Reason {
        let mut refusals = self.members().iter().filter_map(|(_, hindrance)| match hindrance {
            Hindrance::Refused { reason, .. } => Some(*reason),
            _ => None,
        });
        match refusals.next() {
            Some(first) if refusals.all(|other| other == first) => first,
            _ => Reason::TooFewMembers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn a_reason_that_all_refusals_share_is_the_reason_of_the_whole() {
        let refused = |reason| Hindrance::Refused { reason, problem: "because".into() };
        let stuck = |hindrances: Vec<Hindrance>| DriveError::Stuck {
            session: SessionId::new("session").unwrap(),
            members: hindrances.into_iter().zip(1..).map(|(why, number)| (Member::new(number).unwrap(), why)).collect(),
        };
        let gone = || Hindrance::Silent(Some("gone".into()));
        let denied = || refused(Reason::MessageNotApproved);
        for (hindrances, reason) in [
            (vec![denied(), denied(), gone()], Reason::MessageNotApproved),
            (vec![denied(), refused(Reason::Frozen), gone()], Reason::TooFewMembers),
            (vec![gone(), gone(), Hindrance::None], Reason::TooFewMembers),
            (Vec::new(), Reason::TooFewMembers),
        ] {
            assert_eq!(stuck(hindrances).reason(), reason);
        }
        assert_eq!(DriveError::TriesSpent.reason(), Reason::TooFewMembers);
    }
}
