//! Snapshots: a stream of items, cut into sealed chunks.
//!
//! The stream is `length u32 big-endian, bytes` per item; a chunk is a piece of it, so an item may span chunks.

use frostkeep_hsm::entropy::Entropy;
use frostkeep_hsm::provider::DataKey;
use zeroize::Zeroizing;

use super::durable::Position;
use super::seal::{NONCE_BYTES, NotAuthentic, TAG_BYTES, decrypt, encrypt, fresh_nonce};
use crate::hash::Framed;
use crate::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_ITEM_BYTES_MAX};

/// A state at a durable position.
pub struct SnapshotData {
    /// The state is the result of exactly the records up to here; the end of a batch.
    pub position: Position,
    /// The state, in items of 1 to [`SNAPSHOT_ITEM_BYTES_MAX`] bytes, in buffers that are wiped.
    pub items: Box<dyn Iterator<Item = Zeroizing<Vec<u8>>> + Send>,
}

/// Who has the state.
pub trait SnapshotSource: Send + Sync {
    /// The state at the durable position, not of live memory. Called by the persister; must not wait for it.
    fn snapshot(&self) -> SnapshotData;
}

/// An item that no recovery would read (trap 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("snapshot item of {found} bytes: 1 to {SNAPSHOT_ITEM_BYTES_MAX} are allowed")]
pub(in crate::store) struct ItemSize {
    found: usize,
}

/// Cuts items into chunk texts.
pub(in crate::store) struct Cutter {
    items: Box<dyn Iterator<Item = Zeroizing<Vec<u8>>> + Send>,
    // Holds at most a chunk and one item: allocated once, never grows (I10).
    text: Zeroizing<Vec<u8>>,
    exhausted: bool,
}

/// A piece of the stream.
pub(in crate::store) struct Piece {
    pub(in crate::store) text: Zeroizing<Vec<u8>>,
    pub(in crate::store) last: bool,
}

impl Cutter {
    pub(in crate::store) fn new(items: Box<dyn Iterator<Item = Zeroizing<Vec<u8>>> + Send>) -> Self {
        let capacity = SNAPSHOT_CHUNK_BYTES_MAX + 4 + SNAPSHOT_ITEM_BYTES_MAX;
        Self { items, text: Zeroizing::new(Vec::with_capacity(capacity)), exhausted: false }
    }

    /// The next piece: full, or the last.
    pub(in crate::store) fn next(&mut self) -> Result<Piece, ItemSize> {
        while !self.exhausted && self.text.len() <= SNAPSHOT_CHUNK_BYTES_MAX {
            let Some(item) = self.items.next() else {
                self.exhausted = true;
                break;
            };
            if item.is_empty() || item.len() > SNAPSHOT_ITEM_BYTES_MAX {
                return Err(ItemSize { found: item.len() });
            }
            self.text.extend_from_slice(&u32::try_from(item.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.text.extend_from_slice(&item);
        }
        let cut = self.text.len().min(SNAPSHOT_CHUNK_BYTES_MAX);
        let mut text = Zeroizing::new(Vec::with_capacity(cut));
        text.extend_from_slice(self.text.get(..cut).unwrap_or_default());
        let left = self.text.len() - cut;
        self.text.copy_within(cut.., 0);
        self.text.truncate(left);
        Ok(Piece { text, last: self.exhausted && left == 0 })
    }
}

/// Puts pieces together into items again.
pub(in crate::store) struct Joiner {
    text: Zeroizing<Vec<u8>>,
}

impl Joiner {
    pub(in crate::store) fn new() -> Self {
        let capacity = SNAPSHOT_CHUNK_BYTES_MAX + 4 + SNAPSHOT_ITEM_BYTES_MAX;
        Self { text: Zeroizing::new(Vec::with_capacity(capacity)) }
    }

    /// Takes a piece; gives every item that is complete.
    pub(in crate::store) fn push<E: From<&'static str>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if piece.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            return Err("chunk longer than the bound".into());
        }
        self.text.extend_from_slice(piece);
        let mut rest: &[u8] = &self.text;
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length == 0 || length > SNAPSHOT_ITEM_BYTES_MAX {
                return Err("item length out of bounds".into());
            }
            let Some((item, tail)) = tail.split_at_checked(length) else {
                break;
            };
            each(item)?;
            rest = tail;
        }
        let left = rest.len();
        let used = self.text.len() - left;
        self.text.copy_within(used.., 0);
        self.text.truncate(left);
        Ok(())
    }

    /// Whether the stream ends here without a part of an item.
    pub(in crate::store) fn is_complete(&self) -> bool {
        self.text.is_empty()
    }
}

/// What a chunk is bound to.
#[derive(Clone, Copy)]
pub(in crate::store) struct ChunkPlace<'a> {
    pub(in crate::store) store: &'a [u8; 16],
    pub(in crate::store) snapshot: u64,
    pub(in crate::store) position: u64,
    pub(in crate::store) index: u32,
    pub(in crate::store) last: bool,
}

impl ChunkPlace<'_> {
    fn context(&self) -> [u8; 32] {
        Framed::new("frostkeep/store/chunk/v1")
            .part(self.store)
            .part(&self.snapshot.to_be_bytes())
            .part(&self.position.to_be_bytes())
            .part(&self.index.to_be_bytes())
            .part(&[u8::from(self.last)])
            .finish()
    }

    /// The chunk row: nonce, ciphertext, tag.
    pub(in crate::store) fn seal(
        &self,
        mut text: Zeroizing<Vec<u8>>,
        key: &DataKey,
        entropy: &mut dyn Entropy,
    ) -> Vec<u8> {
        let nonce = fresh_nonce(entropy);
        let tag = encrypt(key, &nonce, &self.context(), &mut text);
        let mut row = Vec::with_capacity(NONCE_BYTES + text.len() + TAG_BYTES);
        row.extend_from_slice(&nonce);
        row.extend_from_slice(&text);
        row.extend_from_slice(&tag);
        row
    }

    /// The text of a chunk row.
    pub(in crate::store) fn open(&self, row: &[u8], key: &DataKey) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        let (nonce, sealed) = row.split_first_chunk::<NONCE_BYTES>().ok_or(NotAuthentic)?;
        decrypt(key, nonce, &self.context(), sealed)
    }
}
