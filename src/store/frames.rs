//! Where rows live: the trait [`FrameStore`], and its implementation over redb.
//!
//! The container is trusted with nothing but durability and atomicity: what a row says is proved by its seal, its
//! checksum and the chain.

use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use super::durable::Position;
use crate::hash::sha256;
use crate::limits::STORE_KEYS_MAX;

/// Why the container does not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramesError {
    /// There is no container.
    #[error("no container")]
    Missing,
    /// Another process has it open.
    #[error("another process has the container open")]
    Busy,
    /// The container's own structure is damaged, or it is of a format that its engine does not read.
    #[error("container damaged: {0}")]
    Damaged(String),
    /// The disk failed.
    #[error("disk: {0}")]
    Io(String),
    /// Somebody else moved the head.
    #[error("the head is not the expected one: another writer")]
    HeadMoved,
}

/// The name of one value of the head row: what an append expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadMark([u8; 32]);

impl HeadMark {
    /// The mark of this head row.
    pub fn of(head: &[u8]) -> Self {
        Self(sha256(head))
    }
}

/// A table of wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WrapsTable {
    /// Of bundle keys, by bundle number.
    Bundles,
    /// Of snapshots' data keys, by snapshot number.
    Snapshots,
    /// Of frames' data keys, by first position.
    Frames,
}

/// A frame and the rows beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameRows {
    /// Its first position: the key of the rows.
    pub first: Position,
    /// The sealed frame.
    pub frame: Vec<u8>,
    /// Its data key, wrapped by the tokens.
    pub wraps: Option<Vec<u8>>,
    /// Its data key under a bundle key.
    pub bundle_wrap: Option<Vec<u8>>,
}

/// What one group commit writes besides the head.
pub struct Append<'a> {
    /// Key of the rows: first position of the frame.
    pub first: Position,
    /// The sealed frame.
    pub frame: &'a [u8],
    /// Its data key, wrapped by the tokens.
    pub wraps: &'a [u8],
    /// Its data key under the bundle key.
    pub bundle_wrap: &'a [u8],
    /// A new bundle: its number, its key wrapped by the tokens.
    pub bundle: Option<(u64, &'a [u8])>,
}

/// What becomes unreachable when the head names a new snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Prefix {
    /// Frames that end at or below this position go.
    pub through: Position,
    /// Snapshots other than this one go.
    pub snapshot_kept: u64,
    /// Bundles below this number go.
    pub bundle_kept: u64,
}

/// A container of rows. Every mutation is one durable transaction that expects a head: of two writers one loses.
///
/// # Errors
/// All of a mutation is durable or none of it; after an error the caller cannot know which, except after
/// [`FramesError::HeadMoved`], which wrote nothing.
pub trait FrameStore: Send {
    /// The meta row.
    fn meta(&self) -> Result<Option<Vec<u8>>, FramesError>;
    /// All key rows, by number.
    fn keys(&self) -> Result<Vec<(u64, Vec<u8>)>, FramesError>;
    /// The head row.
    fn head(&self) -> Result<Option<Vec<u8>>, FramesError>;
    /// The wraps of a bundle key.
    fn bundle(&self, number: u64) -> Result<Option<Vec<u8>>, FramesError>;
    /// The first frame at or after `from`, by its first position.
    fn frame_from(&self, from: Position) -> Result<Option<FrameRows>, FramesError>;
    /// The last frame whose first position is at or before `at`.
    fn frame_at(&self, at: Position) -> Result<Option<FrameRows>, FramesError>;
    /// The wraps of a snapshot's data key.
    fn snapshot(&self, id: u64) -> Result<Option<Vec<u8>>, FramesError>;
    /// One chunk of a snapshot.
    fn chunk(&self, id: u64, index: u32) -> Result<Option<Vec<u8>>, FramesError>;

    /// The first row of wraps at or after `from`, with its key.
    fn wraps_from(&self, table: WrapsTable, from: u64) -> Result<Option<(u64, Vec<u8>)>, FramesError>;
    /// The bundle wrap of the frame that begins at `first`.
    fn bundle_wrap(&self, first: u64) -> Result<Option<Vec<u8>>, FramesError>;

