//! Tokens that lie, hang or crash at one request: each is found out, told by its name, and nothing stays on the token.

use std::thread;
use std::time::{Duration, Instant};

use frostkeep_hsm::check::finding::{Code, Fault, Level};
use frostkeep_hsm::check::report::{CheckReport, CuredIn, Outcome, Verdict};
use frostkeep_hsm::config::{Deadlines, TokenConfig};

use crate::proxy::{Lie, Plan, lying, told};
use crate::{AMPLE, Bench, HASTY, QUICK, bench, codes, failures, finding, run, weighty};

const ONCE: usize = 1;
const ALWAYS: usize = usize::MAX;

const fn plan(operation: &'static str, after: Option<&'static str>, skip: usize, count: usize, lie: Lie) -> Plan {
    Plan { operation, after, skip, count, lie }
}

/// Checks the token through an agent that lies.
fn lied_to(bench: &Bench, plans: &[Plan]) -> CheckReport {
    let hangs = plans.iter().any(|plan| plan.lie == Lie::Hang);
    let deadlines = if hangs { HASTY } else { AMPLE };
    let config = TokenConfig { deadlines, ..lying(&bench.config, bench.directory.path(), plans) };
    let report = run(&config, QUICK);
    assert!(told(bench.directory.path()) > 0, "{plans:?} was never met");
    report
}

fn surroundings_alone(report: &CheckReport) -> bool {
    report.findings.iter().all(|finding| finding.level() < Level::Failure || finding.fault() == Fault::Surroundings)
}

/// Of the start, the proof, of sealing, after each loss, and over the scratch objects.
const HANGS: [(&str, Option<&str>, usize); 15] = [
    ("details", None, 0),
    ("attributes", None, 0),
    ("find", None, 0),
    ("derive", None, 1),
    ("derive", Some("session_key"), 6),
    ("derive", Some("lose_sessions"), 0),
    ("derive", Some("logout"), 0),
    ("session_key", None, 0),
    ("lose_sessions", None, 0),
    ("logout", None, 0),
    ("anchor_read", None, 0),
    ("anchor_create", None, 1),
    ("anchor_write", None, 3),
    ("anchor_read", Some("anchor_create"), 1),
    ("anchor_destroy", None, 1),
];

#[test]
fn whichever_request_hangs_is_named_and_the_rest_is_still_examined() {
    // They wait most of the time.
    thread::scope(|scope| {
        for some in HANGS.chunks(5) {
            scope.spawn(|| some.iter().for_each(|(operation, after, skip)| hangs_at(operation, *after, *skip)));
        }
    });
}

fn hangs_at(operation: &'static str, after: Option<&'static str>, skip: usize) {
    let bench = bench();
    let before = bench.objects();
    let begun = Instant::now();
    let report = lied_to(&bench, &[plan(operation, after, skip, ONCE, Lie::Hang)]);
    let shown = format!("{operation} after {after:?}: {:#?}", report.findings);
    assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
    assert_eq!(report.hung, [operation], "{shown}");
    assert!(codes(&report).contains(&Code::Hung), "{shown}");
    assert_eq!(report.verdict, Verdict::NotUsable);
    assert!(surroundings_alone(&report), "{shown}");
    assert_eq!(report.agents_started, 2, "{shown}");
    // Later questions were asked.
    assert_eq!(report.anchor.left_behind, Some(0), "{shown}");
    assert!(!codes(&report).contains(&Code::TokenLost), "{shown}");
    assert_eq!(bench.objects(), before, "{shown}");
}

#[test]
fn a_login_that_hangs_is_not_tried_again() {
    let bench = bench();
    let report = lied_to(&bench, &[plan("login", None, 0, ONCE, Lie::Hang)]);
    assert_eq!((report.hung.as_slice(), report.pin.logins), (["login".to_owned()].as_slice(), 1));
    assert_eq!(failures(&report), [Code::Hung]);
    assert_eq!(report.pin.login, Outcome::No);
}

#[test]
fn a_token_that_never_lets_go_of_its_objects_is_told_and_the_next_check_removes_them() {
    let bench = bench();
    let before = bench.objects();
    let report = lied_to(&bench, &[plan("anchor_destroy", None, 0, ALWAYS, Lie::Nothing)]);
    assert!(report.anchor.left_behind > Some(0), "{:?}", report.anchor);
    assert!(weighty(&report).contains(&Code::ScratchLeft));
    assert_ne!(bench.objects(), before);
    let report = bench.check(QUICK);
    assert!(codes(&report).contains(&Code::LeftoversRemoved));
    assert_eq!(bench.objects(), before);
    // Nor is a token that hangs for good over them believed to be clean.
    let report = lied_to(&bench, &[plan("anchor_destroy", None, 0, ALWAYS, Lie::Hang)]);
    assert!(weighty(&report).contains(&Code::ScratchLeft), "{:#?}", report.findings);
    bench.check(QUICK);
    assert_eq!(bench.objects(), before);
}

