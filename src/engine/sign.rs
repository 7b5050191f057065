//! `StartSignRound`, in the order of the contract: checks, gate, nonces taken, computation off the lock, recheck,
//! record. A share is released by the cached serve alone, so that the first answer and every replay are one path.

use std::sync::Arc;

use tokio::sync::watch;

use super::advance::{Authorised, Standing, stand_above};
use super::caller::{Caller, Role};
use super::checks::{
    check_driver, check_package, check_policy, check_quarantine, check_room, check_session, open_sessions_full,
    parse_context,
};
use super::core::{Core, Env, Flight, FlightKey, FlightState, encode, ended, not_durable, stop_reason};
use super::drill::{check_drill_caller, check_drill_room};
use super::nonces::NoncePair;
use super::record::{Record, RoundBody};
use super::refusal::Refusal;
use super::request::{SignRequest, Subject};
use super::sign_hash;
use super::state::{KeyGroup, Round, Session, session_room};
use crate::frost::{self, Commitments, GroupKey, KeyShare};
use crate::identity::NodeIdentity;
use crate::ids::{AttemptId, KeyGroupId, Member, SessionId};
use crate::limits;
use crate::roast::{AgainstActive, AttemptContext, RoundBinding, round_signature_message};
use crate::store::{Durable, EncodedRecord, Position, Slot, SlotKind};

/// Bytes of a round record beside its package, evidence and participants: an upper bound, for the slot.
const ROUND_RECORD_OVERHEAD_BYTES: usize = 1_024;
/// Bytes that one advance adds to a round record, at most.
const ADVANCE_BYTES_MAX: usize = 64 + 8 * limits::MEMBERS_MAX;

/// What to do next for a `StartSignRound`.
pub(crate) enum SignStep {
    /// Durable: release it. With the member's current commitments, if any.
    Serve(Durable<Round>, Option<Box<Commitments>>),
    /// Pending: wait for its position, then ask again.
    Wait(Position),
    /// The same request is being computed: wait for it, then ask again.
    Join(watch::Receiver<FlightState>),
    /// The evidence must be verified off the lock, then ask again.
    Verify { active: AttemptContext },
    /// The commitments are unknown and the member has none: make a pair off the lock, then refuse with it.
    MakePair,
    /// The nonces are taken: compute off the lock.
    Compute(Box<SignJob>),
}

/// A computation with everything that it needs. Dropping it wipes the nonces: they are spent either way.
pub(crate) struct SignJob {
    pub(crate) key: FlightKey,
    pub(crate) serial: u64,
    subject: Subject,
    context: AttemptContext,
    fingerprint: [u8; 32],
    package: frost::SigningPackage,
    pair: NoncePair,
    share: Arc<KeyShare>,
    group_key: Arc<GroupKey>,
    advances: Option<Authorised>,
    make_next: bool,
    slot: Slot,
}

/// A computed round, ready to be installed.
pub(crate) struct Computed {
    key: FlightKey,
    subject: Subject,
    context: AttemptContext,
    from: Option<AttemptId>,
    record: Record,
    encoded: EncodedRecord,
    slot: Slot,
    next: Option<NoncePair>,
}

/// A request with its valid attempt.
pub(crate) struct SignQuestion<'a> {
    pub(crate) request: &'a SignRequest,
    pub(crate) context: AttemptContext,
    pub(crate) fingerprint: [u8; 32],
    /// The group's output key under the session's root.
    pub(crate) output_key: [u8; 32],
}

impl<'a> SignQuestion<'a> {
    /// Validates the attempt context in itself (step 5), off the lock.
    pub(crate) fn new(request: &'a SignRequest, group_key: &GroupKey) -> Result<Self, Refusal> {
        let threshold = group_key.threshold();
        let context =
            parse_context(&request.key_group, &request.session, &request.subject, threshold, &request.context)?;
        let fingerprint = binding(request, &context).request_fingerprint(request.package.as_bytes());
        let output_key = group_key.output_key(request.subject.root.as_ref());
        Ok(Self { request, context, fingerprint: *fingerprint.as_bytes(), output_key })
    }

    fn attempt(&self) -> (AttemptId, Member) {
        (self.context.id(), self.request.member)
    }

    fn flight_key(&self) -> FlightKey {
        (self.request.key_group, self.request.session.clone(), self.context.id(), self.request.member)
    }

