//! What an administrator does: freeze and thaw, policy, retirement. New identities are in `replace`.

use std::time::Duration;

use rand_core::RngCore;

use super::caller::{Caller, Role};
use super::core::{Core, Env, encode};
use super::freeze::{FreezeReport, Gates};
use super::record::Record;
use super::refusal::Refusal;
use super::state::{Phase, key_group_of};
use super::{Engine, EntropySource, wait};
use crate::ids::{FreezeId, KeyGroupId};
use crate::limits::DENY_REASON_BYTES_MAX;
use crate::policy::SigningPolicy;
use crate::store::deny::{Denial, DenyFiles};
use crate::store::{Position, Releases, SlotKind, Status, Storage};

/// Freezes in memory, drains, then syncs a deny file off every lock (I8). Works without an open state.
///
/// # Errors
/// [`Refusal::PermissionDenied`] and an unusable reason, before anything is done. A deny file that fails or takes too long
/// is part of the report: the group is frozen in memory all the same.
pub async fn freeze_now(
    gates: &Gates,
    deny: &std::sync::Arc<DenyFiles>,
    entropy: &EntropySource,
    caller: &Caller,
    denial: (KeyGroupId, &str, u64),
    wait_ms_max: u64,
) -> Result<FreezeReport, Refusal> {
    let (key_group, reason, since_unix) = denial;
    caller.require(&[Role::Admin])?;
    if reason.len() > DENY_REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        return Err(Refusal::InvalidRequest(format!(
            "a freeze reason of {} bytes: at most {DENY_REASON_BYTES_MAX} without control characters are allowed",
            reason.len()
        )));
    }
    let mut id = [0; 16];
    entropy().fill_bytes(&mut id);
    let freeze = FreezeId::new(id);
    gates.freeze(&key_group, freeze);
    let files = std::sync::Arc::clone(deny);
    let denial = Denial { key_group, freeze, since_unix, reason: reason.into() };
    let written =
        wait::blocking(move || files.write(&denial).map_err(|error| Refusal::FreezeNotDurable(error.to_string())));
    let deny_file = match tokio::time::timeout(Duration::from_millis(wait_ms_max), written).await {
        Ok(done) => done,
        Err(_) => Err(Refusal::FreezeNotDurable(format!("its sync has not returned within {wait_ms_max} ms"))),
    };
    Ok(FreezeReport { freeze, deny_file, position: None })
}

impl Engine {
    /// Freezes a key group: at once, in an outage and with a full line too. Returns when every release that passed the
    /// check before it is over.
    ///
    /// # Errors
    /// As [`freeze_now`].
    pub async fn freeze(&self, caller: &Caller, key_group: &KeyGroupId, reason: &str) -> Result<FreezeReport, Refusal> {
        let (engine, caller, key_group, reason) = (self.clone(), caller.clone(), *key_group, reason.to_owned());
        let freeze = async move {
            let inner = &engine.inner;
            let denial = (key_group, reason.as_str(), inner.clock.unix_seconds());
            let wait_ms_max = inner.config.deny_file_wait_ms_max;
            let report = freeze_now(&inner.gates, &inner.deny, &inner.entropy, &caller, denial, wait_ms_max).await?;
            Ok(engine.adopt_freeze(report, &key_group, &reason))
        };
        // A caller that goes away while the deny file is on its way must not leave nonces alive or the freeze unrecorded.
        match tokio::spawn(freeze).await {
            Ok(done) => done,
            Err(error) => Err(Refusal::Internal(format!("a freeze ended early: {error}"))),
        }
    }

    /// Records a freeze that is in force in memory already, and wipes the key group's nonces.
    pub(crate) fn adopt_freeze(&self, mut report: FreezeReport, key_group: &KeyGroupId, reason: &str) -> FreezeReport {
        let env = self.env();
        let mut core = self.core();
        core.nonces.wipe_group(key_group);
        report.position = core.record_freeze(&env, key_group, report.freeze, reason);
        report
    }