#[test]
fn a_token_that_is_lost_over_a_scratch_object_is_asked_once_more_to_destroy_it() {
    let bench = bench();
    let before = bench.objects();
    let hang = |operation, after, skip| plan(operation, after, skip, ONCE, Lie::Hang);
    let report = lied_to(&bench, &[hang("anchor_write", None, 3), hang("connect", Some("anchor_write"), 0)]);
    assert_eq!(report.hung, ["anchor_write", "connect"]);
    assert!(codes(&report).contains(&Code::TokenLost), "{:#?}", report.findings);
    assert_eq!((report.anchor.set_id.works, report.anchor.left_behind), (Outcome::NotTried, Some(0)));
    assert_eq!(bench.objects(), before);
}

#[test]
fn a_wrong_value_is_found_out_wherever_it_is_given() {
    let flip = |after, skip, count| plan("derive", after, skip, count, Lie::Flip);
    // A token that answers at all after a loss has not lost anything.
    let pretended = |loss| plan(loss, None, 0, ONCE, Lie::Nothing);
    for (plans, code) in [
        // Of the same question asked twice.
        (vec![flip(None, 1, ONCE)], Code::HmacNotProved),
        // After three answers under a key that was generated, those under the one that is known.
        (vec![flip(Some("session_key"), 3, ONCE)], Code::HmacDiffers),
        (vec![pretended("lose_sessions"), flip(Some("lose_sessions"), 0, ONCE)], Code::LossAnsweredWrong),
        (vec![pretended("logout"), flip(Some("logout"), 0, ONCE)], Code::LossAnsweredWrong),
    ] {
        let bench = bench();
        let report = lied_to(&bench, &plans);
        assert_eq!(weighty(&report), [code], "{plans:?}: {:#?}", report.findings);
        assert_eq!((report.verdict, finding(&report, code).fault()), (Verdict::NotUsable, Fault::Token));
    }
}

#[test]
fn a_token_that_opens_to_another_value_does_not_pass_for_one_that_seals() {
    // From the first sample on, every other answer is wrong: what is sealed does not open.
    let bench = bench();
    let plans: Vec<Plan> =
        (0..4).map(|pair| plan("derive", Some("session_key"), 6 + 2 * pair, ONCE, Lie::Flip)).collect();
    let report = lied_to(&bench, &plans);
    assert!(weighty(&report).contains(&Code::SealFailed), "{:#?}", report.findings);
    assert_eq!(report.verdict, Verdict::NotUsable);
}

#[test]
fn a_token_that_keeps_another_anchor_than_it_says_is_no_anchor() {
    for (plans, kept) in [
        (vec![plan("anchor_write", None, 8, ONCE, Lie::Nothing)], "value 7 in the same session"),
        (vec![plan("anchor_write", None, 1, 8, Lie::Nothing)], "value 0 in the same session"),
        (vec![plan("anchor_create", None, 1, ONCE, Lie::Nothing)], "no value in the same session"),
        // As seen of a TPM: the session remembers what the token has not kept.
        (vec![plan("anchor_read", Some("anchor_create"), 3, ONCE, Lie::Stale)], "value 7 in a fresh session"),
    ] {
        let bench = bench();
        let before = bench.objects();
        let report = lied_to(&bench, &plans);
        let forgets = finding(&report, Code::AnchorForgets);
        assert!(forgets.problem().starts_with("replace_data: ") && forgets.problem().contains(kept), "{forgets:?}");
        assert_eq!((report.anchor.replace_data.works, report.anchor.set_id.works), (Outcome::No, Outcome::Yes));
        // Another kind does.
        assert_eq!((report.verdict, weighty(&report)), (Verdict::Usable, Vec::new()));
        assert_eq!(bench.objects(), before);
    }
}

#[test]
fn what_a_token_cannot_do_is_a_finding_and_never_an_error() {
    for (operation, after, expected, verdict) in [
        ("details", None, vec![], Verdict::Usable),
        ("session_key", None, vec![Code::KeyGenRefused, Code::HmacNotCompared], Verdict::Usable),
        ("logout", None, vec![], Verdict::Usable),
        ("lose_sessions", None, vec![], Verdict::Usable),
        ("anchor_write", None, vec![Code::AnchorNone], Verdict::UsableWithWarnings),
        ("anchor_create", None, vec![Code::AnchorNone], Verdict::UsableWithWarnings),
        ("attributes", None, vec![Code::KeyUnusable], Verdict::NotUsable),
        ("find", None, vec![Code::KeyUnusable], Verdict::NotUsable),
        ("derive", None, vec![Code::HmacNotProved, Code::HmacNotCompared], Verdict::NotUsable),
    ] {
        let bench = bench();
        let before = bench.objects();
        let report = lied_to(&bench, &[plan(operation, after, 0, ALWAYS, Lie::Refuse)]);
        let seen: Vec<Code> = codes(&report).into_iter().filter(|code| *code != Code::PinLocks).collect();
        for code in &expected {
            assert!(seen.contains(code), "{operation}: {:#?}", report.findings);
        }
        assert_eq!(report.verdict, verdict, "{operation}: {:#?}", report.findings);
        assert_eq!(bench.objects(), before, "{operation}");
    }
}

