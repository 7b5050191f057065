//! Opening: from rows to a state, or to the one error that says why not (I7). Nothing is reset, renamed or repaired.

mod anchored;
mod keys;
mod replay;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::health::Health;
use frostkeep_hsm::provider::{AnchorRead, KeyProvider};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::anchor::{AnchorKeeper, Strength};
use super::core::{Core, Environment, Tuning};
use super::durable::Position;
use super::files::{self, DirectoryLock, LockError};
use super::frames::{FrameStore, FramesError, HeadMark, RedbFrames};
use super::line::{EncodedRecord, Line, RecordKind};
use super::open_error::{OpenError, corrupt, frames_error, row_error};
use super::persister::Persister;
use super::rows::{Head, KeyRow, RowError, StoreRecord, head_bundle, keys_digest, open_head, open_key, open_meta};
use super::seal::BundleKey;
use super::status::{Counters, Releases, Status, Storage};
use crate::limits::STORE_KEYS_MAX;

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
            tokens: Arc::from([]),
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
            keys: self.keys,
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

struct Walked {
    head: Head,
    mark: HeadMark,
    bundle: BundleKey,
    anchor: AnchorRead,
    connection: u64,
    journal_bytes: u64,
    frames: u64,
}

/// redb's own backend for a file.
pub(in crate::store) fn file_backend(file: std::fs::File) -> Result<FileBackend, FramesError> {
    FileBackend::new(file).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => FramesError::Busy,
        other => FramesError::Io(other.to_string()),
    })
}
