//! The line: records that are installed and wait for the persister, in one total order (I5), bounded.
//!
//! A slot is reserved before a nonce is taken; entering a record then cannot fail. A record leaves the line when its
//! frame is on disk, and not before: a failed seal leaves it first.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::durable::{DurablePosition, Position};
use super::status::Status;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, FREEZE_RECORD_BYTES_MAX, LINE_BYTES_MAX, LINE_RECORDS_MAX,
    LINE_RESERVED_FOR_FREEZES, RECORD_BYTES_MAX,
};

/// Bytes of a record's head in a batch: kind, length.
pub(in crate::store) const RECORD_HEAD_BYTES: usize = 5;

/// Who makes a record, as the batch stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum RecordKind {
    /// The store itself: epochs, keys.
    Store,
    /// The engine.
    Engine,
}

/// A record that is larger than a record may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record of {found} bytes: 1 to {max} are allowed")]
pub struct RecordSize {
    /// Bytes found.
    pub found: usize,
    /// Bytes allowed.
    pub max: usize,
}

/// An encoded, size-checked record, in a buffer that is wiped on drop.
pub struct EncodedRecord {
    kind: RecordKind,
    bytes: Zeroizing<Vec<u8>>,
    anchor_now: bool,
}

impl EncodedRecord {
    /// An engine record: 1 to [`RECORD_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`RecordSize`] when it is empty or larger.
    ///
    /// # Security
    /// Encode into a buffer that does not grow: a `Vec` that grows leaves copies behind (I10).
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, RecordSize> {
        Self::of(RecordKind::Engine, bytes)
    }

    pub(in crate::store) fn of(kind: RecordKind, bytes: Zeroizing<Vec<u8>>) -> Result<Self, RecordSize> {
        if bytes.is_empty() || bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordSize { found: bytes.len(), max: RECORD_BYTES_MAX });
        }
        Ok(Self { kind, bytes, anchor_now: false })
    }

    /// The batch that holds this record updates the anchor, whatever the strength `every = N` says: freezes, key
    /// generation, policy, rotation.
    pub fn anchor_now(mut self) -> Self {
        self.anchor_now = true;
        self
    }

    /// Bytes of the encoding.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// Rounds and everything else that a full line refuses.
    Round,
    /// A freeze: may use the slots that are kept for it (I8).
    Freeze,
}

/// The line has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the line is full: {used} of at most {max} {limit}")]
pub struct LineFull {
    /// Which limit.
    pub limit: &'static str,
    /// In use, with what was asked for.
    pub used: usize,
    /// The limit's value.
    pub max: usize,
}

/// Room for one record in the line; given back when dropped unused.
pub struct Slot {
    line: Arc<Shared>,
    bytes: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.slots = state.slots.saturating_sub(1);
        state.slot_bytes = state.slot_bytes.saturating_sub(self.bytes);
    }
}

/// A record that waits.
#[derive(Clone)]
pub(in crate::store) struct Waiting {
    pub(in crate::store) position: Position,
    pub(in crate::store) kind: RecordKind,
    pub(in crate::store) bytes: Arc<Zeroizing<Vec<u8>>>,
    pub(in crate::store) anchor_now: bool,
}

