//! The report of a drill, for people and, as JSON, for whoever has to keep it.
//!
//! The JSON is one line. Its last member is `sha256`: the hash of the same line without that member, so that anybody can check it
//! with two tools. All numbers are integers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::judge::{Latency, Line, judge, latency_of};
use super::observed::{Observed, RoundsSeen};
use super::stand::Counts;
use super::utc::utc;
use super::watch::Event;
use crate::client::TokenView;
use crate::hash::sha256;
use crate::ids::to_hex;

/// What the report is a report of: its format never changes its meaning.
const FORMAT: &str = "frostkeep outage drill 1";

/// What was drilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drilled {
    /// A running node, or a scratch node.
    pub mode: &'static str,
    /// The node's name.
    pub node: String,
    /// Its version.
    pub version: String,
    /// Its identity, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The key group of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_group: Option<String>,
    /// The member that answered them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<u16>,
    /// Why no rounds were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_rounds: Option<String>,
    /// Whether the drill was to begin although others signed on the node.
    pub danger_live_traffic: bool,
}

/// The report.
#[derive(Debug, Serialize)]
pub struct Report {
    format: &'static str,
    reported_by_version: &'static str,
    begun: String,
    ended: String,
    by: String,
    drilled: Drilled,
    token: Token,
    drills: Vec<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfinished: Option<String>,
    verdict: &'static str,
}

#[derive(Debug, Serialize)]
struct Token {
    label: String,
    serial: String,
    manufacturer: String,
    model: String,
}

#[derive(Debug, Serialize)]
struct Kind {
    kind: &'static str,
    drill: String,
    begun: String,
    duration_ms: u64,
    promised: Promised,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<Rounds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outage_class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_ms: Option<u64>,
    counters: Counters,
    expectations: Vec<Expectation>,
    timeline: Vec<Happened>,
    verdict: &'static str,
}

#[derive(Debug, Serialize)]
struct Promised {
    refused_within_ms: u64,
    healed_within_ms: u64,
    health_interval_ms: u64,
    slow_ms: u64,
}

#[derive(Debug, Serialize)]
struct Rounds {
    session: String,
    durable_round: String,
    durable_position: u64,
    round_as_it_began: String,
    replays_before: Microseconds,
    replays_during: Microseconds,
    fresh: Microseconds,
    fresh_served: u64,
    fresh_refused: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Microseconds {
    count: u64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl From<Latency> for Microseconds {
    fn from(Latency { count, p50_us, p90_us, p99_us, max_us }: Latency) -> Self {
        Self { count, p50_us, p90_us, p99_us, max_us }
    }
}

/// What the node counted more.
#[derive(Debug, Serialize)]
struct Counters {
    rounds_fresh: u64,
    rounds_replayed: u64,
    seals: u64,
    agents_started: u64,
    outages: u64,
    outages_drilled: u64,
    refused: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Expectation {
    what: &'static str,
    expected: String,
    seen: String,
    met: bool,
}

#[derive(Debug, Serialize)]
struct Happened {
    at_ms: u64,
    what: String,
}

const fn verdict(passed: bool) -> &'static str {
    if passed { "pass" } else { "fail" }
}

impl Report {
    /// The report of what was seen. `unfinished` says why a kind that was asked for is not there.
    pub fn new(drilled: Drilled, seen: &[Observed], unfinished: Option<String>, ended_unix: u64) -> Self {
        let first = seen.first();
        let begun = first.map(|observed| &observed.begun);
        let TokenView { label, serial, manufacturer, model } =
            begun.map(|begun| begun.token.clone()).unwrap_or_default();
        let drills: Vec<Kind> = seen.iter().map(Kind::of).collect();
        let passed = unfinished.is_none() && !drills.is_empty() && drills.iter().all(Kind::passed);
        Self {
            format: FORMAT,
            reported_by_version: env!("CARGO_PKG_VERSION"),
            begun: begun.map(|begun| utc(begun.drill.since_unix)).unwrap_or_default(),
            ended: utc(ended_unix),
            by: begun.map(|begun| begun.drill.by.clone()).unwrap_or_default(),
            drilled,
            token: Token { label, serial, manufacturer, model },
            drills,
            unfinished,
            verdict: verdict(passed),
        }
    }

    /// Whether every expectation was met.
    pub fn passed(&self) -> bool {
        self.verdict == verdict(true)
    }

    /// The expectations that were not met, as a line each.
    pub fn failures(&self) -> Vec<String> {
        let unmet = self.drills.iter().flat_map(|kind| kind.expectations.iter().map(move |line| (kind.kind, line)));
        let unmet = unmet.filter(|(_, line)| !line.met);
        let lines =
            unmet.map(|(kind, line)| format!("{kind}: {}: expected {}, saw {}", line.what, line.expected, line.seen));
        lines.chain(self.unfinished.clone()).collect()
    }

    /// The JSON line with its hash.
    ///
    /// # Errors
    /// None that these types have; those of the encoder.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let text = serde_json::to_string(self)?;
        let hash = to_hex(&sha256(text.as_bytes()));
        let open = text.strip_suffix('}').unwrap_or(&text);
        Ok(format!("{open},\"sha256\":\"{hash}\"}}"))
    }
}

impl Kind {
    fn of(observed: &Observed) -> Self {
        let lines = judge(observed);
        let passed = lines.iter().all(|line| line.met);
        let begun = &observed.begun;
        Self {
            kind: observed.kind.name(),
            drill: observed.drill.to_string(),
            begun: utc(begun.drill.since_unix),
            duration_ms: observed.duration_ms,
            promised: Promised {
                refused_within_ms: begun.refused_within_ms,
                healed_within_ms: begun.healed_within_ms,
                health_interval_ms: begun.health_interval_ms,
                slow_ms: begun.slow_ms,
            },
            rounds: observed.rounds.as_ref().map(Rounds::of),
            outage_class: observed.sight.classes.first().cloned(),
            recovery_ms: observed.ready_after_ms,
            counters: Counters::of(&observed.counts.0, &observed.counts.1),
            expectations: lines.into_iter().map(Expectation::from).collect(),
            timeline: observed.sight.timeline.iter().map(Happened::from).collect(),
            verdict: verdict(passed),
        }
    }

