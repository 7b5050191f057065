//! The course of a drill: what is asked of the node, when, and what came of it. Nothing is judged here.

use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, SystemClock};
use frostkeep_hsm::drill::DrillKind;
use frostkeep_hsm::entropy;
use rand_core::RngCore;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::observed::{Observed, Replays, RoundsSeen};
use super::prepared::{Answers, Prepared, replay, told};
use super::session::{Answer, Rounds, next_of};
use super::stand::{Seat, Seen, SeenToken, Stand};
use super::watch::{Notes, look};
use crate::client::{ClientError, DrillBegun, DrillOrder};
use crate::ids::DrillId;

/// Hears how it goes on: who, and what.
pub type Watch = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// How long a durable round is replayed before the drill, for comparison.
const BASELINE_MS: u64 = 1_000;
/// The pause between two fresh rounds.
const FRESH_PAUSE: Duration = Duration::from_millis(200);
/// How much later than promised an answer, an end or a recovery is waited for, milliseconds: the judge decides, not the clock.
const GRACE_MS: u64 = 5_000;

/// What is to be drilled.
#[derive(Clone)]
pub struct Plan {
    /// The kinds, one after the other.
    pub kinds: Vec<DrillKind>,
    /// How long each, milliseconds.
    pub duration_ms: u64,
    /// Begin although others sign on the node.
    pub danger_live_traffic: bool,
    /// Whose rounds are asked for; none for a drill that only looks.
    pub seat: Option<Seat>,
}

/// Why nothing was drilled.
#[derive(Debug, thiserror::Error)]
pub enum CourseError {
    /// A call to a node.
    #[error("{step}: {error}")]
    Call {
        /// What was tried.
        step: &'static str,
        /// What came of it.
        error: ClientError,
    },
    /// A token is away while others serve: what is away already shows nothing of a drill, and hides what becomes of it.
    #[error("a token is away before the drill: {}", .0.join("; "))]
    TokenAway(Vec<String>),
    /// A duration in which a sound node cannot show the outage.
    #[error("{kind} for {asked_ms} ms is too short for this node's deadlines: at least {least_ms} ms show it")]
    TooShort {
        /// The kind.
        kind: DrillKind,
        /// What was asked.
        asked_ms: u64,
        /// The least.
        least_ms: u64,
    },
    /// Somebody wanted no drill any more.
    #[error("interrupted before the drill: nothing was begun")]
    Interrupted,
}

fn at(step: &'static str) -> impl FnOnce(ClientError) -> CourseError {
    move |error| CourseError::Call { step, error }
}

/// Refuses a node of whose tokens one is away. A node that is not ready refuses by itself, and says more.
fn check_tokens(seen: &Seen) -> Result<(), CourseError> {
    let away = seen.tokens.iter().filter(|token| seen.ready && seen.drill.is_none() && !token.is_there());
    let away: Vec<String> = away.map(SeenToken::trouble).collect();
    if away.is_empty() { Ok(()) } else { Err(CourseError::TokenAway(away)) }
}

/// The course over one node.
pub struct Course<S> {
    /// The node.
    pub stand: Arc<S>,
    /// What is to be drilled.
    pub plan: Plan,
    /// Time.
    pub clock: Arc<SystemClock>,
    /// Who hears how it goes on.
    pub tell: Watch,
    /// Turns true when the drill is to end before its time.
    pub stop: watch::Receiver<bool>,
}

impl<S: Stand> Course<S> {
    /// Drills one kind after the other. A node that does not come back is not drilled further.
    ///
    /// # Errors
    /// [`CourseError`] when the first does not begin; what was seen before a later one does not is kept.
    pub async fn run(&self) -> Result<(Vec<Observed>, Option<CourseError>), CourseError> {
        let mut seen = Vec::new();
        self.check_duration().await?;
        for kind in &self.plan.kinds {
            match self.one(*kind).await {
                Ok(observed) => {
                    let goes_on = observed.ready_after_ms.is_some() && !observed.interrupted;
                    seen.push(observed);
                    if !goes_on {
                        break;
                    }
                }
                Err(error) if seen.is_empty() => return Err(error),
                Err(error) => return Ok((seen, Some(error))),
            }
        }
        Ok((seen, None))
    }

