//! What a drill has to show, held against what it has shown. Pure: every line can be met and not be met.

use super::observed::{Observed, Replays, RoundsSeen};
use super::prepared::told;
use super::session::Answer;
use crate::limits::{DRILL_AT_ONCE_MS, DRILL_LATENCY_FACTOR};
use crate::reasons::Reason;

/// How much later than its deadlines say a node may be, milliseconds: the way there and back, and a machine at work.
const SLACK_MS: u64 = 2_000;

/// How much sooner a drill may be over by this clock than by the node's, milliseconds.
const CLOCKS_MS: u64 = 100;

/// One expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of what.
    pub what: &'static str,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// Whether it is that.
    pub met: bool,
}

fn line(what: &'static str, expected: impl Into<String>, seen: impl Into<String>, met: bool) -> Line {
    Line { what, expected: expected.into(), seen: seen.into(), met }
}

/// Latencies, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Half took no longer.
    pub p50_us: u64,
    /// Nine of ten took no longer.
    pub p90_us: u64,
    /// Ninety-nine of a hundred took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Latency {
    /// Of these times.
    pub fn of(took_us: impl IntoIterator<Item = u64>) -> Self {
        let mut took: Vec<u64> = took_us.into_iter().collect();
        took.sort_unstable();
        // The smallest time that so many of a hundred do not exceed.
        let at = |percent: usize| {
            let rank = (took.len() * percent).div_ceil(100).saturating_sub(1);
            took.get(rank).copied().unwrap_or_default()
        };
        let count = u64::try_from(took.len()).unwrap_or(u64::MAX);
        Self { count, p50_us: at(50), p90_us: at(90), p99_us: at(99), max_us: at(100) }
    }
}

/// What counts as the same band, and as at once, microseconds: some times the p99 before the drill, and no less than a wait that
/// people do not see, or half a call deadline where that is shorter; and twice what this command itself was stalled by its machine
/// meanwhile. Whatever waits for a token that hangs takes a deadline.
pub fn band_us(observed: &Observed, rounds: &RoundsSeen) -> u64 {
    let floor_us = DRILL_AT_ONCE_MS.min(observed.begun.slow_ms).saturating_mul(1_000);
    let usual_us = latency_of(&rounds.before).p99_us.saturating_mul(DRILL_LATENCY_FACTOR).max(floor_us);
    usual_us.saturating_add(stalls_us(rounds))
}

/// What each serve during the drill has to stay below, microseconds: half a call deadline, or twice the slowest before the drill where
/// that cannot be told from a call. One serve that waits for the token is one too many, and no percentile shows it.
pub fn slowest_us(observed: &Observed, rounds: &RoundsSeen) -> u64 {
    let usual_us = latency_of(&rounds.before).max_us.saturating_mul(2);
    observed.begun.slow_ms.saturating_mul(1_000).max(usual_us).saturating_add(stalls_us(rounds))
}

fn stalls_us(rounds: &RoundsSeen) -> u64 {
    rounds.during.stalled_us.saturating_mul(2)
}

/// The lines of one kind.
pub fn judge(observed: &Observed) -> Vec<Line> {
    let mut lines = vec![drill_told(observed), outage(observed), real(observed)];
    if let Some(rounds) = &observed.rounds {
        lines.extend([served(&rounds.during), latency(observed, rounds), first(observed, rounds)]);
        lines.extend(rounds.first_again.as_ref().map(|again| first_again(observed, rounds, again)));
        lines.extend([fresh(observed, rounds), nonces(observed, rounds), freezes(rounds)]);
    }
    lines.extend([status(observed), end(observed), ready(observed)]);
    if let Some(rounds) = &observed.rounds {
        lines.extend([first_after(rounds), fresh_after(rounds), durable_after(rounds), session(rounds)]);
    }
    lines.push(counters(observed));
    lines
}

/// The class that the node has to see.
fn class(observed: &Observed) -> Option<&'static str> {
    observed.kind.class().map(|class| class.name())
}

fn drill_told(observed: &Observed) -> Line {
    let expected = format!("the status tells of it: {}, begun by {}", observed.kind, observed.begun.drill.by);
    match &observed.sight.told {
        None => line("the drill", expected, "the status does not tell of it", false),
        Some(told) => {
            let met = told.kind == observed.kind && told.by == observed.begun.drill.by;
            line("the drill", expected, format!("{}, begun by {}", told.kind, told.by), met)
        }
    }
}

fn outage(observed: &Observed) -> Line {
    let classes: Vec<&str> = observed.sight.classes.iter().map(String::as_str).collect();
    let seen = if classes.is_empty() { "none".to_owned() } else { format!("class {}", classes.join(", ")) };
    let expected = class(observed);
    let met = classes == expected.as_slice();
    let expected = match (expected, &observed.rounds) {
        (None, _) => "none: the token is slow, and there".to_owned(),
        (Some(class), Some(_)) => format!("class {class}"),
        (Some(class), None) => {
            format!("class {class}, at the node's own call, every {} ms", observed.begun.health_interval_ms)
        }
    };
    line("the outage", expected, seen, met)
}