    fn passed(&self) -> bool {
        self.verdict == verdict(true)
    }
}

impl From<Line> for Expectation {
    fn from(Line { what, expected, seen, met }: Line) -> Self {
        Self { what, expected, seen, met }
    }
}

impl From<&Event> for Happened {
    fn from(event: &Event) -> Self {
        Self { at_ms: event.at_ms, what: event.what.clone() }
    }
}

impl Rounds {
    fn of(rounds: &RoundsSeen) -> Self {
        let mut refused = BTreeMap::new();
        for problem in rounds.fresh.iter().filter_map(|answer| answer.refused()) {
            *refused.entry(problem.reason.name()).or_default() += 1;
        }
        let served = rounds.fresh.iter().filter(|answer| answer.served().is_some()).count();
        Self {
            session: rounds.session.clone(),
            durable_round: rounds.durable.0.clone(),
            durable_position: rounds.durable.1,
            round_as_it_began: rounds.first_round.clone(),
            replays_before: latency_of(&rounds.before).into(),
            replays_during: latency_of(&rounds.during).into(),
            fresh: Latency::of(rounds.fresh.iter().map(|answer| answer.took_us)).into(),
            fresh_served: u64::try_from(served).unwrap_or(u64::MAX),
            fresh_refused: refused,
        }
    }
}

impl Counters {
    fn of(before: &Counts, after: &Counts) -> Self {
        let more = |after: u64, before: u64| after.saturating_sub(before);
        let refused = after.refused.iter().filter_map(|(reason, count)| {
            let count = more(*count, before.refused.get(reason).copied().unwrap_or_default());
            (count > 0).then(|| (reason.clone(), count))
        });
        Self {
            rounds_fresh: more(after.rounds_fresh, before.rounds_fresh),
            rounds_replayed: more(after.rounds_replayed, before.rounds_replayed),
            seals: more(after.seals, before.seals),
            agents_started: more(after.agents_started, before.agents_started),
            outages: more(after.outages, before.outages),
            outages_drilled: more(after.outages_drilled, before.outages_drilled),
            refused: refused.collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Drilled { mode, node, version, key_group, member, no_rounds, .. } = &self.drilled;
        writeln!(f, "outage drill {}, by {}", self.begun, self.by)?;
        writeln!(f, "node         {node}, {mode}, version {version}")?;
        let Token { label, serial, manufacturer, model } = &self.token;
        writeln!(f, "token        {label} ({manufacturer} {model}), serial {serial}")?;
        if let (Some(key_group), Some(member)) = (key_group, member) {
            writeln!(f, "rounds       member {member} of key group {key_group}")?;
        }
        if let Some(why) = no_rounds {
            writeln!(f, "rounds       none: {why}")?;
        }
        for kind in &self.drills {
            write!(f, "{kind}")?;
        }
        if let Some(unfinished) = &self.unfinished {
            writeln!(f, "\nunfinished   {unfinished}")?;
        }
        write!(f, "\nverdict      {}", self.verdict)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}, {} ms, drill {}", self.kind, self.duration_ms, self.drill)?;
        if let Some(rounds) = &self.rounds {
            let Microseconds { count, p50_us, p99_us, .. } = rounds.replays_before;
            writeln!(f, "  replays before  {count}: p50 {p50_us} us, p99 {p99_us} us")?;
            let Microseconds { count, p50_us, p99_us, .. } = rounds.replays_during;
            writeln!(f, "  replays during  {count}: p50 {p50_us} us, p99 {p99_us} us")?;
        }
        for Happened { at_ms, what } in &self.timeline {
            writeln!(f, "  {at_ms:>7} ms  {what}")?;
        }
        for Expectation { what, expected, seen, met } in &self.expectations {
            let mark = if *met { "ok  " } else { "FAIL" };
            writeln!(f, "  {mark} {what}")?;
            writeln!(f, "       expected  {expected}")?;
            writeln!(f, "       saw       {seen}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(unfinished: Option<String>) -> Report {
        let drilled = Drilled {
            mode: "scratch node",
            node: "scratch".into(),
            version: "1".into(),
            identity: None,
            key_group: None,
            member: None,
            no_rounds: None,
            danger_live_traffic: false,
        };
        Report::new(drilled, &[], unfinished, 0)
    }

    #[test]
    fn the_hash_is_of_the_line_without_it_and_a_changed_line_has_another() {
        let line = empty(None).to_json().unwrap();
        let check = |line: &str| {
            let (before, after) = line.rsplit_once(",\"sha256\":\"").unwrap();
            to_hex(&sha256(format!("{before}}}").as_bytes())) == after.trim_end_matches("\"}")
        };
        assert!(check(&line));
        assert!(!check(&line.replace("\"fail\"", "\"pass\"")));
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&parsed["format"], &parsed["ended"]), (&FORMAT.into(), &"1970-01-01T00:00:00Z".into()));
    }

    #[test]
    fn a_report_of_nothing_or_of_less_than_was_asked_for_is_no_pass() {
        assert!(!empty(None).passed());
        let left = empty(Some("2 kinds were not drilled".into()));
        assert!(!left.passed() && left.failures() == ["2 kinds were not drilled"]);
    }
}
