//! What a drill has shown, before anybody judges it.

use frostkeep_hsm::drill::DrillKind;

use super::session::{Answer, Closed};
use super::stand::{Counts, Freezes};
use super::watch::Sight;
use crate::client::DrillBegun;
use crate::ids::DrillId;

/// Replays of the durable round.
#[derive(Debug, Clone, Default)]
pub struct Replays {
    /// Microseconds of each.
    pub took_us: Vec<u64>,
    /// How much later than asked for the longest pause between two of them ended, microseconds: a machine that stalls makes every
    /// answer late.
    pub stalled_us: u64,
    /// How many were served with the same bytes.
    pub same: u64,
    /// How many were served with others.
    pub differing: u64,
    /// Why the last one was not served.
    pub problem: Option<String>,
}

/// What was seen of the rounds.
#[derive(Debug, Clone)]
pub struct RoundsSeen {
    /// The session.
    pub session: String,
    /// The round that was durable before: its id, and its position.
    pub durable: (String, u64),
    /// Its replays before the drill, and during it.
    pub before: Replays,
    /// The same.
    pub during: Replays,
    /// The id of the round that was asked for as the drill began.
    pub first_round: String,
    /// What came of it.
    pub first: Answer,
    /// What came of the same request again, where the first left it in line.
    pub first_again: Option<Answer>,
    /// Fresh rounds after that.
    pub fresh: Vec<Answer>,
    /// Whether the member's commitments were the same before and after the refusals; none when they were not told.
    pub nonces_untouched: Option<bool>,
    /// After the drill: the first request again, twice, and whether its share is the one that its package can have.
    pub first_after: Vec<Answer>,
    /// The same.
    pub first_is_right: bool,
    /// A fresh round.
    pub fresh_after: Option<Answer>,
    /// Whether the durable round had the same bytes.
    pub durable_after: bool,
    /// How the session ended.
    pub closed: Closed,
    /// The freezes of the key group, before, during and after.
    pub freezes: Vec<Option<Freezes>>,
}

/// What was seen of one kind.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What was played.
    pub kind: DrillKind,
    /// The drill.
    pub drill: DrillId,
    /// How long it was to last, milliseconds.
    pub duration_ms: u64,
    /// What the node said as it began.
    pub begun: DrillBegun,
    /// What its status told.
    pub sight: Sight,
    /// What became of the rounds, if any were asked for.
    pub rounds: Option<RoundsSeen>,
    /// Whether somebody ended it before its time.
    pub interrupted: bool,
    /// How long after the end the node was ready, milliseconds; none when it was not.
    pub ready_after_ms: Option<u64>,
    /// Its counters before and after.
    pub counts: (Counts, Counts),
}
