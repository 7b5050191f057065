//! The core: everything the engine remembers, behind one lock that is held for memory work only (I9). No clock, no
//! disk, no token, no FROST here: those are arguments, or happen before and after.

use std::collections::BTreeMap;
use std::sync::Arc;

use frostkeep_hsm::clock::Millis;
use tokio::sync::watch;

use super::EngineConfig;
use super::freeze::Gates;
use super::ledger::Ledger;
use super::nonces::NoncePool;
use super::record::{self, Record};
use super::refusal::Refusal;
use super::request::Subject;
use super::state::{KeyGroup, Outcome, Phase, State, Tombstone, subject_hash};
use super::timers::Timers;
use crate::ids::{AttemptId, KeyGroupId, Member, SessionId};
use crate::limits;
use crate::store::{EncodedRecord, Line, OpenError, Position, Releases, Slot, SlotKind, Status, Storage};

/// What an operation sees of its surroundings, read once at its beginning.
pub(crate) struct Env<'a> {
    pub(crate) status: Status,
    pub(crate) now: Millis,
    pub(crate) unix: u64,
    pub(crate) config: &'a EngineConfig,
    pub(crate) line: &'a Line,
    pub(crate) gates: &'a Gates,
}

impl Env<'_> {
    /// Refuses when nothing of the key group may leave: frozen, fenced, or before the opening anchor step.
    pub(crate) fn check_release(&self, key_group: &KeyGroupId) -> Result<(), Refusal> {
        self.gates.check(key_group)?;
        releases_allowed(self.status.releases)
    }

    /// The outage gate: refuses what would need the line while the line cannot move. Nothing is pending then.
    pub(crate) fn admit_work(&self) -> Result<(), Refusal> {
        match stop_reason(&self.status, self.now, false) {
            Some(refusal) => Err(refusal),
            None if !self.status.epoch_recorded => Err(Refusal::Starting),
            None => Ok(()),
        }
    }

    /// Room in line for a record of at most `bytes_max` bytes.
    pub(crate) fn reserve(&self, kind: SlotKind, bytes_max: usize) -> Result<Slot, Refusal> {
        self.line.reserve(kind, bytes_max).map_err(|full| Refusal::CapacityExceeded {
            what: full.limit,
            limit: u64::try_from(full.max).unwrap_or(u64::MAX),
        })
    }
}

/// Whether the anchor lets anything leave at all.
pub(crate) fn releases_allowed(releases: Releases) -> Result<(), Refusal> {
    match releases {
        Releases::Allowed => Ok(()),
        Releases::AwaitingOpeningAnchor => Err(Refusal::Starting),
        Releases::FencedByAnchor => Err(Refusal::Fenced),
        Releases::Closed => Err(closed()),
    }
}

fn closed() -> Refusal {
    Refusal::NotOpen(Arc::new(OpenError::Io { what: "the node has stopped".into() }))
}

/// Why the line cannot move, as the refusal that says so.
pub(crate) fn stop_reason(status: &Status, now: Millis, pending: bool) -> Option<Refusal> {
    match status.releases {
        Releases::FencedByAnchor => return Some(Refusal::Fenced),
        Releases::Closed => return Some(closed()),
        Releases::Allowed | Releases::AwaitingOpeningAnchor => {}
    }
    match &status.storage {
        Storage::Writable => {}
        Storage::DiskFull { free_bytes, reserve_bytes, .. } => {
            return Some(Refusal::DiskFull { free: *free_bytes, reserve: *reserve_bytes, pending });
        }
        Storage::Failed { detail } => {
            return Some(Refusal::StorageFailed { detail: detail.to_string(), pending });
        }
    }
    if status.health.admits_work() {
        return None;
    }
    match &status.health.outage {
        Some(outage) => Some(Refusal::KeyProviderUnavailable { outage: Box::new(outage.clone()), pending, now }),
        None => Some(Refusal::Starting),
    }
}

/// The same for a replay of a pending round (I4).
pub(crate) fn not_durable(status: &Status, now: Millis, position: Position) -> Refusal {
    let outage = status.health.outage.clone().map(Box::new);
    Refusal::RoundNotDurable { position, outage, now }
}

/// Names one computation under way.
pub(crate) type FlightKey = (KeyGroupId, SessionId, AttemptId, Member);

/// How a computation stands.
#[derive(Clone)]
pub(crate) enum FlightState {
    Computing,
    Installed(Position),
    Refused(Refusal),
}

/// A computation under way: its nonces are taken, its round is not installed yet.
pub(crate) struct Flight {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) subject: Subject,
    pub(crate) serial: u64,
    pub(crate) state: watch::Sender<FlightState>,
}

