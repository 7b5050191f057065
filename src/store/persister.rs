//! The persister: takes what waits, seals it, syncs it, anchors it, raises the durable position, says so.
//!
//! It is the only one that calls the token or writes the container, and it holds no lock while it does (I9).

mod anchoring;
mod care;
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::health::{Health, Outage, ProviderState};
use frostkeep_hsm::provider::{KeyDescriptor, KeyName, SealedObject};
use frostkeep_hsm::scheme::key_name;

use self::care::Care;
use self::snapshots::{Job, due_bytes};
use super::anchor::{AnchorKeeper, Strength};
use super::core::Core;
use super::durable::Position;
use super::frame::{self, Header};
use super::frames::{Append, HeadMark, WrapsTable};
use super::line::{Line, Waiting};
use super::rows::{Head, RowKind, wraps_row};
use super::seal::{BundleKey, OBJECT_BUNDLE, OBJECT_FRAME, each_opens_again, fresh_key};
use super::snapshot::SnapshotSource;
use super::status::{Counters, Releases, Status, Storage, TokenStatus};

/// Time between two looks at a full disk, and between two tries of an anchor step that failed.
const RETRY_MS: u64 = 1_000;

/// What the persister wants after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more to do at once.
    Now,
    /// Nothing to do for this long, unless the line is woken.
    Sleep(Duration),
    /// Nothing will ever be written by this process again.
    Stopped,
}

/// The outcome of a piece of work that may have to wait.
enum Worked {
    Done,
    /// The provider, the anchor or the disk does not let it; state and line are as before.
    Waits,
}

/// Seals and writes. Step it by hand, or [`Persister::spawn`] it.
pub struct Persister {
    core: Core,
    line: Line,
    epoch: u64,
    epoch_position: Position,
    keeper: AnchorKeeper,
    anchor_failure: Option<(Outage, Millis)>,
    /// The last position that must be anchored whatever `every = N` says.
    anchor_wanted: u64,
    durable: Position,
    storage: Storage,
    fenced: bool,
    closed: bool,
    counters: Counters,
    source: Option<Arc<dyn SnapshotSource>>,
    job: Option<Job>,
    snapshot_due_bytes: u64,
    care: Care,
}

impl Persister {
    pub(in crate::store) fn new(
        core: Core,
        line: Line,
        keeper: AnchorKeeper,
        epoch: u64,
        epoch_position: Position,
    ) -> Self {
        let durable = Position::new(core.head.last);
        let snapshot_due_bytes = due_bytes(&core);
        let care = Care::new(&core);
        let mut persister = Self {
            core,
            line,
            epoch,
            epoch_position,
            keeper,
            anchor_failure: None,
            anchor_wanted: 0,
            durable,
            storage: Storage::Writable,
            fenced: false,
            closed: false,
            counters: Counters::default(),
            source: None,
            job: None,
            snapshot_due_bytes,
            care,
        };
        let line = persister.line.clone();
        persister.core.provider.set_waker(Arc::new(move || line.wake()));
        persister.publish();
        persister
    }

    /// From now on snapshots are made from `source`.
    pub fn set_snapshot_source(&mut self, source: Arc<dyn SnapshotSource>) {
        self.source = Some(source);
    }

    /// The line that this persister empties.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Does what is due: at most one batch and one piece of a snapshot. Waits for the token and the disk, never for a
    /// lock that a request holds.
    pub fn step(&mut self) -> Next {
        let next = self.work();
        self.publish();
        next
    }

    /// Steps as long as the line gets shorter, then anchors what is owed.
    pub fn finish(&mut self) {
        loop {
            let waiting = self.line.waiting_records();
            self.step();
            if waiting == 0 || self.line.waiting_records() >= waiting {
                break;
            }
        }
        let last = self.core.head.last;
        if !self.stopped() && self.keeper.strength() != Strength::Off && self.keeper.owed(last) > 0 {
            self.anchor_head();
        }
        self.publish();
    }

    /// Says that the store is about to be closed: nothing is released from here on.
    pub(in crate::store) fn close(&mut self) {
        self.closed = true;
        self.publish();
    }

    fn stopped(&self) -> bool {
        self.fenced || matches!(self.storage, Storage::Failed { .. })
    }

    /// Marks the storage failed: nothing is written any more.
    pub(in crate::store) fn fail(&mut self, what: &str, error: &dyn std::fmt::Display) {
        tracing::error!(what, %error, "storage failed: this process writes no more");
        self.storage = Storage::Failed { detail: format!("{what}: {error}").into() };
        self.job = None;
    }

    pub(in crate::store) fn publish(&mut self) {
        let status = self.status();
        self.line.publish(status);
    }

    fn now(&self) -> Millis {
        self.core.environment.clock.now()
    }

