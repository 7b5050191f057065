//! Why the engine refuses. Every variant has a stable reason ([`Reason`]); the caller's fault, our surroundings and our
//! bug are told apart by it.

use std::sync::Arc;

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::health::Outage;

use crate::frost::Commitments;
use crate::ids::{AttemptId, CeremonyId, FreezeId, KeyGroupId, Member, SessionId};
use crate::policy::PolicyRefusal;
use crate::reasons::Reason;
use crate::roast::{ContextError, TransitionError};
use crate::store::{OpenError, Position};

/// A typed refusal. Nothing was lost and nothing changed, unless the variant says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// A field that is well-formed and still cannot be.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The caller lacks the role.
    #[error("{caller} may not do this: it needs the role {needs}")]
    PermissionDenied {
        /// The caller's name.
        caller: String,
        /// The roles that would do.
        needs: String,
    },
    /// No such key group here.
    #[error("key group {0} is not known to this node")]
    KeyGroupUnknown(KeyGroupId),
    /// The key group is prepared; its certificate has not come yet.
    #[error("key group {0} is prepared, not active: its certificate is missing")]
    KeyGroupPrepared(KeyGroupId),
    /// The key group has ended.
    #[error("key group {0} is retired")]
    KeyGroupRetired(KeyGroupId),
    /// The key group is frozen.
    #[error("key group {key_group} is frozen ({} freezes)", .freezes.len())]
    Frozen {
        /// The key group.
        key_group: KeyGroupId,
        /// The freezes in force; empty when an unreadable deny file freezes every group.
        freezes: Vec<FreezeId>,
    },
    /// The member is no seat of this node.
    #[error("member {member} of key group {key_group} is not a seat of this node")]
    MemberNotLocal {
        /// The key group.
        key_group: KeyGroupId,
        /// The member.
        member: Member,
    },
    /// The session exists with another message or root.
    #[error("session {0} was opened with another message or taproot root")]
    SessionConflict(SessionId),
    /// The session has its signature.
    #[error("session {session} is finalized")]
    SessionFinalized {
        /// The session.
        session: SessionId,
        /// The signature, BIP-340.
        signature: Box<[u8; 64]>,
    },
    /// The session was aborted.
    #[error("session {0} was aborted")]
    SessionAborted(SessionId),
    /// The session was idle for too long, and closed.
    #[error("session {0} was closed after being idle")]
    SessionClosed(SessionId),
    /// No such session here.
    #[error("session {0} is not known to this node")]
    SessionUnknown(SessionId),
    /// The attempt context does not hold in itself.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A lower number than the active attempt's.
    #[error("attempt {number} is stale: attempt {active} is active")]
    AttemptStale {
        /// The number asked for.
        number: u32,
        /// The active number.
        active: u32,
    },
    /// A higher number than an advance could reach.
    #[error("attempt {number} is in the future: attempt {active} is active and the evidence does not reach it")]
    AttemptFuture {
        /// The number asked for.
        number: u32,
        /// The active number.
        active: u32,
    },
    /// The advance is not authorised by its evidence.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The member answered, or is answering, this attempt with another request.
    #[error("attempt {attempt} was answered by member {member} for another request")]
    AttemptConflict {
        /// The attempt.
        attempt: AttemptId,
        /// The member.
        member: Member,
    },
    /// The member consumed the attempt, and its round has given way to a later attempt.
    #[error("attempt {attempt} was consumed by member {member}; its round has given way")]
    AttemptReplay {
        /// The attempt.
        attempt: AttemptId,
        /// The member.
        member: Member,
    },
    /// The member has no answers left for this session.
    #[error("member {member} has answered {limit} attempts of this session, the most allowed")]
    AttemptExhausted {
        /// The member.
        member: Member,
        /// The limit.
        limit: usize,
    },
    /// The signing package cannot belong to the attempt.
    #[error("signing package: {0}")]
    PackageInvalid(String),
    /// The commitments in the package are not the member's unspent ones. Nobody is to blame.
    #[error("the commitments of member {member} are not known: they were spent, expired, or lost in a restart")]
    CommitmentsUnknown {
        /// The member.
        member: Member,
        /// The member's current pair, to be used in the next package.
        current: Option<Box<Commitments>>,
    },
    /// A member of the set is quarantined.
    #[error("member {member} is quarantined with a score of {score}")]
    Quarantined {
        /// The member.
        member: Member,
        /// Its score.
        score: u32,
    },
    /// The policy of the key group forbids it.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
    /// The message is no sighash of an approved transaction for an input of this group under this root.
    #[error(
        "the message is no signature hash of an approved transaction that spends this group's output under this root"
    )]
    MessageNotApproved,
    /// Shares that do not add up to a signature.
    #[error("the shares do not make a signature: culprits {culprits:?}, indeterminate {indeterminate:?}")]
    SharesInvalid {
        /// Members proved to have sent a bad share under their own round signature.
        culprits: Vec<Member>,
        /// Members whose share is bad, without proof that they sent it.
        indeterminate: Vec<Member>,
    },
    /// The finished signature does not verify under the output key.
    #[error("the signature does not verify under the output key of the session")]
    SignatureInvalid,
    /// The vote comes too early.
    #[error("the coordinator of attempt {number} has {left_ms} ms left")]
    VoteTooEarly {
        /// The attempt number.
        number: u32,
        /// Milliseconds left.
        left_ms: u64,
    },
    /// A bound is reached. It binds admission, never replay.
    #[error("{what}: the limit of {limit} is reached")]
    CapacityExceeded {
        /// What is full.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A change of the same thing is on its way to the disk; ask again.
    #[error("{0} is not durable yet; ask again")]
    Busy(&'static str),
    /// The key provider cannot seal now. `pending`: the round exists and comes out later as the same bytes.
    #[error("key provider unavailable ({}), durable rounds are still served", .outage.class.name())]
    KeyProviderUnavailable {
        /// The outage.
        outage: Box<Outage>,
        /// Whether this request left a round in line.
        pending: bool,
        /// When the refusal was made, to tell how long ago and how soon.
        now: Millis,
    },
    /// The round exists, is not durable, and the line cannot move (I4).
    #[error("the round at position {position} is not durable")]
    RoundNotDurable {
        /// Its position.
        position: Position,
        /// The outage that holds the line, when it is one.
        outage: Option<Box<Outage>>,
        /// When the refusal was made.
        now: Millis,
    },
    /// Too little room on the volume. Heals by itself.
    #[error("disk full: {free} bytes free, {reserve} are kept free; durable rounds are still served")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes kept free.
        reserve: u64,
        /// Whether this request left a round in line.
        pending: bool,
    },
    /// A write or a sync failed; this process writes no more.
    #[error("storage failed: {detail}; durable rounds are served, a restart looks at the disk again")]
    StorageFailed {
        /// What failed.
        detail: String,
        /// Whether this request left a round in line.
        pending: bool,
    },
    /// The anchor belongs to another instance: nothing is released.
    #[error("fenced by the anchor: another instance of this state is alive")]
    Fenced,
    /// The opening record or anchor step is not done; durable rounds are served when they may be.
    #[error("the node is starting: its epoch is not recorded yet")]
    Starting,
    /// The freeze holds in memory; its deny file could not be synced.
    #[error("frozen in memory, but the deny file is not on disk: {0}")]
    FreezeNotDurable(String),
    /// No such ceremony here.
    #[error("key generation {0} is not known: a restart before its shares were prepared voids it")]
    CeremonyUnknown(CeremonyId),
    /// The ceremony exists, or stands elsewhere.
    #[error("key generation {0} has begun already, or awaits another step")]
    CeremonyConflict(CeremonyId),
    /// A ceremony message that changes nothing, or that is kept as a fault.
    #[error("key generation message")]
    CeremonyMessage(#[source] crate::keygen::ReceiveError),
    /// Messages of the current round are missing.
    #[error("key generation {ceremony}: nothing has come from members {members:?}")]
    CeremonyAbsent {
        /// The ceremony.
        ceremony: CeremonyId,
        /// The members.
        members: Vec<Member>,
    },
    /// The ceremony is over; its secrets are gone.
    #[error(transparent)]
    CeremonyFailed(Box<crate::keygen::Failure>),
    /// A certificate that does not activate the prepared key group.
    #[error("certificate: {0}")]
    CertificateInvalid(String),
    /// The state is not open.
    #[error(transparent)]
    NotOpen(Arc<OpenError>),
    /// Our bug. The request did nothing.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Refusal {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidRequest(_) => Reason::InvalidRequest,
            Self::PermissionDenied { .. } => Reason::PermissionDenied,
            Self::KeyGroupUnknown(_) => Reason::KeyGroupUnknown,
            Self::KeyGroupPrepared(_) => Reason::KeyGroupPrepared,
            Self::KeyGroupRetired(_) => Reason::KeyGroupRetired,
            Self::Frozen { .. } => Reason::Frozen,
            Self::MemberNotLocal { .. } => Reason::MemberNotLocal,
            Self::SessionConflict(_) => Reason::SessionConflict,
            Self::SessionFinalized { .. } => Reason::SessionFinalized,
            Self::SessionAborted(_) => Reason::SessionAborted,
            Self::SessionClosed(_) => Reason::SessionClosed,
            Self::SessionUnknown(_) => Reason::SessionUnknown,
            Self::Context(error) => error.reason(),
            Self::AttemptStale { .. } => Reason::AttemptStale,
            Self::AttemptFuture { .. } => Reason::AttemptFuture,
            Self::Transition(error) => error.reason(),
            Self::AttemptConflict { .. } => Reason::AttemptConflict,
            Self::AttemptReplay { .. } => Reason::AttemptReplay,
            Self::AttemptExhausted { .. } => Reason::AttemptExhausted,
            Self::PackageInvalid(_) => Reason::PackageInvalid,
            Self::CommitmentsUnknown { .. } => Reason::CommitmentsUnknown,
            Self::Quarantined { .. } => Reason::Quarantined,
            Self::Policy(error) => error.reason(),
            Self::MessageNotApproved => Reason::MessageNotApproved,
            Self::SharesInvalid { .. } => Reason::SharesInvalid,
            Self::SignatureInvalid => Reason::SignatureInvalid,
            Self::VoteTooEarly { .. } => Reason::VoteTooEarly,
            Self::CapacityExceeded { .. } => Reason::CapacityExceeded,
            Self::Busy(_) => Reason::Busy,
            Self::KeyProviderUnavailable { .. } => Reason::KeyProviderUnavailable,
            Self::RoundNotDurable { .. } => Reason::RoundNotDurable,
            Self::DiskFull { .. } => Reason::DiskFull,
            Self::StorageFailed { .. } => Reason::StorageFailed,
            Self::Fenced => Reason::Fenced,
            Self::Starting => Reason::Starting,
            Self::FreezeNotDurable(_) => Reason::FreezeNotDurable,
            Self::CeremonyUnknown(_) => Reason::CeremonyUnknown,
            Self::CeremonyConflict(_) => Reason::CeremonyConflict,
            Self::CeremonyMessage(_) => Reason::CeremonyMessageInvalid,
            Self::CeremonyAbsent { .. } => Reason::CeremonyIncomplete,
            Self::CeremonyFailed(_) => Reason::CeremonyFailed,
            Self::CertificateInvalid(_) => Reason::CertificateInvalid,
            Self::NotOpen(error) => error.reason(),
            Self::Internal(_) => Reason::Internal,
        }
    }
}
