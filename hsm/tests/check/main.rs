//! `token check` on a real token: what it finds, that it risks no PIN, and that nothing of it stays. Every test has a token of its
//! own.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and make plain files")]

mod lies;
mod proxy;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use frostkeep_fixtures::{P11KitServer, Shim, SoftToken, make_token, softhsm_module};
use frostkeep_hsm::check::finding::{Code, Fault, Finding, Level};
use frostkeep_hsm::check::report::{CheckReport, CuredIn, Outcome, SealedWith, Verdict};
use frostkeep_hsm::check::{Options, SCRATCH_LABEL, check};
use frostkeep_hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::provision::{CreateKey, init, show};
use tempfile::TempDir;

const PIN: &str = "correct-horse-7319";
/// What no call of a loaded machine comes near.
const AMPLE: Deadlines = Deadlines { start_ms: 30_000, login_ms: 30_000, call_ms: 30_000 };
/// Where something hangs.
const HASTY: Deadlines = Deadlines { start_ms: 6_000, login_ms: 1_000, call_ms: 600 };
/// Quick, where latencies are not what is looked at.
const QUICK: Options = Options { samples: 5, login: true, write: true };

struct Bench {
    directory: TempDir,
    token: SoftToken,
    config: TokenConfig,
}

/// A token with a provisioned key.
fn bench() -> Bench {
    let bench = blank();
    init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    bench
}

/// A token without a key.
fn blank() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "node one", PIN).unwrap();
    let config = TokenConfig {
        agent: Some(AgentCommand {
            program: PathBuf::from(env!("CARGO_BIN_EXE_frostkeep-token-agent")),
            arguments: Vec::new(),
        }),
        deadlines: AMPLE,
        backoff_ms_min: 20,
        backoff_ms_max: 100,
        ..TokenConfig::new(token.uri("frostkeep").unwrap(), token.environment(), token.latch_directory())
    };
    Bench { directory, token, config }
}

impl Bench {
    fn check(&self, options: Options) -> CheckReport {
        run(&self.config, options)
    }

    /// The objects of the token, as they lie in SoftHSM's directory: name and content. The token's own file is no object.
    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let home = fs::read_dir(self.token.token_directory()).unwrap().next().unwrap().unwrap().path();
        let files = fs::read_dir(home).unwrap().map(|file| file.unwrap());
        let objects = files.filter_map(|file| {
            let name = file.file_name().into_string().unwrap();
            let is_object = name.ends_with(".object") && name != "token.object";
            is_object.then(|| (name, fs::read(file.path()).unwrap()))
        });
        objects.collect()
    }
}

fn run(config: &TokenConfig, options: Options) -> CheckReport {
    check(config, options, Box::new(os())).unwrap()
}

fn codes(report: &CheckReport) -> Vec<Code> {
    report.findings.iter().map(Finding::code).collect()
}

fn failures(report: &CheckReport) -> Vec<Code> {
    report.findings.iter().filter(|finding| finding.level() == Level::Failure).map(Finding::code).collect()
}

/// What of it weighs.
fn weighty(report: &CheckReport) -> Vec<Code> {
    report.findings.iter().filter(|finding| finding.level() > Level::Note).map(Finding::code).collect()
}

fn finding(report: &CheckReport, code: Code) -> &Finding {
    let found = report.findings.iter().find(|finding| finding.code() == code);
    found.unwrap_or_else(|| panic!("no {code:?} in {:#?}", report.findings))
}

