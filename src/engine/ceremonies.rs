//! The key generations under way in this process, bounded in number and in age, in RAM only; and where each stands.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frostkeep_hsm::clock::Millis;

use super::caller::{Caller, Role};
use super::refusal::Refusal;
use super::state::Phase;
use super::{Engine, wait};
use crate::ids::{CeremonyId, Member};
use crate::keygen::{AwaitingRoundOne, AwaitingRoundTwo, Message, Parameters};
use crate::limits;
use crate::policy::SigningPolicy;

/// Where a ceremony stands.
pub(crate) enum Stage {
    One(AwaitingRoundOne),
    Two(AwaitingRoundTwo),
    /// Over, or being computed by a call that will say so.
    Gone,
}

/// A ceremony, with what this node has said in it: a caller who lost a reply asks again and hears the same.
pub(crate) struct Ceremony {
    pub(crate) stage: Stage,
    pub(crate) policy: SigningPolicy,
    pub(crate) parameters: [u8; 32],
    pub(crate) round_one: Vec<Message>,
    pub(crate) round_two: Vec<Message>,
}

struct Place {
    ceremony: Arc<Mutex<Ceremony>>,
    touched: Millis,
}

/// The ceremonies of this process. Each has a lock of its own, which is no state lock: curve arithmetic runs under it.
#[derive(Default)]
pub(crate) struct Ceremonies(Mutex<HashMap<CeremonyId, Place>>);

impl Ceremonies {
    fn all(&self) -> MutexGuard<'_, HashMap<CeremonyId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ceremony, which counts as asked for now.
    pub(crate) fn find(&self, id: &CeremonyId, now: Millis) -> Result<Arc<Mutex<Ceremony>>, Refusal> {
        let mut all = self.all();
        let place = all.get_mut(id).ok_or(Refusal::CeremonyUnknown(*id))?;
        place.touched = now;
        Ok(Arc::clone(&place.ceremony))
    }

    /// Refuses when one more would be above the limit.
    pub(crate) fn room(&self) -> Result<(), Refusal> {
        room(self.all().len())
    }

    pub(crate) fn add(&self, id: CeremonyId, ceremony: Ceremony, now: Millis) -> Result<(), Refusal> {
        let mut all = self.all();
        let held = all.len();
        match all.entry(id) {
            Entry::Occupied(_) => Err(Refusal::CeremonyConflict(id)),
            Entry::Vacant(place) => {
                room(held)?;
                place.insert(Place { ceremony: Arc::new(Mutex::new(ceremony)), touched: now });
                Ok(())
            }
        }
    }

    /// What this node said at the beginning of a ceremony that it has begun; none when it has not.
    pub(crate) fn begun(&self, parameters: &Parameters, now: Millis) -> Result<Option<Vec<Message>>, Refusal> {
        let id = parameters.ceremony();
        let Ok(found) = self.find(&id, now) else { return Ok(None) };
        let ceremony = found.lock().unwrap_or_else(PoisonError::into_inner);
        if ceremony.parameters != parameters.hash() || matches!(ceremony.stage, Stage::Gone) {
            return Err(Refusal::CeremonyConflict(id));
        }
        Ok(Some(ceremony.round_one.clone()))
    }

    pub(crate) fn remove(&self, id: &CeremonyId) -> bool {
        self.all().remove(id).is_some()
    }

    /// Drops the ceremonies that nobody has asked for in a long time: their driver is gone, and each holds secrets and a
    /// slot.
    pub(crate) fn expire(&self, now: Millis) {
        self.all().retain(|_, place| now.since(place.touched) < limits::CEREMONY_IDLE_MS_MAX);
    }
}

/// Where a ceremony stands on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CeremonyStage {
    /// Begun: round-one messages are awaited.
    RoundOne {
        /// Whose message has not come.
        missing: Vec<Member>,
    },
    /// Round-two messages are awaited.
    RoundTwo {
        /// Whose message has not come.
        missing: Vec<Member>,
    },
    /// The shares are durable; the certificate has not come.
    Prepared,
    /// Certified, durably.
    Active,
    /// Over; the shares are wiped.
    Retired,
}

impl Engine {
    /// Where a ceremony stands, for a driver that did not drive it so far.
    ///
    /// # Errors
    /// [`Refusal::CeremonyUnknown`]; [`Refusal::Busy`] while its shares are on their way to the disk.
    pub async fn keygen_stage(&self, caller: &Caller, ceremony: &CeremonyId) -> Result<CeremonyStage, Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let (id, engine) = (*ceremony, self.clone());
        // Before the state is asked: a ceremony leaves its place when its shares are in line, not sooner.
        let found = self.inner.ceremonies.find(&id, self.inner.clock.now());
        wait::blocking(move || {
            if let Ok(found) = &found {
                match &found.lock().unwrap_or_else(PoisonError::into_inner).stage {
                    Stage::One(stage) => return Ok(CeremonyStage::RoundOne { missing: stage.missing() }),
                    Stage::Two(stage) => return Ok(CeremonyStage::RoundTwo { missing: stage.missing() }),
                    Stage::Gone => {}
                }
            }
            let mut core = engine.core();
            core.settle(&engine.inner.line)?;
            match core.testimony(&id, |group| group.phase.clone()).map(|phase| phase.value) {
                Some(Phase::Prepared) => Ok(CeremonyStage::Prepared),
                Some(Phase::Active { .. }) => Ok(CeremonyStage::Active),
                Some(Phase::Retired { .. }) => Ok(CeremonyStage::Retired),
                None if core.prepared_at(&id).is_some() => Err(Refusal::Busy("the prepared key shares")),
                None => Err(Refusal::CeremonyUnknown(id)),
            }
        })
        .await
    }

    /// Ceremonies whose shares are prepared here, durably, and whose certificate has not come: each can be resumed.
    ///
    /// # Errors
    /// [`Refusal::PermissionDenied`].
    pub fn keygen_unfinished(&self, caller: &Caller) -> Result<Vec<CeremonyId>, Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let mut core = self.core();
        core.settle(&self.inner.line)?;
        let groups = core.ledger.durable().key_groups.values();
        let prepared = groups.into_iter().filter(|group| matches!(group.phase, Phase::Prepared));
        Ok(prepared.map(|group| group.ceremony).collect())
    }
}

fn room(held: usize) -> Result<(), Refusal> {
    if held < limits::CEREMONIES_MAX {
        return Ok(());
    }
    Err(Refusal::CapacityExceeded { what: "ceremonies", limit: limits::CEREMONIES_MAX as u64 })
}
