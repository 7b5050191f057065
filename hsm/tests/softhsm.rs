//! The key provider on a real token: SoftHSM, directly and behind a `p11-kit` server. Every test has a token of its own.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and make plain files")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use frostkeep_fixtures::{P11KitServer, SoftToken, make_token};
use frostkeep_hsm::agent::protocol::{Frame, Request, TokenSelector, VERSION};
use frostkeep_hsm::clock::SystemClock;
use frostkeep_hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{OutageClass, ProviderState};
use frostkeep_hsm::pkcs11_token::Pkcs11Token;
use frostkeep_hsm::provider::{
    AnchorRead, AnchorValue, DataKey, KeyProvider, SealedObject, Unavailable, UnwrapError, Wrap,
};
use frostkeep_hsm::provision::{CreateKey, ProvisionError, init, show, unlatch};
use frostkeep_hsm::sealer::Provider;
use frostkeep_hsm::uri::TokenUri;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PIN: &str = "correct-horse-7319";
const CALL_MS: u64 = 400;

struct Bench {
    directory: TempDir,
    token: SoftToken,
    config: TokenConfig,
}

/// A token with a provisioned key.
fn bench() -> Bench {
    let bench = blank();
    let report = init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    assert!(report.created);
    bench
}

/// A token without a key.
fn blank() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "node one", PIN).unwrap();
    let config = config(&token, token.uri("frostkeep").unwrap(), token.environment());
    Bench { directory, token, config }
}

fn config(token: &SoftToken, uri: String, environment: BTreeMap<String, String>) -> TokenConfig {
    TokenConfig {
        uri,
        environment,
        agent: Some(AgentCommand {
            program: PathBuf::from(env!("CARGO_BIN_EXE_frostkeep-token-agent")),
            arguments: Vec::new(),
        }),
        deadlines: Deadlines { start_ms: 2_000, login_ms: 2_000, call_ms: CALL_MS },
        health_interval_ms: 100,
        backoff_ms_min: 20,
        backoff_ms_max: 100,
        latch_directory: token.latch_directory(),
    }
}

fn provider(config: &TokenConfig) -> Provider<Pkcs11Token> {
    Provider::from_config(config, Arc::new(SystemClock::new())).unwrap()
}

/// Does what is due until `state` is reached.
fn drive(provider: &mut Provider<Pkcs11Token>, state: ProviderState) {
    let begun = Instant::now();
    while provider.health().state != state {
        assert!(begun.elapsed() < Duration::from_secs(20), "not {state:?} but {:?}", provider.health());
        let wait = provider.tick();
        if provider.health().state != state {
            sleep(wait.min(Duration::from_millis(20)));
        }
    }
}

fn ready(config: &TokenConfig) -> Provider<Pkcs11Token> {
    let mut provider = provider(config);
    drive(&mut provider, ProviderState::Ready);
    provider
}

fn object(id: u64) -> SealedObject {
    SealedObject { store: [7; 16], kind: 1, id }
}

fn class(result: Result<Vec<Wrap>, Unavailable>) -> OutageClass {
    result.unwrap_err().0.class
}

fn sealed(provider: &mut Provider<Pkcs11Token>) -> Vec<Wrap> {
    provider.wrap(&object(1), &DataKey::new(&[42; 32])).unwrap()
}

fn opens(provider: &mut Provider<Pkcs11Token>, wraps: &[Wrap]) -> bool {
    *provider.unwrap(&object(1), wraps).unwrap().expose() == [42; 32]
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn is_running(pid: u32) -> bool {
    // A zombie is dead.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        sleep(Duration::from_millis(5));
    }
}

// Provisioning.