#[test]
fn a_whole_token_is_usable_and_nothing_of_the_check_stays_on_it() {
    let bench = bench();
    let before = bench.objects();
    let report = bench.check(Options { samples: 50, ..Options::default() });
    assert_eq!(report.verdict, Verdict::Usable, "{:#?}", report.findings);
    assert_eq!(codes(&report), [Code::PinLocks]);
    assert_eq!(bench.objects(), before);

    let token = report.token.unwrap();
    assert_eq!((token.label.as_str(), token.model.as_str()), ("node one", "SoftHSM v2"));
    assert_eq!(report.module.description.as_deref(), Some("Implementation of PKCS11"));
    let pin = report.pin;
    assert_eq!((pin.login, pin.locked, pin.login_required), (Outcome::Yes, Some(false), Some(true)));
    assert_eq!(pin.known.map(|known| (known.kind, known.locks_at)), Some(("SoftHSM", None)));
    assert!(!report.latch.unwrap().latched);
    let key = report.key;
    assert_eq!((key.unique, key.accepted, key.refusal), (Some(true), Outcome::Yes, None));
    assert_eq!(
        (key.sensitive, key.extractable, key.local, key.sign),
        (Some(true), Some(false), Some(true), Some(true))
    );
    let shown = show(&bench.config, true, Box::new(os())).unwrap().keys.unwrap();
    assert_eq!(key.check_value.as_ref(), Some(&shown[0].check_value));
    let primitives = report.primitives;
    assert_eq!(primitives.hmac_sha256.proved_with, Some(SealedWith::ConfiguredKey));
    assert_eq!((primitives.hmac_equals_host, primitives.generic_secret_key_gen.proved), (Outcome::Yes, Outcome::Yes));
    let latency = report.latency.unwrap();
    for taken in [latency.seal, latency.open, latency.derive] {
        let taken = taken.unwrap();
        assert_eq!(taken.count, 50);
        assert!(0 < taken.p50_us && taken.p50_us <= taken.p99_us && taken.p99_us <= taken.max_us, "{taken:?}");
    }
    let anchor = report.anchor;
    let works = [anchor.update_data.works, anchor.replace_data.works, anchor.set_id.works];
    assert_eq!(works, [Outcome::No, Outcome::Yes, Outcome::Yes]);
    assert!(anchor.update_data.error.unwrap().contains("CKR_ATTRIBUTE_READ_ONLY"));
    assert_eq!(anchor.set_id.write.unwrap().count, 8);
    assert_eq!((anchor.left_behind, anchor.leftovers_found), (Some(0), Some(0)));
    for (loss, answer) in [
        (report.recovery.session_loss.unwrap(), "CKR_SESSION_HANDLE_INVALID"),
        (report.recovery.logout.unwrap(), "CKR_OBJECT_HANDLE_INVALID"),
    ] {
        assert!(loss.answer.contains(answer), "{loss:?}");
        assert_eq!((loss.cured, loss.cured_in), (Outcome::Yes, Some(CuredIn::Call)));
    }
    assert_eq!(report.recovery.reinitialisation.unwrap().count, 5);
    assert_eq!((report.hung, report.agents_started), (Vec::new(), 1));
}

#[test]
fn a_token_behind_a_server_is_examined_in_the_same_way() {
    let bench = bench();
    let before = bench.objects();
    let server = P11KitServer::start(&bench.token).unwrap();
    let report = run(&remote(&bench, &server), QUICK);
    assert_eq!(report.verdict, Verdict::Usable, "{:#?}", report.findings);
    assert_eq!(report.token.unwrap().model, "SoftHSM v2");
    assert_eq!((report.key.accepted, report.primitives.hmac_equals_host), (Outcome::Yes, Outcome::Yes));
    assert!(report.recovery.session_loss.unwrap().class.is_some());
    assert_eq!(report.anchor.set_id.works, Outcome::Yes);
    assert_eq!(bench.objects(), before);
}

fn remote(bench: &Bench, server: &P11KitServer) -> TokenConfig {
    TokenConfig { uri: server.uri("frostkeep").unwrap(), environment: server.environment(), ..bench.config.clone() }
}

#[test]
fn a_token_without_the_key_is_measured_with_a_key_of_one_session_and_none_is_made() {
    let bench = blank();
    let report = bench.check(QUICK);
    assert_eq!(weighty(&report), [Code::KeyMissing]);
    assert_eq!(report.verdict, Verdict::UsableWithWarnings);
    assert!(finding(&report, Code::KeyMissing).hint().contains("--create"));
    assert_eq!((report.key.found, report.key.accepted), (Some(0), Outcome::NotTried));
    assert_eq!(report.primitives.hmac_sha256.proved_with, Some(SealedWith::SessionKey));
    let latency = report.latency.unwrap();
    assert_eq!((latency.sealed_with, latency.open.unwrap().count), (SealedWith::SessionKey, 5));
    assert_eq!(report.recovery.session_loss.unwrap().cured_in, Some(CuredIn::Call));
    assert_eq!(bench.objects(), BTreeMap::new());
}

