//! The attempt context of RFC-21: which try of a session this is, by whom, and who takes part.

use serde::{Deserialize, Serialize};

use super::selection;
use crate::hash::{Framed, sha256};
use crate::ids::{AttemptId, KeyGroupId, Member, Message, SessionId, to_hex};
use crate::limits::{ATTEMPTS_MAX, MEMBERS_MAX};
use crate::reasons::Reason;

const INCLUDED_DOMAIN: &str = "FROST-ROAST-INCLUDED-FPR-v1";
const ATTEMPT_ID_DOMAIN: &str = "FROST-ROAST-ATTEMPT-ID-v1";

/// What an attempt belongs to: the context's hashes and its selection cover these.
#[derive(Debug, Clone, Copy)]
pub struct AttemptBinding<'a> {
    /// The key group.
    pub key_group: &'a KeyGroupId,
    /// The session.
    pub session: &'a SessionId,
    /// The session's message.
    pub message: &'a Message,
    /// Members that a signature needs.
    pub threshold: u16,
}

impl AttemptBinding<'_> {
    fn coordinator(&self, number: u32, included: &[u16]) -> Option<u16> {
        let seed = selection::session_seed(&self.key_group.to_string(), self.session.as_str(), self.message.as_bytes())
            .expect("a message has 32 bytes");
        selection::coordinator(seed, number.checked_sub(1)?, included)
    }
}

/// An attempt context as it travels: nothing about it has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptContextParts {
    /// The attempt number, from 1.
    pub number: u32,
    /// The coordinator's member number.
    pub coordinator: u16,
    /// The included members, in any order.
    pub included: Vec<u16>,
    /// [`included_fingerprint`] of them.
    pub included_fingerprint: [u8; 32],
    /// [`attempt_id`].
    pub attempt_id: [u8; 32],
}

/// Why a context is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A request without one.
    #[error("the request carries no attempt context")]
    Missing,
    /// Attempts are numbered from 1.
    #[error("attempt number 0 is not valid: attempts are numbered from 1")]
    NumberZero,
    /// The session has had all its attempts.
    #[error("attempt number {number} is above the limit of {ATTEMPTS_MAX} attempts of a session")]
    Exhausted {
        /// The number asked for.
        number: u32,
    },
    /// Members are numbered from 1.
    #[error("coordinator 0 is not valid: members are 1 to 65535")]
    CoordinatorZero,
    /// Nobody is included.
    #[error("no member is included")]
    IncludedEmpty,
    /// More members than a key group can have.
    #[error("{count} members are included: at most {MEMBERS_MAX} are allowed")]
    IncludedTooMany {
        /// Members included.
        count: usize,
    },
    /// A member twice.
    #[error("member {member} is included twice")]
    IncludedTwice {
        /// The member.
        member: u16,
    },
    /// Members are numbered from 1.
    #[error("member 0 is included: members are 1 to 65535")]
    IncludedZero,
    /// Too few to sign.
    #[error("{count} members are included: the threshold is {threshold}")]
    BelowThreshold {
        /// Members included.
        count: usize,
        /// Members needed.
        threshold: u16,
    },
    /// The coordinator takes part in what it coordinates.
    #[error("coordinator {coordinator} is not among the included members")]
    CoordinatorOutside {
        /// The coordinator named.
        coordinator: u16,
    },
    /// The selection yields another one.
    #[error("coordinator {found} was named: the selection yields {expected}")]
    CoordinatorMismatch {
        /// The coordinator named.
        found: u16,
        /// The one selected.
        expected: u16,
    },
    /// The fingerprint is of another set.
    #[error("the included fingerprint is {}: the included members give {}", to_hex(found), to_hex(expected))]
    FingerprintMismatch {
        /// The fingerprint given.
        found: [u8; 32],
        /// The one computed.
        expected: [u8; 32],
    },
    /// The attempt id is of another attempt.
    #[error("the attempt id is {}: this attempt gives {expected}", to_hex(found))]
    AttemptIdMismatch {
        /// The id given.
        found: [u8; 32],
        /// The one computed.
        expected: AttemptId,
    },
}