    /// Before the first kind: whoever asks for all of them hears of the last one's least before anything is done.
    async fn check_duration(&self) -> Result<(), CourseError> {
        let Some(times) = self.stand.look().await.map_err(at("the node's status"))?.times else { return Ok(()) };
        let (asked_ms, rounds) = (self.plan.duration_ms, self.plan.seat.is_some());
        let needed = self.plan.kinds.iter().filter_map(|kind| Some((times.least_ms(*kind, rounds)?, *kind)));
        match needed.max() {
            Some((least_ms, kind)) if asked_ms < least_ms => Err(CourseError::TooShort { kind, asked_ms, least_ms }),
            _ => Ok(()),
        }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn one(&self, kind: DrillKind) -> Result<Observed, CourseError> {
        let mut id = [0; 16];
        entropy::os().fill_bytes(&mut id);
        let drill = DrillId::new(id);
        let before = self.stand.look().await.map_err(at("the node's status"))?;
        check_tokens(&before)?;
        let mut rounds = match &self.plan.seat {
            Some(seat) => Some(self.prepare(seat, &drill).await?),
            None => None,
        };
        if self.stopped() {
            if let Some(prepared) = rounds {
                prepared.rounds.close().await;
            }
            return Err(CourseError::Interrupted);
        }
        let order = DrillOrder {
            drill,
            kind,
            duration_ms: self.plan.duration_ms,
            danger_live_traffic: self.plan.danger_live_traffic,
        };
        let notes = Notes::new(&self.clock, &self.tell);
        let begun = match self.stand.begin(&order).await {
            Ok(begun) => begun,
            Err(error) => return Err(self.give_up(&rounds, &drill, error).await),
        };
        notes.note(format!("drill {kind} begins, for {} ms", order.duration_ms));
        let (done, looking) = watch::channel(false);
        let looks = look(&self.stand, &notes, drill, looking.clone());
        let replays = rounds.as_ref().map(|prepared| {
            let (rounds, durable) = (Arc::clone(&prepared.rounds), prepared.durable.clone());
            let expected = prepared.bytes.clone();
            tokio::spawn(async move { replay(&rounds, &durable, &expected, || *looking.borrow()).await })
        });
        let interrupted = self.during(&begun, &mut rounds, &notes).await;
        // The replays belong to the drill; the looks go on until the node is back.
        let ended_ms = notes.over_ms().unwrap_or_else(|| notes.since_ms());
        let ready_after_ms = self.recover(&begun, ended_ms, &notes).await;
        done.send_replace(true);
        let _ = looks.await;
        let during = match replays {
            Some(task) => task.await.unwrap_or_default(),
            None => Replays::default(),
        };
        let rounds = match rounds {
            Some(prepared) => Some(self.conclude(prepared, during, &notes).await),
            None => None,
        };
        let after = self.stand.look().await.map(|seen| seen.counts).unwrap_or_default();
        Ok(Observed {
            kind,
            drill,
            duration_ms: self.plan.duration_ms,
            begun,
            sight: notes.taken(),
            rounds,
            interrupted,
            ready_after_ms,
            counts: (before.counts, after),
        })
    }

    /// Leaves nothing of a drill that does not begin. An answer that was lost may have been a beginning.
    async fn give_up(&self, rounds: &Option<Prepared<S>>, drill: &DrillId, error: ClientError) -> CourseError {
        if !matches!(error, ClientError::Refused(_)) {
            let _ = self.stand.end(drill).await;
        }
        if let Some(prepared) = rounds {
            prepared.rounds.close().await;
        }
        at("the beginning of the drill")(error)
    }

    /// A durable round, and how it is served before anything happens.
    async fn prepare(&self, seat: &Seat, drill: &DrillId) -> Result<Prepared<S>, CourseError> {
        (self.tell)("rounds", "a durable round before the drill");
        let opened = Rounds::open(&self.stand, &self.clock, seat, drill).await;
        let (rounds, own) = opened.map_err(at("commitments for the drill's rounds"))?;
        let attempt = rounds.attempt(&own).map_err(at("a signing package"))?;
        let answer = rounds.ask(&attempt).await;
        let Some(served) = answer.served().cloned() else {
            rounds.close().await;
            let error = match answer.refused() {
                Some(problem) => ClientError::Refused(Box::new(problem.clone())),
                None => ClientError::Unreachable("the durable round before the drill has no answer".into()),
            };
            return Err(at("a durable round before the drill")(error));
        };
        let bytes = served.durable_part();
        let until = self.clock.now().plus(BASELINE_MS);
        let before = replay(&rounds, &attempt, &bytes, || self.clock.now() >= until).await;
        let freezes = vec![self.stand.freezes(&seat.key_group()).await.ok()];
        let own = match next_of(&served) {
            Some(own) => own,
            None => rounds.own().await.map_err(at("commitments for the drill's rounds"))?,
        };
        let first = rounds.attempt(&own).map_err(at("a signing package"))?;
        Ok(Prepared {
            rounds: Arc::new(rounds),
            seat: seat.clone(),
            durable: attempt,
            durable_note: (served.round.to_string(), served.position),
            bytes,
            before,
            first,
            answers: None,
            freezes,
        })
    }

    /// From the beginning of the drill to its end; says whether it was ended before its time.
    async fn during(&self, begun: &DrillBegun, prepared: &mut Option<Prepared<S>>, notes: &Notes) -> bool {
        let limit_ms = self.plan.duration_ms.saturating_add(GRACE_MS);
        if let Some(prepared) = prepared {
            let first = prepared.rounds.ask(&prepared.first).await;
            notes.first_answered();
            notes.note(format!("the round asked for as it began: {}", told(&first)));
            let pending = first.refused().is_some_and(|problem| problem.pending);
            let again = if pending { Some(prepared.rounds.ask(&prepared.first).await) } else { None };
            prepared.freezes.push(self.stand.freezes(&prepared.seat.key_group()).await.ok());
            prepared.answers =
                Some(Answers { first, again, fresh: Vec::new(), own: None, untouched: None, waiting: None });
        }
        // Without rounds the drill is long enough for the node's own call.
        notes.first_answered();
        loop {
            if notes.over_ms().is_some() || notes.since_ms() > limit_ms {
                notes.note("the drill is over");
                return false;
            }
            if self.stopped() {
                let ended = self.stand.end(&begun.drill.drill).await;
                notes.note(match ended {
                    Ok(()) => "ended before its time".to_owned(),
                    Err(error) => format!("to be ended before its time: {error}"),
                });
                return true;
            }
            if let Some(prepared) = prepared {
                prepared.ask_fresh().await;
            }
            let mut stop = self.stop.clone();
            let _ = timeout(FRESH_PAUSE, stop.wait_for(|stop| *stop)).await;
        }
    }

    /// Waits until the node is ready by itself: how long after the end of the drill.
    async fn recover(&self, begun: &DrillBegun, ended_ms: u64, notes: &Notes) -> Option<u64> {
        let limit_ms = begun.healed_within_ms.saturating_add(GRACE_MS);
        (self.tell)("drill", "waiting until the node is ready by itself");
        loop {
            if let Some(ready_ms) = notes.ready_ms() {
                let after_ms = ready_ms.saturating_sub(ended_ms);
                notes.note(format!("ready, {after_ms} ms after the end"));
                return Some(after_ms);
            }
            let after_ms = notes.since_ms().saturating_sub(ended_ms);
            if after_ms > limit_ms {
                notes.note(format!("still not ready {after_ms} ms after the end"));
                return None;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The rounds once more, and their end.
    async fn conclude(&self, mut prepared: Prepared<S>, during: Replays, notes: &Notes) -> RoundsSeen {
        let rounds = Arc::clone(&prepared.rounds);
        let mut first_after = Vec::new();
        for _ in 0..2 {
            first_after.push(rounds.ask(&prepared.first).await);
        }
        let right = |answer: &Answer| answer.served().is_some_and(|it| rounds.is_the_answer(&prepared.first, it));
        let first_is_right = first_after.iter().all(right);
        let durable_after = rounds.ask(&prepared.durable).await;
        let durable_after = durable_after.served().is_some_and(|it| it.durable_part() == prepared.bytes);
        let fresh_after = prepared.ask_after().await;
        prepared.freezes.push(self.stand.freezes(&prepared.seat.key_group()).await.ok());
        let closed = rounds.close().await;
        notes.note(match closed.problems.as_slice() {
            [] => "the session of the drill is ended".to_owned(),
            problems => format!("the session of the drill is not ended everywhere: {}", problems.join("; ")),
        });
        let lost = || Answers::lost("the drill was over before it was asked");
        let Answers { first, again, fresh, untouched, .. } = prepared.answers.unwrap_or_else(lost);
        RoundsSeen {
            session: rounds.session().to_string(),
            durable: prepared.durable_note,
            before: prepared.before,
            during,
            first_round: prepared.first.round.to_string(),
            first,
            first_again: again,
            fresh,
            nonces_untouched: untouched,
            first_after,
            first_is_right,
            fresh_after,
            durable_after,
            closed,
            freezes: prepared.freezes,
        }
    }
}