#[test]
fn a_token_that_is_locked_without_a_flag_is_not_usable() {
    // As a TPM in its lock-out: the right PIN, and an answer that says nothing of it.
    let bench = bench();
    let real = softhsm_module().unwrap();
    let shim = Shim::new(bench.directory.path(), real.clone()).unwrap();
    shim.set_text("C_Login 0 * before rv 0xa4").unwrap();
    let uri = bench.config.uri.replace(&real.display().to_string(), &shim.module().display().to_string());
    let environment = bench.config.environment.clone().into_iter().chain(shim.environment()).collect();
    let report = check(&TokenConfig { uri, environment, ..bench.config.clone() }, QUICK, Box::new(os())).unwrap();
    assert!(weighty(&report).contains(&Code::PinLocked), "{:#?}", report.findings);
    assert_eq!((report.verdict, report.pin.login), (Verdict::NotUsable, Outcome::No));
    assert!(!show(&bench.config, false, Box::new(os())).unwrap().latch.latched);
}

#[test]
fn a_wrong_pin_is_tried_once_latches_and_is_not_tried_by_the_next_check() {
    let bench = bench();
    bench.token.write_pin("wrong").unwrap();
    let report = bench.check(QUICK);
    assert_eq!((report.verdict, weighty(&report)), (Verdict::NotUsable, vec![Code::PinRefused]));
    assert_eq!(finding(&report, Code::PinRefused).fault(), Fault::Surroundings);
    assert!(finding(&report, Code::PinRefused).hint().contains("token unlatch"));
    assert_eq!((report.pin.login, report.pin.logins), (Outcome::No, 1));
    assert!(report.pin.login_error.unwrap().contains("CKR_PIN_INCORRECT"));
    assert!(report.latch.unwrap().latched);
    assert_eq!(report.anchor.token_writes, 0);
    // Not even with the right one: the operator has not said that it is right.
    bench.token.write_pin(PIN).unwrap();
    let report = bench.check(QUICK);
    assert_eq!(report.verdict, Verdict::NotUsable);
    assert_eq!(weighty(&report), [Code::LoginLatched, Code::PinCountLow]);
    assert_eq!((report.pin.login, report.pin.logins), (Outcome::NotTried, 0));
}

#[test]
fn without_a_login_no_pin_is_read_and_what_everybody_may_know_is_told() {
    let bench = bench();
    fs::remove_file(bench.token.pin_file()).unwrap();
    let report = bench.check(Options { login: false, ..QUICK });
    assert_eq!((report.verdict, weighty(&report)), (Verdict::UsableWithWarnings, vec![Code::LoginNotTried]));
    assert_eq!((report.pin.login, report.pin.logins), (Outcome::NotTried, 0));
    assert_eq!(report.primitives.hmac_sha256.listed, Some(true));
    assert_eq!(report.primitives.hmac_sha256.proved, Outcome::NotTried);
    assert!(report.deadlines.start.taken.is_some() && report.latency.is_none());
    let report = bench.check(QUICK);
    assert_eq!(weighty(&report), [Code::PinNotRead]);
    assert_eq!(report.pin.logins, 0);
}

#[test]
fn without_writes_the_token_s_directory_is_never_touched() {
    let bench = bench();
    let home = fs::read_dir(bench.token.token_directory()).unwrap().next().unwrap().unwrap().path();
    let changed = || fs::metadata(&home).unwrap().modified().unwrap();
    let before = changed();
    let report = bench.check(Options { write: false, ..QUICK });
    assert_eq!(changed(), before, "an object came or went");
    assert_eq!((report.verdict, report.anchor.token_writes), (Verdict::Usable, 0));
    assert_eq!(codes(&report), [Code::PinLocks, Code::AnchorNotTried]);
    let anchor = report.anchor;
    let works = [anchor.update_data.works, anchor.replace_data.works, anchor.set_id.works];
    assert_eq!((works, anchor.left_behind), ([Outcome::NotTried; 3], None));
    // The means of this test sees one that does.
    bench.check(QUICK);
    assert_ne!(changed(), before);
}

