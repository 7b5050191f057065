//! `Commit`: FROST round one. The commitments of nonces that live in RAM; nothing durable is promised.

use super::Engine;
use super::caller::{Caller, Role};
use super::core::{Core, ended};
use super::nonces::NoncePair;
use super::refusal::Refusal;
use super::request::CommitRequest;
use crate::frost::{self, Commitments};
use crate::ids::{KeyGroupId, Member, SessionId};

impl Engine {
    /// `Commit`: the member's unspent commitments for the session, made if there are none. Promises nothing durable.
    ///
    /// # Errors
    /// [`Refusal`]; `capacity_exceeded` when the key group's live pairs are at their limit.
    pub fn commit(&self, caller: &Caller, request: &CommitRequest) -> Result<Commitments, Refusal> {
        let pair = caller
            .require(&[Role::Coordinator])
            .and_then(|()| self.pair(&request.key_group, &request.session, request.member));
        let answer = self.guard_signature(&request.key_group, pair);
        self.inner.tally.note("Commit", answer)
    }

    /// The member's current pair's commitments, made off the lock when there is none.
    pub(super) fn pair(
        &self,
        key_group: &KeyGroupId,
        session: &SessionId,
        member: Member,
    ) -> Result<Commitments, Refusal> {
        let key = (*key_group, session.clone(), member);
        let share = {
            let env = self.env();
            let mut core = self.core();
            core.settle(env.line)?;
            let group = core.durable_group(key_group)?;
            env.check_release(key_group)?;
            core.refuse_ended(key_group, session)?;
            let share = group.seats.get(&member).cloned();
            let share = share.ok_or(Refusal::MemberNotLocal { key_group: *key_group, member })?;
            if let Some(current) = core.nonces.current(&key) {
                return Ok(current.clone());
            }
            core.nonce_room(key_group)?;
            share
        };
        let mut entropy = (self.inner.entropy)();
        let (nonces, commitments) = frost::commit(&share, &mut entropy);
        let pair = NoncePair { nonces, commitments };
        let env = self.env();
        let mut core = self.core();
        core.settle(&self.inner.line)?;
        // The key group may have been frozen or the session aborted meanwhile: its nonces are wiped, and no new ones are kept.
        env.check_release(key_group)?;
        core.refuse_ended(key_group, session)?;
        core.nonce_room(key_group)?;
        Ok(core.nonces.insert(key, pair, env.now))
    }
}

impl Core {
    /// Refuses for a session that has ended. An end that is not durable makes no nonces and shows nothing: no signature of
    /// a pending finalisation leaves.
    fn refuse_ended(&self, key_group: &KeyGroupId, session: &SessionId) -> Result<(), Refusal> {
        if let Some(tombstone) = self.durable_group(key_group)?.tombstone(session) {
            return Err(ended(session, tombstone, None));
        }
        match self.admitted_group(key_group)?.tombstone(session) {
            Some(_) => Err(Refusal::Busy("the end of this session")),
            None => Ok(()),
        }
    }
}