    fn work(&mut self) -> Next {
        if self.fenced {
            return Next::Stopped;
        }
        let rest = self.core.provider.tick();
        let waits = Next::Sleep(rest.min(Duration::from_millis(RETRY_MS)));
        if self.stopped() || !self.core.provider.health().admits_work() {
            return Next::Sleep(rest);
        }
        if let Worked::Waits = self.check_connection() {
            return self.next_or(Next::Sleep(rest));
        }
        if !self.has_room() {
            return waits;
        }
        if self.keeper.unresolved() {
            self.complete_anchor();
            if self.fenced || self.blocked_by_anchor() {
                return self.next_or(waits);
            }
        }
        let batch = self.batch();
        let worked = if batch.is_empty() { self.idle() } else { self.persist(&batch) };
        if self.stopped() {
            return self.next_or(Next::Sleep(rest));
        }
        if let Worked::Waits = worked {
            return waits;
        }
        if let Worked::Waits = self.snapshot() {
            return self.next_or(waits);
        }
        let cared = self.care();
        if let (Worked::Waits, 0) = (&cared, self.line.waiting_records()) {
            return self.next_or(waits);
        }
        if self.stopped() {
            return self.next_or(Next::Sleep(rest));
        }
        if self.line.waiting_records() > 0 || self.job.is_some() || self.care_is_due() {
            return Next::Now;
        }
        Next::Sleep(if self.keeper.unresolved() { rest.min(Duration::from_millis(RETRY_MS)) } else { rest })
    }

    fn next_or(&self, otherwise: Next) -> Next {
        if self.fenced { Next::Stopped } else { otherwise }
    }

    // ---- batches

    fn has_room(&mut self) -> bool {
        let reserve_bytes = self.core.tuning.disk_reserve_bytes;
        let free_bytes = self.core.environment.space.free_bytes().unwrap_or(0);
        if free_bytes >= reserve_bytes {
            self.storage = Storage::Writable;
            return true;
        }
        let since = match self.storage {
            Storage::DiskFull { since, .. } => since,
            _ => self.now(),
        };
        self.storage = Storage::DiskFull { free_bytes, reserve_bytes, since };
        false
    }

    /// The front of the line, cut so that never more than 2N records can be owed to the anchor.
    fn batch(&self) -> Vec<Waiting> {
        let mut batch = self.line.batch();
        if let Strength::Every(records) = self.keeper.strength() {
            let owed = self.keeper.owed(self.core.head.last);
            let room = records.max(1).saturating_mul(2).saturating_sub(owed).max(1);
            batch.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        }
        batch
    }

