//! Runs a machine over a port: the questions go out side by side, are asked again after growing pauses with jitter, and the
//! finished signature is handed to every member's node. Dropping the future cancels it all; nothing is lost by that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::entropy::Entropy;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ask::{Answer, Ask, AskKey, Effect, Event, Hindrance, Machine, Progress};
use super::blame::Blame;
use super::end::End;
use super::evidence::EvidenceMachine;
use super::port::{Port, PortError};
use super::roast::RoastMachine;
use super::setting::Setting;
use crate::engine::{CommitRequest, FinalizeRequest, Finish, SessionRequest, SignRequest, VoteRequest};
use crate::frost::Signature;
use crate::ids::{Member, SessionId};
use crate::limits::{ASKS_MAX, ATTEMPT_TIMEOUT_MS};
use crate::reasons::Retry;

/// The pauses and limits of a driver, milliseconds.
#[derive(Debug, Clone)]
pub struct DriveConfig {
    /// The longest that it may take to the signature, all tries together.
    pub deadline_ms: u64,
    /// The longest that one call may take; then it is made again.
    pub call_ms: u64,
    /// Under `evidence`: how long an attempt lasts before it is looked at. Longer than the members' own timers.
    pub attempt_ms: u64,
    /// The first pause before a question is asked again; it doubles.
    pub pause_ms_min: u64,
    /// The longest such pause.
    pub pause_ms_max: u64,
    /// The longest that handing the signature to every node may take.
    pub handover_ms: u64,
}

impl Default for DriveConfig {
    fn default() -> Self {
        Self {
            deadline_ms: 5 * 60 * 1_000,
            call_ms: 90 * 1_000,
            attempt_ms: 2 * ATTEMPT_TIMEOUT_MS,
            pause_ms_min: 100,
            pause_ms_max: 5_000,
            handover_ms: 10_000,
        }
    }
}

/// A session that came to its end.
#[derive(Debug, Clone)]
pub struct Done {
    /// The session.
    pub session: SessionId,
    /// The signature, BIP-340, verified.
    pub signature: Signature,
    /// Members whose nodes did not confirm the signature: their sessions end when they next hear of it.
    pub unconfirmed: Vec<Member>,
    /// Members at fault in this session, with what shows it, in the order in which it came up.
    pub blamed: Vec<(Member, Blame)>,
}

/// Why there is no signature.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DriveError {
    /// Fewer than t members can answer.
    #[error("session {session}: fewer members than the threshold can answer")]
    Stuck {
        /// The session.
        session: SessionId,
        /// What stands between each member and the signature.
        members: Vec<(Member, Hindrance)>,
    },
    /// Members have ended this session; the next try can pass.
    #[error("session {session} was aborted or closed by its members")]
    TryOver {
        /// The session.
        session: SessionId,
        /// What stands between each member and the signature.
        members: Vec<(Member, Hindrance)>,
    },
    /// Every try was ended by the members.
    #[error("every session that this message can have was aborted or closed")]
    TriesSpent,
    /// The time is over.
    #[error("session {session}: no signature within {deadline_ms} ms")]
    Deadline {
        /// The session.
        session: SessionId,
        /// The limit.
        deadline_ms: u64,
        /// What stands between each member and the signature.
        members: Vec<(Member, Hindrance)>,
    },
}

