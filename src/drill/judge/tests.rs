use frostkeep_hsm::drill::DrillKind;

use super::*;
use crate::client::{DrillBegun, DrillView, ServedRound, TokenView};
use crate::drill::session::{Closed, Outcome};
use crate::drill::stand::{Counts, Freezes};
use crate::drill::watch::Sight;
use crate::ids::{AttemptId, DrillId, FreezeId, Member, RoundId};
use crate::wire::status::{Problem, status};

fn round(byte: u8) -> ServedRound {
    ServedRound {
        round: RoundId::new([byte; 32]),
        attempt: AttemptId::new([2; 32]),
        member: Member::new(1).unwrap(),
        share: [3; 32],
        position: 9,
        round_signature: [4; 64],
        next: None,
    }
}

fn served(took_ms: u64) -> Answer {
    Answer { took_us: took_ms * 1_000, outcome: Outcome::Served(Box::new(round(1))) }
}

fn refused(reason: Reason, class: Option<&str>, took_ms: u64) -> Answer {
    let mut problem = Problem::from_status(&status(reason, "because")).unwrap();
    problem.outage = class.map(|class| (class.to_owned(), "drill: x".to_owned()));
    problem.durable_served = true;
    problem.pending = true;
    Answer { took_us: took_ms * 1_000, outcome: Outcome::Refused(Box::new(problem)) }
}

fn lost() -> Answer {
    Answer { took_us: 1, outcome: Outcome::Lost("gone".into()) }
}

/// A drill that shows all that it has to show.
fn good(kind: DrillKind) -> Observed {
    let class = kind.class().map(|class| class.name());
    let drill = DrillId::new([1; 16]);
    let told = DrillView { drill, kind, by: "ops".into(), since_unix: 1_700_000_000, lasted_ms: 10, left_ms: 9_990 };
    let replays = |took_us| Replays { took_us: vec![took_us; 50], same: 50, ..Replays::default() };
    let freezes = Freezes { frozen: false, freezes: Vec::new() };
    let (first, again, fresh, untouched) = match class {
        Some(_) => (
            refused(Reason::KeyProviderUnavailable, class, 2),
            Some(refused(Reason::RoundNotDurable, class, 1)),
            vec![refused(Reason::KeyProviderUnavailable, class, 1); 3],
            Some(true),
        ),
        None => (served(1_000), None, vec![served(1_001); 3], None),
    };
    let rounds = RoundsSeen {
        session: "outage-drill-01".into(),
        durable: ("01".into(), 7),
        before: replays(500),
        during: replays(600),
        first_round: "02".into(),
        first,
        first_again: again,
        fresh,
        nonces_untouched: untouched,
        first_after: vec![served(1); 2],
        first_is_right: true,
        fresh_after: Some(served(3)),
        durable_after: true,
        closed: Closed { told: 2, problems: Vec::new() },
        freezes: vec![Some(freezes.clone()), Some(freezes.clone()), Some(freezes)],
    };
    let begun = DrillBegun {
        drill: told.clone(),
        token: TokenView::default(),
        refused_within_ms: 2_000,
        healed_within_ms: 30_000,
        health_interval_ms: 5_000,
        slow_ms: 1_000,
    };
    let sight = Sight {
        asked: 100,
        classes: class.iter().map(|class| (*class).to_owned()).collect(),
        told: Some(told),
        over_ms: Some(10_020),
        ready_ms: Some(10_500),
        ..Sight::default()
    };
    let outages = u64::from(class.is_some());
    let before = Counts { outages: 4, outages_drilled: 1, ..Counts::default() };
    let after = Counts { outages: 4 + outages, outages_drilled: 1 + outages, ..Counts::default() };
    Observed {
        kind,
        drill,
        duration_ms: 10_000,
        begun,
        sight,
        rounds: Some(rounds),
        interrupted: false,
        ready_after_ms: Some(480),
        counts: (before, after),
    }
}

fn unmet(observed: &Observed) -> Vec<&'static str> {
    judge(observed).into_iter().filter(|line| !line.met).map(|line| line.what).collect()
}

/// What is wrong, and the lines that have to say so.
type Fault = (fn(&mut Observed), &'static [&'static str]);

fn rounds(observed: &mut Observed) -> &mut RoundsSeen {
    observed.rounds.as_mut().unwrap()
}

