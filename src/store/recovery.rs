//! Opening: from rows to a state, or to the one error that says why not (I7). Nothing is reset, renamed or repaired.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use frostkeep_hsm::health::{Health, Outage, OutageClass};
use frostkeep_hsm::provider::{
    AnchorRead, AnchorValue, DataKey, KeyDescriptor, KeyProvider, SealedObject, UnwrapError,
};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::anchor::{AnchorKeeper, Strength};
use super::core::{Core, Environment, Tuning};
use super::durable::Position;
use super::files::{self, DirectoryLock, LockError};
use super::frame::{self, FORMAT_VERSION, FrameError};
use super::frames::{FrameRows, FrameStore, FramesError, HeadMark, RedbFrames};
use super::line::{EncodedRecord, Line, RecordKind};
use super::persister::Persister;
use super::rows::{
    Head, KeyRow, RowError, RowKind, SnapshotHead, StoreRecord, decode, head_bundle, keys_digest, open_head, open_key,
    open_meta, open_wraps,
};
use super::seal::{BundleKey, OBJECT_BUNDLE, OBJECT_FRAME, OBJECT_SNAPSHOT, bundle_of};
use super::snapshot::{ChunkPlace, Joiner};
use super::status::{Counters, Releases, Status, Storage};
use crate::ids::to_hex;
use crate::limits::{SNAPSHOT_CHUNKS_MAX, STORE_KEYS_MAX};
use crate::reasons::Reason;

/// The container's name in the state directory.
pub(in crate::store) const CONTAINER: &str = "store.redb";
/// The lock's name.
pub(in crate::store) const LOCK: &str = "lock";

/// The sink does not understand what the store holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// Who takes the state: snapshot items first, then the records after it, in order.
pub trait RecoverySink {
    /// One item of the snapshot.
    ///
    /// # Errors
    /// [`SinkError`] when it makes no sense: the store is corrupt.
    fn snapshot_item(&mut self, bytes: &[u8]) -> Result<(), SinkError>;

    /// One engine record.
    ///
    /// # Errors
    /// [`SinkError`] when it makes no sense: the store is corrupt.
    fn record(&mut self, position: Position, bytes: &[u8]) -> Result<(), SinkError>;
}

/// Why a store does not open. None of these starts empty.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no store.
    #[error("no store at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A row, the chain or the container is damaged.
    #[error("store corrupt: {place} {what}")]
    Corrupt {
        /// Which row or position.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// Whole and consistent, but older than what the token knows, or another branch of it.
    #[error("store rolled back: the disk ends at position {disk}, the token's anchor is at {anchor}: {what}")]
    RolledBack {
        /// Last position on disk.
        disk: u64,
        /// Position of the anchor.
        anchor: u64,
        /// How they differ.
        what: &'static str,
    },
    /// The state names an anchor, and the token holds none of this store.
    #[error("anchor missing: the state was anchored at position {confirmed}, the token holds {found}")]
    AnchorMissing {
        /// The last confirmed position.
        confirmed: u64,
        /// What the token holds instead.
        found: String,
    },
    /// The key that the state names is not the one that answers.
    #[error("wrong key: the state needs {needed}; {found}")]
    WrongKey {
        /// The keys that the state names.
        needed: String,
        /// What answered.
        found: String,
    },
    /// Another process has the store open.
    #[error("store busy: another process has {path} open")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// Written by a newer release.
    #[error("store version {found}: this release reads up to {supported}")]
    UnsupportedVersion {
        /// The version found.
        found: u16,
        /// The newest version that this release reads.
        supported: u16,
    },
    /// The key provider cannot open it now: a sealed node, which waits.
    #[error("store sealed: key provider unavailable: {} ({})", .0.class.name(), .0.detail)]
    Outage(Outage),
    /// The disk failed.
    #[error("disk: {what}")]
    Io {
        /// What failed.
        what: String,
    },
}

