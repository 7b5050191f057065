//! The persister's care for wraps: what was sealed while a token was away is wrapped under its key, a few rows between two
//! batches, until any one token opens everything again.

use std::collections::{BTreeMap, BTreeSet};

use frostkeep_hsm::provider::{DataKey, KeyName, SealedObject, Unavailable, UnwrapError, Wrap};
use frostkeep_hsm::scheme::key_name;

use super::super::core::Core;
use super::super::frames::{FramesError, WrapsTable};
use super::super::rows::{KeyState, RowKind, open_wraps, wraps_row};
use super::super::seal::{BundleKey, OBJECT_BUNDLE, OBJECT_FRAME, OBJECT_SNAPSHOT, bundle_of};
use super::{Persister, Worked};
use crate::ids::to_hex;
use crate::limits::{CARE_MS_MAX, WRAPS_CARED_PER_STEP_MAX, WRAPS_LOOKED_AT_PER_STEP_MAX};

/// Where one key's care stands: rows before it have a wrap of that key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor {
    table: WrapsTable,
    from: u64,
}

const BEGINNING: Cursor = Cursor { table: WrapsTable::Bundles, from: 0 };

/// Which keys have rows without a wrap of theirs. A key that is not here is current.
pub(super) struct Care {
    behind: BTreeMap<KeyName, Cursor>,
    // The last bundle that was opened for it: frames are in order, and so are their bundles.
    bundle: Option<BundleKey>,
    // Keys with a row that could not be cared for: not current for the life of this process.
    given_up: BTreeSet<KeyName>,
}

/// What stops a step.
enum Stopped {
    Provider,
    /// A write, which is final for the process.
    Storage(FramesError),
    /// A row that cannot be read or does not say what it must: it stays as it is, for whoever looks at it (`fsck`).
    Damaged(String),
}

impl Care {
    /// After an opening nothing is known: every row is looked at once.
    pub(super) fn new(core: &Core) -> Self {
        Self {
            behind: active(core).into_iter().map(|name| (name, BEGINNING)).collect(),
            bundle: None,
            given_up: BTreeSet::new(),
        }
    }

    /// A row with these wraps was written.
    pub(super) fn wrote(&mut self, core: &Core, table: WrapsTable, id: u64, wraps: &[KeyName]) {
        for name in active(core) {
            if !wraps.contains(&name) && !self.given_up.contains(&name) {
                let here = Cursor { table, from: id };
                let cursor = self.behind.entry(name).or_insert(here);
                *cursor = (*cursor).min(here);
            }
        }
    }

    /// Whether everything has a wrap of this key.
    pub(super) fn is_current(&self, core: &Core, name: KeyName) -> bool {
        active(core).contains(&name) && !self.behind.contains_key(&name) && !self.given_up.contains(&name)
    }
}

fn active(core: &Core) -> Vec<KeyName> {
    let active = core.keys.iter().filter(|(_, key)| key.state == KeyState::Active);
    active.map(|(_, key)| key_name(&key.descriptor)).collect()
}

/// How a row of wraps is named in its checksum and in what its wraps are bound to.
const fn kinds(table: WrapsTable) -> (RowKind, u8) {
    match table {
        WrapsTable::Bundles => (RowKind::BundleWraps, OBJECT_BUNDLE),
        WrapsTable::Snapshots => (RowKind::SnapshotWraps, OBJECT_SNAPSHOT),
        WrapsTable::Frames => (RowKind::FrameWraps, OBJECT_FRAME),
    }
}

impl Persister {
    /// Whether a key that is there has rows to be caught up with.
    pub(super) fn care_is_due(&self) -> bool {
        self.next_cared_for().is_some()
    }

    fn next_cared_for(&self) -> Option<(KeyName, Cursor)> {
        let open = self.core.provider.tokens();
        let open: Vec<KeyName> = open
            .iter()
            .filter(|token| token.outage.is_none())
            .flat_map(|token| token.keys.iter().map(key_name))
            .collect();
        self.care.behind.iter().find(|(name, _)| open.contains(name)).map(|(name, cursor)| (*name, *cursor))
    }

    /// One piece of care, if any is due.
    pub(super) fn care(&mut self) -> Worked {
        let Some((name, cursor)) = self.next_cared_for() else {
            return Worked::Done;
        };
        match self.catch_up(name, cursor) {
            Ok(next) => {
                match next {
                    Some(next) => {
                        self.care.behind.insert(name, next);
                    }
                    None => {
                        tracing::info!(key = %to_hex(&name.0), "everything has a wrap of this key");
                        self.care.behind.remove(&name);
                        self.care.bundle = None;
                    }
                }
                Worked::Done
            }
            Err(Stopped::Provider) => Worked::Waits,
            Err(Stopped::Storage(error)) => {
                self.fail("catching up wraps", &error);
                Worked::Waits
            }
            Err(Stopped::Damaged(problem)) => {
                // It is not current, and will not be in this process.
                tracing::error!(problem, "a row of wraps is damaged: run fsck");
                self.care.behind.remove(&name);
                self.care.given_up.insert(name);
                Worked::Done
            }
        }
    }

