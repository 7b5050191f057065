//! The port to one node: what the driver asks of it, and the ways in which it does not get it.

use std::error::Error;
use std::future::Future;

use crate::engine::{CeremonyStage, PreparedReply, Refusal};
use crate::identity::IdentityKey;
use crate::ids::{CeremonyId, Member};
use crate::keygen::{Confirmation, Fault, Message, Parameters, ReceiveError};
use crate::policy::SigningPolicy;
use crate::reasons::{Reason, Retry};

/// Another node, as the pre-flight names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the roster.
    pub name: String,
    /// Its identity.
    pub identity: IdentityKey,
}

/// A refusal of a node, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Refused {
    /// The stable reason.
    pub reason: Reason,
    /// What is wrong, for people.
    pub problem: String,
    /// Members whose messages have not come to the node.
    pub members: Vec<Member>,
    /// What the node holds against members. The driver checks each proof itself.
    pub faults: Vec<Fault>,
    /// Signed complaints of the node's own, for the others.
    pub complaints: Vec<Vec<u8>>,
}

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// It answered, and refused.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// It did not answer. It may have done it all the same.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It answered what is no answer.
    #[error("answer without sense: {0}")]
    Nonsense(String),
}

impl PortError {
    /// The stable reason of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refused) => Some(refused.reason),
            Self::Unreachable(_) | Self::Nonsense(_) => None,
        }
    }

    /// Whether the same call can pass a little later: no answer, an outage, a full registry.
    pub(super) fn passes_later(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Nonsense(_) => false,
            Self::Refused(refused) => {
                refused.reason.retry() == Retry::AfterOutage
                    || matches!(refused.reason, Reason::Busy | Reason::CapacityExceeded | Reason::Stopping)
            }
        }
    }
}

impl From<Refusal> for PortError {
    fn from(refusal: Refusal) -> Self {
        let mut problem = refusal.to_string();
        let mut source = refusal.source();
        while let Some(cause) = source {
            problem = format!("{problem}: {cause}");
            source = cause.source();
        }
        let mut refused = Refused {
            reason: refusal.reason(),
            problem,
            members: Vec::new(),
            faults: Vec::new(),
            complaints: Vec::new(),
        };
        match refusal {
            Refusal::CeremonyAbsent { members, .. } => refused.members = members,
            Refusal::CeremonyMessage(ReceiveError::Fault(fault)) => refused.faults = vec![fault],
            Refusal::CeremonyFailed(failure) => {
                refused.complaints = failure.complaints.iter().map(Message::to_bytes).collect();
                refused.faults = failure.faults;
            }
            _ => {}
        }
        Self::Refused(Box::new(refused))
    }
}

/// One node. Every call can be made again: a repeat of what was done returns the same answer.
///
/// # Errors
/// Each call fails with [`PortError`].
pub trait NodePort: Send + Sync + 'static {
    /// Whether the node could take part now: token, disk, room, its seats, and each of `peers` answers *it*. No secret is
    /// made. The problem names the peers that it cannot reach.
    fn preflight(
        &self,
        parameters: &Parameters,
        policy: &SigningPolicy,
        peers: &[Peer],
    ) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Begins; the node's round-one messages.
    fn begin(
        &self,
        parameters: &Parameters,
        policy: &SigningPolicy,
    ) -> impl Future<Output = Result<Vec<Vec<u8>>, PortError>> + Send;

    /// Hands over a message of another node.
    fn receive(&self, ceremony: &CeremonyId, message: &[u8]) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Goes on to round two; the node's round-two messages.
    fn advance(&self, ceremony: &CeremonyId) -> impl Future<Output = Result<Vec<Vec<u8>>, PortError>> + Send;

    /// Prepares the shares, durably; what the node heard, and its signature on that.
    fn finish(&self, ceremony: &CeremonyId) -> impl Future<Output = Result<PreparedReply, PortError>> + Send;

    /// Hands over the certificate; the node's word that it holds it durably.
    fn certify(&self, certificate: &[u8]) -> impl Future<Output = Result<Confirmation, PortError>> + Send;

    /// Gives the ceremony up, if it is not prepared.
    fn abandon(&self, ceremony: &CeremonyId) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Where the ceremony stands on the node.
    fn stage(&self, ceremony: &CeremonyId) -> impl Future<Output = Result<CeremonyStage, PortError>> + Send;

    /// Ceremonies that the node has prepared and that lack their certificate.
    fn unfinished(&self) -> impl Future<Output = Result<Vec<CeremonyId>, PortError>> + Send;
}
