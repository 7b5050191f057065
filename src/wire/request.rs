//! Requests of the engine, both ways: as the server reads them, and as a client writes them.

mod evidence;
mod transaction;

pub use evidence::VerifyRequest;
pub use transaction::build_request;

use super::field::{FieldError, at_most, exact, member, present, sixteen};
use super::v1;
use crate::engine::{
    CommitRequest, FinalizeRequest, Finish, SessionRequest, SignRequest, Subject, SubmittedShare, VoteRequest,
};
use crate::frost::{Signature, SignatureShare, SigningPackage};
use crate::ids::{AttemptId, KeyGroupId, MerkleRoot, Message, SessionId};
use crate::limits::{EVIDENCE_STEPS_MAX, MEMBERS_MAX};
use crate::roast::{AttemptContextParts, Transition};

/// The key group that `bytes` name.
///
/// # Errors
/// [`FieldError`].
pub fn key_group(bytes: &[u8]) -> Result<KeyGroupId, FieldError> {
    let field = "key_group";
    KeyGroupId::new(exact(field, bytes)?).map_err(|error| FieldError::value(field, &error))
}

/// A session, as messages name it.
pub fn session_ref(session: &SessionId, key_group: &KeyGroupId) -> v1::SessionRef {
    v1::SessionRef { session_id: session.as_str().to_owned(), key_group: key_group.as_bytes().to_vec() }
}

fn named(session: Option<v1::SessionRef>) -> Result<(SessionId, KeyGroupId), FieldError> {
    let session = present("session", session)?;
    let id = SessionId::new(&session.session_id).map_err(|error| FieldError::value("session_id", &error))?;
    Ok((id, key_group(&session.key_group)?))
}

pub(super) fn root(bytes: Option<&Vec<u8>>) -> Result<Option<MerkleRoot>, FieldError> {
    bytes.map(|bytes| exact("taproot_merkle_root", bytes).map(MerkleRoot::new)).transpose()
}

pub(super) fn root_bytes(root: Option<&MerkleRoot>) -> Option<Vec<u8>> {
    root.map(|root| root.as_bytes().to_vec())
}

impl From<&Subject> for v1::Subject {
    fn from(subject: &Subject) -> Self {
        Self { message: subject.message.as_bytes().to_vec(), taproot_merkle_root: root_bytes(subject.root.as_ref()) }
    }
}

impl TryFrom<v1::Subject> for Subject {
    type Error = FieldError;
    fn try_from(subject: v1::Subject) -> Result<Self, FieldError> {
        Ok(Self {
            message: Message::new(exact("message", &subject.message)?),
            root: root(subject.taproot_merkle_root.as_ref())?,
        })
    }
}

fn subject(subject: Option<v1::Subject>) -> Result<Subject, FieldError> {
    present("subject", subject)?.try_into()
}

impl From<&AttemptContextParts> for v1::AttemptContext {
    fn from(parts: &AttemptContextParts) -> Self {
        Self {
            number: parts.number,
            coordinator: parts.coordinator.into(),
            included: parts.included.iter().map(|&member| member.into()).collect(),
            included_fingerprint: parts.included_fingerprint.to_vec(),
            attempt_id: parts.attempt_id.to_vec(),
        }
    }
}

impl TryFrom<v1::AttemptContext> for AttemptContextParts {
    type Error = FieldError;
    fn try_from(context: v1::AttemptContext) -> Result<Self, FieldError> {
        at_most("included", &context.included, MEMBERS_MAX)?;
        let included = context.included.iter().map(|&number| sixteen("included", number));
        Ok(Self {
            number: context.number,
            coordinator: sixteen("coordinator", context.coordinator)?,
            included: included.collect::<Result<_, _>>()?,
            included_fingerprint: exact("included_fingerprint", &context.included_fingerprint)?,
            attempt_id: exact("attempt_id", &context.attempt_id)?,
        })
    }
}