impl OpenError {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing { .. } => Reason::StateMissing,
            Self::Corrupt { .. } => Reason::StateCorrupt,
            Self::RolledBack { .. } => Reason::StateRolledBack,
            Self::AnchorMissing { .. } => Reason::AnchorMissing,
            Self::WrongKey { .. } => Reason::WrongKey,
            Self::Busy { .. } => Reason::Busy,
            Self::UnsupportedVersion { .. } => Reason::UnsupportedVersion,
            Self::Outage(_) => Reason::KeyProviderUnavailable,
            Self::Io { .. } => Reason::StorageFailed,
        }
    }
}

/// A store whose lock is held and whose plain rows were read. It can be recovered as often as it takes.
pub struct Opening {
    lock: Option<DirectoryLock>,
    frames: Box<dyn FrameStore>,
    provider: Box<dyn KeyProvider>,
    environment: Environment,
    tuning: Tuning,
    store: [u8; 16],
    keys: Vec<(u64, KeyRow)>,
    keys_digest: [u8; 32],
}

/// A store that did not open.
pub struct NotOpened {
    /// Why.
    pub error: OpenError,
    /// The opening, to try again with a fresh sink: for [`OpenError::Outage`] and [`OpenError::WrongKey`] only.
    pub sealed: Option<Box<Opening>>,
}

/// An open store.
pub struct Opened<S> {
    /// Where records enter.
    pub line: Line,
    /// Who writes them.
    pub persister: Persister,
    /// The sink, which has the state now.
    pub sink: S,
}

/// What a read-only pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Position before the first frame: the snapshot's, or zero.
    pub base: Position,
    /// The last position.
    pub last: Position,
    /// Frames walked.
    pub frames: u64,
    /// Epoch of the last writer.
    pub epoch: u64,
}

fn corrupt(place: impl Into<String>, what: impl ToString) -> OpenError {
    OpenError::Corrupt { place: place.into(), what: what.to_string() }
}

fn row_error(place: impl Into<String>, error: RowError) -> OpenError {
    match error {
        RowError::Version { found } => OpenError::UnsupportedVersion { found, supported: FORMAT_VERSION },
        other => corrupt(place, other),
    }
}

fn frames_error(error: FramesError) -> OpenError {
    match error {
        FramesError::Missing => corrupt("container", "is empty"),
        FramesError::Busy => OpenError::Busy { path: PathBuf::from(CONTAINER) },
        FramesError::Io(what) => OpenError::Io { what },
        FramesError::Damaged(what) => corrupt("container", what),
        FramesError::HeadMoved => corrupt("head", "moved"),
    }
}

