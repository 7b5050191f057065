//! Reading answers: what is not as the interface says is nonsense, by the name of the field.

use super::error::ClientError;
use crate::ids::Member;
use crate::limits::WIRE_PROBLEM_BYTES_MAX;

/// A text of a node as it may be shown: what would steer a terminal or turn the order of the letters is replaced, and it has
/// [`WIRE_PROBLEM_BYTES_MAX`] bytes at most.
pub(super) fn plain(text: &str) -> String {
    let steers = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::new();
    for letter in text.chars() {
        let letter = if steers(letter) { '?' } else { letter };
        if shown.len() + letter.len_utf8() > WIRE_PROBLEM_BYTES_MAX {
            break;
        }
        shown.push(letter);
    }
    shown
}

/// The same, in place.
pub(super) fn make_plain<'a>(texts: impl IntoIterator<Item = &'a mut String>) {
    for text in texts {
        *text = plain(text);
    }
}

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
