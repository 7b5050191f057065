//! Who stood in the way of a ceremony, with what proof, and what is left of it.

use std::fmt;

use super::event::Step;
use crate::ids::{CeremonyId, Member};
use crate::keygen::Fault;
use crate::reasons::Reason;

/// A node by its name, with the members that are meant: its seats, or those of them that are at issue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Named {
    /// The node's name in the roster.
    pub node: String,
    /// Members, ascending; empty where the seats are not known.
    pub members: Vec<Member>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.members.as_slice() {
            [] => write!(f, "{}", self.node),
            [one] => write!(f, "{} (member {one})", self.node),
            several => write!(f, "{} (members {})", self.node, joined(several)),
        }
    }
}

/// Values with commas between them.
fn joined<T: fmt::Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// One reason why there is no key, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The node did not answer until the deadline of the step.
    #[error("{node}: absent in {step}: {problem}")]
    Absent {
        /// The node.
        node: Named,
        /// The step.
        step: Step,
        /// What its last failure was.
        problem: String,
    },
    /// The node answered, and refused.
    #[error("{node}: refused {step}: {problem} [{reason}]")]
    Refused {
        /// The node.
        node: Named,
        /// The step.
        step: Step,
        /// The stable reason.
        reason: Reason,
        /// What is wrong, in the node's words.
        problem: String,
    },
    /// The node is at fault, by messages of its own that prove it to anybody.
    #[error("{node}: at fault, proved: {fault}")]
    Faulty {
        /// The node.
        node: Named,
        /// The fault with its proof.
        fault: Box<Fault>,
    },
    /// One node says something about another that nothing proves: either may be at fault.
    #[error("{accuser} accuses {}, unproved, either may be at fault: {problem}", joined(.accused))]
    Disputed {
        /// Who says so.
        accuser: Named,
        /// About whom.
        accused: Vec<Named>,
        /// What it says.
        problem: String,
    },
    /// Two nodes heard different things: somebody told them so, or one of the two is wrong about what it heard.
    #[error("{one} and {other} heard different things from: {}", joined(.senders))]
    Diverged {
        /// One of the two.
        one: Named,
        /// The other.
        other: Named,
        /// Whose messages differ; empty when the messages are the same and the key is not.
        senders: Vec<Named>,
    },
    /// The node's answer is not what it has to be.
    #[error("{node}: a wrong answer in {step}: {problem}")]
    WrongAnswer {
        /// The node.
        node: Named,
        /// The step.
        step: Step,
        /// What is wrong with it.
        problem: String,
    },
}

impl Finding {
    /// Everybody whom it names.
    pub fn named(&self) -> Vec<&Named> {
        match self {
            Self::Absent { node, .. }
            | Self::Refused { node, .. }
            | Self::Faulty { node, .. }
            | Self::WrongAnswer { node, .. } => vec![node],
            Self::Disputed { accuser, accused, .. } => std::iter::once(accuser).chain(accused).collect(),
            Self::Diverged { one, other, senders } => [one, other].into_iter().chain(senders).collect(),
        }
    }

    /// Whether no key can come out of the ceremony any more. Absence and outages pass.
    pub(super) fn ends_ceremony(&self) -> bool {
        match self {
            Self::Absent { .. } => false,
            Self::Refused { reason, .. } => matches!(
                reason,
                Reason::CeremonyUnknown
                    | Reason::CeremonyConflict
                    | Reason::CeremonyFailed
                    | Reason::CeremonyIncomplete
                    | Reason::CertificateInvalid
                    | Reason::KeyGroupUnknown
                    | Reason::KeyGroupRetired
            ),
            Self::Faulty { .. } | Self::Disputed { .. } | Self::Diverged { .. } | Self::WrongAnswer { .. } => true,
        }
    }
}

/// What is left of a ceremony that made no confirmed key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// No node has begun: there was no secret.
    NothingBegun,
    /// It is over. Nodes that had prepared their shares keep them; they sign nothing.
    Over,
    /// It waits, on every node, for the ones that are named: resume it by its id.
    Resumable,
}

impl fmt::Display for Stands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingBegun => "nothing was begun",
            Self::Over => "it is over, a new run takes a new id",
            Self::Resumable => "it can be resumed",
        })
    }
}

/// A ceremony that made no confirmed key group, for now or for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key generation {ceremony}: {stands}: {}", .findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; "))]
pub struct Failed {
    /// The ceremony.
    pub ceremony: CeremonyId,
    /// What is left of it.
    pub stands: Stands,
    /// Who stood in the way; never empty.
    pub findings: Vec<Finding>,
}

/// Why a driver has no confirmed key group to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CeremonyError {
    /// The nodes are not those of the parameters, or the policy is not theirs. Nobody was asked anything.
    #[error("key generation: {0}")]
    Setup(String),
    /// It failed, or waits.
    #[error(transparent)]
    Failed(Box<Failed>),
}
