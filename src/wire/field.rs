//! Fields as they come: read into the types that bound them, or refused by name.

use crate::engine::Refusal;
use crate::ids::{IdError, Member};
use crate::roast::ContextError;

/// A message that is no request: a field is missing, malformed or above its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A field that has to be there.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The request carries no attempt context.
    #[error("the request carries no attempt context")]
    AttemptMissing,
    /// Bytes of the wrong length.
    #[error("{field} has {found} bytes: {expected} are needed")]
    Length {
        /// The field.
        field: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// More than a request may have.
    #[error("{field} has {found} elements: at most {limit} are allowed")]
    TooMany {
        /// The field.
        field: &'static str,
        /// Elements found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A member number of more than 16 bits.
    #[error("{field} is {found}: members are 1 to {limit}", limit = u16::MAX)]
    Member {
        /// The field.
        field: &'static str,
        /// The number found.
        found: u32,
    },
    /// A value that its own type refuses.
    #[error("{field}: {problem}")]
    Value {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl FieldError {
    pub(super) fn value(field: &'static str, error: &dyn std::error::Error) -> Self {
        Self::Value { field, problem: error.to_string() }
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::AttemptMissing => ContextError::Missing.into(),
            other => Self::InvalidRequest(other.to_string()),
        }
    }
}

pub(super) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, FieldError> {
    value.ok_or(FieldError::Missing { field })
}

pub(super) fn exact<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], FieldError> {
    bytes.try_into().map_err(|_| FieldError::Length { field, found: bytes.len(), expected: N })
}

pub(super) fn at_most<T>(field: &'static str, elements: &[T], limit: usize) -> Result<(), FieldError> {
    if elements.len() <= limit {
        return Ok(());
    }
    Err(FieldError::TooMany { field, found: elements.len(), limit })
}

pub(super) fn sixteen(field: &'static str, number: u32) -> Result<u16, FieldError> {
    u16::try_from(number).map_err(|_| FieldError::Member { field, found: number })
}

pub(super) fn member(field: &'static str, number: u32) -> Result<Member, FieldError> {
    Member::new(sixteen(field, number)?).map_err(|error: IdError| FieldError::value(field, &error))
}