#[test]
fn a_key_is_created_only_when_told_and_once() {
    let bench = blank();
    assert!(matches!(init(&bench.config, CreateKey::Never, Box::new(os())), Err(ProvisionError::NoKey)));
    let made = init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    assert!(made.created);
    assert_eq!((made.key.sensitive, made.key.extractable), (Some(true), Some(false)));
    assert_eq!((made.key.id.len(), made.key.check_value.len(), made.scheme), (32, 16, "hmac"));
    let found = init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    assert!(!found.created);
    assert_eq!(found.key, made.key);
    let shown = show(&bench.config, true, Box::new(os())).unwrap();
    assert_eq!(shown.keys, Some(vec![made.key]));
    assert_eq!(shown.token.label, "node one");
    assert!(!shown.latch.latched && shown.latch.succeeded && shown.latch.unanswered == 0);
    assert_eq!(show(&bench.config, false, Box::new(os())).unwrap().keys, None);
}

#[test]
fn no_report_and_no_file_of_ours_holds_the_pin() {
    let bench = bench();
    let report = serde_json::to_string(&show(&bench.config, true, Box::new(os())).unwrap()).unwrap();
    assert!(!report.contains(PIN));
    for entry in fs::read_dir(bench.token.latch_directory()).unwrap() {
        let entry = entry.unwrap();
        assert!(!fs::read_to_string(entry.path()).unwrap().contains(PIN));
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600);
    }
}

// Sealing.

#[test]
fn a_data_key_comes_back_in_this_connection_and_after_a_restart() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    let keys = provider.keys();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].token_label, "node one");
    let wraps = sealed(&mut provider);
    assert_eq!((wraps.len(), wraps[0].blob.len()), (1, 80));
    assert!(opens(&mut provider, &wraps));
    assert_ne!(sealed(&mut provider), wraps, "a fresh salt each time");
    drop(provider);
    let mut provider = self::provider(&bench.config);
    provider.require(&keys);
    assert!(opens(&mut provider, &wraps), "the first call connects by itself");
    assert_eq!(provider.keys(), keys);
    assert_eq!(provider.health().agents_started, 1);
}

#[test]
fn a_wrap_of_another_object_or_a_damaged_one_is_corrupt_and_no_outage() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    let wraps = sealed(&mut provider);
    assert!(matches!(provider.unwrap(&object(2), &wraps), Err(UnwrapError::Corrupt)));
    let mut damaged = wraps.clone();
    damaged[0].blob[40] ^= 1;
    assert!(matches!(provider.unwrap(&object(1), &damaged), Err(UnwrapError::Corrupt)));
    damaged[0].blob.pop();
    assert!(matches!(provider.unwrap(&object(1), &damaged), Err(UnwrapError::Corrupt)));
    let mut foreign = wraps.clone();
    foreign[0].key.0[0] ^= 1;
    assert!(matches!(provider.unwrap(&object(1), &foreign), Err(UnwrapError::NoReachableKey { found: 1, .. })));
    assert!(matches!(provider.unwrap(&object(1), &[]), Err(UnwrapError::NoReachableKey { found: 0, .. })));
    assert_eq!(provider.health().state, ProviderState::Ready);
    foreign.extend(wraps);
    assert!(opens(&mut provider, &foreign), "one good wrap is enough");
}

#[test]
fn a_token_without_anchors_says_so_and_stays_ready() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    assert_eq!(provider.anchor_read(), Ok(AnchorRead::Unsupported));
    let value = AnchorValue { store: [1; 16], epoch: 1, position: 1, head: [1; 32] };
    assert_eq!(provider.anchor_write(&value).unwrap_err().0.class, OutageClass::Usage);
    assert_eq!(provider.health().state, ProviderState::Ready);
}

// Outages of the token.

#[test]
fn a_token_taken_away_is_an_outage_and_heals_when_it_is_back() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    let wraps = sealed(&mut provider);
    let connection = provider.connection();
    bench.token.take_away().unwrap();
    assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Token);
    let health = provider.health();
    let outage = health.outage.clone().unwrap();
    assert!(!health.admits_work() && outage.next_try.is_some() && outage.token == "node one", "{outage:?}");
    assert!(matches!(provider.unwrap(&object(1), &wraps), Err(UnwrapError::Unavailable(_))));
    // However often it is tried, an absent token is never taken for a lost key, and nothing is created.
    for _ in 0..20 {
        sleep(provider.tick());
        assert_eq!(provider.health().outage.unwrap().class, OutageClass::Token);
        assert_eq!(provider.health().outage.unwrap().since, outage.since);
    }
    bench.token.bring_back().unwrap();
    drive(&mut provider, ProviderState::Ready);
    assert!(opens(&mut provider, &wraps));
    assert!(provider.connection() > connection);
    assert_eq!(provider.health().outages, 1);
}