    /// Appends a frame and sets the head.
    fn append(&mut self, expected: HeadMark, rows: &Append<'_>, head: &[u8]) -> Result<(), FramesError>;
    /// Sets the head alone: an anchor's intention.
    fn set_head(&mut self, expected: HeadMark, head: &[u8]) -> Result<(), FramesError>;
    /// Starts a snapshot: its wraps go in, and what earlier unfinished ones left behind goes, except `kept`.
    fn begin_snapshot(
        &mut self,
        expected: HeadMark,
        id: u64,
        wraps: &[u8],
        kept: Option<u64>,
    ) -> Result<(), FramesError>;
    /// Puts chunks of a snapshot that no head names yet.
    fn put_chunk(&mut self, expected: HeadMark, id: u64, index: u32, chunk: &[u8]) -> Result<(), FramesError>;
    /// Puts rows of wraps in the place of those that are there. The head stays.
    fn put_wraps(&mut self, expected: HeadMark, table: WrapsTable, rows: &[(u64, Vec<u8>)]) -> Result<(), FramesError>;
    /// The head names a new snapshot, and what it replaces goes: one transaction.
    fn flip(&mut self, expected: HeadMark, head: &[u8], prefix: Prefix) -> Result<(), FramesError>;
}

const META: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("meta");
const KEYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("keys");
const HEAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("head");
const BUNDLES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bundles");
const FRAMES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("frames");
const WRAPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("wraps");
const BUNDLE_WRAPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bundle_wraps");
const SNAPSHOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshots");
const CHUNKS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("chunks");

const fn wraps_table(table: WrapsTable) -> TableDefinition<'static, u64, &'static [u8]> {
    match table {
        WrapsTable::Bundles => BUNDLES,
        WrapsTable::Snapshots => SNAPSHOTS,
        WrapsTable::Frames => WRAPS,
    }
}

/// Bytes of the container's page cache: the working set of an append is its tree's right edge.
const CACHE_BYTES: usize = 8 << 20;

fn damaged(error: impl Into<redb::Error>) -> FramesError {
    use std::io::ErrorKind;
    match error.into() {
        // So redb says that a file is not one of its own, or is cut off.
        redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            FramesError::Damaged(error.to_string())
        }
        redb::Error::Io(error) => FramesError::Io(error.to_string()),
        redb::Error::PreviousIo => FramesError::Io("an earlier write failed".into()),
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => FramesError::Busy,
        other => FramesError::Damaged(other.to_string()),
    }
}

/// Damaged containers may panic inside their engine: that is damage too, not our end (a panic in it latches nothing of
/// ours, and a container that panicked is not used again).
fn guarded<T>(work: impl FnOnce() -> Result<T, FramesError>) -> Result<T, FramesError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(FramesError::Damaged("its engine panicked on it".into())))
}

/// The first rows of a store.
pub(in crate::store) struct Genesis<'a> {
    pub(in crate::store) meta: &'a [u8],
    pub(in crate::store) keys: &'a [(u64, Vec<u8>)],
    pub(in crate::store) bundle: (u64, &'a [u8]),
    pub(in crate::store) head: &'a [u8],
}

/// Rows in a redb database over any backend.
pub struct RedbFrames {
    database: Database,
}