/// Runs `machine` to the end of the session of `setting`, then hands the signature to every member's node.
///
/// # Errors
/// [`DriveError`], with what stands between each member and the signature.
pub async fn drive<P: Port>(
    port: &Arc<P>,
    setting: &Setting,
    machine: &mut dyn Machine,
    config: &DriveConfig,
    entropy: &mut dyn Entropy,
    watch: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Done, DriveError> {
    let session = setting.session().clone();
    let mut driver = Driver::new(port, setting, config, entropy, watch);
    let run = timeout(Duration::from_millis(config.deadline_ms), driver.run(machine)).await;
    let ended = run.map_err(|_| DriveError::Deadline {
        session: session.clone(),
        deadline_ms: config.deadline_ms,
        members: machine.hindrances(),
    })?;
    let signature = match ended {
        Ended::Finished(signature) => signature,
        Ended::Stuck(members) => return Err(DriveError::Stuck { session, members }),
        Ended::TryOver(members) => return Err(DriveError::TryOver { session, members }),
    };
    let blamed = std::mem::take(&mut driver.blamed);
    let unconfirmed = hand_over(port, setting, signature, config).await;
    Ok(Done { session, signature, unconfirmed, blamed })
}

/// Signs the subject of `setting` under the policy `roast`: in the session of the lowest try that enough members have left
/// open. The session of `setting` itself is not used.
///
/// # Errors
/// [`DriveError`].
pub async fn sign<P: Port>(
    port: &Arc<P>,
    setting: &Setting,
    config: &DriveConfig,
    entropy: &mut dyn Entropy,
    watch: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Done, DriveError> {
    let end = End::of(config);
    for session in setting.tries() {
        let setting = setting.in_session(session);
        let mut machine = RoastMachine::new(setting.clone());
        match drive(port, &setting, &mut machine, &end.left(), entropy, watch).await {
            Err(DriveError::TryOver { .. }) => {}
            other => return end.told(other),
        }
    }
    Err(DriveError::TriesSpent)
}

/// Signs the subject of `setting` under the policy `evidence`, on a node that holds `own`. An attempt that can neither be
/// completed nor voted away ends its session, which is aborted; the next try leaves out those that it waited for, as long as
/// enough others answer.
///
/// # Errors
/// [`DriveError`].
pub async fn sign_by_evidence<P: Port>(
    port: &Arc<P>,
    setting: &Setting,
    own: &BTreeSet<Member>,
    config: &DriveConfig,
    entropy: &mut dyn Entropy,
    watch: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Done, DriveError> {
    let end = End::of(config);
    let mut failures = BTreeMap::new();
    for session in setting.tries() {
        let setting = setting.in_session(session);
        let mut machine = EvidenceMachine::new(setting.clone(), own.clone()).after(&failures);
        match drive(port, &setting, &mut machine, &end.left(), entropy, watch).await {
            Err(DriveError::TryOver { .. }) => {
                failures = machine.failures();
                abort(port, &setting, config).await;
            }
            other => return end.told(other),
        }
    }
    Err(DriveError::TriesSpent)
}

/// Ends a session wherever it can be ended, so that a second run passes it by as well.
async fn abort<P: Port>(port: &Arc<P>, setting: &Setting, config: &DriveConfig) {
    let mut under_way = JoinSet::new();
    for member in setting.members().iter().copied() {
        let port = Arc::clone(port);
        let request = SessionRequest { session: setting.session().clone(), key_group: setting.key_group() };
        under_way.spawn(async move { port.abort(member, request).await });
    }
    // Whoever is not reached has no part in the next try either.
    let _in_time =
        timeout(Duration::from_millis(config.handover_ms), async { while under_way.join_next().await.is_some() {} })
            .await;
}

enum Ended {
    Finished(Signature),
    Stuck(Vec<(Member, Hindrance)>),
    TryOver(Vec<(Member, Hindrance)>),
}

struct Driver<'a, P> {
    port: &'a Arc<P>,
    setting: &'a Setting,
    config: &'a DriveConfig,
    entropy: &'a mut dyn Entropy,
    watch: &'a mut (dyn FnMut(&Progress) + Send),
    /// Calls and pauses under way. Dropping it ends them.
    under_way: JoinSet<Event>,
    room: Arc<Semaphore>,
    /// How often each question was put.
    asked: BTreeMap<(Member, AskKey), u32>,
    blamed: Vec<(Member, Blame)>,
}

impl<'a, P: Port> Driver<'a, P> {
    fn new(
        port: &'a Arc<P>,
        setting: &'a Setting,
        config: &'a DriveConfig,
        entropy: &'a mut dyn Entropy,
        watch: &'a mut (dyn FnMut(&Progress) + Send),
    ) -> Self {
        let (under_way, room, asked) = (JoinSet::new(), Arc::new(Semaphore::new(ASKS_MAX)), BTreeMap::new());
        Self { port, setting, config, entropy, watch, under_way, room, asked, blamed: Vec::new() }
    }

    async fn run(&mut self, machine: &mut dyn Machine) -> Ended {
        let mut effects = machine.start();
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Ask { member, ask } => self.put(member, ask, 0),
                    Effect::Again { member, ask, after_ms } => {
                        let pause = self.pause_ms(member, &ask, after_ms);
                        self.put(member, ask, pause);
                    }
                    Effect::Wake { attempt } => {
                        let pause = Duration::from_millis(self.config.attempt_ms);
                        self.under_way.spawn(async move {
                            sleep(pause).await;
                            Event::Woke { attempt }
                        });
                    }
                    Effect::Tell(progress) => {
                        if let Progress::Blamed { member, blame } = &progress {
                            self.blamed.push((*member, blame.clone()));
                        }
                        (self.watch)(&progress);
                    }
                    Effect::Finished(signature) => return Ended::Finished(signature),
                    Effect::Stuck(members) => return Ended::Stuck(members),
                    Effect::TryOver(members) => return Ended::TryOver(members),
                }
            }
            match self.under_way.join_next().await {
                Some(Ok(event)) => effects = machine.handle(event),
                // A call that panicked is one that brought no answer; the others go on.
                Some(Err(_)) => {}
                None => return Ended::Stuck(machine.hindrances()),
            }
        }
    }

    /// Between half and the whole of a pause that doubles, or what the member named and a little more: never all at once.
    fn pause_ms(&mut self, member: Member, ask: &Ask, after_ms: Option<u64>) -> u64 {
        let times = self.asked.get(&(member, ask.key())).copied().unwrap_or_default().min(16);
        let grown = self.config.pause_ms_min.saturating_mul(1 << times).min(self.config.pause_ms_max).max(2);
        let jitter = self.entropy.next_u64() % (grown / 2);
        match after_ms {
            Some(named) => named.saturating_add(jitter.min(self.config.pause_ms_min)),
            None => grown / 2 + jitter,
        }
    }

    fn put(&mut self, member: Member, ask: Ask, pause_ms: u64) {
        *self.asked.entry((member, ask.key())).or_default() += 1;
        let (port, setting, room) = (Arc::clone(self.port), self.setting.clone(), Arc::clone(&self.room));
        // Another node that drives an attempt takes as long as a session does.
        let limit_ms = if matches!(ask, Ask::Drive(_)) { self.config.deadline_ms } else { self.config.call_ms };
        self.under_way.spawn(async move {
            if pause_ms > 0 {
                sleep(Duration::from_millis(pause_ms)).await;
            }
            let _room = room.acquire_owned().await;
            let answer = timeout(Duration::from_millis(limit_ms), call(port.as_ref(), &setting, member, &ask)).await;
            let unreachable = |_| Err(PortError::Unreachable(format!("no answer within {limit_ms} ms")));
            match answer.unwrap_or_else(unreachable) {
                Ok(answer) => Event::Answer { member, answer },
                Err(error) => Event::Failed { member, ask, error },
            }
        });
    }
}

