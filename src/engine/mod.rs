//! The engine: sessions, rounds, the cached serve, gates.
//!
//! Operations run in one straight line: checks under the lock, FROST off the lock, the record installed under the lock,
//! and a wait for its position without any lock. A share leaves through [`Engine::start_sign_round`]'s release alone:
//! from the durable view, behind the freeze gate (I1, I8).
//!
//! - [`caller`], [`request`], [`reply`], [`refusal`]: what comes in and goes out
//! - [`record`], [`state`]: what is remembered; `image`: the same for a snapshot; `ledger`: the durable and the admitted view
//! - `sign`, `advance`, `finalize`, `sessions`, `vote`, `approve`, [`keygen`], [`freeze`]: an operation each
//! - `groups`, `replace`: key groups as they stand, and new identities of their members
//! - `ceremonies`: key generations under way; `trial`, `drill`: the messages that prove a new key, and that an outage drill signs

mod admin;
pub(crate) mod advance;
mod approve;
pub mod caller;
mod ceremonies;
mod checks;
mod commit;
mod core;
mod drill;
mod finalize;
mod flight;
pub mod freeze;
mod groups;
mod image;
pub mod keygen;
mod ledger;
mod nonces;
mod open;
pub mod record;
pub mod refusal;
mod release;
mod replace;
pub mod reply;
pub mod request;
mod sessions;
mod sign;
pub mod state;
mod tally;
mod timers;
mod trial;
mod vote;
mod wait;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frostkeep_hsm::clock::Clock;
use frostkeep_hsm::entropy::Entropy;
use zeroize::Zeroizing;

pub use admin::freeze_now;
pub use approve::BuildRequest;
pub use caller::{Caller, Role};
pub use ceremonies::CeremonyStage;
pub use drill::{drill_subject, is_drill_session};
pub use freeze::{FreezeReport, Gates};
pub use groups::{KeyGroupPhase, KeyGroupView};
pub use keygen::PreparedReply;
pub use open::{Replay, Surroundings};
pub use refusal::Refusal;
pub use reply::{ApprovalReply, Finalized, RoundReply};
pub use request::{
    CommitRequest, FinalizeRequest, Finish, SessionRequest, SignRequest, Subject, SubmittedShare, VoteRequest,
};
pub use sessions::SessionView;
pub use tally::TallyView;
pub use trial::{trial_session, trial_subject};

use self::advance::{Authorised, Chain, Facts};
use self::ceremonies::Ceremonies;
use self::core::{Core, Env, releases_allowed};
use self::finalize::FinalizeStep;
use self::reply::ReleasedRound;
use self::sign::{SignQuestion, SignStep};
use self::tally::Tally;
use self::vote::VoteStep;
use crate::identity::{IdentityKey, NodeIdentity};
use crate::ids::{KeyGroupId, SessionId};
use crate::limits;
use crate::policy::{SigningPolicy, Tightening};
use crate::roast::score::Scoring;
use crate::roast::{AttemptBinding, AttemptContext, ContextError, ShareVerdict, SignedRound, TimeoutVote};
use crate::store::deny::DenyFiles;
use crate::store::{Line, Status};

/// Where an engine takes its randomness from: the operating system, or a test's own.
pub type EntropySource = Arc<dyn Fn() -> Box<dyn Entropy> + Send + Sync>;

/// Where a client key comes from, PKCS#8. The engine keeps the key and does not know what it is for: TLS is above it, and
/// brings its own randomness.
pub type ClientKeySource = Arc<dyn Fn() -> Result<Zeroizing<Vec<u8>>, String> + Send + Sync>;

/// The domain of the hashes that [`crate::roast`] defines, as the node identity signs them.
pub(crate) const SIGNED_HASH_DOMAIN: &str = "frostkeep/signed-hash/v1";

/// Signs a round's or a vote's hash.
pub(crate) fn sign_hash(identity: &NodeIdentity, hash: &[u8; 32]) -> [u8; 64] {
    *identity.sign(SIGNED_HASH_DOMAIN, &[hash]).as_bytes()
}

