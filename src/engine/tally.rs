//! What was served and what was refused, counted. Refusals are counted and logged, never recorded: a refused caller costs
//! no seal. Replays are counted apart from fresh rounds, so that they cannot hide a failing path (trap 18).

use std::sync::atomic::{AtomicU64, Ordering};

use super::refusal::Refusal;
use crate::reasons::{Fault, Reason};

/// The counters of one engine, since it was opened.
pub(crate) struct Tally {
    fresh: AtomicU64,
    replayed: AtomicU64,
    refused: Vec<AtomicU64>,
}

/// A reading of the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TallyView {
    /// Rounds that were computed for the caller that got them.
    pub rounds_fresh: u64,
    /// Rounds that were served from memory.
    pub rounds_replayed: u64,
    /// Refusals by reason; reasons without any are left out.
    pub refused: Vec<(Reason, u64)>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            fresh: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            refused: Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Tally {
    pub(crate) fn round(&self, computed: bool) {
        let counter = if computed { &self.fresh } else { &self.replayed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs a refusal on its way out.
    pub(crate) fn note<T>(&self, operation: &'static str, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &answer {
            let reason = refusal.reason();
            let counters = Reason::ALL.iter().zip(&self.refused);
            if let Some((_, counter)) = counters.into_iter().find(|(known, _)| **known == reason) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            match reason.fault() {
                Fault::Caller => tracing::debug!(operation, %reason, %refusal, "refused"),
                Fault::Surroundings => tracing::warn!(operation, %reason, %refusal, "refused"),
                Fault::Bug => tracing::error!(operation, %reason, %refusal, "refused"),
            }
        }
        answer
    }

    pub(crate) fn view(&self) -> TallyView {
        let refused = Reason::ALL.iter().zip(&self.refused);
        TallyView {
            rounds_fresh: self.fresh.load(Ordering::Relaxed),
            rounds_replayed: self.replayed.load(Ordering::Relaxed),
            refused: refused
                .map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}
