//! Key generation as engine operations: the ceremony of [`crate::keygen`] over this node's identity, line and disk.
//!
//! A ceremony lives in RAM until its shares are prepared, which is one record with this node's signature on the transcript;
//! that signature leaves only when the record is durable. A restart before it voids the ceremony by its id.

use std::sync::{Arc, PoisonError};

use super::caller::{Caller, Role};
use super::ceremonies::{Ceremony, Stage};
use super::core::{Core, Env, encode, releases_allowed};
use super::record::{PreparedRecord, Record, SecretBytes};
use super::refusal::Refusal;
use super::state::{KeyGroup, Phase};
use super::{Engine, wait};
use crate::ids::{CeremonyId, KeyGroupId, Member};
use crate::keygen::{
    AwaitingRoundTwo, Certificate, Confirmation, Message, Parameters, Prepared, Receipt, Statement, Transcript, begin,
};
use crate::limits;
use crate::policy::SigningPolicy;
use crate::store::{Placed, Position, Slot, SlotKind};

/// What a node says when its shares are prepared, durably: what it heard, and its signature on that.
#[derive(Debug, Clone)]
pub struct PreparedReply {
    /// What was said in the ceremony; the same on every node, or somebody equivocated.
    pub transcript: Transcript,
    /// The node's signature on it.
    pub statement: Statement,
}

/// A statement or confirmation, with the position of the record that it speaks of.
#[derive(Clone)]
pub(super) struct Testimony<T> {
    pub(super) value: T,
    position: Position,
}

impl<T> Placed for Testimony<T> {
    fn position(&self) -> Position {
        self.position
    }
}

impl Engine {
    /// Whether this node could take part in a key generation now: token, disk and room. Asked of every node before any
    /// secret exists.
    ///
    /// # Errors
    /// [`Refusal`] that says what is missing.
    pub fn keygen_preflight(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let env = self.env();
        let mut core = self.core();
        core.settle(env.line)?;
        core.keygen_room()?;
        self.inner.ceremonies.room()?;
        env.admit_work()
    }