    fn conflict(&self) -> Refusal {
        Refusal::AttemptConflict { attempt: self.context.id(), member: self.request.member }
    }
}

fn binding<'a>(request: &'a SignRequest, context: &'a AttemptContext) -> RoundBinding<'a> {
    RoundBinding {
        key_group: &request.key_group,
        session: &request.session,
        message: &request.subject.message,
        root: request.subject.root.as_ref(),
        attempt: context,
        member: request.member,
    }
}

impl Core {
    /// Steps 2 to 9: everything that is decided under the lock before the computation.
    pub(crate) fn admit_sign(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        question: &SignQuestion<'_>,
        authorised: Option<&Authorised>,
    ) -> Result<SignStep, Refusal> {
        let request = question.request;
        caller.require(&[Role::Coordinator])?;
        self.settle(env.line)?;
        self.check_durable(env, caller, question)?;
        let group = self.durable_group(&request.key_group)?;
        let session = group.sessions.get(&request.session);
        if let Some(round) = session.and_then(|session| session.rounds.get(&question.attempt())) {
            if round.body.fingerprint != question.fingerprint {
                return Err(question.conflict());
            }
            check_quarantine(group, env, question.context.included(), &[])?;
            let round = env
                .line
                .durable()
                .prove(round.clone())
                .map_err(|round| not_durable(&env.status, env.now, round.position))?;
            let current = self.nonces.current(&nonce_key(request)).cloned().map(Box::new);
            self.note_serve(env, &request.key_group, &request.session, &question.context);
            return Ok(SignStep::Serve(round, current));
        }
        self.admit_fresh(env, caller, question, authorised)
    }

    /// Steps 2 to 4 on the durable view.
    fn check_durable(&self, env: &Env<'_>, caller: &Caller, question: &SignQuestion<'_>) -> Result<(), Refusal> {
        let request = question.request;
        let group = self.durable_group(&request.key_group)?;
        env.check_release(&request.key_group)?;
        if !group.seats.contains_key(&request.member) {
            return Err(Refusal::MemberNotLocal { key_group: request.key_group, member: request.member });
        }
        check_session(group, &request.session, &request.subject)?;
        check_policy(group, &request.session, &request.subject, &question.output_key, env)?;
        check_driver(group, caller, &question.context)
    }

    fn admit_fresh(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        question: &SignQuestion<'_>,
        authorised: Option<&Authorised>,
    ) -> Result<SignStep, Refusal> {
        let request = question.request;
        let group = self.admitted_group(&request.key_group)?;
        if group.tombstone(&request.session).is_some() {
            return Err(Refusal::Busy("the end of this session"));
        }
        let session = group.sessions.get(&request.session);
        if session.is_some_and(|session| session.subject != request.subject) {
            return Err(Refusal::SessionConflict(request.session.clone()));
        }
        if let Some(round) = session.and_then(|session| session.rounds.get(&question.attempt())) {
            if round.body.fingerprint != question.fingerprint {
                return Err(question.conflict());
            }
            if stop_reason(&env.status, env.now, false).is_some() {
                return Err(not_durable(&env.status, env.now, round.position));
            }
            return Ok(SignStep::Wait(round.position));
        }
        check_drill_caller(group, caller, &request.session)?;
        if let Some(step) = self.join(question)? {
            return Ok(step);
        }
        let durable = self.durable_group(&request.key_group)?;
        let advances = match check_attempt(group, durable, session, question, authorised)? {
            Standing::Answerable => None,
            Standing::Advance => authorised.cloned(),
            Standing::Verify(active) => return Ok(SignStep::Verify { active }),
        };
        self.start_timer(env, &request.key_group, &request.session, &question.context);
        let group = self.admitted_group(&request.key_group)?;
        let session = group.sessions.get(&request.session);
        let computing = self.flights_of_member(&request.key_group, &request.session, request.member);
        check_room(group, session, request.member, computing)?;
        check_drill_room(group, &request.session)?;
        check_package(group, request, &question.context)?;
        let recorded = advances.as_ref().map_or(&[][..], |chain| &chain.advances);
        check_quarantine(group, env, question.context.included(), recorded)?;
        let key = nonce_key(request);
        let offered = request.package.commitments_of(request.member);
        match self.nonces.current(&key) {
            Some(current) if Some(current) == offered => {}
            Some(current) => {
                return Err(Refusal::CommitmentsUnknown {
                    member: request.member,
                    current: Some(Box::new(current.clone())),
                });
            }
            None => return Ok(SignStep::MakePair),
        }
        env.admit_work()?;
        let evidence_bytes = advances.as_ref().map_or(0, |chain| chain.advances.len() * ADVANCE_BYTES_MAX);
        let slot = env.reserve(
            SlotKind::Round,
            ROUND_RECORD_OVERHEAD_BYTES
                + request.package.as_bytes().len()
                + 3 * question.context.included().len()
                + evidence_bytes,
        )?;
        let (share, group_key) = match group.seats.get(&request.member) {
            Some(share) => (Arc::clone(share), Arc::clone(&group.group_key)),
            None => {
                return Err(Refusal::MemberNotLocal { key_group: request.key_group, member: request.member });
            }
        };
        let pair =
            self.nonces.take(&key).ok_or(Refusal::CommitmentsUnknown { member: request.member, current: None })?;
        self.flight_serial += 1;
        let serial = self.flight_serial;
        let flight = Flight {
            fingerprint: question.fingerprint,
            subject: request.subject,
            serial,
            state: watch::Sender::new(FlightState::Computing),
        };
        self.flights.insert(question.flight_key(), flight);
        Ok(SignStep::Compute(Box::new(SignJob {
            key: question.flight_key(),
            serial,
            subject: request.subject,
            context: question.context.clone(),
            fingerprint: question.fingerprint,
            package: request.package.clone(),
            pair,
            share,
            group_key,
            advances,
            make_next: self.nonces.has_room(&request.key_group),
            slot,
        })))
    }