impl RedbFrames {
    /// Opens what a backend holds, with a full check of the container's integrity.
    ///
    /// # Errors
    /// [`FramesError::Missing`] when it holds no bytes: an empty file is never initialised (trap 6).
    pub fn open(backend: impl StorageBackend) -> Result<Self, FramesError> {
        if backend.len().map_err(|error| FramesError::Io(error.to_string()))? == 0 {
            return Err(FramesError::Missing);
        }
        guarded(|| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(backend)
                .map_err(damaged)?;
            Ok(Self { database })
        })
    }

    /// Fills an empty backend. The caller makes it reachable only when this has returned.
    pub(in crate::store) fn create(backend: impl StorageBackend, genesis: &Genesis<'_>) -> Result<(), FramesError> {
        guarded(|| {
            let database =
                Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(damaged)?;
            let transaction = begin(&database)?;
            put(&transaction, META, 0, genesis.meta)?;
            for (number, row) in genesis.keys {
                put(&transaction, KEYS, *number, row)?;
            }
            put(&transaction, BUNDLES, genesis.bundle.0, genesis.bundle.1)?;
            put(&transaction, HEAD, 0, genesis.head)?;
            for table in [FRAMES, WRAPS, BUNDLE_WRAPS, SNAPSHOTS] {
                transaction.open_table(table).map_err(damaged)?;
            }
            transaction.open_table(CHUNKS).map_err(damaged)?;
            transaction.commit().map_err(damaged)?;
            database.close().map_err(damaged)
        })
    }

    fn row(&self, table: TableDefinition<'_, u64, &'static [u8]>, key: u64) -> Result<Option<Vec<u8>>, FramesError> {
        guarded(|| {
            let table = self.database.begin_read().map_err(damaged)?.open_table(table).map_err(damaged)?;
            Ok(table.get(key).map_err(damaged)?.map(|row| row.value().to_vec()))
        })
    }

    fn row_from(
        &self,
        table: TableDefinition<'_, u64, &'static [u8]>,
        from: u64,
    ) -> Result<Option<(u64, Vec<u8>)>, FramesError> {
        guarded(|| {
            let table = self.database.begin_read().map_err(damaged)?.open_table(table).map_err(damaged)?;
            let row = table.range(from..).map_err(damaged)?.next().transpose().map_err(damaged)?;
            Ok(row.map(|(key, row)| (key.value(), row.value().to_vec())))
        })
    }

    fn frame_rows(&self, found: Option<(u64, Vec<u8>)>) -> Result<Option<FrameRows>, FramesError> {
        let Some((first, frame)) = found else {
            return Ok(None);
        };
        Ok(Some(FrameRows {
            first: Position::new(first),
            frame,
            wraps: self.row(WRAPS, first)?,
            bundle_wrap: self.row(BUNDLE_WRAPS, first)?,
        }))
    }

    fn write(
        &self,
        expected: HeadMark,
        work: impl FnOnce(&WriteTransaction) -> Result<(), FramesError>,
    ) -> Result<(), FramesError> {
        guarded(|| {
            let transaction = begin(&self.database)?;
            let found = {
                let head = transaction.open_table(HEAD).map_err(damaged)?;
                head.get(0).map_err(damaged)?.map(|row| HeadMark::of(row.value()))
            };
            if found != Some(expected) {
                transaction.abort().map_err(damaged)?;
                return Err(FramesError::HeadMoved);
            }
            work(&transaction)?;
            transaction.commit().map_err(damaged)
        })
    }
}

fn begin(database: &Database) -> Result<WriteTransaction, FramesError> {
    let mut transaction = database.begin_write().map_err(damaged)?;
    transaction.set_durability(Durability::Immediate).map_err(damaged)?;
    Ok(transaction)
}

fn put(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, u64, &'static [u8]>,
    key: u64,
    row: &[u8],
) -> Result<(), FramesError> {
    transaction.open_table(table).map_err(damaged)?.insert(key, row).map_err(damaged)?;
    Ok(())
}

fn keep_from(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, u64, &'static [u8]>,
    first_kept: u64,
) -> Result<(), FramesError> {
    let mut table = transaction.open_table(table).map_err(damaged)?;
    table.retain_in(..first_kept, |_, _| false).map_err(damaged)
}

/// Rows of snapshots other than `kept` go; a range on each side, so that the kept chunks are not visited.
fn keep_snapshot(transaction: &WriteTransaction, kept: Option<u64>) -> Result<(), FramesError> {
    let mut wraps = transaction.open_table(SNAPSHOTS).map_err(damaged)?;
    wraps.retain(|id, _| Some(id) == kept).map_err(damaged)?;
    let mut chunks = transaction.open_table(CHUNKS).map_err(damaged)?;
    match kept {
        None => chunks.retain_in::<(u64, u32), _>(.., |_, _| false).map_err(damaged),
        Some(id) => {
            chunks.retain_in(..(id, 0), |_, _| false).map_err(damaged)?;
            chunks.retain_in((id.saturating_add(1), 0).., |_, _| false).map_err(damaged)
        }
    }
}

impl FrameStore for RedbFrames {
    fn meta(&self) -> Result<Option<Vec<u8>>, FramesError> {
        self.row(META, 0)
    }

    fn keys(&self) -> Result<Vec<(u64, Vec<u8>)>, FramesError> {
        guarded(|| {
            let table = self.database.begin_read().map_err(damaged)?.open_table(KEYS).map_err(damaged)?;
            let mut keys = Vec::new();
            for row in table.iter().map_err(damaged)?.take(STORE_KEYS_MAX + 1) {
                let (number, row) = row.map_err(damaged)?;
                keys.push((number.value(), row.value().to_vec()));
            }
            Ok(keys)
        })
    }