    fn persist(&mut self, batch: &[Waiting]) -> Worked {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Worked::Done;
        };
        let (first, last) = (first.position, last.position);
        match self.seal(batch, first, last) {
            Ok(sealed) => self.append(batch, sealed),
            Err(()) => {
                self.counters.seals_failed += 1;
                Worked::Waits
            }
        }
    }

    fn wraps(
        &mut self,
        kind: u8,
        row_kind: RowKind,
        id: u64,
        key: &frostkeep_hsm::provider::DataKey,
    ) -> Result<SealedKey, ()> {
        let object = SealedObject { store: self.core.store, kind, id };
        let wraps = self.core.provider.wrap(&object, key).map_err(|_| ())?;
        self.counters.seals += 1;
        if kind != OBJECT_FRAME && !each_opens_again(&mut *self.core.provider, &object, &wraps, key).map_err(|_| ())? {
            tracing::error!(id, "a wrap of a new key does not open again: it is not used");
            return Err(());
        }
        let row = wraps_row(row_kind, id, &wraps).map_err(|error| {
            tracing::error!(%error, "the key provider gave wraps that cannot be stored");
        })?;
        Ok(SealedKey { row, under: wraps.iter().map(|wrap| wrap.key).collect() })
    }

    fn seal(&mut self, batch: &[Waiting], first: Position, last: Position) -> Result<Sealed, ()> {
        let id = first.number();
        let key = fresh_key(&mut *self.core.environment.entropy);
        let wraps = self.wraps(OBJECT_FRAME, RowKind::FrameWraps, id, &key)?;
        let bundle = if self.core.head.bundle_frames >= self.core.tuning.bundle_frames_max.max(1) {
            let number = self.core.bundle.number + 1;
            let key = fresh_key(&mut *self.core.environment.entropy);
            let wraps = self.wraps(OBJECT_BUNDLE, RowKind::BundleWraps, number, &key)?;
            Some((BundleKey { number, key }, wraps))
        } else {
            None
        };
        // The provider may have reconnected inside these calls.
        if let Worked::Waits = self.check_connection() {
            return Err(());
        }
        let header = Header { store: self.core.store, epoch: self.epoch, first, last, previous: self.core.head.chain };
        let entropy = &mut *self.core.environment.entropy;
        let frame = frame::seal(&header, batch, &key, entropy);
        let object = SealedObject { store: self.core.store, kind: OBJECT_FRAME, id };
        let under = bundle.as_ref().map_or(&self.core.bundle, |(bundle, _)| bundle);
        let bundle_wrap = under.wrap(&object, &key, entropy);
        Ok(Sealed { first, last, frame, wraps, bundle_wrap, bundle })
    }

    fn append(&mut self, batch: &[Waiting], sealed: Sealed) -> Worked {
        let mut head = self.core.head.clone();
        head.epoch = self.epoch;
        head.last = sealed.last.number();
        head.chain = frame::chain_hash(&sealed.frame);
        head.bundle_frames += 1;
        if let Some((bundle, _)) = &sealed.bundle {
            head.bundle = bundle.number;
            head.bundle_frames = 1;
        }
        let opening = self.durable < self.epoch_position;
        if opening || batch.iter().any(|waiting| waiting.anchor_now) {
            self.anchor_wanted = head.last;
        }
        let anchor_now = self.keeper.owed(self.anchor_wanted) > 0;
        let intended = (self.keeper.due(head.last, anchor_now) && !self.keeper.unresolved())
            .then(|| self.core.anchor_value(&head))
            .or(self.keeper.intended);
        self.core.note(&mut head, self.keeper.confirmed, intended);
        let row = match &sealed.bundle {
            Some((bundle, _)) => self.core.sealed_head(&head, bundle),
            None => self.core.resealed_head(&head),
        };
        let rows = Append {
            first: sealed.first,
            frame: &sealed.frame,
            wraps: &sealed.wraps.row,
            bundle_wrap: &sealed.bundle_wrap,
            bundle: sealed.bundle.as_ref().map(|(bundle, wraps)| (bundle.number, wraps.row.as_slice())),
        };
        if let Err(error) = self.core.frames.append(self.core.mark, &rows, &row) {
            self.fail("appending a frame", &error);
            return Worked::Waits;
        }
        self.moved(head, &row);
        self.line.written(sealed.last);
        self.counters.batches += 1;
        self.counters.records += batch.len() as u64;
        let bytes = sealed.frame.len() + sealed.wraps.row.len() + sealed.bundle_wrap.len();
        self.counters.row_bytes += bytes as u64;
        self.core.journal_bytes += sealed.frame.len() as u64;
        self.care.wrote(&self.core, WrapsTable::Frames, sealed.first.number(), &sealed.wraps.under);
        if let Some((bundle, wraps)) = sealed.bundle {
            self.care.wrote(&self.core, WrapsTable::Bundles, bundle.number, &wraps.under);
            self.core.bundle = bundle;
        }
        self.keeper.intended = intended;
        if self.keeper.unresolved() {
            self.complete_anchor();
        }
        self.raise();
        Worked::Done
    }

    /// The container has a new head.
    fn moved(&mut self, head: Head, row: &[u8]) {
        self.core.head = head;
        self.core.mark = HeadMark::of(row);
        self.counters.syncs += 1;
        self.counters.row_bytes += row.len() as u64;
    }

    /// Raises the durable position as far as disk and strength allow.
    fn raise(&mut self) {
        if self.fenced {
            return;
        }
        let written = self.core.head.last;
        let proved = match self.keeper.strength() {
            Strength::Strict => self.keeper.confirmed.map_or(0, |value| value.position.min(written)),
            Strength::Every(_) | Strength::Off => written,
        };
        self.durable = self.durable.max(Position::new(proved));
    }

    // ---- status

    fn status(&self) -> Status {
        let last = self.core.head.last;
        let opened = self.keeper.strength() != Strength::Strict || self.durable >= self.epoch_position;
        let releases = match (self.fenced, opened) {
            (true, _) => Releases::FencedByAnchor,
            (false, _) if self.closed => Releases::Closed,
            (false, true) => Releases::Allowed,
            (false, false) => Releases::AwaitingOpeningAnchor,
        };
        Status {
            durable: self.durable,
            health: self.health(),
            tokens: self.tokens(),
            storage: self.storage.clone(),
            epoch: self.epoch,
            epoch_recorded: self.durable >= self.epoch_position,
            releases,
            anchor: self.keeper.status(last),
            counters: self.counters,
        }
    }

    fn tokens(&self) -> Arc<[TokenStatus]> {
        let tokens = self.core.provider.tokens().into_iter();
        // A token whose key is not known yet has not shown that it opens anything.
        let current =
            |key: Option<&KeyDescriptor>| key.is_some_and(|key| self.care.is_current(&self.core, key_name(key)));
        tokens.map(|health| TokenStatus { current: current(health.keys.first()), health }).collect()
    }

    /// The provider's, unless the line waits for an anchor that the provider itself thinks healthy: then nobody may
    /// admit a round that could only be pending.
    fn health(&self) -> Health {
        let mut health = self.core.provider.health();
        let unread = self.core.provider.connection() != self.keeper.connection;
        if health.admits_work()
            && (unread || self.blocked_by_anchor())
            && let Some((outage, _)) = &self.anchor_failure
        {
            health.state = ProviderState::Out;
            health.outage = Some(outage.clone());
        }
        health
    }
}

/// A frame that is not on disk yet.
struct Sealed {
    first: Position,
    last: Position,
    frame: Vec<u8>,
    wraps: SealedKey,
    bundle_wrap: Vec<u8>,
    bundle: Option<(BundleKey, SealedKey)>,
}

/// A data key as the tokens wrapped it: its row, and under which keys.
struct SealedKey {
    row: Vec<u8>,
    under: Vec<KeyName>,
}