    /// Begins a ceremony: this node's round-one messages, one a seat. Refused in an outage, before any secret exists. A
    /// repeat returns the same messages, so that a lost reply voids nothing.
    ///
    /// # Errors
    /// [`Refusal`]; parameters that do not hold the hash of `policy`, or give this node no seat.
    pub async fn keygen_begin(
        &self,
        caller: &Caller,
        parameters: Parameters,
        policy: SigningPolicy,
    ) -> Result<Vec<Message>, Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let hash = policy.hash().map_err(|error| Refusal::InvalidRequest(error.to_string()))?;
        if parameters.signing_policy() != hash {
            return Err(Refusal::InvalidRequest(
                "the parameters name another signing policy than the one given".into(),
            ));
        }
        let (caller, engine) = (caller.clone(), self.clone());
        let (said, position) = wait::blocking(move || engine.begin_ceremony(&caller, &parameters, policy)).await?;
        // What this node says binds it to its secrets, so the name must be used up before anything of it leaves.
        self.await_durable(position, true).await?;
        Ok(said)
    }

    /// What this node says at the beginning, and the position of the record that uses the ceremony's name up.
    fn begin_ceremony(
        &self,
        caller: &Caller,
        parameters: &Parameters,
        policy: SigningPolicy,
    ) -> Result<(Vec<Message>, Position), Refusal> {
        let (id, now) = (parameters.ceremony(), self.inner.clock.now());
        let ceremonies = &self.inner.ceremonies;
        let begun_at = || self.core().ledger.admitted().begun.get(&id).copied();
        if let Some(said) = ceremonies.begun(parameters, now)? {
            return Ok((said, begun_at().ok_or(Refusal::Busy("the beginning of this key generation"))?));
        }
        if begun_at().is_some() || self.core().prepared_at(&id).is_some() {
            return Err(Refusal::CeremonyConflict(id));
        }
        self.keygen_preflight(caller)?;
        let identity = self.core().identity()?;
        let mut entropy = (self.inner.entropy)();
        let (stage, messages) = begin(parameters.clone(), identity, &mut entropy)
            .map_err(|error| Refusal::InvalidRequest(error.to_string()))?;
        let ceremony = Ceremony {
            stage: Stage::One(stage),
            policy,
            parameters: parameters.hash(),
            round_one: messages.clone(),
            round_two: Vec::new(),
        };
        ceremonies.add(id, ceremony, now)?;
        let env = self.env();
        let admitted = self.core().admit_begun(&env, id);
        admitted.map(|position| (messages, position)).inspect_err(|_| {
            ceremonies.remove(&id);
        })
    }

    /// Takes one ceremony message, from whomever: it is signed by its sender.
    ///
    /// # Errors
    /// [`Refusal`]; a message that is not of this ceremony changes nothing.
    pub async fn keygen_receive(
        &self,
        caller: &Caller,
        ceremony: &CeremonyId,
        message: Vec<u8>,
    ) -> Result<Receipt, Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let id = *ceremony;
        let found = self.inner.ceremonies.find(&id, self.inner.clock.now())?;
        wait::blocking(move || {
            let mut ceremony = found.lock().unwrap_or_else(PoisonError::into_inner);
            let received = match &mut ceremony.stage {
                Stage::One(stage) => stage.receive(&message),
                Stage::Two(stage) => stage.receive(&message),
                Stage::Gone => return Err(Refusal::CeremonyUnknown(id)),
            };
            received.map_err(Refusal::CeremonyMessage)
        })
        .await
    }

    /// Members whose message of the current round has not come.
    ///
    /// # Errors
    /// [`Refusal::CeremonyUnknown`].
    pub fn keygen_missing(&self, ceremony: &CeremonyId) -> Result<Vec<Member>, Refusal> {
        let found = self.inner.ceremonies.find(ceremony, self.inner.clock.now())?;
        let state = found.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.stage {
            Stage::One(stage) => Ok(stage.missing()),
            Stage::Two(stage) => Ok(stage.missing()),
            Stage::Gone => Err(Refusal::CeremonyUnknown(*ceremony)),
        }
    }

    /// Goes on to round two: this node's round-two messages, encrypted end to end. A repeat returns the same messages.
    ///
    /// # Errors
    /// [`Refusal::CeremonyAbsent`] names whose message is missing, and changes nothing; [`Refusal::CeremonyFailed`] ends it.
    pub async fn keygen_advance(&self, caller: &Caller, ceremony: &CeremonyId) -> Result<Vec<Message>, Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let (id, engine) = (*ceremony, self.clone());
        let found = self.inner.ceremonies.find(&id, self.inner.clock.now())?;
        wait::blocking(move || {
            let mut ceremony = found.lock().unwrap_or_else(PoisonError::into_inner);
            let stage = match std::mem::replace(&mut ceremony.stage, Stage::Gone) {
                Stage::One(stage) if stage.missing().is_empty() => stage,
                other => {
                    let answer = match &other {
                        Stage::One(stage) => Err(Refusal::CeremonyAbsent { ceremony: id, members: stage.missing() }),
                        Stage::Two(_) => Ok(ceremony.round_two.clone()),
                        Stage::Gone => Err(Refusal::CeremonyUnknown(id)),
                    };
                    ceremony.stage = other;
                    return answer;
                }
            };
            let mut entropy = (engine.inner.entropy)();
            match stage.advance(&mut entropy) {
                Ok((next, messages)) => {
                    ceremony.stage = Stage::Two(next);
                    ceremony.round_two.clone_from(&messages);
                    Ok(messages)
                }
                Err(failure) => {
                    engine.inner.ceremonies.remove(&id);
                    Err(Refusal::CeremonyFailed(Box::new(failure)))
                }
            }
        })
        .await
    }

    /// Finishes: the shares are prepared in one record with this node's signature on the transcript, which is returned when
    /// that record is durable. A repeat after an outage or a restart returns the same.
    ///
    /// # Errors
    /// [`Refusal::CeremonyAbsent`] names whose message is missing, and changes nothing; [`Refusal::CeremonyFailed`] ends it.
    pub async fn keygen_finish(&self, caller: &Caller, ceremony: &CeremonyId) -> Result<PreparedReply, Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        let id = *ceremony;
        let found = self.inner.ceremonies.find(&id, self.inner.clock.now());
        let known = self.core().prepared_at(&id);
        if let Some(position) = known {
            return self.statement(&id, position).await;
        }
        let found = found?;
        let engine = self.clone();
        let position = wait::blocking(move || {
            let mut ceremony = found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(position) = engine.core().prepared_at(&id) {
                return Ok(position);
            }
            let env = engine.env();
            env.admit_work()?;
            engine.core().keygen_room()?;
            // Before the secrets are consumed: a full line refuses, and voids nothing.
            let slot = env.reserve(SlotKind::Round, limits::RECORD_BYTES_MAX)?;
            let stage = match std::mem::replace(&mut ceremony.stage, Stage::Gone) {
                Stage::Two(stage) if stage.missing().is_empty() => stage,
                other => {
                    let refusal = match &other {
                        Stage::Two(stage) => Refusal::CeremonyAbsent { ceremony: id, members: stage.missing() },
                        Stage::One(_) => Refusal::CeremonyConflict(id),
                        Stage::Gone => Refusal::CeremonyUnknown(id),
                    };
                    ceremony.stage = other;
                    return Err(refusal);
                }
            };
            let outcome = engine.prepare(id, stage, ceremony.policy.clone(), slot);
            // Last: whoever does not find the ceremony any more finds the prepared shares.
            engine.inner.ceremonies.remove(&id);
            outcome
        })
        .await?;
        self.statement(&id, position).await
    }

    /// The shares in one record, in line.
    fn prepare(
        &self,
        id: CeremonyId,
        stage: AwaitingRoundTwo,
        policy: SigningPolicy,
        slot: Slot,
    ) -> Result<Position, Refusal> {
        let prepared = stage.finish().map_err(|failure| Refusal::CeremonyFailed(Box::new(failure)))?;
        let record = Record::Prepared(Box::new(PreparedRecord {
            ceremony: id,
            key_group: prepared.transcript().group().id(),
            prepared: SecretBytes::new(prepared.encode()),
            policy,
        }));
        let env = self.env();
        self.core().admit_prepared(&env, slot, record)
    }

    async fn statement(&self, ceremony: &CeremonyId, position: Position) -> Result<PreparedReply, Refusal> {
        self.await_durable(position, true).await?;
        releases_allowed(self.inner.line.status().releases)?;
        let found = {
            let mut core = self.core();
            core.settle(&self.inner.line)?;
            core.testimony(ceremony, |group| group.prepared.clone())
        };
        let proved = found.and_then(|prepared| self.inner.line.durable().prove(prepared).ok());
        let bytes =
            proved.and_then(|prepared| prepared.get().value.clone()).ok_or(Refusal::CeremonyUnknown(*ceremony))?;
        let prepared = Prepared::decode(bytes.expose()).map_err(|error| Refusal::Internal(error.to_string()))?;
        Ok(PreparedReply { transcript: prepared.transcript().clone(), statement: *prepared.statement() })
    }

    /// Takes a complete certificate, from anybody: it proves itself. The key group is active when this returns; the
    /// confirmation says so to the others. A repeat returns the same.
    ///
    /// # Errors
    /// [`Refusal::CertificateInvalid`] when it is not of the prepared key group; nothing is lost then.
    pub async fn keygen_certify(&self, caller: &Caller, certificate: Vec<u8>) -> Result<Confirmation, Refusal> {
        caller.require(&[Role::Admin, Role::Peer, Role::Coordinator])?;
        let engine = self.clone();
        let (position, certificate) = wait::blocking(move || {
            let parsed = Certificate::from_bytes(&certificate)
                .map_err(|error| Refusal::CertificateInvalid(error.to_string()))?;
            let key_group = parsed.group().id();
            let env = engine.env();
            let parsed = Arc::new(parsed);
            let position = engine.core().admit_certificate(&env, &key_group, &parsed)?;
            Ok((position, parsed))
        })
        .await?;
        self.await_durable(position, true).await?;
        releases_allowed(self.inner.line.status().releases)?;
        let identity = self.core().identity()?;
        let spoken = Testimony { value: (), position };
        match self.inner.line.durable().prove(spoken) {
            Ok(_) => Ok(Confirmation::sign(&certificate, &identity)),
            Err(_) => Err(Refusal::Busy("the certificate")),
        }
    }

    /// Gives a ceremony up; its secrets are wiped. A key group that is prepared stays.
    ///
    /// # Errors
    /// [`Refusal::CeremonyUnknown`].
    pub fn keygen_abandon(&self, caller: &Caller, ceremony: &CeremonyId) -> Result<(), Refusal> {
        caller.require(&[Role::Admin, Role::Peer])?;
        match self.inner.ceremonies.remove(ceremony) {
            true => Ok(()),
            false => Err(Refusal::CeremonyUnknown(*ceremony)),
        }
    }
}