impl ContextError {
    /// The stable reason of a refusal.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing => Reason::AttemptContextMissing,
            Self::Exhausted { .. } => Reason::AttemptExhausted,
            Self::CoordinatorMismatch { .. } => Reason::CoordinatorMismatch,
            Self::AttemptIdMismatch { .. } => Reason::AttemptIdMismatch,
            Self::NumberZero
            | Self::CoordinatorZero
            | Self::IncludedEmpty
            | Self::IncludedTooMany { .. }
            | Self::IncludedTwice { .. }
            | Self::IncludedZero
            | Self::BelowThreshold { .. }
            | Self::CoordinatorOutside { .. }
            | Self::FingerprintMismatch { .. } => Reason::AttemptContextInvalid,
        }
    }
}

/// `H(domain, P)` where P is the concatenation, in ascending order, of the framed big-endian member numbers.
pub fn included_fingerprint(included: &[u16]) -> [u8; 32] {
    let mut sorted = included.to_vec();
    sorted.sort_unstable();
    let packed: Vec<u8> = sorted
        .iter()
        .flat_map(|member| {
            let [high, low] = member.to_be_bytes();
            [0, 0, 0, 2, high, low]
        })
        .collect();
    Framed::new(INCLUDED_DOMAIN).part(&packed).finish()
}

/// The id of an attempt; `message_digest` is the SHA-256 of the message, hashes enter as lower-case hexadecimal.
pub fn attempt_id(
    session: &str,
    message_digest: &[u8; 32],
    number: u32,
    coordinator: u16,
    included_fingerprint: &[u8; 32],
) -> AttemptId {
    let id = Framed::new(ATTEMPT_ID_DOMAIN)
        .part(session.as_bytes())
        .part(to_hex(message_digest).as_bytes())
        .part(&number.to_be_bytes())
        .part(&coordinator.to_be_bytes())
        .part(to_hex(included_fingerprint).as_bytes())
        .finish();
    AttemptId::new(id)
}

/// A valid attempt. It cannot be deserialised: a stored one goes through [`AttemptContext::parse`] like any other, since it
/// is valid under its binding only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptContext {
    number: u32,
    coordinator: Member,
    included: Box<[Member]>,
    included_fingerprint: [u8; 32],
    id: AttemptId,
}

/// How an incoming context stands to the active attempt of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgainstActive {
    /// It is the active attempt, in every field.
    Same,
    /// It is numbered one higher: evidence decides.
    Next,
    /// It is numbered lower.
    Stale {
        /// Its number.
        number: u32,
        /// The active one.
        active: u32,
    },
    /// It is numbered more than one higher: a chain of evidence may lead there.
    Future {
        /// Its number.
        number: u32,
        /// The active one.
        active: u32,
    },
    /// It has the active number and is another attempt.
    Conflict {
        /// Its id.
        id: AttemptId,
        /// The active one.
        active: AttemptId,
    },
}

impl AttemptContext {
    /// The attempt of this number with these members, in any order; the coordinator is the selected one.
    ///
    /// # Errors
    /// [`ContextError`], the first in the order of RFC-21.
    pub fn derive(binding: &AttemptBinding<'_>, number: u32, included: &[u16]) -> Result<Self, ContextError> {
        check_number(number)?;
        let members = check_included(included, binding.threshold)?;
        Self::assemble(binding, number, members)
    }

    /// The context that `parts` claim to be.
    ///
    /// # Errors
    /// [`ContextError`], the first in the order of RFC-21: number, coordinator, set, threshold, membership of the
    /// coordinator, selection, fingerprint, id.
    pub fn parse(binding: &AttemptBinding<'_>, parts: &AttemptContextParts) -> Result<Self, ContextError> {
        check_number(parts.number)?;
        let coordinator = Member::new(parts.coordinator).map_err(|_| ContextError::CoordinatorZero)?;
        let members = check_included(&parts.included, binding.threshold)?;
        if members.binary_search(&coordinator).is_err() {
            return Err(ContextError::CoordinatorOutside { coordinator: parts.coordinator });
        }
        let context = Self::assemble(binding, parts.number, members)?;
        if coordinator != context.coordinator {
            return Err(ContextError::CoordinatorMismatch {
                found: parts.coordinator,
                expected: context.coordinator.number(),
            });
        }
        if parts.included_fingerprint != context.included_fingerprint {
            return Err(ContextError::FingerprintMismatch {
                found: parts.included_fingerprint,
                expected: context.included_fingerprint,
            });
        }
        if parts.attempt_id != *context.id.as_bytes() {
            return Err(ContextError::AttemptIdMismatch { found: parts.attempt_id, expected: context.id });
        }
        Ok(context)
    }