    /// Lifts the named freezes: recorded first, lifted when that record is durable. Returns the freezes still in force.
    ///
    /// # Errors
    /// [`Refusal`]; the key group stays frozen then.
    pub async fn thaw(
        &self,
        caller: &Caller,
        key_group: &KeyGroupId,
        freezes: &[FreezeId],
    ) -> Result<Vec<FreezeId>, Refusal> {
        let position = {
            let env = self.env();
            self.core().record_thaw(&env, caller, key_group, freezes)?
        };
        let (engine, id, lifted) = (self.clone(), *key_group, freezes.to_vec());
        // A caller that goes away, or that hears of an outage, must not keep frozen in memory what the state has thawed.
        let lifting = tokio::spawn(async move { engine.lift_when_durable(position, &id, lifted).await });
        self.await_durable(position, true).await?;
        lifting.await.map_err(|error| Refusal::Internal(format!("a thaw ended early: {error}")))?;
        Ok(self.inner.gates.freezes(key_group))
    }

    /// Lifts freezes when their thaw is durable; never, when this process writes no more.
    async fn lift_when_durable(&self, position: Position, key_group: &KeyGroupId, lifted: Vec<FreezeId>) {
        let over = |status: &Status| {
            matches!(status.storage, Storage::Failed { .. }) || matches!(status.releases, Releases::Closed)
        };
        let mut status = self.inner.line.subscribe();
        let reached = status.wait_for(|status| status.durable >= position || over(status)).await;
        if !reached.is_ok_and(|status| status.durable >= position) {
            return;
        }
        self.inner.gates.lift(key_group, &lifted);
        let deny = std::sync::Arc::clone(&self.inner.deny);
        // A file that stays behind is removed by the next opening, which knows that its id is lifted.
        let removed =
            wait::blocking(move || deny.remove(&lifted).map_err(|error| Refusal::FreezeNotDurable(error.to_string())));
        if let Err(error) = removed.await {
            tracing::warn!(%key_group, %error, "a lifted deny file could not be removed");
        }
    }

    /// Replaces the policy of a key group.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn set_policy(
        &self,
        caller: &Caller,
        key_group: &KeyGroupId,
        policy: &SigningPolicy,
    ) -> Result<Position, Refusal> {
        caller.require(&[Role::Admin])?;
        policy.encode().map_err(|error| Refusal::InvalidRequest(error.to_string()))?;
        let (key_group, policy) = (*key_group, policy.clone());
        let (unix, by) = (self.inner.clock.unix_seconds(), caller.name.clone());
        self.record_by_admin(Record::PolicySet { key_group, policy, unix, by }).await
    }

    /// Ends a key group for ever: wipes its shares, frees its sessions.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn retire_key_group(&self, caller: &Caller, key_group: &KeyGroupId) -> Result<Position, Refusal> {
        caller.require(&[Role::Admin])?;
        self.record_by_admin(Record::Retired { key_group: *key_group }).await
    }

    /// Drops a prepared share for ever. When the other members certify the key group all the same, this node's share of it
    /// is gone.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn danger_drop_prepared(&self, caller: &Caller, key_group: &KeyGroupId) -> Result<Position, Refusal> {
        caller.require(&[Role::Admin])?;
        self.record_by_admin(Record::PreparedDropped { key_group: *key_group }).await
    }

    async fn record_by_admin(&self, record: Record) -> Result<Position, Refusal> {
        let position = {
            let env = self.env();
            self.core().admit_admin(&env, record)?
        };
        self.await_durable(position, true).await?;
        Ok(position)
    }
}

impl Core {
    pub(super) fn admit_admin(&mut self, env: &Env<'_>, record: Record) -> Result<Position, Refusal> {
        self.settle(env.line)?;
        let id = key_group_of(&record).ok_or_else(|| Refusal::Internal("a record of no key group".into()))?;
        let group = self.ledger.admitted().key_groups.get(&id).ok_or(Refusal::KeyGroupUnknown(id))?;
        match (&group.phase, &record) {
            (Phase::Prepared, Record::PreparedDropped { .. }) => {}
            (Phase::Active { .. }, Record::PreparedDropped { .. }) => {
                return Err(Refusal::InvalidRequest(format!(
                    "key group {id} is active: nothing of it is merely prepared"
                )));
            }
            (Phase::Active { .. }, _) => {}
            (Phase::Prepared, _) => return Err(Refusal::KeyGroupPrepared(id)),
            (Phase::Retired { .. }, _) => return Err(Refusal::KeyGroupRetired(id)),
        }
        env.admit_work()?;
        let retires = matches!(record, Record::Retired { .. });
        let encoded = encode(&record)?.anchor_now();
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        let position = self.install(env.line, slot, record, encoded)?;
        if retires {
            self.nonces.wipe_group(&id);
            self.idle.forget_group(&id);
            self.timers.forget_group(&id);
        }
        Ok(position)
    }
}