    /// The same request under way is joined; another one of the same attempt or session is a conflict.
    fn join(&self, question: &SignQuestion<'_>) -> Result<Option<SignStep>, Refusal> {
        if let Some(flight) = self.flights.get(&question.flight_key()) {
            if flight.fingerprint != question.fingerprint {
                return Err(question.conflict());
            }
            return Ok(Some(SignStep::Join(flight.state.subscribe())));
        }
        let request = question.request;
        if self.flights_of(&request.key_group, &request.session).any(|(_, flight)| flight.subject != request.subject) {
            return Err(Refusal::SessionConflict(request.session.clone()));
        }
        Ok(None)
    }

    /// Step 10: what can have changed during the computation is checked again; then the record is installed.
    pub(crate) fn complete_sign(&mut self, env: &Env<'_>, computed: Computed) -> Result<Position, Refusal> {
        let (key_group, session_id, attempt, member) = &computed.key;
        self.settle(env.line)?;
        env.check_release(key_group)?;
        let group = self.admitted_group(key_group)?;
        if let Some(tombstone) = self.durable_group(key_group)?.tombstone(session_id) {
            return Err(ended(session_id, tombstone, Some(&computed.subject)));
        }
        if group.tombstone(session_id).is_some() {
            return Err(Refusal::Busy("the end of this session"));
        }
        let mut advance_done = false;
        if let Some(session) = group.sessions.get(session_id) {
            if session.subject != computed.subject {
                return Err(Refusal::SessionConflict(session_id.clone()));
            }
            if let Some(active) = &session.active {
                let active = AttemptId::new(active.attempt_id);
                advance_done = active == *attempt;
                if !advance_done && computed.from != Some(active) {
                    return Err(Refusal::AttemptConflict { attempt: *attempt, member: *member });
                }
            }
        } else if !session_room(group) {
            return Err(open_sessions_full());
        } else {
            check_drill_room(group, session_id)?;
        }
        let recorded = match &computed.record {
            Record::Round { advances, .. } if !advance_done => advances.as_slice(),
            _ => &[],
        };
        check_quarantine(group, env, computed.context.included(), recorded)?;
        let Computed { record, encoded, slot, next, .. } = computed;
        let (record, encoded) = match record {
            // Another seat's record has made the same advance: it is blamed and transcribed once.
            Record::Round { body, advances } if advance_done && !advances.is_empty() => {
                let record = Record::Round { body, advances: Vec::new() };
                let encoded = encode(&record)?;
                (record, encoded)
            }
            record => (record, encoded),
        };
        let nonce_key = (computed.key.0, computed.key.1.clone(), computed.key.3);
        let position = self.install(env.line, slot, record, encoded)?;
        self.idle.touch(&computed.key.0, &computed.key.1);
        if let Some(pair) = next {
            self.nonces.insert(nonce_key, pair, env.now);
        }
        Ok(position)
    }

