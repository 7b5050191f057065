//! The rounds of one kind: a durable one, one that is asked for as the drill begins, and fresh ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::observed::Replays;
use super::session::{Answer, Attempt, Outcome, Rounds};
use super::stand::{Freezes, Seat, Stand};
use crate::frost::Commitments;

/// The pause between two replays.
const REPLAY_PAUSE_US: u64 = 4_000;
const REPLAY_PAUSE: Duration = Duration::from_micros(REPLAY_PAUSE_US);
/// Fresh rounds that are asked for in one drill: a token that is only slow answers them all, and a session has its limits.
const FRESH_MAX: usize = 100;

/// The rounds of one kind, ready for it.
pub(super) struct Prepared<S> {
    pub(super) rounds: Arc<Rounds<S>>,
    pub(super) seat: Seat,
    pub(super) durable: Attempt,
    pub(super) durable_note: (String, u64),
    pub(super) bytes: Vec<u8>,
    pub(super) before: Replays,
    pub(super) first: Attempt,
    pub(super) answers: Option<Answers>,
    pub(super) freezes: Vec<Option<Freezes>>,
}

/// What came of them while the drill was on.
pub(super) struct Answers {
    pub(super) first: Answer,
    pub(super) again: Option<Answer>,
    pub(super) fresh: Vec<Answer>,
    /// The commitments that fresh rounds are asked for with.
    pub(super) own: Option<Commitments>,
    /// Whether they were still the same after each refusal.
    pub(super) untouched: Option<bool>,
    /// The attempt that is asked for until it is served.
    pub(super) waiting: Option<Attempt>,
}

impl Answers {
    pub(super) fn lost(why: &str) -> Self {
        let first = Answer { took_us: 0, outcome: Outcome::Lost(why.into()) };
        Self { first, again: None, fresh: Vec::new(), own: None, untouched: None, waiting: None }
    }
}

impl<S: Stand> Prepared<S> {
    /// Asks for a fresh round: the same one as long as it is refused, since a refusal takes nothing.
    pub(super) async fn ask_fresh(&mut self) {
        let Some(answers) = &mut self.answers else { return };
        if answers.fresh.len() >= FRESH_MAX {
            return;
        }
        if answers.waiting.is_none() {
            let Ok(own) = self.rounds.own().await else {
                answers.untouched = Some(false);
                return;
            };
            // The node's own call may have met the outage first: then the first request took nothing, and has these commitments.
            let free = answers.fresh.is_empty() && answers.first.refused().is_some_and(|problem| !problem.pending);
            answers.waiting = if free { Some(self.first.clone()) } else { self.rounds.attempt(&own).ok() };
            answers.own = Some(own);
        }
        let Some(attempt) = &answers.waiting else { return };
        let answer = self.rounds.ask(attempt).await;
        if answer.served().is_some() {
            answers.waiting = None;
        } else {
            let same = self.rounds.own().await.is_ok_and(|now| answers.own.as_ref() == Some(&now));
            answers.untouched = Some(answers.untouched.unwrap_or(true) && same);
        }
        answers.fresh.push(answer);
    }

    /// The fresh round that was refused, or another one.
    pub(super) async fn ask_after(&mut self) -> Option<Answer> {
        let waiting = self.answers.as_mut().and_then(|answers| answers.waiting.take());
        // The first is served from memory by now.
        let waiting = waiting.filter(|waiting| waiting.round != self.first.round);
        let attempt = match waiting {
            Some(attempt) => attempt,
            None => self.rounds.attempt(&self.rounds.own().await.ok()?).ok()?,
        };
        Some(self.rounds.ask(&attempt).await)
    }
}

/// Asks for a durable round again and again.
pub(super) async fn replay<S: Stand>(
    rounds: &Rounds<S>,
    attempt: &Attempt,
    expected: &[u8],
    over: impl Fn() -> bool + Send,
) -> Replays {
    let mut replays = Replays::default();
    while !over() {
        let answer = rounds.ask(attempt).await;
        replays.took_us.push(answer.took_us);
        match answer.served() {
            Some(served) if served.durable_part() == expected => replays.same += 1,
            Some(_) => replays.differing += 1,
            None => replays.problem = Some(told(&answer)),
        }
        let paused = rounds.now_us();
        sleep(REPLAY_PAUSE).await;
        let late_us = rounds.now_us().saturating_sub(paused).saturating_sub(REPLAY_PAUSE_US);
        replays.stalled_us = replays.stalled_us.max(late_us);
    }
    replays
}

/// An answer in a few words.
pub(super) fn told(answer: &Answer) -> String {
    let after = format!("after {} ms", answer.took_us / 1_000);
    match &answer.outcome {
        Outcome::Served(_) => format!("served {after}"),
        Outcome::Refused(problem) => {
            let class = problem.outage.as_ref().map(|(class, _)| format!(", class {class}")).unwrap_or_default();
            let pending = if problem.pending { ", pending" } else { "" };
            format!("{}{class}{pending} {after}", problem.reason)
        }
        Outcome::Lost(why) => format!("no answer {after}: {why}"),
    }
}