impl Opening {
    /// Takes the lock of the state directory and opens the container in it.
    ///
    /// # Errors
    /// Every [`OpenError`] that needs no token.
    pub fn begin(
        state: &Path,
        provider: Box<dyn KeyProvider>,
        environment: Environment,
        tuning: Tuning,
    ) -> Result<Self, OpenError> {
        let path = state.join(CONTAINER);
        let io = |error: io::Error| OpenError::Io { what: format!("{}: {error}", path.display()) };
        // Before the lock, so that a look at a missing store leaves nothing behind.
        if !files::is_taken(&path).map_err(io)? {
            return Err(OpenError::Missing { path });
        }
        let lock_path = state.join(LOCK);
        let lock = match DirectoryLock::take(&lock_path) {
            Ok(lock) => lock,
            Err(LockError::Busy) => return Err(OpenError::Busy { path: lock_path }),
            Err(LockError::Io(error)) => return Err(io(error)),
        };
        let file = match files::open_existing(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt("container", "is a link to nothing"));
            }
            Err(error) => return Err(io(error)),
        };
        if !file.metadata().map_err(io)?.is_file() {
            return Err(corrupt("container", "is not a file"));
        }
        let backend = file_backend(file).map_err(frames_error)?;
        let mut opening = Self::over(backend, provider, environment, tuning)?;
        opening.lock = Some(lock);
        Ok(opening)
    }

    /// The same over any container backend, without a lock of ours.
    ///
    /// # Errors
    /// Every [`OpenError`] that needs no token.
    pub fn over(
        backend: impl StorageBackend,
        mut provider: Box<dyn KeyProvider>,
        environment: Environment,
        tuning: Tuning,
    ) -> Result<Self, OpenError> {
        let frames = Box::new(RedbFrames::open(backend).map_err(frames_error)?);
        let meta = frames.meta().map_err(frames_error)?;
        let store = meta
            .ok_or(RowError::Missing)
            .and_then(|row| open_meta(&row))
            .map_err(|error| row_error("meta row", error))?;
        let rows = frames.keys().map_err(frames_error)?;
        if rows.is_empty() || rows.len() > STORE_KEYS_MAX {
            return Err(corrupt("key rows", format!("{} of 1 to {STORE_KEYS_MAX}", rows.len())));
        }
        let mut keys = Vec::with_capacity(rows.len());
        for (number, row) in &rows {
            let key = open_key(*number, row).map_err(|error| row_error(format!("key row {number}"), error))?;
            keys.push((*number, key));
        }
        let descriptors: Vec<_> = keys.iter().map(|(_, key)| key.descriptor.clone()).collect();
        provider.require(&descriptors);
        let keys_digest = keys_digest(&rows);
        Ok(Self { lock: None, frames, provider, environment, tuning, store, keys, keys_digest })
    }

    /// Lets the provider do what is due; returns the time until something is due again.
    pub fn tick(&mut self) -> Duration {
        self.provider.tick()
    }

    /// The provider's health, for a sealed node's status.
    pub fn health(&self) -> Health {
        self.provider.health()
    }

    /// The store's id.
    pub fn store_id(&self) -> [u8; 16] {
        self.store
    }

    /// Reads everything, checks everything, gives the state to `sink`, and makes line and persister. A new epoch is
    /// first in line; nothing was written yet.
    ///
    /// # Errors
    /// [`NotOpened`]; `sink` is gone, since it may hold a part of the state.
    #[allow(clippy::result_large_err, reason = "once per process; the opening inside is boxed")]
    pub fn recover<S: RecoverySink>(mut self, mut sink: S) -> Result<Opened<S>, NotOpened> {
        match self.walk(&mut sink) {
            Ok(walked) => {
                let (line, persister) = self.start(walked);
                Ok(Opened { line, persister, sink })
            }
            Err(error @ (OpenError::Outage(_) | OpenError::WrongKey { .. })) => {
                Err(NotOpened { error, sealed: Some(Box::new(self)) })
            }
            Err(error) => Err(NotOpened { error, sealed: None }),
        }
    }

    /// Reads and checks everything and gives the state to `sink`: records no epoch, writes no anchor, releases nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn verify<S: RecoverySink>(&mut self, sink: &mut S) -> Result<Verified, OpenError> {
        let walked = self.walk(sink)?;
        let (base, _) = walked.head.base(&self.store);
        Ok(Verified {
            base: Position::new(base),
            last: Position::new(walked.head.last),
            frames: walked.frames,
            epoch: walked.head.epoch,
        })
    }

    fn walk(&mut self, sink: &mut dyn RecoverySink) -> Result<Walked, OpenError> {
        self.provider.tick();
        let row = self.frames.head().map_err(frames_error)?;
        let row = row.ok_or_else(|| corrupt("head", RowError::Missing))?;
        let number = head_bundle(&self.store, &row).map_err(|error| row_error("head", error))?;
        let bundle = self.bundle_key(number)?;
        let head = open_head(&row, &bundle.key).map_err(|error| row_error("head", error))?;
        if head.bundle != number || head.keys_digest != self.keys_digest {
            return Err(corrupt("key rows", "are not those that the head names"));
        }
        let anchor = self.provider.anchor_read().map_err(|error| self.outage(error.0))?;
        let connection = self.provider.connection();
        self.check_anchor_ahead(&head, &anchor)?;
        if let Some(snapshot) = &head.snapshot {
            self.read_snapshot(snapshot, sink)?;
        }
        let (journal_bytes, frames) = self.read_frames(&head, &bundle, &anchor, sink)?;
        Ok(Walked { head, mark: HeadMark::of(&row), bundle, anchor, connection, journal_bytes, frames })
    }

    // ---- keys

    fn bundle_key(&mut self, number: u64) -> Result<BundleKey, OpenError> {
        let row = self.frames.bundle(number).map_err(frames_error)?;
        let place = format!("bundle {number}");
        let key = self.unwrap(OBJECT_BUNDLE, RowKind::BundleWraps, number, row, &place)?;
        Ok(BundleKey { number, key })
    }

    fn unwrap(
        &mut self,
        kind: u8,
        row_kind: RowKind,
        id: u64,
        row: Option<Vec<u8>>,
        place: &str,
    ) -> Result<DataKey, OpenError> {
        let row = row.ok_or_else(|| corrupt(place, RowError::Missing))?;
        let wraps = open_wraps(row_kind, id, &row).map_err(|error| row_error(place, error))?;
        let object = SealedObject { store: self.store, kind, id };
        match self.provider.unwrap(&object, &wraps) {
            Ok(key) => Ok(key),
            Err(UnwrapError::Unavailable(error)) => Err(self.outage(error.0)),
            Err(UnwrapError::Corrupt) => Err(corrupt(place, "has a wrap that does not open")),
            Err(UnwrapError::NoReachableKey { .. }) => Err(self.unreachable_key()),
        }
    }

    fn outage(&self, outage: Outage) -> OpenError {
        match outage.class {
            OutageClass::Key => OpenError::WrongKey { needed: self.key_names(), found: outage.detail },
            _ => OpenError::Outage(outage),
        }
    }

    /// No wrap is of a reachable key: another key where a healthy provider has none of ours, else an outage.
    fn unreachable_key(&self) -> OpenError {
        let same =
            |a: &KeyDescriptor, b: &KeyDescriptor| (a.scheme, &a.id, a.check_value) == (b.scheme, &b.id, b.check_value);
        let present = self.provider.keys();
        let health = self.provider.health();
        let ours = present.iter().any(|key| self.keys.iter().any(|(_, named)| same(key, &named.descriptor)));
        if health.admits_work() && !ours {
            let found = present.iter().map(key_name).collect::<Vec<_>>().join(", ");
            return OpenError::WrongKey { needed: self.key_names(), found: format!("configured: {found}") };
        }
        let clock = &self.environment.clock;
        OpenError::Outage(health.outage.unwrap_or_else(|| Outage {
            class: OutageClass::Token,
            since: clock.now(),
            since_unix: clock.unix_seconds(),
            next_try: None,
            detail: format!("none of the tokens that hold a needed key is reachable: {}", self.key_names()),
            token: String::new(),
        }))
    }

    fn key_names(&self) -> String {
        self.keys.iter().map(|(_, key)| key_name(&key.descriptor)).collect::<Vec<_>>().join(", ")
    }

    // ---- the anchor

    fn names_anchor(&self, head: &Head) -> (Option<AnchorValue>, Option<AnchorValue>) {
        let number = self.anchor_key();
        head.anchors.iter().find(|note| note.key == number).map_or((None, None), |note| (note.confirmed, note.intended))
    }

    fn anchor_key(&self) -> u64 {
        self.keys.first().map_or(0, |(number, _)| *number)
    }

    /// What can be said before the frames are walked.
    fn check_anchor_ahead(&self, head: &Head, anchor: &AnchorRead) -> Result<(), OpenError> {
        let (confirmed, _) = self.names_anchor(head);
        let missing = |found: String| match confirmed {
            Some(confirmed) => Err(OpenError::AnchorMissing { confirmed: confirmed.position, found }),
            None => Ok(()),
        };
        match anchor {
            AnchorRead::Unsupported => missing("none: it cannot keep one".into()),
            AnchorRead::Absent => missing("none".into()),
            AnchorRead::Value(value) if value.store != self.store => Err(OpenError::AnchorMissing {
                confirmed: confirmed.map_or(0, |confirmed| confirmed.position),
                found: format!("that of store {}", to_hex(&value.store)),
            }),
            AnchorRead::Value(value) if value.position > head.last => {
                Err(OpenError::RolledBack { disk: head.last, anchor: value.position, what: "the disk is behind" })
            }
            AnchorRead::Value(_) => Ok(()),
        }
    }

    /// An anchor that the walk did not meet: before the snapshot only a noted one is ours.
    fn check_anchor_met(&self, head: &Head, value: &AnchorValue, met: Option<[u8; 32]>) -> Result<(), OpenError> {
        let (base, _) = head.base(&self.store);
        let (confirmed, intended) = self.names_anchor(head);
        let ours = match met {
            Some(chain) => chain == value.head,
            None => value.position < base && (Some(*value) == confirmed || Some(*value) == intended),
        };
        if ours {
            return Ok(());
        }
        Err(OpenError::RolledBack {
            disk: head.last,
            anchor: value.position,
            what: "the anchor does not lie on the disk's chain",
        })
    }

    // ---- the state

    fn read_snapshot(&mut self, snapshot: &SnapshotHead, sink: &mut dyn RecoverySink) -> Result<(), OpenError> {
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

    fn read_frames(
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
    fn frame_key(
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

    fn record(
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

    fn start(self, walked: Walked) -> (Line, Persister) {
        let (confirmed_before, noted) = self.names_anchor(&walked.head);
        let anchor_key = self.anchor_key();
        let keeper = AnchorKeeper::new(self.tuning.strength, walked.anchor, noted, walked.connection);
        let last = Position::new(walked.head.last);
        let epoch = walked.head.epoch + 1;
        let epoch_position = last.next();
        let status = Status {
            durable: last,
            health: self.provider.health(),
            storage: Storage::Writable,
            epoch,
            epoch_recorded: false,
            releases: match keeper.strength() {
                Strength::Strict => Releases::AwaitingOpeningAnchor,
                Strength::Every(_) | Strength::Off => Releases::Allowed,
            },
            anchor: keeper.status(walked.head.last),
            counters: Counters::default(),
        };
        let line = Line::new(last, status);
        let started_unix = self.environment.clock.unix_seconds();
        enter(&line, &StoreRecord::Epoch { number: epoch, started_unix });
        if last == Position::ZERO {
            for (number, key) in &self.keys {
                let descriptor = key.descriptor.clone();
                enter(&line, &StoreRecord::KeyAdded { number: *number, descriptor });
            }
        }
        if confirmed_before != keeper.confirmed {
            tracing::info!(disk = last.number(), "the token's anchor is not the last one that the disk confirmed");
        }
        let core = Core {
            frames: self.frames,
            provider: self.provider,
            environment: self.environment,
            tuning: self.tuning,
            store: self.store,
            head: walked.head,
            mark: walked.mark,
            bundle: walked.bundle,
            journal_bytes: walked.journal_bytes,
            anchor_key,
            _lock: self.lock,
        };
        let persister = Persister::new(core, line.clone(), keeper, epoch, epoch_position);
        (line, persister)
    }
}

fn enter(line: &Line, record: &StoreRecord) {
    let record = EncodedRecord::of(RecordKind::Store, record.encoded())
        .expect("a store record has a few hundred bytes: descriptors were bounded when their rows were read");
    line.enter_unreserved(record);
}

fn key_name(key: &KeyDescriptor) -> String {
    format!(
        "key id {} (check value {}) on token {} serial {}",
        to_hex(&key.id),
        to_hex(&key.check_value),
        key.token_label,
        key.token_serial
    )
}

struct Walked {
    head: Head,
    mark: HeadMark,
    bundle: BundleKey,
    anchor: AnchorRead,
    connection: u64,
    journal_bytes: u64,
    frames: u64,
}

struct RecordError(String);

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

/// redb's own backend for a file.
pub(in crate::store) fn file_backend(file: std::fs::File) -> Result<FileBackend, FramesError> {
    FileBackend::new(file).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => FramesError::Busy,
        other => FramesError::Io(other.to_string()),
    })
}