#[test]
fn an_idle_node_notices_an_outage_by_its_health_call() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    bench.token.take_away().unwrap();
    drive(&mut provider, ProviderState::Out);
    bench.token.bring_back().unwrap();
    drive(&mut provider, ProviderState::Ready);
}

#[test]
fn a_start_without_a_token_waits_and_heals() {
    let bench = bench();
    bench.token.take_away().unwrap();
    let mut provider = provider(&bench.config);
    assert_eq!(provider.health().state, ProviderState::Starting);
    drive(&mut provider, ProviderState::Out);
    bench.token.bring_back().unwrap();
    drive(&mut provider, ProviderState::Ready);
    sealed(&mut provider);
}

#[test]
fn a_module_that_does_not_load_is_an_outage_of_class_module() {
    let bench = bench();
    let uri = bench.token.uri_through(&bench.directory.path().join("absent.so"), "frostkeep");
    let config = TokenConfig { uri, ..bench.config.clone() };
    let mut provider = provider(&config);
    assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Module);
}

// Credentials.

#[test]
fn one_wrong_pin_stops_after_exactly_one_attempt() {
    let bench = bench();
    unlatch(&bench.config, Box::new(os())).unwrap();
    bench.token.write_pin("wrong").unwrap();
    let mut provider = provider(&bench.config);
    drive(&mut provider, ProviderState::Fenced);
    let outage = provider.health().outage.unwrap();
    assert_eq!((outage.class, outage.next_try), (OutageClass::Credential, None));
    assert!(outage.detail.contains("CKR_PIN_INCORRECT"), "{outage:?}");
    for _ in 0..10 {
        sleep(provider.tick());
        assert_eq!(provider.health().outage.unwrap().class, OutageClass::Credential);
    }
    assert_eq!(provider.token().logins(), 1, "the token was asked again");
    // Another process does not try either, not even with the right pin.
    bench.token.write_pin(PIN).unwrap();
    let mut restarted = self::provider(&bench.config);
    drive(&mut restarted, ProviderState::Fenced);
    assert!(restarted.health().outage.unwrap().detail.contains("unlatch"));
    assert_eq!(restarted.token().logins(), 0);
    // The process that knows which pin was refused goes on with another one.
    drive(&mut provider, ProviderState::Ready);
    sealed(&mut provider);
    drive(&mut restarted, ProviderState::Ready);
}

#[test]
fn across_restarts_only_unlatching_lifts_the_latch() {
    let bench = bench();
    bench.token.write_pin("wrong").unwrap();
    drive(&mut provider(&bench.config), ProviderState::Fenced);
    bench.token.write_pin(PIN).unwrap();
    let mut restarted = provider(&bench.config);
    drive(&mut restarted, ProviderState::Fenced);
    assert!(show(&bench.config, false, Box::new(os())).unwrap().latch.latched);
    let report = unlatch(&bench.config, Box::new(os())).unwrap();
    assert!(report.before.latched);
    drive(&mut restarted, ProviderState::Ready);
}

#[test]
fn a_pin_file_that_others_can_read_is_refused_before_the_token_sees_it() {
    let bench = bench();
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
    fs::set_permissions(bench.token.pin_file(), mode(0o644)).unwrap();
    let mut provider = provider(&bench.config);
    drive(&mut provider, ProviderState::Out);
    let outage = provider.health().outage.unwrap();
    assert_eq!(outage.class, OutageClass::Usage);
    assert!(outage.detail.contains("0644"), "{outage:?}");
    fs::set_permissions(bench.token.pin_file(), mode(0o600)).unwrap();
    drive(&mut provider, ProviderState::Ready);
}

