//! The key generations under way in this process: bounded in number and in age, in RAM only.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frostkeep_hsm::clock::Millis;

use super::refusal::Refusal;
use crate::ids::CeremonyId;
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

fn room(held: usize) -> Result<(), Refusal> {
    if held < limits::CEREMONIES_MAX {
        return Ok(());
    }
    Err(Refusal::CapacityExceeded { what: "ceremonies", limit: limits::CEREMONIES_MAX as u64 })
}
