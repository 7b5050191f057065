//! When this node first saw an attempt that stands: its own clock for `VoteTimeout`. Not replay protection: a full registry
//! forgets the oldest, whose coordinator then has its time again.

use std::collections::{BTreeMap, HashMap};

use frostkeep_hsm::clock::Millis;

use crate::ids::{AttemptId, KeyGroupId, SessionId};
use crate::limits;
use crate::roast::AttemptContext;

/// Session, number, id: the attempts of a session stand together, the lower ones first.
type Key = (SessionId, u32, AttemptId);

/// The timers of one key group, so that no group takes another's room.
#[derive(Default)]
struct Group {
    started: BTreeMap<Key, (Millis, u64)>,
    by_age: BTreeMap<u64, Key>,
}

/// The timers of one node.
#[derive(Default)]
pub(crate) struct Timers {
    groups: HashMap<KeyGroupId, Group>,
    serial: u64,
}

impl Timers {
    /// When the attempt's timer started: now, when there was none. `active` is the number of the session's active attempt;
    /// timers of the attempts before it go.
    pub(crate) fn start(
        &mut self,
        key_group: &KeyGroupId,
        session: &SessionId,
        attempt: &AttemptContext,
        active: Option<u32>,
        now: Millis,
    ) -> Millis {
        let group = self.groups.entry(*key_group).or_default();
        if let Some(active) = active {
            group.forget(session, active);
        }
        let key = (session.clone(), attempt.number(), attempt.id());
        if let Some((started, _)) = group.started.get(&key) {
            return *started;
        }
        if group.started.len() >= limits::VOTE_TIMERS_MAX
            && let Some((_, oldest)) = group.by_age.pop_first()
        {
            group.started.remove(&oldest);
        }
        self.serial += 1;
        group.by_age.insert(self.serial, key.clone());
        group.started.insert(key, (now, self.serial));
        now
    }

    /// The session has ended.
    pub(crate) fn forget_session(&mut self, key_group: &KeyGroupId, session: &SessionId) {
        if let Some(group) = self.groups.get_mut(key_group) {
            group.forget(session, u32::MAX);
        }
    }

    /// The key group has ended.
    pub(crate) fn forget_group(&mut self, key_group: &KeyGroupId) {
        self.groups.remove(key_group);
    }

    /// Drops what is too old to be asked for.
    pub(crate) fn expire(&mut self, now: Millis) {
        for group in self.groups.values_mut() {
            while let Some(oldest) = group.by_age.first_entry() {
                let started = group.started.get(oldest.get()).map(|(started, _)| *started);
                if started.is_some_and(|started| now.since(started) < limits::VOTE_TIMER_AGE_MS_MAX) {
                    break;
                }
                group.started.remove(&oldest.remove());
            }
        }
        self.groups.retain(|_, group| !group.started.is_empty());
    }
}

impl Group {
    /// Forgets the attempts of a session below `number`.
    fn forget(&mut self, session: &SessionId, number: u32) {
        let first = (session.clone(), 0, AttemptId::new([0; 32]));
        let end = (session.clone(), number, AttemptId::new([0; 32]));
        let gone: Vec<Key> = self.started.range(first..end).map(|(key, _)| key.clone()).collect();
        for key in gone {
            if let Some((_, serial)) = self.started.remove(&key) {
                self.by_age.remove(&serial);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Message;
    use crate::roast::AttemptBinding;

    fn key_group(last: u8) -> KeyGroupId {
        let mut bytes = [last; 33];
        bytes[0] = 2;
        KeyGroupId::new(bytes).unwrap()
    }

    fn attempt(session: &SessionId, number: u32) -> AttemptContext {
        let message = Message::new([1; 32]);
        let binding = AttemptBinding { key_group: &key_group(1), session, message: &message, threshold: 2 };
        AttemptContext::derive(&binding, number, &[1, 2, 3]).unwrap()
    }

    #[test]
    fn a_timer_runs_on_until_its_attempt_has_given_way_or_its_session_has_ended() {
        let (group, session) = (key_group(1), SessionId::new("a").unwrap());
        let (one, two) = (attempt(&session, 1), attempt(&session, 2));
        let mut timers = Timers::default();
        assert_eq!(timers.start(&group, &session, &one, None, Millis(10)), Millis(10));
        // Somebody names a higher attempt of a session that has no active one: nothing gives way to that.
        assert_eq!(timers.start(&group, &session, &two, None, Millis(20)), Millis(20));
        assert_eq!(timers.start(&group, &session, &one, Some(1), Millis(30)), Millis(10));
        assert_eq!(timers.start(&group, &session, &two, Some(2), Millis(40)), Millis(20));
        assert_eq!(timers.start(&group, &session, &one, None, Millis(50)), Millis(50), "attempt 1 gave way to 2");
        timers.forget_session(&group, &session);
        assert_eq!(timers.start(&group, &session, &two, None, Millis(60)), Millis(60));
        timers.forget_group(&group);
        assert!(timers.groups.is_empty());
    }

    #[test]
    fn a_full_registry_forgets_its_oldest_and_takes_no_room_from_another_key_group() {
        let (busy, quiet) = (key_group(1), key_group(2));
        let mut timers = Timers::default();
        let quiet_session = SessionId::new("quiet").unwrap();
        let attempt_of_any = attempt(&quiet_session, 1);
        timers.start(&quiet, &quiet_session, &attempt_of_any, None, Millis(1));
        let name = |at: usize| SessionId::new(&format!("s{at}")).unwrap();
        for at in 0..=limits::VOTE_TIMERS_MAX {
            timers.start(&busy, &name(at), &attempt_of_any, None, Millis(at as u64));
        }
        let group = &timers.groups[&busy];
        assert_eq!((group.started.len(), group.by_age.len()), (limits::VOTE_TIMERS_MAX, limits::VOTE_TIMERS_MAX));
        assert_eq!(timers.start(&busy, &name(1), &attempt_of_any, None, Millis(99)), Millis(1));
        assert_eq!(timers.start(&busy, &name(0), &attempt_of_any, None, Millis(99)), Millis(99), "the oldest has gone");
        assert_eq!(timers.start(&quiet, &quiet_session, &attempt_of_any, None, Millis(99)), Millis(1));
        timers.expire(Millis(limits::VOTE_TIMER_AGE_MS_MAX + limits::VOTE_TIMERS_MAX as u64));
        assert!(timers.groups.is_empty(), "every one has come of age");
    }
}
