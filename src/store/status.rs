//! What the persister publishes: positions, health, storage, releases, the anchor, counters.

use std::sync::Arc;

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::health::{Health, TokenHealth};

use super::anchor::AnchorStatus;
use super::durable::Position;

/// The persister's state after its last step. Replaced as a whole.
#[derive(Debug, Clone)]
pub struct Status {
    /// The durable position.
    pub durable: Position,
    /// The key provider. Counts as `Out` while an owed anchor blocks the line.
    pub health: Health,
    /// Its tokens, the primary first.
    pub tokens: Arc<[TokenStatus]>,
    /// The disk.
    pub storage: Storage,
    /// The epoch of this process.
    pub epoch: u64,
    /// Whether the epoch record is durable. Until then the node serves what is durable, and nothing fresh.
    pub epoch_recorded: bool,
    /// Whether shares may be released at all.
    pub releases: Releases,
    /// The anchor.
    pub anchor: AnchorStatus,
    /// Counters since the store was opened.
    pub counters: Counters,
}

impl Status {
    /// Whether a fresh round would be persisted now: provider, disk, epoch and anchor all say yes.
    pub fn admits_work(&self) -> bool {
        self.health.admits_work()
            && matches!(self.storage, Storage::Writable)
            && self.epoch_recorded
            && matches!(self.releases, Releases::Allowed)
    }
}

/// One token of the key provider, and what the store knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenStatus {
    /// The token.
    pub health: TokenHealth,
    /// Whether everything on disk has a wrap of its sealing key, so that it opens the state alone.
    pub current: bool,
}

/// Whether records can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// Yes.
    Writable,
    /// The volume has less than the reserve free. Heals by itself.
    DiskFull {
        /// Bytes free when last looked at.
        free_bytes: u64,
        /// Bytes that must be free.
        reserve_bytes: u64,
        /// Since when, on the monotonic clock.
        since: Millis,
    },
    /// An issued write or sync failed. Final for this process: the page cache can no longer be believed.
    Failed {
        /// What failed, for people.
        detail: Arc<str>,
    },
}

/// Whether shares may be released. The engine asks at the moment of every release, the cached serve included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Releases {
    /// Yes.
    Allowed,
    /// Strength `strict`: the opening anchor step of this process is not done yet.
    AwaitingOpeningAnchor,
    /// The anchor belongs to another instance. Ends with the process (I6).
    FencedByAnchor,
    /// The store is closed, and another process may have it open: what this one remembers, freezes among it, is of the
    /// past. Ends with the process.
    Closed,
}

/// Counts since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Records written.
    pub records: u64,
    /// Frames written. Group commit is `records / batches`.
    pub batches: u64,
    /// Durable container transactions: frames, anchor notes, snapshot chunks, flips.
    pub syncs: u64,
    /// Data keys wrapped by the token.
    pub seals: u64,
    /// Seals that the token refused; nothing was written for them.
    pub seals_failed: u64,
    /// Rows that got a wrap of a key whose token had been away.
    pub wraps_caught_up: u64,
    /// Anchor updates confirmed by the token.
    pub anchors: u64,
    /// Anchor steps that failed.
    pub anchors_failed: u64,
    /// Snapshots that became the head's.
    pub snapshots: u64,
    /// Snapshot chunks written.
    pub snapshot_chunks: u64,
    /// Row bytes written: frames, wraps, heads, chunks.
    pub row_bytes: u64,
}