#[test]
fn two_logins_that_were_never_answered_latch_until_unlatched() {
    let bench = bench();
    unlatch(&bench.config, Box::new(os())).unwrap();
    // The real agent, cut off from everything after the token's information: the login never gets its answer.
    let uri = TokenUri::parse(&bench.config.uri).unwrap();
    let module = uri.module_path.unwrap().display().to_string();
    let token = TokenSelector { label: uri.token, ..TokenSelector::default() };
    let mut bytes = Vec::new();
    for request in [Request::Hello { version: VERSION, parent: std::process::id() }, Request::Connect { module, token }]
    {
        Frame::new(&request, &[]).unwrap().write_to(&mut bytes).unwrap();
    }
    let script = format!(
        "exec 3<&0; exec {} < <(dd bs=1 count={} status=none <&3; sleep 2)",
        env!("CARGO_BIN_EXE_frostkeep-token-agent"),
        bytes.len()
    );
    let deaf = TokenConfig {
        agent: Some(AgentCommand { program: "/bin/bash".into(), arguments: vec!["-c".into(), script] }),
        deadlines: Deadlines { start_ms: 2_000, login_ms: 50, call_ms: CALL_MS },
        ..bench.config.clone()
    };
    let latch = || show(&bench.config, false, Box::new(os())).unwrap().latch;
    for unanswered in 1..=2 {
        let mut provider = provider(&deaf);
        assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Deadline);
        assert_eq!((provider.token().logins(), latch().unanswered), (1, unanswered));
    }
    assert!(latch().latched);
    let mut provider = provider(&bench.config);
    drive(&mut provider, ProviderState::Fenced);
    assert_eq!(provider.health().outage.unwrap().class, OutageClass::Credential);
    assert_eq!(provider.token().logins(), 0);
    unlatch(&bench.config, Box::new(os())).unwrap();
    drive(&mut provider, ProviderState::Ready);
    // From now on silence says nothing of the pin: a hanging token must not latch.
    for _ in 0..3 {
        let mut provider = self::provider(&deaf);
        assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Deadline);
    }
    assert!(!latch().latched);
}

// Keys.

#[test]
fn a_deleted_key_fences_by_class_key_and_its_return_lifts_the_fence() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    provider.require(&provider.keys());
    let wraps = sealed(&mut provider);
    let away = bench.directory.path().join("away");
    bench.token.take_objects(&away).unwrap();
    drive(&mut provider, ProviderState::Fenced);
    let outage = provider.health().outage.unwrap();
    assert_eq!(outage.class, OutageClass::Key);
    assert!(outage.next_try.is_some() && outage.detail.contains("key_missing"), "{outage:?}");
    bench.token.put_objects(&away).unwrap();
    drive(&mut provider, ProviderState::Ready);
    assert!(opens(&mut provider, &wraps));
}

#[test]
fn another_key_under_the_same_name_is_not_used() {
    let bench = bench();
    let keys = ready(&bench.config).keys();
    let away = bench.directory.path().join("away");
    bench.token.take_objects(&away).unwrap();
    init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    let mut provider = provider(&bench.config);
    provider.require(&keys);
    drive(&mut provider, ProviderState::Fenced);
    let outage = provider.health().outage.unwrap();
    assert_eq!(outage.class, OutageClass::Key);
    assert!(outage.detail.contains("answers under its name"), "{outage:?}");
    // The named key back beside the other one: by id it is the only one.
    bench.token.put_objects(&away).unwrap();
    drive(&mut provider, ProviderState::Ready);
    assert_eq!(provider.keys(), keys);
}

#[test]
fn another_key_under_the_same_id_is_found_out_by_its_check_value() {
    let bench = blank();
    let uri = bench.token.uri("frostkeep").unwrap().replace("?", ";id=%01%02?");
    let config = TokenConfig { uri, ..bench.config.clone() };
    init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    let mut provider = ready(&config);
    provider.require(&provider.keys());
    bench.token.take_objects(&bench.directory.path().join("away")).unwrap();
    init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    drive(&mut provider, ProviderState::Fenced);
    let outage = provider.health().outage.unwrap();
    assert_eq!(outage.class, OutageClass::Key);
    assert!(outage.detail.contains("check value"), "{outage:?}");
}

