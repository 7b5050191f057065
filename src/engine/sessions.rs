//! Sessions as a whole: abort, what is durable of them, closing the idle ones.

use std::collections::HashMap;

use frostkeep_hsm::clock::Millis;

use super::caller::{Caller, Role};
use super::checks::{check_policy, check_quarantine};
use super::core::{Core, Env, encode, ended};
use super::record::{Ending, Record};
use super::refusal::Refusal;
use super::request::{SessionRequest, Subject};
use super::state::{Outcome, Phase, Round, State};
use crate::ids::{AttemptId, AttemptPolicy, KeyGroupId, Member, SessionId};
use crate::limits;
use crate::roast::AttemptContext;
use crate::roast::transcript::TranscriptHead;
use crate::store::{Durable, Position, SlotKind};

/// Time that counts towards a session's idleness: it stands still in an outage.
#[derive(Default)]
pub(crate) struct IdleClock {
    ran_ms: u64,
    last_tick: Option<Millis>,
    last_scan_ms: u64,
    touched: HashMap<(KeyGroupId, SessionId), u64>,
}

impl IdleClock {
    fn tick(&mut self, now: Millis, runs: bool) {
        if let Some(last) = self.last_tick.replace(now)
            && runs
        {
            self.ran_ms = self.ran_ms.saturating_add(now.since(last));
        }
    }

    /// Whether the sessions are to be looked at: often enough to close them in time, seldom enough to cost nothing.
    fn scan_is_due(&mut self, idle_ms_max: u64) -> bool {
        let every_ms = (idle_ms_max / 16).min(limits::IDLE_SCAN_MS_MAX);
        let due = self.ran_ms.saturating_sub(self.last_scan_ms) >= every_ms;
        if due {
            self.last_scan_ms = self.ran_ms;
        }
        due
    }

    pub(crate) fn touch(&mut self, key_group: &KeyGroupId, session: &SessionId) {
        self.touched.insert((*key_group, session.clone()), self.ran_ms);
    }

    pub(crate) fn forget(&mut self, key_group: &KeyGroupId, session: &SessionId) {
        self.touched.remove(&(*key_group, session.clone()));
    }

    pub(crate) fn forget_group(&mut self, key_group: &KeyGroupId) {
        self.touched.retain(|(group, _), _| group != key_group);
    }

    fn idle_ms(&mut self, key_group: &KeyGroupId, session: &SessionId) -> u64 {
        let ran_ms = self.ran_ms;
        // A session that nobody has asked for since the start begins its idle time now.
        let since = *self.touched.entry((*key_group, session.clone())).or_insert(ran_ms);
        ran_ms - since
    }
}

/// What `GetSession` says of one open session.
pub struct SessionView {
    /// What is signed.
    pub subject: Subject,
    /// Under `evidence`: the active attempt's number and id.
    pub active: Option<(u32, AttemptId)>,
    /// The highest attempt number that each local member has answered.
    pub highest: Vec<(Member, u32)>,
    /// The durable rounds that are served.
    pub rounds: Vec<Durable<Round>>,
    /// Hashes of the transition records, oldest first: the same on every node that took the same steps.
    pub transcript: Vec<[u8; 32]>,
    /// The head of their chain, which auditors compare between nodes.
    pub transcript_head: TranscriptHead,
}

/// The open sessions of the active key groups.
pub(crate) fn open_sessions(state: &State) -> Vec<(KeyGroupId, SessionId)> {
    let active = state.key_groups.iter().filter(|(_, group)| matches!(group.phase, Phase::Active { .. }));
    active.flat_map(|(id, group)| group.sessions.keys().map(|session| (*id, session.clone()))).collect()
}

impl Core {
    /// `AbortSession`: wipes the session's nonces at once; the record, if the session has one to end.
    pub(crate) fn abort(
        &mut self,
        env: &Env<'_>,
        caller: &Caller,
        request: &SessionRequest,
    ) -> Result<Option<Position>, Refusal> {
        caller.require(&[Role::Coordinator])?;
        self.settle(env.line)?;
        self.durable_group(&request.key_group)?;
        self.nonces.wipe_session(&request.key_group, &request.session);
        let group = self.admitted_group(&request.key_group)?;
        if let Some(tombstone) = group.tombstone(&request.session) {
            return match tombstone.outcome {
                Outcome::Aborted if tombstone.position <= env.line.durable().position() => Ok(None),
                Outcome::Aborted => Ok(Some(tombstone.position)),
                _ if tombstone.position <= env.line.durable().position() => {
                    Err(ended(&request.session, tombstone, None))
                }
                _ => Err(Refusal::Busy("the end of this session")),
            };
        }
        if !group.sessions.contains_key(&request.session) {
            self.check_no_flight(&request.key_group, &request.session)?;
            return Err(Refusal::SessionUnknown(request.session.clone()));
        }
        env.admit_work()?;
        self.record_end(env, &request.key_group, &request.session, Ending::Aborted).map(Some)
    }

