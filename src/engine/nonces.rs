//! The nonce pairs that are live: in RAM only, consumed by value, bounded, expiring (I6).

use std::collections::HashMap;

use frostkeep_hsm::clock::Millis;

use crate::frost::{Commitments, Nonces};
use crate::ids::{KeyGroupId, Member, SessionId};
use crate::limits;

/// A nonce pair with its public commitments.
pub(crate) struct NoncePair {
    pub(crate) nonces: Nonces,
    pub(crate) commitments: Commitments,
}

struct Live {
    pair: NoncePair,
    made: Millis,
}

type Key = (KeyGroupId, SessionId, Member);

/// All live pairs of a node, one a member and session.
#[derive(Default)]
pub(crate) struct NoncePool {
    pairs: HashMap<Key, Live>,
    per_group: HashMap<KeyGroupId, usize>,
}

impl NoncePool {
    /// The member's unspent commitments.
    pub(crate) fn current(&self, key: &Key) -> Option<&Commitments> {
        self.pairs.get(key).map(|live| &live.pair.commitments)
    }

    /// Whether one more pair of the key group fits.
    pub(crate) fn has_room(&self, key_group: &KeyGroupId) -> bool {
        self.per_group.get(key_group).copied().unwrap_or(0) < limits::NONCE_PAIRS_MAX
    }

    /// Keeps `pair` unless there is one already, which then stays: repeats return the same commitments.
    pub(crate) fn insert(&mut self, key: Key, pair: NoncePair, now: Millis) -> Commitments {
        let key_group = key.0;
        let mut added = false;
        let commitments = self
            .pairs
            .entry(key)
            .or_insert_with(|| {
                added = true;
                Live { pair, made: now }
            })
            .pair
            .commitments
            .clone();
        if added {
            *self.per_group.entry(key_group).or_default() += 1;
        }
        commitments
    }

    /// Takes the pair out for its one use. From here on it is spent, whatever happens.
    pub(crate) fn take(&mut self, key: &Key) -> Option<NoncePair> {
        let live = self.pairs.remove(key)?;
        self.forget_one(&key.0);
        Some(live.pair)
    }

    /// Wipes every pair of a session.
    pub(crate) fn wipe_session(&mut self, key_group: &KeyGroupId, session: &SessionId) {
        self.retain(|(group, id, _), _| group != key_group || id != session);
    }

    /// Wipes every pair of a key group.
    pub(crate) fn wipe_group(&mut self, key_group: &KeyGroupId) {
        self.retain(|(group, _, _), _| group != key_group);
    }

    /// Wipes what is too old.
    pub(crate) fn expire(&mut self, now: Millis) {
        self.retain(|_, live| now.since(live.made) < limits::NONCE_PAIR_AGE_MS_MAX);
    }

    fn retain(&mut self, keep: impl Fn(&Key, &Live) -> bool) {
        self.pairs.retain(|key, live| keep(key, live));
        self.per_group.clear();
        for (group, _, _) in self.pairs.keys() {
            *self.per_group.entry(*group).or_default() += 1;
        }
    }

    fn forget_one(&mut self, key_group: &KeyGroupId) {
        if let Some(count) = self.per_group.get_mut(key_group) {
            *count = count.saturating_sub(1);
        }
    }
}
