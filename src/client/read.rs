//! Reading answers: what is not as the interface says is nonsense, by the name of the field.

use super::error::ClientError;
use crate::ids::Member;

/// Bytes of one length.
pub(super) fn exact<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], ClientError> {
    bytes.try_into().map_err(|_| ClientError::Nonsense(format!("{field} has {} bytes: {N} are due", bytes.len())))
}

/// Bytes of one length, or none at all.
pub(super) fn exact_or_none<const N: usize>(field: &str, bytes: &[u8]) -> Result<Option<[u8; N]>, ClientError> {
    if bytes.is_empty() { Ok(None) } else { exact(field, bytes).map(Some) }
}

/// A field that has to be there.
pub(super) fn present<T>(field: &str, value: Option<T>) -> Result<T, ClientError> {
    value.ok_or_else(|| ClientError::Nonsense(format!("{field} is missing")))
}

/// A member.
pub(super) fn member(field: &str, number: u32) -> Result<Member, ClientError> {
    let number = u16::try_from(number).ok().and_then(|number| Member::new(number).ok());
    number.ok_or_else(|| ClientError::Nonsense(format!("{field} names no member")))
}

/// A list with no more elements than its bound.
pub(super) fn at_most<T>(field: &str, elements: &[T], limit: usize) -> Result<(), ClientError> {
    if elements.len() <= limit {
        return Ok(());
    }
    Err(ClientError::Nonsense(format!("{field} has {} elements: at most {limit} are due", elements.len())))
}

/// An answer about what was asked, and about nothing else.
pub(super) fn same<T: PartialEq>(field: &str, found: &T, asked: &T) -> Result<(), ClientError> {
    if found == asked {
        Ok(())
    } else {
        Err(ClientError::Nonsense(format!("{field} is not the one that was asked about")))
    }
}