#[test]
fn two_keys_of_one_name_are_refused() {
    let bench = bench();
    let away = bench.directory.path().join("away");
    bench.token.take_objects(&away).unwrap();
    init(&bench.config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    bench.token.put_objects(&away).unwrap();
    let mut provider = provider(&bench.config);
    drive(&mut provider, ProviderState::Fenced);
    let outage = provider.health().outage.unwrap();
    assert_eq!(outage.class, OutageClass::Key);
    assert!(outage.detail.contains("2 keys match"), "{outage:?}");
}

#[test]
fn a_key_that_became_extractable_is_an_outage_of_the_operator_and_is_not_provisioned() {
    const SENSITIVE: u64 = 0x103;
    const EXTRACTABLE: u64 = 0x162;
    for (attribute, name, good) in [(SENSITIVE, "CKA_SENSITIVE", true), (EXTRACTABLE, "CKA_EXTRACTABLE", false)] {
        let bench = bench();
        let keys = ready(&bench.config).keys();
        bench.token.set_flag(attribute, !good).unwrap();
        for required in [&keys[..], &[]] {
            let mut provider = provider(&bench.config);
            provider.require(required);
            provider.tick();
            let outage = provider.health().outage.unwrap();
            assert_eq!(outage.class, OutageClass::Usage);
            assert!(outage.detail.contains("key_exposed") && outage.detail.contains(name), "{outage:?}");
        }
        let refused = init(&bench.config, CreateKey::IfAbsent, Box::new(os()));
        assert!(matches!(refused, Err(ProvisionError::Extractable { .. })), "{refused:?}");
        bench.token.set_flag(attribute, good).unwrap();
        ready(&bench.config);
    }
}

// The agent.

#[test]
fn a_stopped_agent_is_killed_at_the_deadline_and_the_next_one_heals() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    let wraps = sealed(&mut provider);
    let pid = provider.token().agent_pid().unwrap();
    signal(pid, Signal::SIGSTOP);
    let begun = Instant::now();
    assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Deadline);
    let taken = begun.elapsed();
    assert!((CALL_MS..CALL_MS + 1_500).contains(&u64::try_from(taken.as_millis()).unwrap()), "{taken:?}");
    wait_until("the stopped agent dies", || !is_running(pid));
    let begun = Instant::now();
    // Later ones are refused at once until the probe is due.
    let _ = provider.wrap(&object(1), &DataKey::new(&[1; 32]));
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS));
    drive(&mut provider, ProviderState::Ready);
    assert!(opens(&mut provider, &wraps));
    assert_eq!(provider.health().agents_started, 2);
}

#[test]
fn a_killed_agent_is_replaced_within_the_same_call() {
    let bench = bench();
    let mut provider = ready(&bench.config);
    let wraps = sealed(&mut provider);
    for killed in 1..=5 {
        let pid = provider.token().agent_pid().unwrap();
        signal(pid, Signal::SIGKILL);
        wait_until("the agent dies", || !is_running(pid));
        assert!(opens(&mut provider, &wraps));
        assert_eq!(provider.health().agents_started, 1 + killed);
    }
    assert_eq!(provider.health().outages, 0);
}

