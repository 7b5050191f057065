//! Key groups as they stand, durably, for status and for those who reach their members.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use super::core::Core;
use super::freeze::Gates;
use super::refusal::Refusal;
use super::state::{KeyGroup, Phase};
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, CeremonyId, FreezeId, KeyGroupId, Member};
use crate::keygen::Certificate;
use crate::policy::SigningPolicy;

/// Where a key group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyGroupPhase {
    /// The shares are kept and refuse to sign: the certificate has not come.
    Prepared,
    /// It signs.
    Active,
    /// It has ended; its shares are wiped.
    Retired,
}

/// A key group as it stands on this node, durably. Holds no secret.
#[derive(Debug, Clone)]
pub struct KeyGroupView {
    /// Its group verifying key.
    pub id: KeyGroupId,
    /// Where it stands.
    pub phase: KeyGroupPhase,
    /// The key generation that made it.
    pub ceremony: CeremonyId,
    /// Members that must sign together.
    pub threshold: u16,
    /// All members, with the identities in force: those of the certificate, but for the replaced.
    pub seats: BTreeMap<Member, IdentityKey>,
    /// This node's members, ascending; none any more when it is retired.
    pub local_members: Vec<Member>,
    /// How its attempts advance.
    pub attempt_policy: AttemptPolicy,
    /// Its signing policy, without what this node's configuration tightens.
    pub policy: Arc<SigningPolicy>,
    /// Its certificate, unless it is only prepared.
    pub certificate: Option<Arc<Certificate>>,
    /// The freezes in force. They come into force before they are durable.
    pub freezes: Vec<FreezeId>,
    /// Whether it is frozen: an unreadable deny file freezes it without an id.
    pub frozen: bool,
    /// Open sessions.
    pub sessions: usize,
}

impl KeyGroupView {
    fn of(id: &KeyGroupId, group: &KeyGroup, gates: &Gates) -> Self {
        let (phase, certificate) = match &group.phase {
            Phase::Prepared => (KeyGroupPhase::Prepared, None),
            Phase::Active { certificate, .. } => (KeyGroupPhase::Active, Some(Arc::clone(certificate))),
            Phase::Retired { certificate, .. } => (KeyGroupPhase::Retired, Some(Arc::clone(certificate))),
        };
        Self {
            id: *id,
            phase,
            ceremony: group.ceremony,
            threshold: group.group_key.threshold(),
            seats: (*group.identities).clone(),
            local_members: group.seats.keys().copied().collect(),
            attempt_policy: group.attempt_policy,
            policy: Arc::clone(&group.policy),
            certificate,
            freezes: gates.freezes(id),
            frozen: gates.check(id).is_err(),
            sessions: group.sessions.len(),
        }
    }
}

impl Engine {
    /// Every key group of this node, by id.
    ///
    /// # Errors
    /// [`Refusal::Internal`].
    pub fn key_groups(&self) -> Result<Vec<KeyGroupView>, Refusal> {
        let core = self.settled()?;
        let groups = &core.ledger.durable().key_groups;
        Ok(groups.iter().map(|(id, group)| KeyGroupView::of(id, group, &self.inner.gates)).collect())
    }

    /// One key group.
    ///
    /// # Errors
    /// [`Refusal::KeyGroupUnknown`].
    pub fn key_group(&self, id: &KeyGroupId) -> Result<KeyGroupView, Refusal> {
        let core = self.settled()?;
        let group = core.ledger.durable().key_groups.get(id).ok_or(Refusal::KeyGroupUnknown(*id))?;
        Ok(KeyGroupView::of(id, group, &self.inner.gates))
    }

    fn settled(&self) -> Result<std::sync::MutexGuard<'_, Core>, Refusal> {
        let mut core = self.core();
        core.settle(&self.inner.line)?;
        Ok(core)
    }
}