    fn assemble(binding: &AttemptBinding<'_>, number: u32, included: Vec<Member>) -> Result<Self, ContextError> {
        let numbers: Vec<u16> = included.iter().map(|member| member.number()).collect();
        let selected = binding.coordinator(number, &numbers).ok_or(ContextError::IncludedEmpty)?;
        let coordinator = Member::new(selected).map_err(|_| ContextError::IncludedZero)?;
        let included_fingerprint = included_fingerprint(&numbers);
        let message_digest = sha256(binding.message.as_bytes());
        let id = attempt_id(binding.session.as_str(), &message_digest, number, selected, &included_fingerprint);
        Ok(Self { number, coordinator, included: included.into(), included_fingerprint, id })
    }

    /// The number, from 1 to [`ATTEMPTS_MAX`].
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The selected coordinator, one of the included.
    pub fn coordinator(&self) -> Member {
        self.coordinator
    }

    /// The included members, ascending.
    pub fn included(&self) -> &[Member] {
        &self.included
    }

    /// Whether `member` is included.
    pub fn includes(&self, member: Member) -> bool {
        self.included.binary_search(&member).is_ok()
    }

    /// The fingerprint of the included set.
    pub fn included_fingerprint(&self) -> &[u8; 32] {
        &self.included_fingerprint
    }

    /// The attempt id: it covers session, message, number, coordinator and included set.
    pub fn id(&self) -> AttemptId {
        self.id
    }

    /// The wire form, the included ascending.
    pub fn parts(&self) -> AttemptContextParts {
        AttemptContextParts {
            number: self.number,
            coordinator: self.coordinator.number(),
            included: self.included.iter().map(|member| member.number()).collect(),
            included_fingerprint: self.included_fingerprint,
            attempt_id: *self.id.as_bytes(),
        }
    }

    /// How this context stands to the `active` one of the same session.
    pub fn against(&self, active: &AttemptContext) -> AgainstActive {
        if self.number < active.number {
            AgainstActive::Stale { number: self.number, active: active.number }
        } else if self.number == active.number {
            if self == active {
                AgainstActive::Same
            } else {
                AgainstActive::Conflict { id: self.id, active: active.id }
            }
        } else if self.number - active.number == 1 {
            AgainstActive::Next
        } else {
            AgainstActive::Future { number: self.number, active: active.number }
        }
    }
}

fn check_number(number: u32) -> Result<(), ContextError> {
    match number {
        0 => Err(ContextError::NumberZero),
        1..=ATTEMPTS_MAX => Ok(()),
        _ => Err(ContextError::Exhausted { number }),
    }
}

fn check_included(included: &[u16], threshold: u16) -> Result<Vec<Member>, ContextError> {
    if included.is_empty() {
        return Err(ContextError::IncludedEmpty);
    }
    if included.len() > MEMBERS_MAX {
        return Err(ContextError::IncludedTooMany { count: included.len() });
    }
    let mut sorted = included.to_vec();
    sorted.sort_unstable();
    if let Some(member) = sorted.windows(2).find_map(|pair| match pair {
        [one, other] if one == other => Some(*one),
        _ => None,
    }) {
        return Err(ContextError::IncludedTwice { member });
    }
    let members: Vec<Member> =
        sorted.into_iter().map(Member::new).collect::<Result<_, _>>().map_err(|_| ContextError::IncludedZero)?;
    if members.len() < usize::from(threshold) {
        return Err(ContextError::BelowThreshold { count: members.len(), threshold });
    }
    Ok(members)
}

#[cfg(test)]
mod tests;
