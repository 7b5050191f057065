//! Key generation, both ways.

use std::collections::BTreeMap;

use super::field::{FieldError, at_most, exact, member, sixteen};
use super::status::with_causes;
use super::v1;
use crate::engine::{CeremonyStage, PreparedReply, Refusal};
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, CeremonyId, Member};
use crate::keygen::{Fault, Message, Parameters, ReceiveError, Statement, Transcript};
use crate::limits::{MEMBERS_MAX, POLICY_BYTES_MAX};
use crate::policy::SigningPolicy;

/// The ceremony that `bytes` name.
///
/// # Errors
/// [`FieldError`].
pub fn ceremony(bytes: &[u8]) -> Result<CeremonyId, FieldError> {
    exact("ceremony", bytes).map(CeremonyId::new)
}

/// The node identity in `bytes`.
///
/// # Errors
/// [`FieldError`].
pub fn identity(bytes: &[u8]) -> Result<IdentityKey, FieldError> {
    let field = "identity";
    IdentityKey::new(exact(field, bytes)?).map_err(|error| FieldError::value(field, &error))
}

impl From<AttemptPolicy> for v1::AttemptPolicy {
    fn from(policy: AttemptPolicy) -> Self {
        match policy {
            AttemptPolicy::Roast => Self::Roast,
            AttemptPolicy::Evidence => Self::Evidence,
        }
    }
}

/// The attempt policy of this number.
///
/// # Errors
/// [`FieldError`] for one that is unknown or not specified.
pub fn attempt_policy(number: i32) -> Result<AttemptPolicy, FieldError> {
    match v1::AttemptPolicy::try_from(number) {
        Ok(v1::AttemptPolicy::Roast) => Ok(AttemptPolicy::Roast),
        Ok(v1::AttemptPolicy::Evidence) => Ok(AttemptPolicy::Evidence),
        Ok(v1::AttemptPolicy::Unspecified) | Err(_) => Err(FieldError::Value {
            field: "attempt_policy",
            problem: format!("{number} is not roast (1) or evidence (2)"),
        }),
    }
}

/// Seats, as messages tell them.
pub fn seats(seats: &BTreeMap<Member, IdentityKey>) -> Vec<v1::Seat> {
    let seat = |(member, identity): (&Member, &IdentityKey)| v1::Seat {
        member: member.number().into(),
        identity: identity.as_bytes().to_vec(),
    };
    seats.iter().map(seat).collect()
}

/// Reads seats; a member that comes twice is refused.
///
/// # Errors
/// [`FieldError`].
pub fn read_seats(seats: &[v1::Seat]) -> Result<BTreeMap<Member, IdentityKey>, FieldError> {
    at_most("seats", seats, MEMBERS_MAX)?;
    let mut read = BTreeMap::new();
    for seat in seats {
        let member = member("member", seat.member)?;
        if read.insert(member, identity(&seat.identity)?).is_some() {
            return Err(FieldError::Value { field: "seats", problem: format!("member {member} comes twice") });
        }
    }
    Ok(read)
}

impl From<&Parameters> for v1::Parameters {
    fn from(parameters: &Parameters) -> Self {
        Self {
            ceremony: parameters.ceremony().as_bytes().to_vec(),
            threshold: parameters.threshold().into(),
            seats: seats(parameters.seats()),
            attempt_policy: v1::AttemptPolicy::from(parameters.attempt_policy()).into(),
            signing_policy_hash: parameters.signing_policy().to_vec(),
        }
    }
}

impl TryFrom<v1::Parameters> for Parameters {
    type Error = FieldError;
    fn try_from(parameters: v1::Parameters) -> Result<Self, FieldError> {
        Self::new(
            ceremony(&parameters.ceremony)?,
            sixteen("threshold", parameters.threshold)?,
            read_seats(&parameters.seats)?,
            attempt_policy(parameters.attempt_policy)?,
            exact("signing_policy_hash", &parameters.signing_policy_hash)?,
        )
        .map_err(|error| FieldError::value("parameters", &error))
    }
}