    fn head(&self) -> Result<Option<Vec<u8>>, FramesError> {
        self.row(HEAD, 0)
    }

    fn bundle(&self, number: u64) -> Result<Option<Vec<u8>>, FramesError> {
        self.row(BUNDLES, number)
    }

    fn frame_from(&self, from: Position) -> Result<Option<FrameRows>, FramesError> {
        let found = self.row_from(FRAMES, from.number())?;
        self.frame_rows(found)
    }

    fn frame_at(&self, at: Position) -> Result<Option<FrameRows>, FramesError> {
        let found = guarded(|| {
            let table = self.database.begin_read().map_err(damaged)?.open_table(FRAMES).map_err(damaged)?;
            let mut range = table.range(..=at.number()).map_err(damaged)?;
            let row = range.next_back().transpose().map_err(damaged)?;
            Ok(row.map(|(first, frame)| (first.value(), frame.value().to_vec())))
        })?;
        self.frame_rows(found)
    }

    fn snapshot(&self, id: u64) -> Result<Option<Vec<u8>>, FramesError> {
        self.row(SNAPSHOTS, id)
    }

    fn chunk(&self, id: u64, index: u32) -> Result<Option<Vec<u8>>, FramesError> {
        guarded(|| {
            let table = self.database.begin_read().map_err(damaged)?.open_table(CHUNKS).map_err(damaged)?;
            Ok(table.get((id, index)).map_err(damaged)?.map(|row| row.value().to_vec()))
        })
    }

    fn wraps_from(&self, table: WrapsTable, from: u64) -> Result<Option<(u64, Vec<u8>)>, FramesError> {
        self.row_from(wraps_table(table), from)
    }

    fn bundle_wrap(&self, first: u64) -> Result<Option<Vec<u8>>, FramesError> {
        self.row(BUNDLE_WRAPS, first)
    }

    fn append(&mut self, expected: HeadMark, rows: &Append<'_>, head: &[u8]) -> Result<(), FramesError> {
        self.write(expected, |transaction| {
            let first = rows.first.number();
            if let Some((number, wraps)) = rows.bundle {
                put(transaction, BUNDLES, number, wraps)?;
            }
            put(transaction, FRAMES, first, rows.frame)?;
            put(transaction, WRAPS, first, rows.wraps)?;
            put(transaction, BUNDLE_WRAPS, first, rows.bundle_wrap)?;
            put(transaction, HEAD, 0, head)
        })
    }

    fn set_head(&mut self, expected: HeadMark, head: &[u8]) -> Result<(), FramesError> {
        self.write(expected, |transaction| put(transaction, HEAD, 0, head))
    }

    fn begin_snapshot(
        &mut self,
        expected: HeadMark,
        id: u64,
        wraps: &[u8],
        kept: Option<u64>,
    ) -> Result<(), FramesError> {
        self.write(expected, |transaction| {
            keep_snapshot(transaction, kept)?;
            put(transaction, SNAPSHOTS, id, wraps)
        })
    }

    fn put_chunk(&mut self, expected: HeadMark, id: u64, index: u32, chunk: &[u8]) -> Result<(), FramesError> {
        self.write(expected, |transaction| {
            let mut chunks = transaction.open_table(CHUNKS).map_err(damaged)?;
            chunks.insert((id, index), chunk).map_err(damaged)?;
            Ok(())
        })
    }

    fn put_wraps(&mut self, expected: HeadMark, table: WrapsTable, rows: &[(u64, Vec<u8>)]) -> Result<(), FramesError> {
        self.write(expected, |transaction| {
            rows.iter().try_for_each(|(key, row)| put(transaction, wraps_table(table), *key, row))
        })
    }

    fn flip(&mut self, expected: HeadMark, head: &[u8], prefix: Prefix) -> Result<(), FramesError> {
        self.write(expected, |transaction| {
            // A frame that begins at or below the position ends there too: a snapshot sits at the end of a frame.
            let first_kept = prefix.through.next().number();
            keep_from(transaction, FRAMES, first_kept)?;
            keep_from(transaction, WRAPS, first_kept)?;
            keep_from(transaction, BUNDLE_WRAPS, first_kept)?;
            keep_from(transaction, BUNDLES, prefix.bundle_kept)?;
            keep_snapshot(transaction, Some(prefix.snapshot_kept))?;
            put(transaction, HEAD, 0, head)
        })
    }
}