struct State {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    slots: usize,
    slot_bytes: usize,
    last: Position,
    woken: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

impl Shared {
    // Every change under this lock is complete when it unwinds, so a poisoned lock still holds a valid line.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line, shared by the engine and the persister.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
    durable: DurablePosition,
    status: Arc<watch::Sender<Status>>,
}

impl Line {
    pub(in crate::store) fn new(last: Position, status: Status) -> Self {
        let state = State { waiting: VecDeque::new(), waiting_bytes: 0, slots: 0, slot_bytes: 0, last, woken: false };
        Self {
            shared: Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() }),
            durable: DurablePosition::new(status.durable),
            status: Arc::new(watch::Sender::new(status)),
        }
    }

    /// Reserves room for one record of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`LineFull`], which names the limit.
    pub fn reserve(&self, kind: SlotKind, bytes_max: usize) -> Result<Slot, LineFull> {
        let (records, bytes, record_bytes, limit) = match kind {
            SlotKind::Round => (
                LINE_RECORDS_MAX - LINE_RESERVED_FOR_FREEZES,
                LINE_BYTES_MAX - LINE_RESERVED_FOR_FREEZES * FREEZE_RECORD_BYTES_MAX,
                RECORD_BYTES_MAX,
                "bytes of one record",
            ),
            SlotKind::Freeze => {
                (LINE_RECORDS_MAX, LINE_BYTES_MAX, FREEZE_RECORD_BYTES_MAX, "bytes of one freeze record")
            }
        };
        if bytes_max > record_bytes {
            return Err(LineFull { limit, used: bytes_max, max: record_bytes });
        }
        let mut state = self.shared.state();
        let records_used = state.waiting.len() + state.slots + 1;
        if records_used > records {
            return Err(LineFull { limit: "records", used: records_used, max: records });
        }
        let bytes_used = state.waiting_bytes + state.slot_bytes + bytes_max;
        if bytes_used > bytes {
            return Err(LineFull { limit: "bytes", used: bytes_used, max: bytes });
        }
        state.slots += 1;
        state.slot_bytes += bytes_max;
        drop(state);
        Ok(Slot { line: Arc::clone(&self.shared), bytes: bytes_max })
    }

    /// Puts a record last in line and wakes the persister. Never waits for a token or a disk (I9), never fails: a
    /// record larger than its slot is taken all the same.
    pub fn enter(&self, slot: Slot, record: EncodedRecord) -> Position {
        let position = self.enter_unreserved(record);
        drop(slot);
        position
    }

    pub(in crate::store) fn enter_unreserved(&self, record: EncodedRecord) -> Position {
        let mut state = self.shared.state();
        let position = state.last.next();
        state.last = position;
        state.waiting_bytes += record.bytes.len();
        state.waiting.push_back(Waiting {
            position,
            kind: record.kind,
            bytes: Arc::new(record.bytes),
            anchor_now: record.anchor_now,
        });
        state.woken = true;
        drop(state);
        self.shared.wake.notify_one();
        position
    }

    /// The durable position, which proves effects durable.
    pub fn durable(&self) -> &DurablePosition {
        &self.durable
    }

    /// The position of the last record that entered.
    pub fn last(&self) -> Position {
        self.shared.state().last
    }

    /// Records that wait.
    pub fn waiting_records(&self) -> usize {
        self.shared.state().waiting.len()
    }

    /// The persister's state after its last step.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows the persister's state.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Wakes the persister: it looks at the provider and the line at once.
    pub fn wake(&self) {
        self.shared.state().woken = true;
        self.shared.wake.notify_one();
    }

    /// Waits until somebody wakes the persister, at most for `timeout`.
    pub(in crate::store) fn wait(&self, timeout: Duration) {
        let state = self.shared.state();
        let (mut state, _) = self
            .shared
            .wake
            .wait_timeout_while(state, timeout, |state| !state.woken)
            .unwrap_or_else(PoisonError::into_inner);
        state.woken = false;
    }

    /// The front of the line, as much as one batch holds. The records stay in line.
    pub(in crate::store) fn batch(&self) -> Vec<Waiting> {
        let state = self.shared.state();
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += RECORD_HEAD_BYTES + waiting.bytes.len();
            bytes <= BATCH_BYTES_MAX
        };
        state.waiting.iter().take(BATCH_RECORDS_MAX).take_while(fits).cloned().collect()
    }

    /// Takes what a frame on disk holds out of the line.
    pub(in crate::store) fn written(&self, through: Position) {
        let mut state = self.shared.state();
        while state.waiting.front().is_some_and(|first| first.position <= through) {
            if let Some(gone) = state.waiting.pop_front() {
                state.waiting_bytes = state.waiting_bytes.saturating_sub(gone.bytes.len());
            }
        }
    }

    /// Raises the durable position, then shows the status: whoever sees the status sees the position.
    pub(in crate::store) fn publish(&self, status: Status) {
        self.durable.raise(status.durable);
        self.status.send_replace(status);
    }
}
