//! The persister's snapshots: begun when due, one chunk between two batches, flipped in one transaction.

use super::super::anchor::Strength;
use super::super::core::Core;
use super::super::durable::Position;
use super::super::frame;
use super::super::frames::{Prefix, WrapsTable};
use super::super::rows::{RowKind, SnapshotHead};
use super::super::seal::{OBJECT_SNAPSHOT, bundle_of, fresh_key};
use super::super::snapshot::{ChunkPlace, Cutter};
use super::{Persister, Worked};
use crate::limits::SNAPSHOT_CHUNKS_MAX;

/// A snapshot under way.
pub(super) struct Job {
    head: SnapshotHead,
    key: frostkeep_hsm::provider::DataKey,
    cutter: Cutter,
    written: bool,
    journal_bytes: u64,
}

impl Persister {
    /// One piece of a snapshot, if one is due or under way.
    pub(super) fn snapshot(&mut self) -> Worked {
        match self.job.take() {
            None if self.core.journal_bytes >= self.snapshot_due_bytes => self.begin_snapshot(),
            None => Worked::Done,
            Some(job) if job.written => self.flip(job),
            Some(job) => self.put_chunk(job),
        }
    }

    /// No snapshot now: the next try is when the journal has doubled.
    pub(super) fn abandon(&mut self, reason: &dyn std::fmt::Display) {
        tracing::error!(%reason, "snapshot abandoned");
        self.snapshot_due_bytes = self.core.journal_bytes.saturating_mul(2);
    }

    pub(super) fn begin_snapshot(&mut self) -> Worked {
        let Some(source) = self.source.clone() else { return Worked::Done };
        // The batch of this step is durable: the source must see it, or its frame would be counted as replaced.
        self.publish();
        let data = source.snapshot();
        let (base, _) = self.core.head.base(&self.core.store);
        let position = data.position.number();
        if position <= base || data.position > self.durable {
            return Worked::Done;
        }
        let chain = match self.core.frames.frame_at(data.position) {
            Ok(Some(rows)) => frame::parse(&rows.frame)
                .ok()
                .filter(|frame| frame.header.last == data.position)
                .map(|_| frame::chain_hash(&rows.frame)),
            Ok(None) => None,
            Err(error) => {
                self.fail("reading a frame", &error);
                return Worked::Waits;
            }
        };
        let Some(chain) = chain else {
            self.abandon(&"its position is not the end of a batch");
            return Worked::Done;
        };
        let kept = self.core.head.snapshot.as_ref().map(|snapshot| snapshot.id);
        let id = kept.unwrap_or(0) + 1;
        let key = fresh_key(&mut *self.core.environment.entropy);
        let Ok(wraps) = self.wraps(OBJECT_SNAPSHOT, RowKind::SnapshotWraps, id, &key) else {
            self.counters.seals_failed += 1;
            return Worked::Waits;
        };
        if let Err(error) = self.core.frames.begin_snapshot(self.core.mark, id, &wraps.row, kept) {
            self.fail("beginning a snapshot", &error);
            return Worked::Waits;
        }
        self.counters.syncs += 1;
        self.counters.row_bytes += wraps.row.len() as u64;
        self.care.wrote(&self.core, WrapsTable::Snapshots, id, &wraps.under);
        self.job = Some(Job {
            head: SnapshotHead { id, position, chain, chunks: 0, bytes: 0 },
            key,
            cutter: Cutter::new(data.items),
            written: false,
            journal_bytes: self.core.journal_bytes,
        });
        Worked::Done
    }

    pub(super) fn put_chunk(&mut self, mut job: Job) -> Worked {
        let index = job.head.chunks;
        let piece = match job.cutter.next() {
            Ok(piece) if index < SNAPSHOT_CHUNKS_MAX => piece,
            Ok(_) => {
                self.abandon(&"more chunks than the bound");
                return Worked::Done;
            }
            Err(error) => {
                self.abandon(&error);
                return Worked::Done;
            }
        };
        let place = ChunkPlace {
            store: &self.core.store,
            snapshot: job.head.id,
            position: job.head.position,
            index,
            last: piece.last,
        };
        let row = place.seal(piece.text, &job.key, &mut *self.core.environment.entropy);
        if let Err(error) = self.core.frames.put_chunk(self.core.mark, job.head.id, index, &row) {
            self.fail("writing a snapshot chunk", &error);
            return Worked::Waits;
        }
        self.counters.syncs += 1;
        self.counters.snapshot_chunks += 1;
        self.counters.row_bytes += row.len() as u64;
        job.head.chunks += 1;
        job.head.bytes += row.len() as u64;
        job.written = piece.last;
        self.job = Some(job);
        Worked::Done
    }

    /// The head names the new snapshot; the prefix goes. The anchor is at or past its position first: otherwise a disk
    /// from before could no longer be told from a rollback.
    pub(super) fn flip(&mut self, job: Job) -> Worked {
        let anchored = self.keeper.confirmed.map_or(0, |value| value.position);
        if self.keeper.strength() != Strength::Off && anchored < job.head.position {
            let worked = self.anchor_head();
            if !self.stopped() {
                self.job = Some(job);
            }
            return worked;
        }
        let mut head = self.core.head.clone();
        head.snapshot = Some(job.head.clone());
        self.core.note(&mut head, self.keeper.confirmed, self.keeper.intended);
        let through = Position::new(job.head.position);
        let bundle_kept = match self.core.frames.frame_from(through.next()) {
            Ok(rows) => rows.and_then(|rows| rows.bundle_wrap).and_then(|wrap| bundle_of(&wrap)).unwrap_or(head.bundle),
            Err(error) => {
                self.fail("reading a frame", &error);
                return Worked::Waits;
            }
        };
        let prefix = Prefix { through, snapshot_kept: job.head.id, bundle_kept };
        let row = self.core.resealed_head(&head);
        if let Err(error) = self.core.frames.flip(self.core.mark, &row, prefix) {
            self.fail("putting a snapshot in place", &error);
            return Worked::Waits;
        }
        self.moved(head, &row);
        self.counters.snapshots += 1;
        self.core.journal_bytes = self.core.journal_bytes.saturating_sub(job.journal_bytes);
        self.snapshot_due_bytes = due_bytes(&self.core);
        Worked::Done
    }
}

/// Journal bytes at which a snapshot is due: as many as the last one has, so that its cost per record stays constant.
pub(super) fn due_bytes(core: &Core) -> u64 {
    let last = core.head.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes);
    last.max(core.tuning.snapshot_floor_bytes).max(1)
}