#[test]
fn a_key_that_is_or_was_exposed_is_told_from_one_that_is_guarded() {
    const SENSITIVE: u64 = 0x103;
    const EXTRACTABLE: u64 = 0x162;
    const LOCAL: u64 = 0x163;
    const NEVER_EXTRACTABLE: u64 = 0x164;
    const ALWAYS_SENSITIVE: u64 = 0x165;
    for (attribute, bad, code, verdict) in [
        (EXTRACTABLE, true, Code::KeyExposed, Verdict::NotUsable),
        (SENSITIVE, false, Code::KeyExposed, Verdict::NotUsable),
        (NEVER_EXTRACTABLE, false, Code::KeyWasExposed, Verdict::UsableWithWarnings),
        (ALWAYS_SENSITIVE, false, Code::KeyWasExposed, Verdict::UsableWithWarnings),
        (LOCAL, false, Code::KeyImported, Verdict::UsableWithWarnings),
    ] {
        let bench = bench();
        bench.token.set_flag(attribute, bad).unwrap();
        let report = bench.check(QUICK);
        assert_eq!((weighty(&report), report.verdict), (vec![code], verdict), "{attribute:#x}: {:#?}", report.findings);
        let refused = verdict == Verdict::NotUsable;
        assert_eq!((report.key.accepted == Outcome::No, report.key.refusal.is_some()), (refused, refused));
        assert_eq!(finding(&report, code).fault(), Fault::Token);
        // The rest is still found out, under another key.
        let sealed_with = if refused { SealedWith::SessionKey } else { SealedWith::ConfiguredKey };
        assert_eq!(report.latency.unwrap().sealed_with, sealed_with);
    }
}

#[test]
fn two_keys_of_one_name_are_not_usable() {
    let bench = bench();
    let away = bench.directory.path().join("away");
    bench.token.take_objects(&away).unwrap();
    init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    bench.token.put_objects(&away).unwrap();
    let report = bench.check(QUICK);
    assert_eq!((weighty(&report), report.verdict), (vec![Code::KeyNotUnique], Verdict::NotUsable));
    assert_eq!((report.key.found, report.key.unique), (Some(2), Some(false)));
}

#[test]
fn a_sealing_key_is_left_alone_whatever_its_label() {
    let bench = blank();
    let config = TokenConfig { uri: bench.token.uri(SCRATCH_LABEL).unwrap(), ..bench.config.clone() };
    init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    let before = bench.objects();
    for config in [&config, &bench.config] {
        let report = run(config, QUICK);
        assert_eq!(bench.objects(), before);
        assert_eq!(report.anchor.leftovers_removed, 0);
        assert_eq!(report.anchor.left_behind, Some(1), "it is still told");
        assert!(weighty(&report).contains(&Code::ScratchLeft));
    }
}

#[test]
fn a_token_that_cannot_be_reached_is_a_finding() {
    let bench = bench();
    bench.token.take_away().unwrap();
    let report = bench.check(QUICK);
    assert_eq!((report.verdict, codes(&report)), (Verdict::NotUsable, vec![Code::Unreachable]));
    assert_eq!((report.token, report.latch), (None, None));
    bench.token.bring_back().unwrap();
    let uri = bench.token.uri_through(&bench.directory.path().join("absent.so"), "frostkeep");
    let report = run(&TokenConfig { uri, ..bench.config.clone() }, QUICK);
    assert_eq!(codes(&report), [Code::Unreachable]);
    assert!(report.findings[0].problem().contains("module_not_loaded"));
}

// Hangs of a real token.

/// Stops the server as soon as `when` holds.
fn stop_when(server: &P11KitServer, mut when: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !when() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the moment never came");
        thread::sleep(Duration::from_micros(200));
    }
    server.stop().unwrap();
}

#[test]
fn a_token_that_hangs_for_good_is_told_by_the_call_that_hung_and_the_check_ends() {
    let bench = bench();
    let server = P11KitServer::start(&bench.token).unwrap();
    let config = TokenConfig { deadlines: Deadlines { start_ms: 2_000, ..HASTY }, ..remote(&bench, &server) };
    let begun = Instant::now();
    let report = thread::scope(|scope| {
        // Far more samples than there is time for.
        let check = scope.spawn(|| run(&config, Options { samples: 10_000, ..QUICK }));
        thread::sleep(Duration::from_millis(1_500));
        server.stop().unwrap();
        check.join().unwrap()
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(report.hung.first().map(String::as_str), Some("derive"), "{:#?}", report.findings);
    assert_eq!(failures(&report), [Code::Hung, Code::Hung, Code::TokenLost]);
    assert!(report.findings[0].problem().contains("600 ms"), "{:?}", report.findings[0]);
    assert_eq!(report.verdict, Verdict::NotUsable);
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.level() != Level::Failure || finding.fault() == Fault::Surroundings)
    );
    // What was measured before is told.
    assert!(report.latency.unwrap().seal.unwrap().count > 0);
    assert_eq!((report.anchor.token_writes, report.anchor.left_behind), (0, None));
    server.resume().unwrap();
    assert_eq!(failures(&run(&config, QUICK)), []);
}

