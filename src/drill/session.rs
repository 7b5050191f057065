//! The rounds of one drill: one session of a message that spends nothing, with the commitments of as many members as a signature needs.
//! The drilled node's member alone is asked for shares, so that no signature comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use frostkeep_hsm::clock::SystemClock;
use tokio::time::sleep;

use super::stand::{Seat, Stand};
use crate::client::{ClientError, ServedRound};
use crate::coordinator::Setting;
use crate::engine::{CommitRequest, SessionRequest, SignRequest, drill_subject};
use crate::frost::{Commitments, SigningPackage};
use crate::ids::{DrillId, Member, RoundId, SessionId};
use crate::reasons::Reason;
use crate::roast::SignedRound;
use crate::wire::status::Problem;

/// How often a node that has no token is asked to end the session, and the pause between.
const ABORT_TRIES: u32 = 5;
const ABORT_PAUSE: Duration = Duration::from_millis(300);

/// What came of a request, and how long it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Microseconds until it came.
    pub took_us: u64,
    /// What it was.
    pub outcome: Outcome,
}

/// What came of a request for a round.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The round.
    Served(Box<ServedRound>),
    /// A refusal.
    Refused(Box<Problem>),
    /// No answer, or none that makes sense.
    Lost(String),
}

impl Answer {
    /// The round, if it was served.
    pub fn served(&self) -> Option<&ServedRound> {
        match &self.outcome {
            Outcome::Served(round) => Some(round),
            Outcome::Refused(_) | Outcome::Lost(_) => None,
        }
    }

    /// The refusal, if it was refused.
    pub fn refused(&self) -> Option<&Problem> {
        match &self.outcome {
            Outcome::Refused(problem) => Some(problem),
            Outcome::Served(_) | Outcome::Lost(_) => None,
        }
    }
}

impl From<Result<ServedRound, ClientError>> for Outcome {
    fn from(answer: Result<ServedRound, ClientError>) -> Self {
        match answer {
            Ok(round) => Self::Served(Box::new(round)),
            Err(ClientError::Refused(problem)) => Self::Refused(problem),
            Err(error) => Self::Lost(error.to_string()),
        }
    }
}

/// One request for a round, made again as often as it takes.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) request: SignRequest,
    pub(super) round: RoundId,
}

/// How the session ended on the nodes of its members.
#[derive(Debug, Clone, Default)]
pub struct Closed {
    /// Nodes that were told.
    pub told: usize,
    /// Why some have not ended it.
    pub problems: Vec<String>,
}

/// The session of one drill.
pub(super) struct Rounds<S> {
    stand: Arc<S>,
    clock: Arc<SystemClock>,
    setting: Setting,
    member: Member,
    others: BTreeMap<Member, Commitments>,
    number: AtomicU32,
}

impl<S: Stand> Rounds<S> {
    /// Opens the session: as many members as a signature needs give commitments, the drilled node's among them.
    pub(super) async fn open(
        stand: &Arc<S>,
        clock: &Arc<SystemClock>,
        seat: &Seat,
        drill: &DrillId,
    ) -> Result<(Self, Commitments), ClientError> {
        let (session, subject) = drill_subject(&seat.key_group(), drill);
        let setting = Setting::new(seat.group.clone(), seat.identities.clone(), session, subject);
        let (stand, clock) = (Arc::clone(stand), Arc::clone(clock));
        let mut rounds =
            Self { stand, clock, setting, member: seat.member, others: BTreeMap::new(), number: AtomicU32::new(0) };
        let own = rounds.own().await?;
        let needed = rounds.setting.threshold().saturating_sub(1);
        let mut missing = Vec::new();
        for member in rounds.setting.members().to_vec() {
            if rounds.others.len() >= needed {
                break;
            }
            if member == rounds.member {
                continue;
            }
            match rounds.commit(member).await {
                Ok(commitments) => drop(rounds.others.insert(member, commitments)),
                Err(error) => missing.push(format!("member {member}: {error}")),
            }
        }
        if rounds.others.len() >= needed {
            return Ok((rounds, own));
        }
        rounds.close().await;
        let problem = format!("{needed} members beside this node's have to give commitments: {}", missing.join("; "));
        Err(ClientError::Unreachable(problem))
    }

