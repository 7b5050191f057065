//! What was heard of each member.

use crate::coordinator::ask::Hindrance;
use crate::coordinator::blame::Blame;
use crate::coordinator::port::{PortError, SessionReport};
use crate::reasons::{Reason, Retry};

/// A member, as this session sees it.
#[derive(Debug, Default)]
pub(super) struct Voice {
    /// Whether it has said anything: silent ones are taken last.
    pub(super) heard: bool,
    /// Whether its session came, or that it has none.
    pub(super) viewed: bool,
    /// Its session, until an attempt is taken up.
    pub(super) report: Option<SessionReport>,
    /// Attempts that waited for it in vain.
    pub(super) failures: u32,
    /// Why it did not answer the last time.
    pub(super) problem: Option<PortError>,
    pub(super) blame: Option<Blame>,
    pub(super) ended: Option<Reason>,
    pub(super) other_subject: bool,
}

impl Voice {
    /// Whether it can be a member of an attempt.
    pub(super) fn is_able(&self) -> bool {
        self.is_able_or_refused()
            && !matches!(&self.problem, Some(PortError::Refused(refused))
                if matches!(refused.reason.retry(), Retry::Never | Retry::AfterOperator))
    }

    pub(super) fn is_able_or_refused(&self) -> bool {
        self.blame.is_none() && self.ended.is_none() && !self.other_subject
    }

    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self.problem, Some(PortError::Unreachable(_)))
    }

    pub(super) fn hindrance(&self) -> Hindrance {
        match (&self.blame, self.ended, &self.problem) {
            (Some(blame), _, _) => Hindrance::Blamed(blame.clone()),
            (_, Some(reason), _) => Hindrance::Ended(reason),
            _ if self.other_subject => Hindrance::OtherSubject,
            (_, _, Some(PortError::Refused(refused))) => {
                Hindrance::Refused { reason: refused.reason, problem: refused.problem.clone() }
            }
            (_, _, Some(other)) => Hindrance::Silent(Some(other.to_string())),
            _ if self.heard => Hindrance::None,
            _ => Hindrance::Silent(None),
        }
    }
}
