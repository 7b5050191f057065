//! The emergency stop of a key group (I8): a flag in memory that is drained, a deny file, a record. It needs no token
//! and no state, so a sealed node takes it too.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::caller::{Caller, Role};
use super::core::{Core, Env, encode};
use super::record::Record;
use super::refusal::Refusal;
use crate::ids::{FreezeId, KeyGroupId};
use crate::limits;
use crate::store::{Position, SlotKind};

/// Whether an unreadable deny file freezes every group, and the freezes in force, a gate a key group.
///
/// A release holds its gate's read side from the check until the encoded reply is handed over; a freeze takes the write
/// side, so it returns only when every release that passed the check before it is over. Nothing awaits inside.
#[derive(Default)]
pub struct Gates {
    groups: Mutex<HashMap<KeyGroupId, Arc<RwLock<BTreeSet<FreezeId>>>>>,
    every_group: RwLock<bool>,
}

impl Gates {
    /// Runs `hand_over` unless the key group is frozen. It must not block.
    ///
    /// # Errors
    /// [`Refusal::Frozen`].
    pub fn release<R>(&self, key_group: &KeyGroupId, hand_over: impl FnOnce() -> R) -> Result<R, Refusal> {
        let gate = self.gate(key_group);
        let every_group = self.every_group.read().unwrap_or_else(PoisonError::into_inner);
        let freezes = gate.read().unwrap_or_else(PoisonError::into_inner);
        if *every_group || !freezes.is_empty() {
            return Err(Refusal::Frozen { key_group: *key_group, freezes: freezes.iter().copied().collect() });
        }
        Ok(hand_over())
    }

    /// Refuses when the key group is frozen.
    ///
    /// # Errors
    /// [`Refusal::Frozen`].
    pub fn check(&self, key_group: &KeyGroupId) -> Result<(), Refusal> {
        let every_group = *self.every_group.read().unwrap_or_else(PoisonError::into_inner);
        let freezes = self.freezes(key_group);
        if every_group || !freezes.is_empty() {
            return Err(Refusal::Frozen { key_group: *key_group, freezes });
        }
        Ok(())
    }

    /// Freezes, and returns when every release that passed before is over.
    pub fn freeze(&self, key_group: &KeyGroupId, freeze: FreezeId) {
        self.gate(key_group).write().unwrap_or_else(PoisonError::into_inner).insert(freeze);
    }

    /// Freezes every key group, for the life of the process: a deny file could not be read.
    pub fn freeze_every_group(&self) {
        *self.every_group.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// The freezes in force.
    pub fn freezes(&self, key_group: &KeyGroupId) -> Vec<FreezeId> {
        // Looked up, not made: a caller that asks for many groups leaves nothing behind.
        let gate = self.groups().get(key_group).cloned();
        gate.map_or_else(Vec::new, |gate| gate.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect())
    }

    pub(crate) fn lift(&self, key_group: &KeyGroupId, freezes: &[FreezeId]) {
        let gate = self.gate(key_group);
        let mut in_force = gate.write().unwrap_or_else(PoisonError::into_inner);
        in_force.retain(|freeze| !freezes.contains(freeze));
    }

    fn gate(&self, key_group: &KeyGroupId) -> Arc<RwLock<BTreeSet<FreezeId>>> {
        Arc::clone(self.groups().entry(*key_group).or_default())
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<KeyGroupId, Arc<RwLock<BTreeSet<FreezeId>>>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a freeze did.
#[derive(Debug, Clone)]
pub struct FreezeReport {
    /// The freeze's name; a thaw names it.
    pub freeze: FreezeId,
    /// [`Refusal::FreezeNotDurable`] when the deny file is not on disk (yet): the group is frozen in memory then.
    pub deny_file: Result<(), Refusal>,
    /// The position of its record, when the node is open and the line had a slot. Without one, the next opening
    /// records it from the deny file.
    pub position: Option<Position>,
}

impl Core {
    /// Records a freeze whose flag is set already. No role, no state of the key group and no full line stops it.
    pub(crate) fn record_freeze(
        &mut self,
        env: &Env<'_>,
        key_group: &KeyGroupId,
        freeze: FreezeId,
        reason: &str,
    ) -> Option<Position> {
        let group = self.ledger.admitted().key_groups.get(key_group)?;
        let in_force = group.freezes.values().filter(|known| !known.lifted).count();
        // As many are in force as there can be deny files: one more changes nothing, and its record would.
        if group.freezes.contains_key(&freeze) || in_force >= limits::DENY_FILES_MAX {
            return None;
        }
        let record = Record::Frozen { key_group: *key_group, freeze, reason: reason.into(), unix: env.unix };
        let encoded = encode(&record).ok()?.anchor_now();
        let slot = env.reserve(SlotKind::Freeze, encoded.size_bytes()).ok()?;
        self.install(env.line, slot, record, encoded).ok()
    }

    /// Records a thaw: pending until its position is durable, and lifted only then.
    pub(crate) fn record_thaw(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        key_group: &KeyGroupId,
        freezes: &[FreezeId],
    ) -> Result<Position, Refusal> {
        caller.require(&[Role::Admin])?;
        self.settle(env.line)?;
        let group = self.ledger.admitted().key_groups.get(key_group).ok_or(Refusal::KeyGroupUnknown(*key_group))?;
        if freezes.is_empty() || freezes.len() > limits::FREEZES_PER_THAW_MAX {
            return Err(Refusal::InvalidRequest(format!(
                "{} freezes named: 1 to {} are allowed",
                freezes.len(),
                limits::FREEZES_PER_THAW_MAX
            )));
        }
        let in_force = env.gates.freezes(key_group);
        for freeze in freezes {
            if !in_force.contains(freeze) && !group.freezes.contains_key(freeze) {
                return Err(Refusal::InvalidRequest(format!("freeze {freeze} is not known for key group {key_group}")));
            }
        }
        env.admit_work()?;
        let record = Record::Thawed {
            key_group: *key_group,
            freezes: freezes.to_vec(),
            unix: env.unix,
            by: caller.name.clone(),
        };
        let encoded = encode(&record)?.anchor_now();
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        self.install(env.line, slot, record, encoded)
    }
}
