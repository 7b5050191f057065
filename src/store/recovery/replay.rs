//! Snapshot and frames at an opening: every seal, every position and the chain are checked before a sink sees a byte of
//! them.

use std::collections::BTreeMap;

use frostkeep_hsm::provider::{AnchorRead, DataKey, SealedObject};

use super::super::durable::Position;
use super::super::frame::{self, FrameError};
use super::super::frames::FrameRows;
use super::super::line::RecordKind;
use super::super::open_error::{OpenError, corrupt, frames_error, row_error};
use super::super::rows::{Head, RowError, RowKind, SnapshotHead, StoreRecord, decode, open_wraps};
use super::super::seal::{BundleKey, OBJECT_FRAME, OBJECT_SNAPSHOT, bundle_of};
use super::super::snapshot::{ChunkPlace, Joiner};
use super::{Opening, RecoverySink, SinkError};
use crate::limits::SNAPSHOT_CHUNKS_MAX;

impl Opening {
    pub(super) fn read_snapshot(
        &mut self,
        snapshot: &SnapshotHead,
        sink: &mut dyn RecoverySink,
    ) -> Result<(), OpenError> {
        let place = format!("snapshot {}", snapshot.id);
        if snapshot.chunks == 0 || snapshot.chunks > SNAPSHOT_CHUNKS_MAX {
            return Err(corrupt(place, "number of chunks out of bounds"));
        }
        let row = self.frames.snapshot(snapshot.id).map_err(frames_error)?;
        let key = self.unwrap(OBJECT_SNAPSHOT, RowKind::SnapshotWraps, snapshot.id, row, &place)?;
        let mut joiner = Joiner::new();
        for index in 0..snapshot.chunks {
            let place = format!("snapshot {} chunk {index}", snapshot.id);
            let row = self.frames.chunk(snapshot.id, index).map_err(frames_error)?;
            let row = row.ok_or_else(|| corrupt(&place, RowError::Missing))?;
            let bound = ChunkPlace {
                store: &self.store,
                snapshot: snapshot.id,
                position: snapshot.position,
                index,
                last: index + 1 == snapshot.chunks,
            };
            let piece = bound.open(&row, &key).map_err(|_| corrupt(&place, RowError::NotAuthentic))?;
            joiner
                .push(&piece, |item| sink.snapshot_item(item).map_err(ItemError::from))
                .map_err(|ItemError(what)| corrupt(&place, what))?;
        }
        if !joiner.is_complete() {
            return Err(corrupt(place, "ends within an item"));
        }
        Ok(())
    }

    pub(super) fn read_frames(
        &mut self,
        head: &Head,
        current: &BundleKey,
        anchor: &AnchorRead,
        sink: &mut dyn RecoverySink,
    ) -> Result<(u64, u64), OpenError> {
        let anchored = match anchor {
            AnchorRead::Value(value) => Some(*value),
            AnchorRead::Absent | AnchorRead::Unsupported => None,
        };
        let (base, mut chain) = head.base(&self.store);
        let mut met = anchored.filter(|value| value.position == base).map(|_| chain);
        let (mut last, mut epoch) = (Position::new(base), 0);
        let (mut journal_bytes, mut frames) = (0, 0);
        let mut older = BTreeMap::new();
        while let Some(rows) = self.frames.frame_from(last.next()).map_err(frames_error)? {
            let place = format!("frame at position {}", rows.first);
            if rows.first != last.next() || rows.first.number() > head.last {
                return Err(corrupt(place, format!("where {} to {} are expected", last.next(), head.last)));
            }
            let frame = frame::parse(&rows.frame).map_err(|error| corrupt(&place, error))?;
            let header = frame.header;
            if header.store != self.store || header.first != rows.first {
                return Err(corrupt(place, "belongs to another place"));
            }
            if header.previous != chain {
                return Err(corrupt(place, "does not continue the chain"));
            }
            if header.epoch < epoch || header.epoch > head.epoch {
                return Err(corrupt(place, format!("of epoch {} after {epoch}", header.epoch)));
            }
            let key = self.frame_key(&rows, current, &mut older, &place)?;
            let batch = frame.open(&key).map_err(|error| corrupt(&place, error))?;
            batch
                .records(|position, kind, bytes| self.record(position, kind, bytes, header.epoch, sink))
                .map_err(|RecordError(what)| corrupt(&place, what))?;
            chain = frame::chain_hash(&rows.frame);
            (last, epoch) = (header.last, header.epoch);
            journal_bytes += rows.frame.len() as u64;
            frames += 1;
            if anchored.is_some_and(|value| value.position == last.number()) {
                met = Some(chain);
            }
        }
        if last.number() != head.last || chain != head.chain {
            return Err(corrupt(
                format!("chain at position {last}"),
                format!("ends before the head, at position {}", head.last),
            ));
        }
        if let Some(value) = anchored {
            self.check_anchor_met(head, &value, met)?;
        }
        Ok((journal_bytes, frames))
    }

