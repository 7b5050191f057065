//! The anchor: what the token's value means for us. Pure; the persister makes the calls (I6).

use frostkeep_hsm::provider::{AnchorRead, AnchorValue};

use super::durable::Position;
use crate::ids::to_hex;

/// How often the anchor is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Every batch, before anything of it is released.
    Strict,
    /// When this many records (at least 1) are durable and not anchored; also at start and shutdown. At twice as many
    /// owed the line stops.
    Every(u64),
    /// Never. It is still read at an opening.
    Off,
}

/// What `status` says of the anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnchorStatus {
    /// The strength in force: [`Strength::Off`] when the token keeps no anchor.
    pub strength: Strength,
    /// Whether the token can keep one.
    pub supported: bool,
    /// The position that the token is known to hold.
    pub confirmed: Option<Position>,
    /// Records on disk beyond it: what a clone could replay unseen.
    pub owed_records: u64,
}

/// What a value read back from the token means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Judgement {
    /// The last confirmed or the intended value.
    Ours,
    /// The token cannot keep one.
    Unsupported,
    /// Another instance wrote it.
    Foreign(String),
}

/// What we know that the token holds, and what we last asked it to hold.
#[derive(Debug, Clone)]
pub(in crate::store) struct AnchorKeeper {
    strength: Strength,
    supported: bool,
    pub(in crate::store) confirmed: Option<AnchorValue>,
    pub(in crate::store) intended: Option<AnchorValue>,
    /// The connection on which the token was last read.
    pub(in crate::store) connection: u64,
}

impl AnchorKeeper {
    /// After an opening has read `found` and checked it against the chain. `noted` is the intention in the head: when the
    /// token does not hold it yet, it is completed first.
    pub(in crate::store) fn new(
        strength: Strength,
        found: AnchorRead,
        noted: Option<AnchorValue>,
        connection: u64,
    ) -> Self {
        let confirmed = match found {
            AnchorRead::Value(value) => Some(value),
            AnchorRead::Absent | AnchorRead::Unsupported => None,
        };
        let supported = found != AnchorRead::Unsupported;
        let held = confirmed.map_or(0, |value| value.position);
        let intended = noted.filter(|value| supported && value.position > held);
        Self { strength, supported, confirmed, intended, connection }
    }

    /// The strength in force.
    pub(in crate::store) fn strength(&self) -> Strength {
        if self.supported { self.strength } else { Strength::Off }
    }

    /// Whether an update was asked for and is not confirmed. It is tried again with the same value, and no other is
    /// noted meanwhile: so never more than two values are ours.
    pub(in crate::store) fn unresolved(&self) -> bool {
        self.strength() != Strength::Off && self.intended.is_some()
    }

    /// Whether records up to `last` call for an update.
    pub(in crate::store) fn due(&self, last: u64, anchor_now: bool) -> bool {
        match self.strength() {
            Strength::Off => false,
            Strength::Strict => self.owed(last) > 0,
            Strength::Every(records) => self.owed(last) >= records.max(1) || anchor_now,
        }
    }

    /// Whether so much is owed that the line stops.
    pub(in crate::store) fn overdue(&self, last: u64) -> bool {
        match self.strength() {
            Strength::Every(records) => self.owed(last) >= records.max(1).saturating_mul(2),
            Strength::Strict | Strength::Off => false,
        }
    }

    /// Records up to `last` that the token does not know of.
    pub(in crate::store) fn owed(&self, last: u64) -> u64 {
        last.saturating_sub(self.confirmed.map_or(0, |value| value.position))
    }

    /// Takes in what the token holds.
    pub(in crate::store) fn judge(&mut self, read: AnchorRead) -> Judgement {
        match read {
            AnchorRead::Unsupported if self.confirmed.is_none() => {
                self.supported = false;
                Judgement::Unsupported
            }
            // The intention stays ours: an update that a hung token took may land late.
            AnchorRead::Absent if self.confirmed.is_none() => Judgement::Ours,
            AnchorRead::Value(value) if Some(value) == self.confirmed => Judgement::Ours,
            AnchorRead::Value(value) if Some(value) == self.intended => {
                self.confirmed = Some(value);
                self.intended = None;
                Judgement::Ours
            }
            AnchorRead::Value(value) => Judgement::Foreign(format!(
                "the token holds position {} of epoch {}, head {}: neither the confirmed nor the intended value",
                value.position,
                value.epoch,
                to_hex(&value.head)
            )),
            AnchorRead::Absent | AnchorRead::Unsupported => {
                Judgement::Foreign("the token holds none, although one was confirmed".into())
            }
        }
    }

    pub(in crate::store) fn status(&self, last: u64) -> AnchorStatus {
        AnchorStatus {
            strength: self.strength(),
            supported: self.supported,
            confirmed: self.confirmed.map(|value| Position::new(value.position)),
            owed_records: self.owed(last),
        }
    }
}