const FIRST: &str = "the round asked for as it began";
const FRESH: &str = "fresh rounds after that";
const REPLAYS: &str = "a durable round, asked for again";
const AFTERWARDS: &str = "the round asked for as it began, afterwards";

#[test]
fn what_has_to_be_shown_is_met_for_every_kind_with_rounds_and_without() {
    for kind in DrillKind::ALL {
        assert_eq!(unmet(&good(kind)), [""; 0], "{kind}");
        let without = Observed { rounds: None, ..good(kind) };
        assert_eq!(unmet(&without), [""; 0], "{kind}");
    }
}

#[test]
fn each_thing_that_is_not_as_it_has_to_be_is_a_line_that_is_not_met() {
    let faults: Vec<Fault> = vec![
        (|it| it.sight.told = None, &["the drill"]),
        (|it| it.sight.told.as_mut().unwrap().by = "somebody".into(), &["the drill"]),
        (|it| it.sight.classes.clear(), &["the outage"]),
        (|it| it.sight.classes.extend(["key".to_owned()]), &["the outage"]),
        (|it| it.sight.real.extend(["token: CKR_DEVICE_ERROR".to_owned()]), &["outages that are not the drill's"]),
        (|it| rounds(it).during.same = 49, &[REPLAYS]),
        (|it| rounds(it).during = Replays::default(), &[REPLAYS, "how long that takes"]),
        (|it| rounds(it).during.took_us.fill(250_001), &["how long that takes"]),
        // Half a call deadline, once among so many that no percentile shows it.
        (
            |it| {
                rounds(it).during =
                    Replays { took_us: [vec![600; 199], vec![1_000_000]].concat(), same: 200, ..Replays::default() }
            },
            &["how long that takes"],
        ),
        // A call deadline so short that a wait for it is shorter than what people notice.
        (
            |it| {
                it.begun.slow_ms = 100;
                rounds(it).during.took_us.fill(100_001);
            },
            &["how long that takes"],
        ),
        (
            |it| {
                it.begun.slow_ms = 100;
                rounds(it).fresh[1].took_us = 100_001;
            },
            &[FRESH],
        ),
        (|it| rounds(it).first = served(1), &[FIRST]),
        (|it| rounds(it).first = lost(), &[FIRST]),
        (|it| rounds(it).first = refused(Reason::KeyProviderUnavailable, Some("usage"), 2), &[FIRST]),
        (|it| rounds(it).first.took_us = 4_001_000, &[FIRST]),
        (|it| rounds(it).first_again = Some(served(1)), &["the same request meanwhile"]),
        (|it| rounds(it).first_again.as_mut().unwrap().took_us = 250_001, &["the same request meanwhile"]),
        (|it| rounds(it).fresh.clear(), &[FRESH]),
        (|it| rounds(it).fresh.push(served(1)), &[FRESH]),
        (|it| rounds(it).fresh.push(lost()), &[FRESH]),
        (|it| rounds(it).fresh[1].took_us = 250_001, &[FRESH]),
        (|it| rounds(it).nonces_untouched = Some(false), &["the nonces of those rounds"]),
        (|it| rounds(it).nonces_untouched = None, &["the nonces of those rounds"]),
        (|it| rounds(it).freezes[1] = None, &["the freezes of the key group"]),
        (
            |it| rounds(it).freezes[2].as_mut().unwrap().freezes.push(FreezeId::new([1; 16])),
            &["the freezes of the key group"],
        ),
        (|it| it.sight.unanswered = 1, &["the status"]),
        (|it| it.sight.asked = 0, &["the status"]),
        (|it| it.interrupted = true, &["the end of the drill"]),
        (|it| it.sight.over_ms = None, &["the end of the drill"]),
        (|it| it.sight.over_ms = Some(9_000), &["the end of the drill"]),
        (|it| it.sight.over_ms = Some(13_000), &["the end of the drill"]),
        (|it| it.ready_after_ms = None, &["the node afterwards"]),
        (|it| it.ready_after_ms = Some(33_000), &["the node afterwards"]),
        (|it| rounds(it).first_after[1] = lost(), &[AFTERWARDS]),
        (|it| rounds(it).first_after.clear(), &[AFTERWARDS]),
        (|it| rounds(it).first_after[1].outcome = Outcome::Served(Box::new(round(8))), &[AFTERWARDS]),
        (|it| rounds(it).first_is_right = false, &[AFTERWARDS]),
        (|it| rounds(it).fresh_after = None, &["a fresh round afterwards"]),
        (|it| rounds(it).fresh_after = Some(lost()), &["a fresh round afterwards"]),
        (|it| rounds(it).durable_after = false, &["the durable round afterwards"]),
        (|it| rounds(it).closed.problems.push("member 2: gone".into()), &["the session of the drill"]),
        (|it| it.counts.1.outages_drilled = 1, &["the counters"]),
        (|it| it.counts.1.outages = 7, &["the counters"]),
    ];
    let mut named = std::collections::BTreeSet::new();
    for (number, (fault, expected)) in faults.into_iter().enumerate() {
        let mut observed = good(DrillKind::Hang);
        fault(&mut observed);
        assert_eq!(unmet(&observed), expected, "fault {number}");
        named.extend(expected);
    }
    let all: std::collections::BTreeSet<&str> = judge(&good(DrillKind::Hang)).iter().map(|line| line.what).collect();
    assert_eq!(named, all, "every line was seen not to be met");
}