#[test]
fn the_agent_inherits_nothing_and_shows_the_pin_to_nobody() {
    let bench = bench();
    // A descriptor without close-on-exec, as a careless launcher leaves it.
    let secret = fs::File::open(bench.token.pin_file()).unwrap();
    let _inheritable = nix::unistd::dup(&secret).unwrap();
    // Where core dumps are on: root may raise the limit, others have what they have.
    let _ = setrlimit(Resource::RLIMIT_CORE, 1 << 20, 1 << 20);
    let provider = ready(&bench.config);
    let pid = provider.token().agent_pid().unwrap();
    let proc = PathBuf::from(format!("/proc/{pid}"));
    assert_eq!(fs::read(proc.join("cmdline")).unwrap().iter().filter(|byte| **byte == 0).count(), 1, "no arguments");
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    match fs::read(proc.join("environ")) {
        Ok(environment) => {
            let expected = format!("SOFTHSM2_CONF={}\0", bench.token.configuration().display());
            assert_eq!(String::from_utf8(environment).unwrap(), expected);
            for standard in ["0", "1", "2"] {
                // A module that prints must not print into the pipe.
                assert_eq!(fs::read_link(proc.join("fd").join(standard)).unwrap(), Path::new("/dev/null"));
            }
            let mut others = Vec::new();
            let mut pipes = 0;
            for entry in fs::read_dir(proc.join("fd")).unwrap() {
                let target = fs::read_link(entry.unwrap().path()).unwrap();
                if target.to_string_lossy().starts_with("pipe:") {
                    pipes += 1;
                } else if target != Path::new("/dev/null") && !target.starts_with(bench.token.token_directory()) {
                    others.push(target);
                }
            }
            assert_eq!((pipes, others), (2, Vec::<PathBuf>::new()));
        }
        // Not dumpable: nobody but root sees inside, this user neither.
        Err(refused) => {
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(!nix::unistd::geteuid().is_root());
        }
    }
}

#[test]
fn nobody_but_root_sees_inside_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
    fs::set_permissions(directory.path(), mode(0o755)).unwrap();
    let program = directory.path().join("agent");
    fs::copy(env!("CARGO_BIN_EXE_frostkeep-token-agent"), &program).unwrap();
    let mut command = Command::new(&program);
    if nix::unistd::geteuid().is_root() {
        // Root's own processes look the same either way.
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    }
    let mut agent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // A process that is not dumpable belongs to root in /proc: no ptrace, no /proc/PID/mem, no core.
    let proc = PathBuf::from(format!("/proc/{}", agent.id()));
    wait_until("the agent is not dumpable", || fs::metadata(proc.join("fd")).is_ok_and(|fd| fd.uid() == 0));
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// Not a law: the node that the next test starts and kills.
#[test]
#[ignore = "started by another test"]
fn a_node_for_another_test() {
    let Ok(config) = std::env::var("FROSTKEEP_TEST_CONFIG") else { return };
    let mut provider = ready(&serde_json::from_str(&config).unwrap());
    println!("\nagent {}", provider.token().agent_pid().unwrap());
    loop {
        sleep(provider.tick());
    }
}

#[test]
fn an_agent_dies_with_its_node_even_while_it_hangs() {
    let bench = bench();
    let (server, config) = remote(&bench);
    // Nobody but the death of its node may end the hanging agent.
    let deadlines = Deadlines { call_ms: 60_000, ..config.deadlines };
    let config = TokenConfig { deadlines, ..config };
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "a_node_for_another_test"])
        .env("FROSTKEEP_TEST_CONFIG", serde_json::to_string(&config).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let agent: u32 = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("agent ")?.parse().ok())
        .expect("the node started");
    server.stop().unwrap();
    // Five health intervals: it hangs in a call, and reads no end of a pipe any more.
    sleep(Duration::from_millis(500));
    assert!(is_running(agent));
    node.kill().unwrap();
    node.wait().unwrap();
    wait_until("the agent dies with its node", || !is_running(agent));
}