#[test]
fn a_token_that_neither_has_a_key_nor_makes_one_says_so() {
    let bench = crate::blank();
    let report = lied_to(&bench, &[plan("session_key", None, 0, ALWAYS, Lie::Refuse)]);
    assert_eq!(weighty(&report), [Code::KeyMissing, Code::KeyGenImpossible]);
    assert_eq!(report.primitives.hmac_sha256.proved, Outcome::NotTried);
    assert!(report.latency.is_none());
}

#[test]
fn a_module_that_crashes_is_told_by_its_request_and_the_check_goes_on() {
    for (operation, skip) in [("session_key", 2), ("derive", 0), ("lose_sessions", 0), ("anchor_write", 0)] {
        let bench = bench();
        let before = bench.objects();
        let report = lied_to(&bench, &[plan(operation, None, skip, ALWAYS, Lie::Crash)]);
        assert!(report.agents_started > 1);
        let told = serde_json::to_string(&report).unwrap();
        assert!(told.contains(&format!("{operation}: agent_ended: exit code 9")), "{operation}: {told}");
        assert_eq!(report.anchor.left_behind, Some(0), "{operation}: {:#?}", report.findings);
        assert_eq!(bench.objects(), before);
    }
    // Once: a new connection answers, and nobody is refused.
    let bench = bench();
    let report = lied_to(&bench, &[plan("derive", None, 0, ONCE, Lie::Crash)]);
    assert_eq!((report.verdict, report.agents_started), (Verdict::Usable, 2), "{:#?}", report.findings);
}

#[test]
fn a_module_that_only_a_new_process_brings_back_is_not_usable() {
    let bench = bench();
    let before = bench.objects();
    let report = lied_to(&bench, &[plan("connect", Some("lose_sessions"), 0, ALWAYS, Lie::Broken)]);
    assert_eq!(weighty(&report), [Code::LossNotCured, Code::ReinitialisationFailed], "{:#?}", report.findings);
    let loss = report.recovery.session_loss.unwrap();
    assert_eq!((loss.cured, loss.cured_in, loss.cure_us), (Outcome::No, None, None));
    assert_eq!((report.agents_started, report.anchor.set_id.works), (2, Outcome::Yes));
    assert_eq!(bench.objects(), before);
    // Back at the second probe: cured, and callers were refused meanwhile.
    let report = lied_to(&bench, &[plan("connect", Some("lose_sessions"), 0, 2, Lie::Broken)]);
    assert_eq!(weighty(&report), [Code::LossCuredByProbe], "{:#?}", report.findings);
    let loss = report.recovery.session_loss.unwrap();
    assert_eq!((loss.cured, loss.cured_in), (Outcome::Yes, Some(CuredIn::Probe)));
}

#[test]
fn attributes_that_differ_by_how_they_are_asked_for_are_not_believed() {
    const EXTRACTABLE: u64 = 0x162;
    let bench = bench();
    bench.token.set_flag(EXTRACTABLE, true).unwrap();
    let report = lied_to(&bench, &[plan("find", None, 0, ALWAYS, Lie::NotExtractable)]);
    assert_eq!((weighty(&report), report.verdict), (vec![Code::KeyAttributesDiffer], Verdict::NotUsable));
}

#[test]
fn a_key_that_works_without_a_login_is_a_warning() {
    let bench = bench();
    let report = lied_to(&bench, &[plan("attributes", None, 0, ALWAYS, Lie::Public)]);
    assert_eq!((weighty(&report), report.verdict), (vec![Code::KeyPublic], Verdict::UsableWithWarnings));
}

#[test]
fn times_near_a_deadline_are_a_warning() {
    for (operation, code) in
        [("derive", Code::CallNearDeadline), ("login", Code::LoginNearDeadline), ("connect", Code::StartNearDeadline)]
    {
        let bench = bench();
        let plans = [plan(operation, None, 0, ALWAYS, Lie::Delay)];
        // The delay is more than a quarter of this.
        let slow = TokenConfig {
            deadlines: Deadlines { start_ms: 220, login_ms: 220, call_ms: 220 },
            ..lying(&bench.config, bench.directory.path(), &plans)
        };
        let report = run(&slow, QUICK);
        assert!(weighty(&report).contains(&code), "{operation}: {:#?}", report.findings);
        // And less of this.
        let ample = TokenConfig { deadlines: AMPLE, ..slow };
        assert_eq!(run(&ample, QUICK).verdict, Verdict::Usable);
    }
}