/// Everything behind the lock.
pub(crate) struct Core {
    pub(crate) ledger: Ledger,
    pub(crate) nonces: NoncePool,
    pub(crate) flights: BTreeMap<FlightKey, Flight>,
    pub(crate) flight_serial: u64,
    pub(crate) timers: Timers,
    pub(crate) idle: super::sessions::IdleClock,
}

impl Core {
    pub(crate) fn new(state: State) -> Self {
        Self {
            ledger: Ledger::new(state),
            nonces: NoncePool::default(),
            flights: BTreeMap::new(),
            flight_serial: 0,
            timers: Timers::default(),
            idle: super::sessions::IdleClock::default(),
        }
    }

    /// Moves the durable view up to what the persister has reached, and says where that is.
    pub(crate) fn settle(&mut self, line: &Line) -> Result<Position, Refusal> {
        let durable = line.durable().position();
        self.ledger.settle(durable).map_err(|error| Refusal::Internal(error.to_string()))?;
        Ok(durable)
    }

    /// Refuses when one more live nonce pair of the key group would be above the limit.
    pub(crate) fn nonce_room(&self, key_group: &KeyGroupId) -> Result<(), Refusal> {
        if self.nonces.has_room(key_group) {
            return Ok(());
        }
        Err(Refusal::CapacityExceeded {
            what: "live nonce pairs of the key group",
            limit: limits::NONCE_PAIRS_MAX as u64,
        })
    }

    /// The key group as it is durably: active, or the reason why it signs nothing.
    pub(crate) fn durable_group(&self, id: &KeyGroupId) -> Result<&KeyGroup, Refusal> {
        let known_in_line = || match self.ledger.admitted().key_groups.get(id) {
            Some(_) => Refusal::KeyGroupPrepared(*id),
            None => Refusal::KeyGroupUnknown(*id),
        };
        let group = self.ledger.durable().key_groups.get(id).ok_or_else(known_in_line)?;
        match group.phase {
            Phase::Active { .. } => Ok(group),
            Phase::Prepared => Err(Refusal::KeyGroupPrepared(*id)),
            Phase::Retired { .. } => Err(Refusal::KeyGroupRetired(*id)),
        }
    }

    /// The key group with what is in line; for admission. A pending retirement refuses what is fresh.
    pub(crate) fn admitted_group(&self, id: &KeyGroupId) -> Result<&KeyGroup, Refusal> {
        let group = self.ledger.admitted().key_groups.get(id).ok_or(Refusal::KeyGroupUnknown(*id))?;
        match group.phase {
            Phase::Active { .. } => Ok(group),
            Phase::Prepared => Err(Refusal::KeyGroupPrepared(*id)),
            Phase::Retired { .. } => Err(Refusal::Busy("the retirement of this key group")),
        }
    }

    /// Installs a record that was encoded and had its slot reserved before: pending at the position returned.
    pub(crate) fn install(
        &mut self,
        line: &Line,
        slot: Slot,
        record: Record,
        encoded: EncodedRecord,
    ) -> Result<Position, Refusal> {
        let bug = |error: super::state::StateError| Refusal::Internal(error.to_string());
        let expected = line.last().next();
        let mut admitted = self.ledger.rehearse(expected, &record).map_err(bug)?;
        let position = line.enter(slot, encoded);
        if position != expected {
            // Somebody else's record came between; the rehearsal differs in the position alone.
            admitted = self.ledger.rehearse(position, &record).map_err(bug)?;
        }
        self.ledger.install(position, Arc::new(record), admitted);
        Ok(position)
    }
}

/// Encodes and size-checks a record, before it is installed.
pub(crate) fn encode(record: &Record) -> Result<EncodedRecord, Refusal> {
    let encoded =
        record::encode(record, limits::RECORD_BYTES_MAX).map_err(|error| Refusal::InvalidRequest(error.to_string()))?;
    EncodedRecord::new(encoded).map_err(|error| Refusal::InvalidRequest(error.to_string()))
}

/// What a durable tombstone answers.
pub(crate) fn ended(session: &SessionId, tombstone: &Tombstone, subject: Option<&Subject>) -> Refusal {
    if subject.is_some_and(|subject| subject_hash(subject) != tombstone.subject_hash) {
        return Refusal::SessionConflict(session.clone());
    }
    match &tombstone.outcome {
        Outcome::Finalized(signature) => {
            Refusal::SessionFinalized { session: session.clone(), signature: signature.clone() }
        }
        Outcome::Aborted => Refusal::SessionAborted(session.clone()),
        Outcome::Closed => Refusal::SessionClosed(session.clone()),
    }
}
