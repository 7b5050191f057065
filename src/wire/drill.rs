//! Messages of outage drills, both ways.

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::drill::{Drill, DrillKind};
use frostkeep_hsm::token::TokenInfo;

use super::field::{FieldError, exact};
use super::v1;
use crate::ids::DrillId;

/// The drill that `bytes` name.
///
/// # Errors
/// [`FieldError`].
pub fn drill_id(bytes: &[u8]) -> Result<DrillId, FieldError> {
    exact("drill", bytes).map(DrillId::new)
}

/// A kind of drill.
///
/// # Errors
/// [`FieldError`] for a number that is none.
pub fn kind(number: i32) -> Result<DrillKind, FieldError> {
    match v1::DrillKind::try_from(number) {
        Ok(v1::DrillKind::Unplug) => Ok(DrillKind::Unplug),
        Ok(v1::DrillKind::Hang) => Ok(DrillKind::Hang),
        Ok(v1::DrillKind::Crash) => Ok(DrillKind::Crash),
        Ok(v1::DrillKind::Pin) => Ok(DrillKind::Pin),
        Ok(v1::DrillKind::Slow) => Ok(DrillKind::Slow),
        Ok(v1::DrillKind::Unspecified) | Err(_) => {
            Err(FieldError::Value { field: "kind", problem: format!("{number} is no kind of drill") })
        }
    }
}

impl From<DrillKind> for v1::DrillKind {
    fn from(kind: DrillKind) -> Self {
        match kind {
            DrillKind::Unplug => Self::Unplug,
            DrillKind::Hang => Self::Hang,
            DrillKind::Crash => Self::Crash,
            DrillKind::Pin => Self::Pin,
            DrillKind::Slow => Self::Slow,
        }
    }
}

/// A drill as it travels.
pub fn drill_message(drill: &Drill, now: Millis) -> v1::Drill {
    v1::Drill {
        id: drill.id.to_vec(),
        kind: v1::DrillKind::from(drill.kind).into(),
        by: drill.by.clone(),
        since_unix: drill.begun_unix,
        lasted_ms: now.min(drill.until).since(drill.begun),
        left_ms: drill.until.since(now),
    }
}

/// What a token says of itself, as it travels.
pub fn token_message(token: &TokenInfo) -> v1::Token {
    v1::Token {
        label: token.label.clone(),
        serial: token.serial.clone(),
        manufacturer: token.manufacturer.clone(),
        model: token.model.clone(),
    }
}