impl Core {
    fn keygen_room(&self) -> Result<(), Refusal> {
        if self.ledger.admitted().key_groups.len() < limits::KEY_GROUPS_MAX {
            return Ok(());
        }
        Err(Refusal::CapacityExceeded { what: "key groups of this node", limit: limits::KEY_GROUPS_MAX as u64 })
    }

    /// The position of the record that prepared a ceremony's shares, durable or not.
    pub(super) fn prepared_at(&self, ceremony: &CeremonyId) -> Option<Position> {
        let groups = self.ledger.admitted().key_groups.values();
        groups.into_iter().find(|group| group.ceremony == *ceremony).map(|group| group.prepared_at)
    }

    pub(super) fn testimony<T>(&self, ceremony: &CeremonyId, of: impl FnOnce(&KeyGroup) -> T) -> Option<Testimony<T>> {
        let mut groups = self.ledger.durable().key_groups.values();
        let group = groups.find(|group| group.ceremony == *ceremony)?;
        Some(Testimony { value: of(group), position: group.prepared_at })
    }

    fn admit_prepared(&mut self, env: &Env<'_>, slot: Slot, record: Record) -> Result<Position, Refusal> {
        self.settle(env.line)?;
        self.keygen_room()?;
        let encoded = encode(&record)?.anchor_now();
        self.install(env.line, slot, record, encoded)
    }

