//! What a request may hold, counted in its encoded form before it is decoded: an empty element is two bytes on the wire and
//! some hundred in memory, so that a bound on bytes bounds no memory.
//!
//! The limits are those of the readers in [`super::request`] and [`super::ceremony`]: what they take passes, with one
//! exception: a message that comes twice, where one is expected, is refused. Nobody writes such a thing, and decoders join
//! the two.

use super::FieldError;
use crate::limits::{
    APPROVAL_ROOTS_MAX, EVIDENCE_STEPS_MAX, FREEZES_PER_THAW_MAX, MEMBERS_MAX, TRANSACTION_INPUTS_MAX,
};

/// Groups inside each other that are followed; decoders follow fewer.
const GROUPS_MAX: usize = 100;

/// What a message may hold: the fields that are messages or repeated. All others take the memory that they have bytes.
#[derive(Debug)]
pub(crate) struct Shape(&'static [Field]);

#[derive(Debug)]
struct Field {
    number: u64,
    name: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    One(&'static Shape),
    Messages(&'static Shape, usize),
    Bytes(usize),
    Numbers(usize),
}

const fn field(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind }
}

/// A message whose fields are all single and no messages.
const FLAT: &Shape = &Shape(&[]);
const ATTEMPT: &Shape = &Shape(&[field(3, "included", Kind::Numbers(MEMBERS_MAX))]);
const SIGNED_ROUND: &Shape = &Shape(&[field(2, "attempt", Kind::One(ATTEMPT))]);
const INVALID_SHARES: &Shape = &Shape(&[field(1, "accused", Kind::Messages(SIGNED_ROUND, MEMBERS_MAX))]);
const TIMEOUT: &Shape = &Shape(&[field(1, "votes", Kind::Messages(FLAT, MEMBERS_MAX))]);
const TRANSITION: &Shape = &Shape(&[
    field(4, "excluded", Kind::Numbers(MEMBERS_MAX)),
    field(5, "invalid_shares", Kind::One(INVALID_SHARES)),
    field(6, "coordinator_timeout", Kind::One(TIMEOUT)),
    field(7, "next", Kind::One(ATTEMPT)),
]);
const EVIDENCE: Kind = Kind::Messages(TRANSITION, EVIDENCE_STEPS_MAX);
const SESSION: Field = field(1, "session", Kind::One(FLAT));
const SHARES: &Shape = &Shape(&[field(2, "shares", Kind::Messages(FLAT, MEMBERS_MAX))]);
const UNSIGNED: &Shape = &Shape(&[field(2, "prevouts", Kind::Messages(FLAT, TRANSACTION_INPUTS_MAX))]);
const PARAMETERS: &Shape = &Shape(&[field(3, "seats", Kind::Messages(FLAT, MEMBERS_MAX))]);

/// Requests by their methods. A method that is not here takes a message of single fields, none of them messages.
static REQUESTS: &[(&str, &Shape)] = &[
    ("Signer/DeriveAttemptContext", &Shape(&[SESSION, field(5, "included", Kind::Numbers(MEMBERS_MAX))])),
    ("Signer/Commit", &Shape(&[SESSION])),
    (
        "Signer/StartSignRound",
        &Shape(&[
            SESSION,
            field(3, "subject", Kind::One(FLAT)),
            field(4, "attempt", Kind::One(ATTEMPT)),
            field(6, "evidence", EVIDENCE),
        ]),
    ),
    (
        "Signer/FinalizeSignRound",
        &Shape(&[SESSION, field(2, "subject", Kind::One(FLAT)), field(3, "shares", Kind::One(SHARES))]),
    ),
    ("Signer/AbortSession", &Shape(&[SESSION])),
    ("Signer/GetSession", &Shape(&[SESSION])),
    (
        "Signer/VerifySignatureShare",
        &Shape(&[SESSION, field(2, "subject", Kind::One(FLAT)), field(3, "round", Kind::One(SIGNED_ROUND))]),
    ),
    (
        "Signer/VoteTimeout",
        &Shape(&[
            SESSION,
            field(3, "subject", Kind::One(FLAT)),
            field(4, "attempt", Kind::One(ATTEMPT)),
            field(5, "evidence", EVIDENCE),
        ]),
    ),
    (
        "Signer/BuildTaprootTx",
        &Shape(&[
            field(2, "unsigned", Kind::One(UNSIGNED)),
            field(4, "taproot_merkle_roots", Kind::Bytes(APPROVAL_ROOTS_MAX)),
        ]),
    ),
    (
        "KeyGeneration/Preflight",
        &Shape(&[field(1, "parameters", Kind::One(PARAMETERS)), field(3, "peers", Kind::Messages(FLAT, MEMBERS_MAX))]),
    ),
    ("KeyGeneration/Begin", &Shape(&[field(1, "parameters", Kind::One(PARAMETERS))])),
    ("Admin/Thaw", &Shape(&[field(2, "freezes", Kind::Bytes(FREEZES_PER_THAW_MAX))])),
    ("Coordination/Sign", &Shape(&[field(2, "subject", Kind::One(FLAT))])),
    (
        "Coordination/Drive",
        &Shape(&[
            SESSION,
            field(2, "subject", Kind::One(FLAT)),
            field(3, "attempt", Kind::One(ATTEMPT)),
            field(4, "evidence", EVIDENCE),
        ]),
    ),
];

/// What the request of the method at this path may hold.
pub(crate) fn of(path: &str) -> &'static Shape {
    let method = path.strip_prefix("/frostkeep.v1.").unwrap_or_default();
    REQUESTS.iter().find(|(name, _)| *name == method).map_or(FLAT, |(_, shape)| shape)
}

impl Shape {
    /// Counts what an encoded message holds.
    ///
    /// # Errors
    /// [`FieldError`]: something above its limit, a message twice, or bytes that are no message.
    pub(crate) fn check(&self, mut bytes: &[u8]) -> Result<(), FieldError> {
        let mut counts = vec![0_usize; self.0.len()];
        while !bytes.is_empty() {
            let (number, value) = next(&mut bytes, 0)?;
            let Some((field, count)) = self.0.iter().zip(&mut counts).find(|(field, _)| field.number == number) else {
                continue;
            };
            let (more, limit) = match (&field.kind, value) {
                (Kind::Numbers(limit), Value::Bytes(packed)) => {
                    (packed.iter().filter(|byte| **byte < 0x80).count(), *limit)
                }
                (Kind::One(_), _) => (1, 1),
                (Kind::Messages(_, limit) | Kind::Bytes(limit) | Kind::Numbers(limit), _) => (1, *limit),
            };
            *count = count.saturating_add(more);
            if *count > limit {
                return Err(match field.kind {
                    Kind::One(_) => FieldError::Value { field: field.name, problem: "it comes twice".to_owned() },
                    _ => FieldError::TooMany { field: field.name, found: *count, limit },
                });
            }
            if let (Kind::One(shape) | Kind::Messages(shape, _), Value::Bytes(message)) = (&field.kind, value) {
                shape.check(message)?;
            }
        }
        Ok(())
    }
}

/// A field's value, as far as it matters here.
#[derive(Clone, Copy)]
enum Value<'a> {
    Bytes(&'a [u8]),
    Other,
    /// The end of a group.
    End,
}

fn broken() -> FieldError {
    FieldError::Value { field: "request", problem: "it is no protobuf message".to_owned() }
}

/// Takes the next field: its number and its value.
fn next<'a>(bytes: &mut &'a [u8], groups: usize) -> Result<(u64, Value<'a>), FieldError> {
    let key = varint(bytes)?;
    let number = key >> 3;
    let value = match key & 7 {
        0 => varint(bytes).map(|_| Value::Other)?,
        1 => take(bytes, 8).map(|_| Value::Other)?,
        2 => {
            let length = varint(bytes)?;
            Value::Bytes(take(bytes, length)?)
        }
        3 if groups < GROUPS_MAX => {
            while !matches!(next(bytes, groups + 1)?.1, Value::End) {}
            Value::Other
        }
        4 if groups > 0 => Value::End,
        5 => take(bytes, 4).map(|_| Value::Other)?,
        _ => return Err(broken()),
    };
    Ok((number, value))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], FieldError> {
    let split = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
    let (taken, rest) = split.ok_or_else(broken)?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, FieldError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?.first().copied().ok_or_else(broken)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(broken())
}

#[cfg(test)]
mod tests;