/// What an operator can set.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Tightens every key group's policy; it can never widen one.
    pub tighten: Option<Tightening>,
    /// Whether verified blame quarantines members.
    pub scoring: Scoring,
    /// Silence of a coordinator after which this node votes for a timeout, milliseconds.
    pub attempt_timeout_ms: u64,
    /// A session idle for this long is closed, milliseconds.
    pub session_idle_ms_max: u64,
    /// The longest that a request waits for its record to become durable, milliseconds.
    pub reply_wait_ms_max: u64,
    /// The longest that a freeze waits for its deny file, milliseconds.
    pub deny_file_wait_ms_max: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            tighten: None,
            scoring: Scoring::Off,
            attempt_timeout_ms: limits::ATTEMPT_TIMEOUT_MS,
            session_idle_ms_max: limits::SESSION_IDLE_MS_MAX,
            reply_wait_ms_max: limits::REPLY_WAIT_MS_MAX,
            deny_file_wait_ms_max: limits::DENY_FILE_WAIT_MS_MAX,
        }
    }
}

impl EngineConfig {
    pub(crate) fn effective_policy(&self, policy: &Arc<SigningPolicy>) -> Result<Arc<SigningPolicy>, Refusal> {
        match &self.tighten {
            None => Ok(Arc::clone(policy)),
            Some(tighter) => policy
                .tighten(tighter)
                .map(Arc::new)
                .map_err(|error| Refusal::Internal(format!("the configured tightening is not valid: {error}"))),
        }
    }
}

/// The engine of an open node. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    core: Mutex<Core>,
    ceremonies: Ceremonies,
    line: Line,
    gates: Arc<Gates>,
    deny: Arc<DenyFiles>,
    clock: Arc<dyn Clock>,
    entropy: EntropySource,
    config: EngineConfig,
    tally: Tally,
}

/// A long chain of votes and shares takes seconds: not on a thread that serves.
async fn verify(facts: Facts, chain: Chain, active: AttemptContext) -> Result<Authorised, Refusal> {
    wait::blocking(move || advance::verify_chain(&facts, &chain, &active)).await
}