    fn admit_begun(&mut self, env: &Env<'_>, ceremony: CeremonyId) -> Result<Position, Refusal> {
        self.settle(env.line)?;
        env.admit_work()?;
        let record = Record::Begun { ceremony };
        let encoded = encode(&record)?;
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        self.install(env.line, slot, record, encoded)
    }

    fn admit_certificate(
        &mut self,
        env: &Env<'_>,
        key_group: &KeyGroupId,
        certificate: &Arc<Certificate>,
    ) -> Result<Position, Refusal> {
        self.settle(env.line)?;
        let group = self.ledger.admitted().key_groups.get(key_group).ok_or(Refusal::KeyGroupUnknown(*key_group))?;
        match &group.phase {
            Phase::Active { certificate: known, position } if known == certificate => return Ok(*position),
            Phase::Active { .. } => {
                return Err(Refusal::CertificateInvalid("the key group is active with another certificate".into()));
            }
            Phase::Retired { .. } => return Err(Refusal::KeyGroupRetired(*key_group)),
            Phase::Prepared if group.statement.transcript() != certificate.transcript().hash() => {
                return Err(Refusal::CertificateInvalid(
                    "it certifies another transcript than the prepared one".into(),
                ));
            }
            Phase::Prepared => {}
        }
        env.admit_work()?;
        let record = Record::Activated { key_group: *key_group, certificate: Arc::clone(certificate) };
        let encoded = encode(&record)?.anchor_now();
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        self.install(env.line, slot, record, encoded)
    }
}