    /// Removes the in-flight entry of a computation and answers everyone who waits on it.
    pub(crate) fn land(&mut self, key: &FlightKey, serial: u64, state: FlightState) {
        if self.flights.get(key).is_some_and(|flight| flight.serial == serial)
            && let Some(flight) = self.flights.remove(key)
        {
            flight.state.send_replace(state);
        }
    }
}

/// Step 9, off the lock: the share, verified against the own verifying share, signed with the node identity.
pub(crate) fn compute(
    job: SignJob,
    identity: &NodeIdentity,
    entropy: &mut impl frostkeep_hsm::entropy::Entropy,
) -> Result<Computed, Refusal> {
    let SignJob {
        key,
        serial: _,
        subject,
        context,
        fingerprint,
        package,
        pair,
        share,
        group_key,
        advances,
        make_next,
        slot,
    } = job;
    let (key_group, session, _, member) = key.clone();
    let signed = frost::sign(pair.nonces, &share, &group_key, &package, subject.root.as_ref())
        .map_err(|error| Refusal::Internal(error.to_string()))?;
    let share_bytes = signed.to_bytes();
    let round_id = RoundBinding {
        key_group: &key_group,
        session: &session,
        message: &subject.message,
        root: subject.root.as_ref(),
        attempt: &context,
        member,
    }
    .round_id(package.as_bytes());
    let round_signature = sign_hash(identity, &round_signature_message(&round_id, member, &share_bytes));
    let body = RoundBody {
        key_group,
        session,
        message: subject.message,
        root: subject.root,
        context: context.parts(),
        member,
        fingerprint,
        round_id,
        package: package.to_bytes(),
        share: share_bytes,
        round_signature,
    };
    let from = advances.as_ref().map(|chain| chain.from);
    let advances = advances.map(|chain| chain.advances).unwrap_or_default();
    let record = Record::Round { body: Arc::new(body), advances };
    let encoded = encode(&record)?;
    let next = make_next.then(|| {
        let (nonces, commitments) = frost::commit(&share, entropy);
        NoncePair { nonces, commitments }
    });
    Ok(Computed { key, subject, context, from, record, encoded, slot, next })
}

pub(crate) fn nonce_key(request: &SignRequest) -> (KeyGroupId, SessionId, Member) {
    (request.key_group, request.session.clone(), request.member)
}

/// Step 6 and the consumed markers, on the admitted view. Evidence is judged by the identities that are in force durably.
fn check_attempt(
    group: &KeyGroup,
    durable: &KeyGroup,
    session: Option<&Session>,
    question: &SignQuestion<'_>,
    authorised: Option<&Authorised>,
) -> Result<Standing, Refusal> {
    let request = question.request;
    let Some(session) = session else {
        return Ok(Standing::Answerable);
    };
    let standing = match &session.active {
        None => Standing::Answerable,
        Some(active) => {
            let threshold = group.group_key.threshold();
            let active = parse_context(&request.key_group, &request.session, &session.subject, threshold, active)
                .map_err(|error| Refusal::Internal(format!("the active attempt is not valid: {error}")))?;
            match question.context.against(&active) {
                AgainstActive::Same => Standing::Answerable,
                AgainstActive::Conflict { .. } => return Err(question.conflict()),
                AgainstActive::Stale { number, active: number_active } => {
                    let durable = durable.sessions.get(&request.session).and_then(|session| session.active.as_ref());
                    if durable.is_some_and(|durable| durable.attempt_id == *question.context.id().as_bytes()) {
                        // The advance that makes it stale is not durable: it shows nothing, and clears nothing.
                        return Err(Refusal::Busy("an advance of this session"));
                    }
                    return Err(Refusal::AttemptStale { number, active: number_active });
                }
                AgainstActive::Next | AgainstActive::Future { .. } => {
                    stand_above(&question.context, active, &request.evidence, authorised, &durable.identities)?
                }
            }
        }
    };
    if session.consumed.contains(&question.attempt()) {
        return Err(Refusal::AttemptReplay { attempt: question.context.id(), member: request.member });
    }
    Ok(standing)
}