fn real(observed: &Observed) -> Line {
    let real: Vec<&str> = observed.sight.real.iter().map(String::as_str).collect();
    let seen = if real.is_empty() { "none".to_owned() } else { real.join("; ") };
    line("outages that are not the drill's", "none", seen, real.is_empty())
}

fn served(during: &Replays) -> Line {
    let asked = during.took_us.len() as u64;
    let mut seen = format!("{} of {asked} served, the same bytes", during.same);
    if during.differing > 0 {
        seen.push_str(&format!("; {} with OTHER bytes", during.differing));
    }
    if let Some(problem) = &during.problem {
        seen.push_str(&format!("; the last that was not: {problem}"));
    }
    line(
        "a durable round, asked for again",
        "every time served, the same bytes",
        seen,
        asked > 0 && during.same == asked,
    )
}

fn latency(observed: &Observed, rounds: &RoundsSeen) -> Line {
    let (before, during) = (latency_of(&rounds.before), latency_of(&rounds.during));
    let (band, slowest) = (band_us(observed, rounds), slowest_us(observed, rounds));
    let expected = format!(
        "p99 at most {band} us, the slowest below {slowest} us; before the drill {} us and {} us, own pauses up to {} us late",
        before.p99_us, before.max_us, rounds.during.stalled_us
    );
    let seen = format!("p50 {} us, p99 {} us, the slowest {} us", during.p50_us, during.p99_us, during.max_us);
    let met = during.count > 0 && during.p99_us <= band && during.max_us < slowest;
    line("how long that takes", expected, seen, met)
}

/// The latency of replays.
pub fn latency_of(replays: &Replays) -> Latency {
    Latency::of(replays.took_us.iter().copied())
}

/// Whether it is the typed refusal of this drill's outage.
fn is_the_refusal(observed: &Observed, answer: &Answer, reason: Reason) -> bool {
    answer.refused().is_some_and(|problem| {
        let seen = problem.outage.as_ref().map(|(class, _)| class.as_str());
        problem.reason == reason && problem.durable_served && seen == class(observed)
    })
}

/// What is applied where the node promises `limit_ms`.
const fn applied_ms(limit_ms: u64) -> u64 {
    limit_ms.saturating_add(SLACK_MS)
}

fn within(limit_ms: u64) -> String {
    format!("within {} ms: {limit_ms} by its deadlines, {SLACK_MS} for way and machine", applied_ms(limit_ms))
}

const fn is_late(answer: &Answer, limit_ms: u64) -> bool {
    answer.took_us / 1_000 > applied_ms(limit_ms)
}

fn first(observed: &Observed, rounds: &RoundsSeen) -> Line {
    let what = "the round asked for as it began";
    let (answer, begun) = (&rounds.first, &observed.begun);
    let limit_ms = begun.refused_within_ms;
    let Some(class) = class(observed) else {
        let expected = format!("served, {} ms late, {}", begun.slow_ms, within(limit_ms));
        let slow = answer.took_us / 1_000 >= begun.slow_ms;
        return line(what, expected, told(answer), answer.served().is_some() && slow && !is_late(answer, limit_ms));
    };
    let expected =
        format!("key_provider_unavailable, class {class}, {}; in line, if the node had taken it", within(limit_ms));
    let met = is_the_refusal(observed, answer, Reason::KeyProviderUnavailable) && !is_late(answer, limit_ms);
    line(what, expected, told(answer), met)
}

fn first_again(observed: &Observed, rounds: &RoundsSeen, again: &Answer) -> Line {
    let at_once = again.took_us <= band_us(observed, rounds);
    let met = is_the_refusal(observed, again, Reason::RoundNotDurable) && at_once;
    line("the same request meanwhile", "round_not_durable, at once", told(again), met)
}

fn fresh(observed: &Observed, rounds: &RoundsSeen) -> Line {
    let (what, asked) = ("fresh rounds after that", rounds.fresh.len());
    let slowest = rounds.fresh.iter().map(|answer| answer.took_us).max().unwrap_or_default();
    let Some(class) = class(observed) else {
        let served = rounds.fresh.iter().filter(|answer| answer.served().is_some()).count();
        let seen = format!("{served} of {asked} served, the slowest after {} ms", slowest / 1_000);
        return line(what, "every time served", seen, asked > 0 && served == asked);
    };
    let right = |answer: &&Answer| is_the_refusal(observed, answer, Reason::KeyProviderUnavailable);
    let refused = rounds.fresh.iter().filter(right).count();
    let mut seen = format!("{refused} of {asked} so, the slowest after {} ms", slowest / 1_000);
    if let Some(other) = rounds.fresh.iter().find(|answer| !right(answer)) {
        seen.push_str(&format!("; another: {}", told(other)));
    }
    if asked == 0 {
        "none was asked for: the drill was too short".clone_into(&mut seen);
    }
    let at_once = slowest <= band_us(observed, rounds);
    let expected = format!("every time key_provider_unavailable, class {class}, at once");
    line(what, expected, seen, asked > 0 && refused == asked && at_once)
}

