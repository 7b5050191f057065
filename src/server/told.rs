//! What a driver sees, as lines for people: the progress of a session, and why there is no signature.

use tonic::Status;

use crate::coordinator::{DriveError, Hindrance, Progress};
use crate::ids::Member;
use crate::reasons::Reason;
use crate::wire::status::status;

fn list(members: &[Member]) -> String {
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
}

/// A line of progress.
pub(super) fn progress(progress: &Progress) -> String {
    match progress {
        Progress::Started { number, included } => format!("attempt {number} with members {}", list(included)),
        Progress::Adopted { number, member } => {
            format!("attempt {number} of an earlier coordinator is taken up with member {member}")
        }
        Progress::Answered { member, number } => format!("member {member} answered attempt {number}"),
        Progress::Blamed { member, blame } => format!("member {member} {}", blame.sentence()),
        Progress::Readmitted { member } => format!("member {member} takes part again with new commitments"),
        Progress::Refused { member, error } => format!("member {member}: {error}"),
        Progress::GivenUp { number, excluded, votes: 0 } => {
            format!("attempt {number} is given up: members {} are excluded", list(excluded))
        }
        Progress::GivenUp { number, votes, .. } => {
            format!("attempt {number} is given up: {votes} members say that its coordinator is silent")
        }
        Progress::Finished(_) => "the signature is there".to_owned(),
    }
}

/// What stands between a member and the signature.
pub(super) fn hindrance(hindrance: &Hindrance) -> String {
    match hindrance {
        Hindrance::Blamed(blame) => blame.sentence().to_owned(),
        Hindrance::LostTwice => "lost its commitments twice".to_owned(),
        Hindrance::Ended(reason) => format!("has ended the session ({reason})"),
        Hindrance::OtherSubject => "signs something else in a session of this name".to_owned(),
        Hindrance::Refused { reason, problem } => format!("refuses ({reason}): {problem}"),
        Hindrance::Silent(None) => "does not answer".to_owned(),
        Hindrance::Silent(Some(heard)) => format!("does not answer: {heard}"),
        Hindrance::None => "answers".to_owned(),
    }
}

/// Why there is no signature, with what stands between each member and it.
pub(super) fn unsigned(error: &DriveError) -> Status {
    let members = match error {
        DriveError::Stuck { members, .. }
        | DriveError::TryOver { members, .. }
        | DriveError::Deadline { members, .. } => members.as_slice(),
        DriveError::TriesSpent => &[],
    };
    let told = members.iter().map(|(member, why)| format!("; member {member} {}", hindrance(why)));
    status(Reason::TooFewMembers, format!("{error}{}", told.collect::<String>()))
}