/// A signing policy in its JSON form.
///
/// # Errors
/// [`FieldError`].
pub fn signing_policy(json: &str) -> Result<SigningPolicy, FieldError> {
    let field = "signing_policy";
    if json.len() > POLICY_BYTES_MAX {
        return Err(FieldError::TooMany { field, found: json.len(), limit: POLICY_BYTES_MAX });
    }
    let policy: SigningPolicy = serde_json::from_str(json).map_err(|error| FieldError::value(field, &error))?;
    policy.validate().map_err(|error| FieldError::value(field, &error))?;
    Ok(policy)
}

/// The JSON form of a signing policy.
pub fn policy_json(policy: &SigningPolicy) -> String {
    serde_json::to_string(policy).expect("a policy is maps, sets, numbers and text: all of them are JSON")
}

/// What a node said in a ceremony.
pub fn messages_reply(messages: &[Message]) -> v1::MessagesReply {
    v1::MessagesReply { messages: messages.iter().map(Message::to_bytes).collect(), failure: None }
}

/// The refusal as an answer, when it carries proofs, which do not fit a status.
pub fn failure(refusal: &Refusal) -> Option<v1::CeremonyFailure> {
    let (faults, complaints) = match refusal {
        Refusal::CeremonyMessage(ReceiveError::Fault(fault)) => (vec![fault.to_bytes()], Vec::new()),
        Refusal::CeremonyFailed(failed) => (
            failed.faults.iter().map(Fault::to_bytes).collect(),
            failed.complaints.iter().map(Message::to_bytes).collect(),
        ),
        _ => return None,
    };
    Some(v1::CeremonyFailure {
        reason: refusal.reason().name().to_owned(),
        problem: with_causes(refusal),
        members: Vec::new(),
        faults,
        complaints,
    })
}

impl From<&PreparedReply> for v1::FinishReply {
    fn from(reply: &PreparedReply) -> Self {
        Self { transcript: reply.transcript.to_bytes(), statement: reply.statement.to_bytes(), failure: None }
    }
}

impl TryFrom<&v1::FinishReply> for PreparedReply {
    type Error = FieldError;
    fn try_from(reply: &v1::FinishReply) -> Result<Self, FieldError> {
        Ok(Self {
            transcript: Transcript::from_bytes(&reply.transcript)
                .map_err(|error| FieldError::value("transcript", &error))?,
            statement: Statement::from_bytes(&reply.statement)
                .map_err(|error| FieldError::value("statement", &error))?,
        })
    }
}

impl From<&CeremonyStage> for v1::StageReply {
    fn from(stage: &CeremonyStage) -> Self {
        let numbers = |members: &[Member]| members.iter().map(|member| member.number().into()).collect();
        let (stage, missing) = match stage {
            CeremonyStage::RoundOne { missing } => (v1::CeremonyStage::RoundOne, numbers(missing)),
            CeremonyStage::RoundTwo { missing } => (v1::CeremonyStage::RoundTwo, numbers(missing)),
            CeremonyStage::Prepared => (v1::CeremonyStage::Prepared, Vec::new()),
            CeremonyStage::Active => (v1::CeremonyStage::Active, Vec::new()),
            CeremonyStage::Retired => (v1::CeremonyStage::Retired, Vec::new()),
        };
        Self { stage: stage.into(), missing }
    }
}

impl TryFrom<&v1::StageReply> for CeremonyStage {
    type Error = FieldError;
    fn try_from(reply: &v1::StageReply) -> Result<Self, FieldError> {
        at_most("missing", &reply.missing, MEMBERS_MAX)?;
        let missing = reply.missing.iter().map(|&number| member("missing", number)).collect::<Result<_, _>>()?;
        match v1::CeremonyStage::try_from(reply.stage) {
            Ok(v1::CeremonyStage::RoundOne) => Ok(Self::RoundOne { missing }),
            Ok(v1::CeremonyStage::RoundTwo) => Ok(Self::RoundTwo { missing }),
            Ok(v1::CeremonyStage::Prepared) => Ok(Self::Prepared),
            Ok(v1::CeremonyStage::Active) => Ok(Self::Active),
            Ok(v1::CeremonyStage::Retired) => Ok(Self::Retired),
            Ok(v1::CeremonyStage::Unspecified) | Err(_) => {
                Err(FieldError::Value { field: "stage", problem: format!("{} is no stage", reply.stage) })
            }
        }
    }
}