fn nonces(observed: &Observed, rounds: &RoundsSeen) -> Line {
    let what = "the nonces of those rounds";
    match (class(observed), rounds.nonces_untouched) {
        (None, None) => line(what, "taken by the rounds that were served", "taken", true),
        (_, Some(true)) => line(what, "untouched by every refusal", "untouched", true),
        (_, Some(false)) => line(what, "untouched by every refusal", "other commitments, or none", false),
        (Some(_), None) => line(what, "untouched by every refusal", "nothing was refused", false),
    }
}

fn freezes(rounds: &RoundsSeen) -> Line {
    let first = rounds.freezes.first().cloned().flatten();
    let known = rounds.freezes.iter().all(Option::is_some);
    let same = known && rounds.freezes.iter().all(|freezes| *freezes == first);
    let seen = match (known, same) {
        (false, _) => "not told every time",
        (true, false) => "changed",
        (true, true) => "as before",
    };
    line("the freezes of the key group", "as before, also during the drill", seen, same && rounds.freezes.len() > 1)
}

fn status(observed: &Observed) -> Line {
    let sight = &observed.sight;
    let mut seen = format!("{} of {} answered", sight.asked.saturating_sub(sight.unanswered), sight.asked);
    if let Some(problem) = &sight.problem {
        seen.push_str(&format!("; the last that was not: {problem}"));
    }
    line("the status", "answered every time", seen, sight.asked > 0 && sight.unanswered == 0)
}

fn end(observed: &Observed) -> Line {
    let due_ms = observed.duration_ms;
    let expected = format!("over by itself after {due_ms} ms, and no later than {} ms", applied_ms(due_ms));
    let (seen, met) = match (observed.interrupted, observed.sight.over_ms) {
        (true, _) => ("ended before its time".to_owned(), false),
        (false, Some(over_ms)) => (
            format!("over after {over_ms} ms"),
            over_ms.saturating_add(CLOCKS_MS) >= due_ms && over_ms <= applied_ms(due_ms),
        ),
        (false, None) => ("still on when it was due".to_owned(), false),
    };
    line("the end of the drill", expected, seen, met)
}

fn ready(observed: &Observed) -> Line {
    let limit_ms = observed.begun.healed_within_ms;
    let expected = format!("ready by itself {}", within(limit_ms));
    let (seen, met) = match observed.ready_after_ms {
        Some(after_ms) => (format!("ready after {after_ms} ms"), after_ms <= applied_ms(limit_ms)),
        None => ("not ready".to_owned(), false),
    };
    line("the node afterwards", expected, seen, met)
}

fn first_after(rounds: &RoundsSeen) -> Line {
    let what = "the round asked for as it began, afterwards";
    let mut bytes = rounds.first_after.iter().map(|answer| answer.served().map(|round| round.durable_part()));
    let first = bytes.next().flatten();
    let same = first.is_some() && bytes.all(|other| other == first);
    let seen = match rounds.first_after.iter().find(|answer| answer.served().is_none()) {
        Some(answer) => told(answer),
        None if !same => "served with different bytes".to_owned(),
        None if !rounds.first_is_right => "served with a share that its package cannot have".to_owned(),
        None => "served, the share of its package, the same bytes each time".to_owned(),
    };
    line(what, "served, the one share of its package", seen, same && rounds.first_is_right)
}

fn fresh_after(rounds: &RoundsSeen) -> Line {
    let answer = rounds.fresh_after.as_ref();
    let seen = answer.map_or_else(|| "not asked for: there are no commitments".to_owned(), told);
    let met = answer.is_some_and(|answer| answer.served().is_some());
    line("a fresh round afterwards", "served", seen, met)
}

fn durable_after(rounds: &RoundsSeen) -> Line {
    let seen = if rounds.durable_after { "served, the same bytes" } else { "not so" };
    line("the durable round afterwards", "served, the same bytes", seen, rounds.durable_after)
}

fn session(rounds: &RoundsSeen) -> Line {
    let problems = &rounds.closed.problems;
    let seen =
        if problems.is_empty() { format!("ended at {} members", rounds.closed.told) } else { problems.join("; ") };
    line("the session of the drill", "ended: nothing stays open", seen, problems.is_empty() && rounds.closed.told > 0)
}

fn counters(observed: &Observed) -> Line {
    let (before, after) = &observed.counts;
    let drilled = after.outages_drilled.saturating_sub(before.outages_drilled);
    let outages = after.outages.saturating_sub(before.outages);
    let due = u64::from(class(observed).is_some());
    let told = |outages: u64, drilled: u64| format!("outages begun: {outages}, of them drilled: {drilled}");
    line("the counters", told(due, due), told(outages, drilled), outages == due && drilled == due)
}

#[cfg(test)]
mod tests;