    async fn commit(&self, member: Member) -> Result<Commitments, ClientError> {
        let (session, key_group) = (self.session().clone(), self.setting.key_group());
        self.stand.commit(&CommitRequest { session, key_group, member }).await
    }

    /// The commitments that the drilled node's member has now.
    pub(super) async fn own(&self) -> Result<Commitments, ClientError> {
        self.commit(self.member).await
    }

    pub(super) fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    pub(super) fn session(&self) -> &SessionId {
        self.setting.session()
    }

    /// The next attempt, with these commitments of the drilled node's member.
    pub(super) fn attempt(&self, own: &Commitments) -> Result<Attempt, ClientError> {
        let nonsense = |error: &dyn std::fmt::Display| ClientError::Nonsense(error.to_string());
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut commitments = self.others.clone();
        commitments.insert(self.member, own.clone());
        let included: Vec<Member> = commitments.keys().copied().collect();
        let context = self.setting.derive(number, &included).map_err(|error| nonsense(&error))?;
        let subject = *self.setting.subject();
        let package = SigningPackage::new(subject.message, commitments).map_err(|error| nonsense(&error))?;
        let round = self.setting.round_id(&context, self.member, &package);
        let request = SignRequest {
            session: self.session().clone(),
            key_group: self.setting.key_group(),
            member: self.member,
            subject,
            context: context.parts(),
            package,
            evidence: Vec::new(),
        };
        Ok(Attempt { request, round })
    }

    /// Asks for the round of an attempt.
    pub(super) async fn ask(&self, attempt: &Attempt) -> Answer {
        let begun = self.clock.now_us();
        let answer = self.stand.round(&attempt.request).await;
        Answer { took_us: self.clock.now_us().saturating_sub(begun), outcome: answer.into() }
    }

    /// Whether a round is the one answer that its attempt can have: under one package a member's nonces have exactly one share.
    pub(super) fn is_the_answer(&self, attempt: &Attempt, served: &ServedRound) -> bool {
        let SignRequest { context, package, subject, .. } = &attempt.request;
        let signed = SignedRound {
            member: served.member.number(),
            attempt: context.clone(),
            root: subject.root,
            package: package.to_bytes(),
            share: served.share.to_vec(),
            round_signature: served.round_signature.to_vec(),
        };
        served.round == attempt.round && self.setting.is_valid(&signed)
    }

    /// A node that was ready a moment ago may be healing still: what is left open there waits for somebody else to end it.
    async fn abort(&self, member: Member, request: &SessionRequest) -> Result<(), ClientError> {
        let mut tries = 1;
        loop {
            let Err(error) = self.stand.abort(member, request).await else { return Ok(()) };
            if error.reason() != Some(Reason::KeyProviderUnavailable) || tries == ABORT_TRIES {
                return Err(error);
            }
            tries += 1;
            sleep(ABORT_PAUSE).await;
        }
    }

    /// Ends the session on every node that has heard of it. Its nonces are wiped there.
    pub(super) async fn close(&self) -> Closed {
        let request = SessionRequest { session: self.session().clone(), key_group: self.setting.key_group() };
        let mut closed = Closed::default();
        for member in std::iter::once(&self.member).chain(self.others.keys()) {
            closed.told += 1;
            let Err(error) = self.abort(*member, &request).await else { continue };
            // Without a round there is no session, and its nonces are wiped all the same.
            let ended = [Reason::SessionUnknown, Reason::SessionAborted, Reason::SessionClosed];
            if !error.reason().is_some_and(|reason| ended.contains(&reason)) {
                closed.problems.push(format!("member {member}: {error}"));
            }
        }
        closed
    }
}

/// The commitments that come with a round.
pub(super) fn next_of(served: &ServedRound) -> Option<Commitments> {
    Commitments::from_bytes(served.next.as_ref()?).ok()
}