    fn record_end(
        &mut self,
        env: &Env<'_>,
        key_group: &KeyGroupId,
        session: &SessionId,
        ending: Ending,
    ) -> Result<Position, Refusal> {
        let record = Record::Ended { key_group: *key_group, session: session.clone(), ending };
        let encoded = encode(&record)?;
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        let position = self.install(env.line, slot, record, encoded)?;
        self.forget_session(key_group, session);
        Ok(position)
    }

    /// What an open session signs, durably.
    pub(crate) fn session_subject(&mut self, request: &SessionRequest) -> Result<Subject, Refusal> {
        let group = self.durable_group(&request.key_group)?;
        if let Some(tombstone) = group.tombstone(&request.session) {
            return Err(ended(&request.session, tombstone, None));
        }
        let session = group.sessions.get(&request.session);
        session.map(|session| session.subject).ok_or_else(|| Refusal::SessionUnknown(request.session.clone()))
    }

    /// `GetSession`: what a coordinator needs to go on without a disk of its own.
    pub(crate) fn session_view(
        &mut self,
        env: &Env<'_>,
        request: &SessionRequest,
        output_key: &[u8; 32],
    ) -> Result<SessionView, Refusal> {
        self.settle(env.line)?;
        let subject = self.session_subject(request)?;
        env.check_release(&request.key_group)?;
        let group = self.durable_group(&request.key_group)?;
        check_policy(group, &request.session, &subject, output_key, env)?;
        let session =
            group.sessions.get(&request.session).ok_or_else(|| Refusal::SessionUnknown(request.session.clone()))?;
        let start = TranscriptHead::start(&request.key_group, &request.session);
        let mut highest: HashMap<Member, u32> = HashMap::new();
        let mut rounds = Vec::new();
        for round in session.rounds.values() {
            let number = highest.entry(round.body.member).or_default();
            *number = (*number).max(round.body.context.number);
            let included: Vec<Member> =
                round.body.context.included.iter().filter_map(|number| Member::new(*number).ok()).collect();
            if check_quarantine(group, env, &included, &[]).is_ok() {
                rounds.extend(env.line.durable().prove(round.clone()));
            }
        }
        let mut highest: Vec<_> = highest.into_iter().collect();
        highest.sort_unstable();
        Ok(SessionView {
            subject: session.subject,
            active: session.active.as_ref().map(|active| (active.number, AttemptId::new(active.attempt_id))),
            highest,
            rounds,
            transcript: session.transcript.iter().copied().collect(),
            transcript_head: session.transcript.iter().fold(start, TranscriptHead::after),
        })
    }

    /// Housekeeping: expired nonces are wiped, old timers dropped. Returns the state whose sessions are to be looked at
    /// for idleness, when that is due.
    pub(crate) fn tick(&mut self, env: &Env<'_>) -> Result<Option<State>, Refusal> {
        self.settle(env.line)?;
        self.nonces.expire(env.now);
        self.timers.expire(env.now);
        let runs = env.status.admits_work();
        self.idle.tick(env.now, runs);
        let due = runs && self.idle.scan_is_due(env.config.session_idle_ms_max);
        Ok(due.then(|| self.ledger.admitted().clone()))
    }

    /// Closes those of `sessions` that were idle for too long.
    pub(crate) fn close_idle(&mut self, env: &Env<'_>, sessions: &[(KeyGroupId, SessionId)]) -> Result<(), Refusal> {
        for (key_group, session) in sessions {
            let open = self.admitted_group(key_group).is_ok_and(|group| group.sessions.contains_key(session));
            if open && self.idle.idle_ms(key_group, session) >= env.config.session_idle_ms_max {
                self.nonces.wipe_session(key_group, session);
                self.record_end(env, key_group, session, Ending::Closed)?;
            }
        }
        Ok(())
    }

    /// What RAM keeps of a session goes with its end.
    pub(crate) fn forget_session(&mut self, key_group: &KeyGroupId, session: &SessionId) {
        self.idle.forget(key_group, session);
        self.timers.forget_session(key_group, session);
    }

    /// A serve from memory keeps its session from being idle, and starts the timer of its attempt after a restart.
    pub(crate) fn note_serve(
        &mut self,
        env: &Env<'_>,
        key_group: &KeyGroupId,
        session: &SessionId,
        context: &AttemptContext,
    ) {
        // Not of one whose end is in line: nothing would ever forget it again.
        if self.admitted_group(key_group).is_ok_and(|group| group.sessions.contains_key(session)) {
            self.idle.touch(key_group, session);
            self.start_timer(env, key_group, session, context);
        }
    }

    /// Starts the node's own timer of an attempt at the first request for it that passes step 6: an attempt that nothing
    /// authorises has no coordinator who could be silent. Says when it started.
    pub(crate) fn start_timer(
        &mut self,
        env: &Env<'_>,
        key_group: &KeyGroupId,
        session: &SessionId,
        context: &AttemptContext,
    ) -> Millis {
        let group = self.ledger.durable().key_groups.get(key_group);
        if group.is_none_or(|group| group.attempt_policy != AttemptPolicy::Evidence) {
            return env.now;
        }
        let open = group.and_then(|group| group.sessions.get(session));
        let active = open.and_then(|session| session.active.as_ref()).map(|active| active.number);
        self.timers.start(key_group, session, context, active, env.now)
    }
}