#[test]
fn a_machine_that_is_slow_by_itself_is_not_taken_for_a_token_that_hangs() {
    let mut observed = good(DrillKind::Hang);
    let took_us = [vec![600; 199], vec![1_500_000]].concat();
    rounds(&mut observed).during = Replays { took_us, same: 200, ..Replays::default() };
    assert_eq!(unmet(&observed), ["how long that takes"]);
    let mut stalled = observed.clone();
    rounds(&mut stalled).during.stalled_us = 300_000;
    assert_eq!(unmet(&stalled), [""; 0], "the command itself stood still");
    rounds(&mut observed).before.took_us[7] = 800_000;
    assert_eq!(unmet(&observed), [""; 0], "so slow before");
}

#[test]
fn what_is_said_to_be_expected_is_the_limit_that_is_applied() {
    // The text of a line, the limit in it, and how a time is set.
    type Limit = (&'static str, u64, fn(&mut Observed, u64));
    let limits: [Limit; 3] = [
        (FIRST, 4_000, |it, ms| rounds(it).first.took_us = ms * 1_000),
        ("the end of the drill", 12_000, |it, ms| it.sight.over_ms = Some(ms)),
        ("the node afterwards", 32_000, |it, ms| it.ready_after_ms = Some(ms)),
    ];
    for (what, limit_ms, set) in limits {
        for (ms, met) in [(limit_ms, true), (limit_ms + 1, false)] {
            let mut observed = good(DrillKind::Hang);
            set(&mut observed, ms);
            let lines = judge(&observed);
            let line = lines.iter().find(|line| line.what == what).unwrap();
            assert_eq!(line.met, met, "{what}: {ms}");
            assert!(line.expected.contains(&format!("{limit_ms} ms")), "{}", line.expected);
        }
    }
}

#[test]
fn a_slow_token_has_to_be_late_and_to_answer() {
    let faults: Vec<Fault> = vec![
        (|it| rounds(it).first = served(999), &[FIRST]),
        (|it| rounds(it).first = refused(Reason::KeyProviderUnavailable, Some("token"), 1_000), &[FIRST]),
        (|it| rounds(it).fresh[0] = refused(Reason::KeyProviderUnavailable, Some("token"), 1), &[FRESH]),
        (|it| rounds(it).fresh.clear(), &[FRESH]),
        (|it| it.sight.classes.extend(["deadline".to_owned()]), &["the outage"]),
        (|it| it.counts.1.outages = 5, &["the counters"]),
    ];
    for (number, (fault, expected)) in faults.into_iter().enumerate() {
        let mut observed = good(DrillKind::Slow);
        fault(&mut observed);
        assert_eq!(unmet(&observed), expected, "fault {number}");
    }
}

#[test]
fn percentiles_are_times_that_were_measured() {
    let latency = Latency::of((1..=200).rev());
    assert_eq!(
        (latency.count, latency.p50_us, latency.p90_us, latency.p99_us, latency.max_us),
        (200, 100, 180, 198, 200)
    );
    assert_eq!(Latency::of([7]), Latency { count: 1, p50_us: 7, p90_us: 7, p99_us: 7, max_us: 7 });
    assert_eq!(Latency::of([]), Latency::default());
}
