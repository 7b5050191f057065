//! What recovery hands to the persister: the container, the provider, and where the chain ends.

use std::io;
use std::sync::Arc;

use frostkeep_hsm::clock::Clock;
use frostkeep_hsm::entropy::Entropy;
use frostkeep_hsm::provider::{AnchorValue, KeyProvider};

use super::anchor::Strength;
use super::files::DirectoryLock;
use super::frames::{FrameStore, HeadMark};
use super::rows::{AnchorNote, Head, KeyRow, head_row};
use super::seal::BundleKey;
use crate::limits::{BUNDLE_FRAMES_MAX, DISK_RESERVE_BYTES, SNAPSHOT_FLOOR_BYTES};

/// Room on the volume.
pub trait FreeSpace: Send {
    /// Bytes that this process may still write.
    ///
    /// # Errors
    /// When the system does not say; counts as none.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Time, randomness and room.
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Data keys and nonces of frames.
    pub entropy: Box<dyn Entropy>,
    /// Room on the volume of the container.
    pub space: Box<dyn FreeSpace>,
}

/// Numbers that an operator or a test may choose.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// How often the anchor is updated.
    pub strength: Strength,
    /// Free bytes below which no write is issued.
    pub disk_reserve_bytes: u64,
    /// Journal bytes below which no snapshot is made.
    pub snapshot_floor_bytes: u64,
    /// Frames of one bundle, at least 1.
    pub bundle_frames_max: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            strength: Strength::Every(100),
            disk_reserve_bytes: DISK_RESERVE_BYTES,
            snapshot_floor_bytes: SNAPSHOT_FLOOR_BYTES,
            bundle_frames_max: BUNDLE_FRAMES_MAX,
        }
    }
}

/// The parts.
pub(in crate::store) struct Core {
    pub(in crate::store) frames: Box<dyn FrameStore>,
    pub(in crate::store) provider: Box<dyn KeyProvider>,
    pub(in crate::store) environment: Environment,
    pub(in crate::store) tuning: Tuning,
    pub(in crate::store) store: [u8; 16],
    /// The key rows, by number.
    pub(in crate::store) keys: Vec<(u64, KeyRow)>,
    pub(in crate::store) head: Head,
    pub(in crate::store) mark: HeadMark,
    pub(in crate::store) bundle: BundleKey,
    /// Bytes of the frame rows that are kept.
    pub(in crate::store) journal_bytes: u64,
    /// Number of the key row whose token keeps the anchor.
    pub(in crate::store) anchor_key: u64,
    /// Held as long as the container is open: fields drop in order.
    pub(in crate::store) _lock: Option<DirectoryLock>,
}

impl Core {
    /// The head row for `head`, sealed under `bundle`.
    pub(in crate::store) fn sealed_head(&mut self, head: &Head, bundle: &BundleKey) -> Vec<u8> {
        head_row(&self.store, head, &bundle.key, &mut *self.environment.entropy)
    }

    /// The same for a head of the current bundle.
    pub(in crate::store) fn resealed_head(&mut self, head: &Head) -> Vec<u8> {
        head_row(&self.store, head, &self.bundle.key, &mut *self.environment.entropy)
    }

    /// The anchors of `head` with what is known of ours.
    pub(in crate::store) fn note(
        &self,
        head: &mut Head,
        confirmed: Option<AnchorValue>,
        intended: Option<AnchorValue>,
    ) {
        head.anchors.retain(|note| note.key != self.anchor_key);
        if confirmed.is_some() || intended.is_some() {
            head.anchors.push(AnchorNote { key: self.anchor_key, confirmed, intended });
        }
    }

    /// The anchor value that stands for a head.
    pub(in crate::store) fn anchor_value(&self, head: &Head) -> AnchorValue {
        AnchorValue { store: self.store, epoch: head.epoch, position: head.last, head: head.chain }
    }
}