fn attempt(context: Option<v1::AttemptContext>) -> Result<AttemptContextParts, FieldError> {
    context.ok_or(FieldError::AttemptMissing)?.try_into()
}

fn steps(evidence: Vec<v1::Transition>) -> Result<Vec<Transition>, FieldError> {
    at_most("evidence", &evidence, EVIDENCE_STEPS_MAX)?;
    evidence.into_iter().map(Transition::try_from).collect()
}

impl From<&CommitRequest> for v1::CommitRequest {
    fn from(request: &CommitRequest) -> Self {
        Self {
            session: Some(session_ref(&request.session, &request.key_group)),
            member: request.member.number().into(),
        }
    }
}

impl TryFrom<v1::CommitRequest> for CommitRequest {
    type Error = FieldError;
    fn try_from(request: v1::CommitRequest) -> Result<Self, FieldError> {
        let (session, key_group) = named(request.session)?;
        Ok(Self { session, key_group, member: member("member", request.member)? })
    }
}

impl From<&SignRequest> for v1::StartSignRoundRequest {
    fn from(request: &SignRequest) -> Self {
        Self {
            session: Some(session_ref(&request.session, &request.key_group)),
            member: request.member.number().into(),
            subject: Some((&request.subject).into()),
            attempt: Some((&request.context).into()),
            signing_package: request.package.to_bytes(),
            evidence: request.evidence.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::StartSignRoundRequest> for SignRequest {
    type Error = FieldError;
    fn try_from(request: v1::StartSignRoundRequest) -> Result<Self, FieldError> {
        let (session, key_group) = named(request.session)?;
        Ok(Self {
            session,
            key_group,
            member: member("member", request.member)?,
            subject: subject(request.subject)?,
            context: attempt(request.attempt)?,
            package: SigningPackage::from_bytes(&request.signing_package)
                .map_err(|error| FieldError::value("signing_package", &error))?,
            evidence: steps(request.evidence)?,
        })
    }
}

impl From<&VoteRequest> for v1::VoteTimeoutRequest {
    fn from(request: &VoteRequest) -> Self {
        Self {
            session: Some(session_ref(&request.session, &request.key_group)),
            member: request.member.number().into(),
            subject: Some((&request.subject).into()),
            attempt: Some((&request.context).into()),
            evidence: request.evidence.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::VoteTimeoutRequest> for VoteRequest {
    type Error = FieldError;
    fn try_from(request: v1::VoteTimeoutRequest) -> Result<Self, FieldError> {
        let (session, key_group) = named(request.session)?;
        Ok(Self {
            session,
            key_group,
            member: member("member", request.member)?,
            subject: subject(request.subject)?,
            context: attempt(request.attempt)?,
            evidence: steps(request.evidence)?,
        })
    }
}

impl From<&FinalizeRequest> for v1::FinalizeSignRoundRequest {
    fn from(request: &FinalizeRequest) -> Self {
        use v1::finalize_sign_round_request::Finish as Wire;
        let finish = match &request.finish {
            Finish::Signature(signature) => Wire::Signature(signature.as_bytes().to_vec()),
            Finish::Shares { attempt, shares } => Wire::Shares(v1::Shares {
                attempt_id: attempt.as_bytes().to_vec(),
                shares: shares.iter().map(Into::into).collect(),
            }),
        };
        Self {
            session: Some(session_ref(&request.session, &request.key_group)),
            subject: Some((&request.subject).into()),
            finish: Some(finish),
        }
    }
}

impl TryFrom<v1::FinalizeSignRoundRequest> for FinalizeRequest {
    type Error = FieldError;
    fn try_from(request: v1::FinalizeSignRoundRequest) -> Result<Self, FieldError> {
        use v1::finalize_sign_round_request::Finish as Wire;
        let (session, key_group) = named(request.session)?;
        let finish = match present("finish", request.finish)? {
            Wire::Signature(bytes) => Finish::Signature(
                Signature::from_bytes(&bytes).map_err(|error| FieldError::value("signature", &error))?,
            ),
            Wire::Shares(shares) => {
                at_most("shares", &shares.shares, MEMBERS_MAX)?;
                Finish::Shares {
                    attempt: AttemptId::new(exact("attempt_id", &shares.attempt_id)?),
                    shares: shares.shares.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                }
            }
        };
        Ok(Self { session, key_group, subject: subject(request.subject)?, finish })
    }
}

impl From<&SubmittedShare> for v1::SubmittedShare {
    fn from(share: &SubmittedShare) -> Self {
        Self {
            member: share.member.number().into(),
            signature_share: share.share.to_bytes().to_vec(),
            round_signature: share.round_signature.map(|signature| signature.to_vec()),
        }
    }
}

impl TryFrom<v1::SubmittedShare> for SubmittedShare {
    type Error = FieldError;
    fn try_from(share: v1::SubmittedShare) -> Result<Self, FieldError> {
        let signature = share.round_signature.as_deref().map(|bytes| exact("round_signature", bytes));
        Ok(Self {
            member: member("member", share.member)?,
            share: SignatureShare::from_bytes(&share.signature_share)
                .map_err(|error| FieldError::value("signature_share", &error))?,
            round_signature: signature.transpose()?,
        })
    }
}

/// Messages that name a session and nothing else.
macro_rules! names_a_session {
    ($($message:ident)+) => { $(
        impl From<&SessionRequest> for v1::$message {
            fn from(request: &SessionRequest) -> Self {
                Self { session: Some(session_ref(&request.session, &request.key_group)) }
            }
        }

        impl TryFrom<v1::$message> for SessionRequest {
            type Error = FieldError;
            fn try_from(request: v1::$message) -> Result<Self, FieldError> {
                let (session, key_group) = named(request.session)?;
                Ok(Self { session, key_group })
            }
        }
    )+ };
}

names_a_session!(AbortSessionRequest GetSessionRequest);

/// `DeriveAttemptContext`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeriveRequest {
    /// The session.
    pub session: SessionId,
    /// The key group.
    pub key_group: KeyGroupId,
    /// The session's message.
    pub message: Message,
    /// Members that a signature needs.
    pub threshold: u16,
    /// The attempt number.
    pub number: u32,
    /// The members to include.
    pub included: Vec<u16>,
}

impl TryFrom<v1::DeriveAttemptContextRequest> for DeriveRequest {
    type Error = FieldError;
    fn try_from(request: v1::DeriveAttemptContextRequest) -> Result<Self, FieldError> {
        let (session, key_group) = named(request.session)?;
        at_most("included", &request.included, MEMBERS_MAX)?;
        let included = request.included.iter().map(|&number| sixteen("included", number));
        Ok(Self {
            session,
            key_group,
            message: Message::new(exact("message", &request.message)?),
            threshold: sixteen("threshold", request.threshold)?,
            number: request.number,
            included: included.collect::<Result<_, _>>()?,
        })
    }
}

/// `Drive`, read: the session, what it signs, the attempt and what led to it.
pub struct DriveRequest {
    /// The session.
    pub session: SessionRequest,
    /// What is signed.
    pub subject: Subject,
    /// The attempt.
    pub context: AttemptContextParts,
    /// What led to it, oldest first.
    pub evidence: Vec<Transition>,
}

impl From<&DriveRequest> for v1::DriveRequest {
    fn from(request: &DriveRequest) -> Self {
        Self {
            session: Some(session_ref(&request.session.session, &request.session.key_group)),
            subject: Some((&request.subject).into()),
            attempt: Some((&request.context).into()),
            evidence: request.evidence.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::DriveRequest> for DriveRequest {
    type Error = FieldError;
    fn try_from(request: v1::DriveRequest) -> Result<Self, FieldError> {
        let (session, key_group) = named(request.session)?;
        Ok(Self {
            session: SessionRequest { session, key_group },
            subject: subject(request.subject)?,
            context: attempt(request.attempt)?,
            evidence: steps(request.evidence)?,
        })
    }
}

#[cfg(test)]
mod tests;