/// SoftHSM rewrites the token's file in a login. Four nodes at once, so that the machine is loaded and logins take their time.
#[test]
fn a_node_that_is_killed_while_it_logs_in_leaves_its_token_whole() {
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            std::thread::spawn(move || {
                let bench = bench();
                let config = serde_json::to_string(&bench.config).unwrap();
                for round in 0..40u64 {
                    let mut node = Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", "--ignored", "--nocapture", "a_node_for_another_test"])
                        .env("FROSTKEEP_TEST_CONFIG", &config)
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .unwrap();
                    sleep(Duration::from_millis(10 + (round * 7 + thread * 3) % 60));
                    node.kill().unwrap();
                    node.wait().unwrap();
                }
                ready(&bench.config);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn an_agent_that_is_none_is_an_outage_within_the_deadline() {
    let bench = bench();
    let cases = [
        ("/nonexistent/agent", vec![], OutageClass::Module),
        ("/bin/true", vec![], OutageClass::Module),
        ("/bin/cat", vec![], OutageClass::Module),
        ("/bin/sh", vec!["-c", "head -c 4096 /dev/zero | tr '\\0' '\\377'; sleep 30"], OutageClass::Module),
        ("/bin/sleep", vec!["30"], OutageClass::Deadline),
        ("/bin/sh", vec!["-c", "printf '\\5\\0\\0\\0'; sleep 30"], OutageClass::Deadline),
    ];
    for (program, arguments, expected) in cases {
        let agent = AgentCommand {
            program: program.into(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        let deadlines = Deadlines { start_ms: 300, ..bench.config.deadlines };
        let config = TokenConfig { agent: Some(agent), deadlines, ..bench.config.clone() };
        let mut provider = provider(&config);
        let begun = Instant::now();
        assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), expected, "{program}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{program}");
    }
}

// SoftHSM behind a p11-kit server.

fn remote(bench: &Bench) -> (P11KitServer, TokenConfig) {
    let server = P11KitServer::start(&bench.token).unwrap();
    let config = TokenConfig {
        uri: server.uri("frostkeep").unwrap(),
        environment: server.environment(),
        ..bench.config.clone()
    };
    (server, config)
}

#[test]
fn a_hanging_token_is_an_outage_at_the_deadline_and_heals_when_it_goes_on() {
    let bench = bench();
    let (server, config) = remote(&bench);
    let config = TokenConfig { backoff_ms_min: 1_000, backoff_ms_max: 1_000, ..config };
    let mut provider = ready(&config);
    let wraps = sealed(&mut provider);
    server.stop().unwrap();
    let begun = Instant::now();
    assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Deadline);
    assert!(begun.elapsed() < Duration::from_millis(CALL_MS + 1_500), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Deadline);
    assert!(begun.elapsed() < Duration::from_millis(100), "known outages refuse at once: {:?}", begun.elapsed());
    // A probe hangs too; it ends at its deadline.
    sleep(provider.tick());
    provider.tick();
    assert_eq!(provider.health().outage.unwrap().class, OutageClass::Deadline);
    server.resume().unwrap();
    drive(&mut provider, ProviderState::Ready);
    assert!(opens(&mut provider, &wraps));
}

#[test]
fn a_start_before_a_hanging_token_ends_at_its_deadline_and_heals() {
    let bench = bench();
    let (server, config) = remote(&bench);
    let config = TokenConfig { deadlines: Deadlines { start_ms: 300, ..config.deadlines }, ..config };
    server.stop().unwrap();
    let mut provider = provider(&config);
    let begun = Instant::now();
    provider.tick();
    assert!(begun.elapsed() < Duration::from_millis(3_000), "{:?}", begun.elapsed());
    assert_eq!(provider.health().outage.unwrap().class, OutageClass::Deadline);
    server.resume().unwrap();
    drive(&mut provider, ProviderState::Ready);
    sealed(&mut provider);
    assert_eq!(provider.token().logins(), 1, "nothing that did not answer was asked for a login");
}

#[test]
fn a_killed_token_server_is_an_outage_and_its_restart_heals() {
    let bench = bench();
    let (mut server, config) = remote(&bench);
    let mut provider = ready(&config);
    let wraps = sealed(&mut provider);
    server.kill();
    assert_eq!(class(provider.wrap(&object(1), &DataKey::new(&[1; 32]))), OutageClass::Token);
    for _ in 0..5 {
        sleep(provider.tick());
        assert_eq!(provider.health().outage.unwrap().class, OutageClass::Token);
    }
    server.restart().unwrap();
    drive(&mut provider, ProviderState::Ready);
    assert!(opens(&mut provider, &wraps));
}

#[test]
fn a_token_server_that_was_restarted_unnoticed_is_reconnected_within_one_call() {
    let bench = bench();
    let (mut server, config) = remote(&bench);
    let mut provider = ready(&config);
    let wraps = sealed(&mut provider);
    server.restart().unwrap();
    assert!(opens(&mut provider, &wraps));
    assert_eq!(provider.health().outages, 0);
}