impl Engine {
    fn core(&self) -> MutexGuard<'_, Core> {
        // Memory work under this lock does not panic half way: `install` changes the ledger last.
        self.inner.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn env(&self) -> Env<'_> {
        Env {
            status: self.inner.line.status(),
            now: self.inner.clock.now(),
            unix: self.inner.clock.unix_seconds(),
            config: &self.inner.config,
            line: &self.inner.line,
            gates: &self.inner.gates,
        }
    }

    fn facts(&self, key_group: &KeyGroupId) -> Result<Facts, Refusal> {
        let mut core = self.core();
        core.settle(&self.inner.line)?;
        Ok(Facts::of(key_group, core.durable_group(key_group)?))
    }

    /// What was served and refused since this engine was opened.
    pub fn tally(&self) -> TallyView {
        self.inner.tally.view()
    }

    /// Refuses as a fresh round would be refused now for an outage, a disk, an anchor or a start that is not recorded.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admits_work(&self) -> Result<(), Refusal> {
        self.env().admit_work()
    }

    /// The persister's state after its last step.
    pub fn status(&self) -> Status {
        self.inner.line.status()
    }

    /// The node's identity, for the roster.
    ///
    /// # Errors
    /// [`Refusal::Internal`] before the first record of a new state is durable.
    pub fn node_identity(&self) -> Result<IdentityKey, Refusal> {
        let mut core = self.core();
        core.settle(&self.inner.line)?;
        Ok(core.identity()?.public())
    }

    /// The key that this node calls others with, PKCS#8, out of the sealed state. It opens doors, so a node whose anchor belongs
    /// to another instance does not get it.
    ///
    /// # Errors
    /// [`Refusal::Starting`] before its record is durable.
    pub fn client_key(&self) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut core = self.core();
        core.settle(&self.inner.line)?;
        releases_allowed(self.inner.line.status().releases)?;
        match (&core.ledger.durable().client_key, &core.ledger.admitted().client_key) {
            (Some(key), _) => Ok(Zeroizing::new(key.expose().to_vec())),
            (None, Some(_)) => Err(Refusal::Starting),
            (None, None) => Err(Refusal::Internal("this start could make no client key".into())),
        }
    }

    /// `DeriveAttemptContext`: the context of an attempt. Stateless.
    ///
    /// # Errors
    /// [`ContextError`].
    pub fn derive_attempt_context(
        binding: &AttemptBinding<'_>,
        number: u32,
        included: &[u16],
    ) -> Result<AttemptContext, ContextError> {
        AttemptContext::derive(binding, number, included)
    }

    /// `StartSignRound`. `encode` turns the released round into what the caller gets; it runs behind the freeze gate and
    /// must not block.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn start_sign_round<R>(
        &self,
        caller: &Caller,
        request: &SignRequest,
        encode: impl FnOnce(&RoundReply) -> R,
    ) -> Result<R, Refusal> {
        let answer = self.sign_round(caller, request, encode).await;
        let answer = self.guard_signature(&request.key_group, answer);
        self.inner.tally.note("StartSignRound", answer)
    }

    async fn sign_round<R>(
        &self,
        caller: &Caller,
        request: &SignRequest,
        encode: impl FnOnce(&RoundReply) -> R,
    ) -> Result<R, Refusal> {
        caller.require(&[Role::Coordinator])?;
        let facts = || self.facts(&request.key_group);
        let question = SignQuestion::new(request, &facts()?.group_key)?;
        let mut authorised = None;
        let mut in_flight = false;
        let mut computed = false;
        loop {
            let step = {
                let env = self.env();
                self.core().admit_sign(&env, caller, &question, authorised.as_ref())?
            };
            match step {
                SignStep::Serve(round, current) => {
                    let released = self.release(ReleasedRound { round, current }, encode)?;
                    self.inner.tally.round(computed);
                    return Ok(released);
                }
                SignStep::Wait(position) => self.await_durable(position, in_flight).await?,
                SignStep::Join(state) => {
                    in_flight = true;
                    self.await_landing(state).await?;
                }
                SignStep::Verify { active } => {
                    let chain = Chain {
                        session: request.session.clone(),
                        subject: request.subject,
                        evidence: request.evidence.clone(),
                        target: question.context.clone(),
                    };
                    authorised = Some(verify(facts()?, chain, active).await?);
                }
                SignStep::MakePair => {
                    let current = self.pair(&request.key_group, &request.session, request.member).ok().map(Box::new);
                    return Err(Refusal::CommitmentsUnknown { member: request.member, current });
                }
                SignStep::Compute(job) => {
                    (in_flight, computed) = (true, true);
                    self.await_landing(self.launch(job)).await?;
                }
            }
        }
    }

    /// `FinalizeSignRound`. None when this node has no such session: then nothing is recorded.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn finalize_sign_round(
        &self,
        caller: &Caller,
        request: &FinalizeRequest,
    ) -> Result<Option<Finalized>, Refusal> {
        let answer = self.finalize(caller, request).await;
        self.inner.tally.note("FinalizeSignRound", answer)
    }

    async fn finalize(&self, caller: &Caller, request: &FinalizeRequest) -> Result<Option<Finalized>, Refusal> {
        let mut in_flight = false;
        loop {
            let step = {
                let env = self.env();
                self.core().admit_finalize(&env, caller, request)?
            };
            match step {
                FinalizeStep::NotHere => return Ok(None),
                FinalizeStep::Serve(finished) => {
                    return self.hand_over(&request.key_group, || Finalized::new(&finished)).map(Some);
                }
                FinalizeStep::Wait(position) => self.await_durable(position, in_flight).await?,
                FinalizeStep::Compute(job) => {
                    in_flight = true;
                    let engine = self.clone();
                    let position = wait::blocking(move || {
                        let verified = finalize::verify(*job)?;
                        let env = engine.env();
                        engine.core().complete_finalize(&env, verified)
                    })
                    .await?;
                    self.await_durable(position, true).await?;
                }
            }
        }
    }

    /// `AbortSession`: the session's nonces are wiped at once, its end is recorded.
    ///
    /// # Errors
    /// [`Refusal`]; the nonces are wiped even then, the key group being known and active.
    pub async fn abort_session(&self, caller: &Caller, request: &SessionRequest) -> Result<(), Refusal> {
        let position = {
            let env = self.env();
            self.core().abort(&env, caller, request)
        };
        let answer = match position {
            Ok(Some(position)) => self.await_durable(position, true).await,
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        let answer = self.guard_signature(&request.key_group, answer);
        self.inner.tally.note("AbortSession", answer)
    }

    /// `GetSession`: per local member the highest attempt, and the durable rounds with their packages. Behind the gates of
    /// a release, since it carries shares.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn session<R>(
        &self,
        caller: &Caller,
        request: &SessionRequest,
        encode: impl FnOnce(&SessionView) -> R,
    ) -> Result<R, Refusal> {
        let view = self.session_view(caller, request);
        let answer = view.and_then(|view| self.hand_over(&request.key_group, || encode(&view)));
        let answer = self.guard_signature(&request.key_group, answer);
        self.inner.tally.note("GetSession", answer)
    }

    fn session_view(&self, caller: &Caller, request: &SessionRequest) -> Result<SessionView, Refusal> {
        caller.require(&[Role::Coordinator])?;
        let group_key = self.facts(&request.key_group)?.group_key;
        let subject = self.core().session_subject(request)?;
        let output_key = group_key.output_key(subject.root.as_ref());
        let env = self.env();
        self.core().session_view(&env, request, &output_key)
    }

    /// `VerifySignatureShare`: valid, invalid (and signed by the member), or indeterminate.
    ///
    /// # Errors
    /// [`Refusal`] when the key group is not active here or the caller may not ask.
    pub fn verify_signature_share(
        &self,
        caller: &Caller,
        key_group: &KeyGroupId,
        session: &SessionId,
        subject: &Subject,
        round: &SignedRound,
    ) -> Result<ShareVerdict, Refusal> {
        caller.require(&[Role::Coordinator, Role::Peer, Role::Observer])?;
        Ok(self.facts(key_group)?.verdict(session, subject, round))
    }

    /// `VoteTimeout`.
    ///
    /// # Errors
    /// [`Refusal`]; `vote_too_early` carries the time left.
    pub async fn vote_timeout(&self, caller: &Caller, request: &VoteRequest) -> Result<TimeoutVote, Refusal> {
        let answer = self.vote(caller, request).await;
        let answer = self.guard_signature(&request.key_group, answer);
        self.inner.tally.note("VoteTimeout", answer)
    }

    async fn vote(&self, caller: &Caller, request: &VoteRequest) -> Result<TimeoutVote, Refusal> {
        caller.require(&[Role::Coordinator, Role::Peer])?;
        let facts = || self.facts(&request.key_group);
        let group_key = facts()?.group_key;
        let threshold = group_key.threshold();
        let context =
            checks::parse_context(&request.key_group, &request.session, &request.subject, threshold, &request.context)?;
        let output_key = group_key.output_key(request.subject.root.as_ref());
        let mut authorised = None;
        let job = loop {
            let step = {
                let env = self.env();
                self.core().admit_vote(&env, caller, request, &context, &output_key, authorised.as_ref())?
            };
            match step {
                VoteStep::Sign(job) => break job,
                VoteStep::Verify { active } => {
                    let chain = Chain {
                        session: request.session.clone(),
                        subject: request.subject,
                        evidence: request.evidence.clone(),
                        target: context.clone(),
                    };
                    authorised = Some(verify(facts()?, chain, active).await?);
                }
            }
        };
        let signature = sign_hash(&job.identity, &job.message);
        let vote = TimeoutVote { voter: job.voter.number(), signature: signature.to_vec() };
        self.hand_over(&request.key_group, || vote)
    }

    /// Housekeeping that the node calls every few seconds: expired nonces, idle sessions, old timers, ceremonies without a
    /// driver.
    ///
    /// # Errors
    /// [`Refusal`] when a closing could not be recorded; the next tick tries again.
    pub fn tick(&self) -> Result<(), Refusal> {
        let env = self.env();
        self.inner.ceremonies.expire(env.now);
        let Some(state) = self.core().tick(&env)? else { return Ok(()) };
        // In small bites: whoever is served meanwhile waits for one bite at the most.
        for sessions in sessions::open_sessions(&state).chunks(256) {
            self.core().close_idle(&env, sessions)?;
        }
        Ok(())
    }
}
