//! Blame that adds up. Off unless configured; fed by verified faults only, which exist under the policy `evidence`: there an
//! advance is recorded with its proof. Under `roast` a member at fault is named to whoever drives the session, which leaves it
//! out; a refusal is never a record.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::AttemptId;

/// Points of one proved invalid share.
pub const INVALID_SHARE_POINTS: u32 = 2;
/// Points of one coordinator timeout with at least t distinct votes.
pub const TIMEOUT_POINTS: u32 = 1;
/// A member with this many points is quarantined, unless timeouts alone gave them.
pub const QUARANTINE_POINTS: u32 = 3;

/// Faults of one kind that are remembered for one member. Two invalid shares, or one and a timeout, already quarantine, so
/// that what comes after this many cannot change the answer.
const FAULTS_REMEMBERED_MAX: usize = 16;

/// Whether blame is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// Nothing is counted and nobody is quarantined.
    #[default]
    Off,
    /// Verified blame is counted.
    On,
}

/// A verified fault of one member in one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blame {
    /// Its signed share did not verify.
    InvalidShare,
    /// It coordinated and did not come in time.
    Timeout {
        /// Distinct genuine votes.
        votes: usize,
        /// The key group's threshold: fewer votes than this count for nothing.
        threshold: u16,
    },
}

/// The faults of one member. A fault counts once per attempt, whichever operation brings it up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Score {
    invalid_shares: BTreeSet<AttemptId>,
    timeouts: BTreeSet<AttemptId>,
}

impl Score {
    /// Adds a fault; says whether the score changed.
    pub fn blame(&mut self, scoring: Scoring, attempt: AttemptId, blame: Blame) -> bool {
        let faults = match (scoring, blame) {
            (Scoring::Off, _) => return false,
            (Scoring::On, Blame::InvalidShare) => &mut self.invalid_shares,
            (Scoring::On, Blame::Timeout { votes, threshold }) if votes >= usize::from(threshold) => &mut self.timeouts,
            (Scoring::On, Blame::Timeout { .. }) => return false,
        };
        faults.len() < FAULTS_REMEMBERED_MAX && faults.insert(attempt)
    }

    /// The points.
    pub fn points(&self) -> u32 {
        let count = |faults: &BTreeSet<AttemptId>| u32::try_from(faults.len()).unwrap_or(u32::MAX);
        count(&self.invalid_shares) * INVALID_SHARE_POINTS + count(&self.timeouts) * TIMEOUT_POINTS
    }

    /// Whether the member is to be left out. Timeouts alone never quarantine: a slow network must not cost a key group its
    /// threshold.
    pub fn quarantined(&self, scoring: Scoring) -> bool {
        scoring == Scoring::On && self.points() >= QUARANTINE_POINTS && !self.invalid_shares.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Blame = Blame::Timeout { votes: 3, threshold: 3 };

    fn attempt(number: u8) -> AttemptId {
        AttemptId::new([number; 32])
    }

    #[test]
    fn timeouts_alone_never_quarantine() {
        let mut score = Score::default();
        for number in 0..100 {
            score.blame(Scoring::On, attempt(number), TIMEOUT);
        }
        assert!(score.points() >= QUARANTINE_POINTS && !score.quarantined(Scoring::On));
        score.blame(Scoring::On, attempt(0), Blame::InvalidShare);
        assert!(score.quarantined(Scoring::On));
    }

    #[test]
    fn a_timeout_with_fewer_votes_than_the_threshold_counts_for_nothing() {
        let mut score = Score::default();
        assert!(!score.blame(Scoring::On, attempt(1), Blame::Timeout { votes: 2, threshold: 3 }));
        assert_eq!(score, Score::default());
    }

    #[test]
    fn one_bad_share_told_twice_is_one_fault_and_two_quarantine() {
        let mut score = Score::default();
        assert!(score.blame(Scoring::On, attempt(1), Blame::InvalidShare));
        assert!(!score.blame(Scoring::On, attempt(1), Blame::InvalidShare));
        assert_eq!((score.points(), score.quarantined(Scoring::On)), (2, false));
        assert!(score.blame(Scoring::On, attempt(2), Blame::InvalidShare));
        assert_eq!((score.points(), score.quarantined(Scoring::On)), (4, true));
    }

    #[test]
    fn a_score_stays_bounded_and_off_counts_nothing() {
        let mut score = Score::default();
        for number in 0..=255 {
            score.blame(Scoring::Off, attempt(number), Blame::InvalidShare);
        }
        assert_eq!(score, Score::default());
        for number in 0..=255 {
            score.blame(Scoring::On, attempt(number), Blame::InvalidShare);
        }
        assert_eq!(score.points(), INVALID_SHARE_POINTS * FAULTS_REMEMBERED_MAX as u32);
        assert!(!score.quarantined(Scoring::Off));
    }
}
