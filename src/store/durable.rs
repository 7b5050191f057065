//! Positions, and the proof that one is durable (I1).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The place of a record in the total order of records (I5), from 1. Zero is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position(u64);

impl Position {
    /// Before the first record.
    pub const ZERO: Position = Position(0);

    /// The position with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after this.
    pub const fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The durable position of this process: every record at or below it is sealed, synced and, where the strength says so,
/// anchored. Only the persister raises it.
#[derive(Clone)]
pub struct DurablePosition(Arc<AtomicU64>);

impl DurablePosition {
    pub(in crate::store) fn new(position: Position) -> Self {
        Self(Arc::new(AtomicU64::new(position.number())))
    }

    pub(in crate::store) fn raise(&self, position: Position) {
        self.0.fetch_max(position.number(), Ordering::Release);
    }

    /// The position.
    pub fn position(&self) -> Position {
        Position(self.0.load(Ordering::Acquire))
    }

    /// Proves `value` durable: `value` must be the effect of the record at `value.position()`.
    ///
    /// # Errors
    /// Gives `value` back when its position is above the durable one.
    pub fn prove<T: Placed>(&self, value: T) -> Result<Durable<T>, T> {
        if value.position() != Position::ZERO && value.position() <= self.position() {
            Ok(Durable { value })
        } else {
            Err(value)
        }
    }
}

/// An effect of a record, with the record's position.
pub trait Placed {
    /// The position of the record that made it.
    fn position(&self) -> Position;
}

impl<T: Placed + ?Sized> Placed for Arc<T> {
    fn position(&self) -> Position {
        (**self).position()
    }
}

/// A value whose record is durable. The only way to make one is [`DurablePosition::prove`]; the encoders of replies that
/// carry a share take nothing else (I1).
pub struct Durable<T> {
    value: T,
}

impl<T> Durable<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }
}