    /// Looks at the next rows; where the following ones begin, or none at the end.
    fn catch_up(&mut self, name: KeyName, cursor: Cursor) -> Result<Option<Cursor>, Stopped> {
        let Cursor { table, mut from } = cursor;
        let begun = self.now();
        let (row_kind, object_kind) = kinds(table);
        let mut made: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut ended = false;
        for _ in 0..WRAPS_LOOKED_AT_PER_STEP_MAX {
            let read = self.core.frames.wraps_from(table, from);
            let Some((id, row)) = read.map_err(|error| Stopped::Damaged(format!("{table:?} {from}: {error}")))? else {
                ended = true;
                break;
            };
            let damaged = |problem: String| Stopped::Damaged(format!("{table:?} {id}: {problem}"));
            let mut wraps = open_wraps(row_kind, id, &row).map_err(|error| damaged(error.to_string()))?;
            if !wraps.iter().any(|wrap| wrap.key == name) {
                let object = SealedObject { store: self.core.store, kind: object_kind, id };
                let key = self.data_key(table, &object, &wraps)?;
                let unavailable = |_: Unavailable| Stopped::Provider;
                let wrap = self.core.provider.wrap_under(name, &object, &key).map_err(unavailable)?;
                self.counters.seals += 1;
                // One wrong answer of a token must not count as care.
                let again = self.core.provider.unwrap(&object, std::slice::from_ref(&wrap));
                match again {
                    Ok(found) if found.expose() == key.expose() => {}
                    Ok(_) | Err(UnwrapError::Corrupt) => return Err(damaged("its new wrap does not open".into())),
                    Err(UnwrapError::Unavailable(_) | UnwrapError::NoReachableKey { .. }) => {
                        return Err(Stopped::Provider);
                    }
                }
                wraps.push(wrap);
                made.push((id, wraps_row(row_kind, id, &wraps).map_err(|error| damaged(error.to_string()))?));
            }
            from = id.saturating_add(1);
            let took_ms = self.now().since(begun);
            if made.len() >= WRAPS_CARED_PER_STEP_MAX || took_ms >= CARE_MS_MAX || self.line.waiting_records() > 0 {
                break;
            }
        }
        if !made.is_empty() {
            self.core.frames.put_wraps(self.core.mark, table, &made).map_err(Stopped::Storage)?;
            self.counters.syncs += 1;
            self.counters.wraps_caught_up += made.len() as u64;
            self.counters.row_bytes += made.iter().map(|(_, row)| row.len() as u64).sum::<u64>();
        }
        Ok(match (ended, table) {
            (false, table) => Some(Cursor { table, from }),
            (true, WrapsTable::Bundles) => Some(Cursor { table: WrapsTable::Snapshots, from: 0 }),
            (true, WrapsTable::Snapshots) => Some(Cursor { table: WrapsTable::Frames, from: 0 }),
            (true, WrapsTable::Frames) => None,
        })
    }

    /// The data key of a row: a frame's by its bundle, without a token; another by a token that opens it.
    fn data_key(&mut self, table: WrapsTable, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, Stopped> {
        match table {
            WrapsTable::Bundles if object.id == self.core.bundle.number => {
                Ok(DataKey::new(self.core.bundle.key.expose()))
            }
            WrapsTable::Bundles | WrapsTable::Snapshots => self.unwrapped(object, wraps),
            WrapsTable::Frames => {
                let damaged = |problem: &str| Stopped::Damaged(format!("frame {}: {problem}", object.id));
                let row = self.core.frames.bundle_wrap(object.id).map_err(|error| damaged(&error.to_string()))?;
                let row = row.ok_or_else(|| damaged("has no bundle wrap"))?;
                let number = bundle_of(&row).ok_or_else(|| damaged("a bundle wrap of a wrong length"))?;
                let opened = if number == self.core.bundle.number {
                    self.core.bundle.unwrap(object, &row)
                } else {
                    self.bundle(number)?.unwrap(object, &row)
                };
                opened.map_err(|_| damaged("its bundle wrap does not open"))
            }
        }
    }

    fn bundle(&mut self, number: u64) -> Result<&BundleKey, Stopped> {
        if self.care.bundle.as_ref().is_none_or(|bundle| bundle.number != number) {
            let damaged = |problem: String| Stopped::Damaged(format!("bundle {number}: {problem}"));
            let row = self.core.frames.bundle(number).map_err(|error| damaged(error.to_string()))?;
            let row = row.ok_or_else(|| damaged("is missing".into()))?;
            let wraps = open_wraps(RowKind::BundleWraps, number, &row).map_err(|error| damaged(error.to_string()))?;
            let object = SealedObject { store: self.core.store, kind: OBJECT_BUNDLE, id: number };
            let key = self.unwrapped(&object, &wraps)?;
            self.care.bundle = Some(BundleKey { number, key });
        }
        self.care.bundle.as_ref().ok_or(Stopped::Provider)
    }

    fn unwrapped(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, Stopped> {
        self.core.provider.unwrap(object, wraps).map_err(|error| match error {
            UnwrapError::Unavailable(_) | UnwrapError::NoReachableKey { .. } => Stopped::Provider,
            UnwrapError::Corrupt => Stopped::Damaged(format!("object {} {}: does not open", object.kind, object.id)),
        })
    }
}