/// One question, as the call that it is.
async fn call<P: Port>(port: &P, setting: &Setting, member: Member, ask: &Ask) -> Result<Answer, PortError> {
    let (session, key_group, subject) = (setting.session().clone(), setting.key_group(), *setting.subject());
    match ask {
        Ask::Session => {
            let report = port.session(member, SessionRequest { session, key_group }).await?;
            Ok(Answer::Session(Box::new(report)))
        }
        Ask::Commitments => {
            let request = CommitRequest { session, key_group, member };
            port.commit(member, request).await.map(Answer::Commitments)
        }
        Ask::Round(ask) => {
            let request = SignRequest {
                session,
                key_group,
                member,
                subject,
                context: ask.context.parts(),
                package: ask.package.clone(),
                evidence: ask.evidence.clone(),
            };
            let answer = port.start_sign_round(member, request).await?;
            Ok(Answer::Round(Box::new(answer)))
        }
        Ask::Vote(ask) => {
            let (context, evidence) = (ask.context.parts(), ask.evidence.clone());
            let request = VoteRequest { session, key_group, member, subject, context, evidence };
            let signature = port.vote_timeout(member, request).await?;
            Ok(Answer::Vote { attempt: ask.context.id(), signature })
        }
        Ask::Drive(ask) => {
            port.drive(member, SessionRequest { session, key_group }, subject, ask).await.map(Answer::Driven)
        }
    }
}

/// Hands the signature to every member's node, so that sessions end everywhere. Gives those who did not confirm it.
async fn hand_over<P: Port>(
    port: &Arc<P>,
    setting: &Setting,
    signature: Signature,
    config: &DriveConfig,
) -> Vec<Member> {
    let mut missing: BTreeSet<Member> = setting.members().iter().copied().collect();
    let mut under_way = JoinSet::new();
    for member in setting.members().iter().copied() {
        let (port, pause) = (Arc::clone(port), Duration::from_millis(config.pause_ms_min.max(1)));
        let request = FinalizeRequest {
            session: setting.session().clone(),
            key_group: setting.key_group(),
            subject: *setting.subject(),
            finish: Finish::Signature(signature),
        };
        under_way.spawn(async move {
            loop {
                match port.finalize(member, request.clone()).await {
                    Ok(_) => return Some(member),
                    Err(PortError::Refused(refused)) if refused.reason.retry() == Retry::Never => return None,
                    Err(_) => sleep(pause).await,
                }
            }
        });
    }
    let confirm = async {
        while let Some(confirmed) = under_way.join_next().await {
            if let Ok(Some(member)) = confirmed {
                missing.remove(&member);
            }
        }
    };
    // Those who do not confirm in time are named; the signature is worth the same.
    let _in_time = timeout(Duration::from_millis(config.handover_ms), confirm).await;
    missing.into_iter().collect()
}
