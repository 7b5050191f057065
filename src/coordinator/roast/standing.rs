//! Where each member stands.

use std::collections::BTreeSet;

use crate::coordinator::ask::{Ask, Hindrance};
use crate::coordinator::blame::Blame;
use crate::coordinator::port::PortError;
use crate::frost::Commitments;
use crate::ids::{Member, RoundId};
use crate::reasons::{Reason, Retry};

/// What the member's next step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its session or its commitments have not come.
    Awaiting,
    /// It waits for t - 1 others.
    Ready(Box<Commitments>),
    /// It was asked for a share.
    Pending { attempt: usize, round: RoundId },
    /// It takes part no more.
    Out(Out),
}

/// Why a member takes part no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Out {
    Blamed(Blame),
    LostTwice,
    Ended(Reason),
    OtherSubject,
}

/// A member, as this session sees it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) standing: Standing,
    /// Whether its session came: what it has answered before is known.
    pub(super) viewed: bool,
    /// Commitments that came before its session did.
    pub(super) offered: Option<Commitments>,
    /// Whether it was readmitted after `commitments_unknown`.
    pub(super) readmitted: bool,
    /// Whether it was released after `attempt_conflict`.
    pub(super) released: bool,
    /// Why it did not answer the last time.
    pub(super) problem: Option<PortError>,
    /// Its commitments in packages of this coordinator.
    used: BTreeSet<[u8; Commitments::BYTES]>,
}

impl Default for Seat {
    fn default() -> Self {
        Self {
            standing: Standing::Awaiting,
            viewed: false,
            offered: None,
            readmitted: false,
            released: false,
            problem: None,
            used: BTreeSet::new(),
        }
    }
}

impl Seat {
    pub(super) fn readmissions(&self) -> usize {
        usize::from(self.readmitted) + usize::from(self.released)
    }

    pub(super) fn awaits_commitments(&self) -> bool {
        matches!(self.standing, Standing::Awaiting) && self.offered.is_none()
    }

    pub(super) fn is_pending_on(&self, asked: RoundId) -> bool {
        matches!(self.standing, Standing::Pending { round, .. } if round == asked)
    }

    /// From ready to pending: its commitments are used from now on.
    pub(super) fn enter(&mut self, attempt: usize, round: RoundId) {
        if let Standing::Ready(commitments) =
            std::mem::replace(&mut self.standing, Standing::Pending { attempt, round })
        {
            self.used.insert(*commitments.as_bytes());
        }
    }

    /// Whether a package of this coordinator has these commitments.
    pub(super) fn has_used(&self, commitments: &Commitments) -> bool {
        self.used.contains(commitments.as_bytes())
    }

    /// The member will never answer the package that has them.
    pub(super) fn forget_use(&mut self, commitments: &Commitments) {
        self.used.remove(commitments.as_bytes());
    }

    /// Whether an answer to `ask` still helps.
    pub(super) fn wants(&self, ask: &Ask) -> bool {
        match ask {
            Ask::Session => !self.viewed && !matches!(self.standing, Standing::Out(_)),
            Ask::Commitments => self.awaits_commitments(),
            Ask::Round(asked) => self.is_pending_on(asked.round),
            Ask::Vote(_) | Ask::Drive(_) => false,
        }
    }

    /// Whether its last refusal does not change by waiting.
    pub(super) fn is_refused_for_good(&self) -> bool {
        matches!(&self.problem, Some(PortError::Refused(refused))
            if matches!(refused.reason.retry(), Retry::Never | Retry::AfterOperator))
    }

    pub(super) fn hindrance(&self) -> Hindrance {
        match (&self.standing, &self.problem) {
            (Standing::Out(Out::Blamed(blame)), _) => Hindrance::Blamed(blame.clone()),
            (Standing::Out(Out::LostTwice), _) => Hindrance::LostTwice,
            (Standing::Out(Out::Ended(reason)), _) => Hindrance::Ended(*reason),
            (Standing::Out(Out::OtherSubject), _) => Hindrance::OtherSubject,
            (_, Some(PortError::Refused(refused))) => {
                Hindrance::Refused { reason: refused.reason, problem: refused.problem.clone() }
            }
            (Standing::Ready(_), _) => Hindrance::None,
            (_, Some(other)) => Hindrance::Silent(Some(other.to_string())),
            (_, None) => Hindrance::Silent(None),
        }
    }
}

/// Members are named by number in what is kept of attempts.
pub(super) type Members = BTreeSet<Member>;
