//! How long a call is tried, and what it is made again after.

use std::future::Future;
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, SystemClock};
use frostkeep_hsm::entropy;
use rand_core::RngCore;
use tokio::time::{sleep, timeout};

use super::error::ClientError;
use crate::reasons::{Reason, Retry};

/// What a call is made again after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nothing: whoever calls has a plan of its own.
    Never,
    /// An answer that did not come. The request may have been done; it is the same request.
    Lost,
    /// That, and refusals that pass by themselves: outages, full registries, work under way.
    Passing,
}

/// How long a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// What it is made again after.
    pub again: Again,
    /// How long repetitions are begun, milliseconds from the first try.
    pub deadline_ms: u64,
    /// The longest that one answer is waited for, milliseconds.
    pub call_ms_max: u64,
    /// The first pause before a repetition, milliseconds; it doubles.
    pub pause_ms_min: u64,
    /// The longest such pause, milliseconds.
    pub pause_ms_max: u64,
}

impl Default for Patience {
    /// For people who wait: lost answers are asked for again during 20 seconds. One answer may take longer: a node waits
    /// [`crate::limits::REPLY_WAIT_MS_MAX`] for its disk before it says so.
    fn default() -> Self {
        Self { again: Again::Lost, deadline_ms: 20_000, call_ms_max: 75_000, pause_ms_min: 100, pause_ms_max: 2_000 }
    }
}

impl Patience {
    /// One try that lasts as long as its caller lets it: for drivers, which have deadlines and pauses of their own.
    pub const fn once() -> Self {
        let day_ms = 24 * 60 * 60 * 1_000;
        Self { again: Again::Never, deadline_ms: 0, call_ms_max: day_ms, pause_ms_min: 0, pause_ms_max: 0 }
    }

    /// Lost answers are asked for again during `deadline_ms`.
    pub fn within_ms(deadline_ms: u64) -> Self {
        Self { deadline_ms, ..Self::default() }
    }

    /// For answers that need no disk, which somebody waits for: both limits are `limit_ms`.
    pub fn short_ms(limit_ms: u64) -> Self {
        Self { call_ms_max: limit_ms, ..Self::within_ms(limit_ms) }
    }

    /// The same, and refusals that pass are asked again too.
    #[must_use]
    pub const fn through_outages(self) -> Self {
        Self { again: Again::Passing, ..self }
    }

    /// Makes `call` until it has an answer that is final, or until no repetition is begun any more; then what the last try
    /// failed with.
    pub(super) async fn insist<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let clock = SystemClock::new();
        let begun = clock.now();
        let mut pause_ms = self.pause_ms_min.max(1);
        loop {
            let error = match timeout(Duration::from_millis(self.call_ms_max), call()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => ClientError::Unreachable(format!("no answer within {} ms", self.call_ms_max)),
            };
            let Some(named_ms) = self.pause_after(&error) else { return Err(error) };
            // Between half and the whole of it: never all at once.
            let jittered_ms = pause_ms / 2 + entropy::os().next_u64() % (pause_ms / 2 + 1);
            let next_ms = named_ms.max(jittered_ms);
            if clock.now().since(begun).saturating_add(next_ms) > self.deadline_ms {
                return Err(error);
            }
            sleep(Duration::from_millis(next_ms)).await;
            pause_ms = pause_ms.saturating_mul(2).min(self.pause_ms_max.max(1));
        }
    }

    /// Whether the call is made again after `error`: at the earliest after so many milliseconds.
    fn pause_after(&self, error: &ClientError) -> Option<u64> {
        match (error, self.again) {
            (_, Again::Never) | (ClientError::Nonsense(_), _) => None,
            (ClientError::Unreachable(_), _) => Some(0),
            // The node goes away: whoever comes next, or the same after its start, answers.
            (ClientError::Refused(problem), Again::Lost) => (problem.reason == Reason::Stopping).then_some(0),
            (ClientError::Refused(problem), Again::Passing) => {
                let passes = matches!(problem.reason.retry(), Retry::SameRequest | Retry::AfterOutage)
                    && problem.reason != Reason::Internal;
                passes.then(|| problem.next_try_ms.unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::wire::status;

    fn refused(reason: Reason) -> ClientError {
        ClientError::of(&status::status(reason, "because"))
    }

    fn unreachable() -> ClientError {
        ClientError::Unreachable("gone".into())
    }

    /// How often a call was made whose first two tries fail like this, and what came of it.
    async fn tries(patience: Patience, failure: impl Fn() -> ClientError) -> (u32, Result<(), ClientError>) {
        let made = Cell::new(0);
        let outcome = patience
            .insist(|| {
                made.set(made.get() + 1);
                let answer = if made.get() < 3 { Err(failure()) } else { Ok(()) };
                async move { answer }
            })
            .await;
        (made.get(), outcome)
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again_and_a_refusal_is_not_unless_the_caller_says_so() {
        let lost = Patience { pause_ms_min: 1, ..Patience::default() };
        let passing = lost.through_outages();
        assert!(matches!(tries(lost, unreachable).await, (3, Ok(()))));
        assert!(matches!(tries(Patience::once(), unreachable).await, (1, Err(_))));
        for &reason in Reason::ALL {
            let passes =
                matches!(reason.retry(), Retry::SameRequest | Retry::AfterOutage) && reason != Reason::Internal;
            let (made, outcome) = tries(lost, || refused(reason)).await;
            assert_eq!(
                (made, outcome.is_ok()),
                if reason == Reason::Stopping { (3, true) } else { (1, false) },
                "{reason}"
            );
            let (made, outcome) = tries(passing, || refused(reason)).await;
            assert_eq!((made, outcome.is_ok()), if passes { (3, true) } else { (1, false) }, "{reason}");
        }
        let nonsense = || ClientError::Nonsense("x".into());
        assert!(matches!(tries(passing, nonsense).await, (1, Err(ClientError::Nonsense(_)))));
    }

    #[tokio::test]
    async fn at_the_deadline_the_last_failure_is_what_is_said_and_an_answer_may_take_longer() {
        let patience =
            Patience { deadline_ms: 50, call_ms_max: 300, pause_ms_min: 1, pause_ms_max: 4, ..Patience::default() };
        let outcome: Result<(), _> = patience.insist(|| async { Err(unreachable()) }).await;
        assert_eq!(outcome.unwrap_err().to_string(), "not reached: gone");
        let outcome: Result<(), _> = patience.insist(std::future::pending).await;
        assert_eq!(outcome.unwrap_err().to_string(), "not reached: no answer within 300 ms");
        let late = patience.insist(|| async {
            sleep(Duration::from_millis(100)).await;
            Ok(())
        });
        assert!(late.await.is_ok());
    }
}