    /// The data key of a frame, by its bundle: the token is called once per bundle. Its own wraps must be there.
    pub(super) fn frame_key(
        &mut self,
        rows: &FrameRows,
        current: &BundleKey,
        older: &mut BTreeMap<u64, BundleKey>,
        place: &str,
    ) -> Result<DataKey, OpenError> {
        let id = rows.first.number();
        let wraps = rows.wraps.as_ref().ok_or_else(|| corrupt(place, "has no wrap at all"))?;
        open_wraps(RowKind::FrameWraps, id, wraps).map_err(|error| row_error(format!("{place}: wraps"), error))?;
        let place = format!("{place}: bundle wrap");
        let row = rows.bundle_wrap.as_ref().ok_or_else(|| corrupt(&place, RowError::Missing))?;
        let number = bundle_of(row).ok_or_else(|| corrupt(&place, "of a wrong length"))?;
        if number > current.number {
            return Err(corrupt(place, format!("names bundle {number} after {}", current.number)));
        }
        if number != current.number && !older.contains_key(&number) {
            let bundle = self.bundle_key(number)?;
            // Frames are in order, and so are their bundles: one older key is enough.
            older.clear();
            older.insert(number, bundle);
        }
        let bundle = older.get(&number).unwrap_or(current);
        let object = SealedObject { store: self.store, kind: OBJECT_FRAME, id };
        bundle.unwrap(&object, row).map_err(|_| corrupt(place, RowError::NotAuthentic))
    }

    pub(super) fn record(
        &self,
        position: Position,
        kind: RecordKind,
        bytes: &[u8],
        epoch: u64,
        sink: &mut dyn RecoverySink,
    ) -> Result<(), RecordError> {
        if kind == RecordKind::Engine {
            return sink.record(position, bytes).map_err(|SinkError(what)| RecordError(what));
        }
        let wrong = |what: &str| Err(RecordError(format!("record {position}: {what}")));
        match decode(bytes) {
            Ok(StoreRecord::Epoch { number, .. }) if number == epoch => Ok(()),
            Ok(StoreRecord::Epoch { .. }) => wrong("an epoch that is not its frame's"),
            Ok(StoreRecord::KeyAdded { number, descriptor }) => {
                let named = self.keys.iter().find(|(known, _)| *known == number);
                match named {
                    Some((_, key)) if key.descriptor == descriptor => Ok(()),
                    _ => wrong("names a key that no key row has"),
                }
            }
            Err(error) => wrong(&error.to_string()),
        }
    }
}

pub(super) struct RecordError(String);

impl From<FrameError> for RecordError {
    fn from(error: FrameError) -> Self {
        Self(error.to_string())
    }
}

struct ItemError(String);

impl From<&'static str> for ItemError {
    fn from(what: &'static str) -> Self {
        Self(what.into())
    }
}

impl From<SinkError> for ItemError {
    fn from(SinkError(what): SinkError) -> Self {
        Self(what)
    }
}