#[test]
fn a_hang_over_a_scratch_object_is_told_and_the_object_goes() {
    let bench = bench();
    let before = bench.objects();
    let server = P11KitServer::start(&bench.token).unwrap();
    let config = TokenConfig { deadlines: HASTY, ..remote(&bench, &server) };
    let report = thread::scope(|scope| {
        let check = scope.spawn(|| run(&config, QUICK));
        stop_when(&server, || bench.objects().len() > before.len());
        // Past the deadline of the call, and well before that of the reconnection, which waits.
        thread::sleep(Duration::from_millis(2 * HASTY.login_ms));
        server.resume().unwrap();
        check.join().unwrap()
    });
    assert_eq!(report.hung.len(), 1, "{:#?}", report.findings);
    assert!(report.hung[0].starts_with("anchor_"), "{:?}", report.hung);
    assert_eq!(failures(&report), [Code::Hung]);
    // It went on with what was left, and cleaned up.
    assert_eq!(report.anchor.set_id.works, Outcome::Yes);
    assert_eq!(report.anchor.left_behind, Some(0));
    assert_eq!(bench.objects(), before);
}

// A check that was cut off.

/// Not a law: the check that the next test kills.
#[test]
#[ignore = "started by another test"]
fn a_check_for_another_test() {
    let Ok(config) = std::env::var("FROSTKEEP_TEST_CONFIG") else { return };
    run(&serde_json::from_str(&config).unwrap(), QUICK);
}

#[test]
fn what_a_killed_check_has_left_is_removed_by_the_next_one_which_says_so() {
    let bench = bench();
    let before = bench.objects();
    let config = serde_json::to_string(&bench.config).unwrap();
    for _ in 0..50 {
        let mut check = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "a_check_for_another_test"])
            .env("FROSTKEEP_TEST_CONFIG", &config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while bench.objects().len() == before.len() && check.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        check.kill().unwrap();
        check.wait().unwrap();
        // The agent may be in a call that gets its time.
        thread::sleep(Duration::from_millis(100));
        if bench.objects().len() > before.len() {
            break;
        }
    }
    let left = bench.objects().len() - before.len();
    assert!(left > 0, "no check was killed over an object");
    let report = bench.check(Options { write: false, ..QUICK });
    assert_eq!(weighty(&report), [Code::LeftoversFound]);
    assert_eq!(report.anchor.leftovers_found, Some(u32::try_from(left).unwrap()));
    assert_eq!(bench.objects().len() - before.len(), left, "told not to write");
    let report = bench.check(QUICK);
    assert!(codes(&report).contains(&Code::LeftoversRemoved), "{:#?}", report.findings);
    assert_eq!(report.anchor.leftovers_removed, u32::try_from(left).unwrap());
    assert_eq!(report.verdict, Verdict::Usable);
    assert_eq!(bench.objects(), before);
    assert_eq!(bench.check(QUICK).anchor.leftovers_found, Some(0));
}

// The report for machines.

fn paths(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                paths(field, &format!("{at}.{name}"), found);
            }
        }
        serde_json::Value::Array(items) if at == ".findings" => {
            items.iter().for_each(|item| paths(item, ".findings[]", found));
        }
        _ => found.push(at.trim_start_matches('.').to_owned()),
    }
}

#[test]
fn the_names_of_the_report_s_fields_are_those_that_tables_are_filled_from() {
    let bench = bench();
    let report = bench.check(QUICK);
    let mut found = Vec::new();
    paths(&serde_json::to_value(&report).unwrap(), "", &mut found);
    found.sort();
    found.dedup();
    assert_eq!(found.join("\n"), include_str!("fields.txt").trim_end());
}

#[test]
fn every_finding_has_a_name_of_its_own_and_a_hint() {
    let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!(code.hint().len() > 20 && !code.hint().ends_with('.'), "{code:?}");
    }
}
