//! Goal: a drill looks like the outage that it plays, never reaches the token or its latch, and is over by itself. Method: real
//! SoftHSM tokens, directly and behind a `p11-kit` server that is stopped while the drill is on: a call that reached it would hang.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and make plain files")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use frostkeep_fixtures::{P11KitServer, SoftToken, make_token};
use frostkeep_hsm::clock::SystemClock;
use frostkeep_hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep_hsm::drill::{DrillKind, DrillSwitch, MARK};
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{OutageClass, ProviderState};
use frostkeep_hsm::pkcs11_token::Pkcs11Token;
use frostkeep_hsm::provider::{DataKey, KeyProvider, SealedObject, Wrap};
use frostkeep_hsm::provision::{CreateKey, init};
use frostkeep_hsm::sealer::Provider;
use tempfile::TempDir;

const CALL_MS: u64 = 1_000;

struct Bench {
    _directory: TempDir,
    token: SoftToken,
    server: Option<P11KitServer>,
    config: TokenConfig,
}

fn soft() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "drilled", "a-right-pin-3308").unwrap();
    let config = config(&token, token.uri("frostkeep").unwrap(), token.environment());
    init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    Bench { _directory: directory, token, server: None, config }
}

fn remote() -> Bench {
    let bench = soft();
    let server = P11KitServer::start(&bench.token).unwrap();
    let config = config(&bench.token, server.uri("frostkeep").unwrap(), server.environment());
    Bench { server: Some(server), config, ..bench }
}

fn config(token: &SoftToken, uri: String, environment: BTreeMap<String, String>) -> TokenConfig {
    TokenConfig {
        uri,
        environment,
        agent: Some(AgentCommand {
            program: PathBuf::from(env!("CARGO_BIN_EXE_frostkeep-token-agent")),
            arguments: Vec::new(),
        }),
        deadlines: Deadlines { start_ms: 1_500, login_ms: 1_500, call_ms: CALL_MS },
        health_interval_ms: 60_000,
        backoff_ms_min: 20,
        backoff_ms_max: 100,
        latch_directory: token.latch_directory(),
    }
}

type Drilled = Provider<Pkcs11Token>;

fn ready(config: &TokenConfig) -> (Drilled, DrillSwitch) {
    let mut provider = Provider::from_config(config, Arc::new(SystemClock::new())).unwrap();
    drive(&mut provider, "it is ready", |provider| provider.health().state == ProviderState::Ready);
    let drills = provider.drills().unwrap();
    (provider, drills)
}

/// Does what is due until it holds.
fn drive(provider: &mut Drilled, what: &str, holds: impl Fn(&Drilled) -> bool) {
    let begun = Instant::now();
    while !holds(provider) {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}: {:?}", provider.health());
        let wait = provider.tick();
        sleep(wait.min(Duration::from_millis(10)));
    }
}

fn seal(provider: &mut Drilled) -> Result<Vec<Wrap>, OutageClass> {
    let object = SealedObject { store: [7; 16], kind: 1, id: 1 };
    provider.wrap(&object, &DataKey::new(&[42; 32])).map_err(|unavailable| unavailable.0.class)
}

fn opens(provider: &mut Drilled, wraps: &[Wrap]) {
    let object = SealedObject { store: [7; 16], kind: 1, id: 1 };
    assert_eq!(*provider.unwrap(&object, wraps).unwrap().expose(), [42; 32]);
}

/// Every file of the latch directory: name, inode, time of its last change, content.
fn latches(bench: &Bench) -> Vec<(PathBuf, u64, i64, i64, Vec<u8>)> {
    let entries = fs::read_dir(bench.token.latch_directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut seen: Vec<_> = entries
        .map(|path| {
            let meta = fs::metadata(&path).unwrap();
            (path.clone(), meta.ino(), meta.mtime(), meta.mtime_nsec(), fs::read(&path).unwrap())
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn every_kind_is_the_outage_that_it_plays_and_the_token_is_not_asked() {
    for kind in [DrillKind::Unplug, DrillKind::Crash, DrillKind::Pin] {
        let bench = remote();
        let (mut provider, drills) = ready(&bench.config);
        let wraps = seal(&mut provider).unwrap();
        let (logins, latched) = (provider.token().logins(), latches(&bench));
        assert_eq!(drills.token().unwrap().label, "drilled");
        // From here on whoever calls the module hangs until a deadline.
        bench.server.as_ref().unwrap().stop().unwrap();
        let drill = drills.begin([1; 16], kind, 60_000, "a test").unwrap();
        let begun = Instant::now();
        assert_eq!(seal(&mut provider), Err(kind.class().unwrap()), "{kind}");
        assert!(begun.elapsed() < Duration::from_millis(CALL_MS), "{kind}: {:?}", begun.elapsed());
        // Some probes, each a whole opening.
        for _ in 0..10 {
            sleep(provider.tick().min(Duration::from_millis(30)));
            let health = provider.health();
            let outage = health.outage.unwrap();
            assert_eq!(Some(outage.class), kind.class(), "{kind}: {outage:?}");
            assert!(outage.detail.starts_with(MARK), "{kind}: {outage:?}");
        }
        assert_eq!((drills.outages(), provider.health().outages), (1, 1));
        assert_eq!(provider.token().logins(), logins, "{kind}");
        assert_eq!(latches(&bench), latched, "{kind}");
        bench.server.as_ref().unwrap().resume().unwrap();
        assert_eq!(drills.end(Some(drill.id)).unwrap().kind, kind);
        drive(&mut provider, "it heals by itself", |provider| provider.health().state == ProviderState::Ready);
        opens(&mut provider, &wraps);
        assert_eq!(provider.token().logins(), logins + 1, "{kind}: one login, the token's own");
        assert_eq!(latches(&bench), latched, "{kind}: a login that succeeds changes nothing");
    }
}

#[test]
fn a_hang_runs_into_the_deadline_and_costs_the_agent_although_the_token_would_fail_at_once() {
    let bench = soft();
    let (mut provider, drills) = ready(&bench.config);
    let wraps = seal(&mut provider).unwrap();
    let (logins, latched, agents) = (provider.token().logins(), latches(&bench), provider.token().agent_pid());
    // Whoever calls the module hears so without delay.
    bench.token.take_away().unwrap();
    drills.begin([1; 16], DrillKind::Hang, 60_000, "a test").unwrap();
    let begun = Instant::now();
    assert_eq!(seal(&mut provider), Err(OutageClass::Deadline));
    assert!(begun.elapsed() >= Duration::from_millis(CALL_MS), "{:?}", begun.elapsed());
    assert_eq!(provider.token().agent_pid(), None, "it was killed");
    assert!(agents.is_some());
    // A probe: a new agent, and the same again.
    sleep(Duration::from_millis(150));
    let begun = Instant::now();
    provider.tick();
    assert!(begun.elapsed() >= Duration::from_millis(bench.config.deadlines.start_ms), "{:?}", begun.elapsed());
    let health = provider.health();
    assert_eq!((health.agents_started, health.outages, drills.outages()), (2, 1, 1));
    let detail = health.outage.unwrap().detail;
    assert!(detail.starts_with("drill: connect: deadline"), "{detail}");
    bench.token.bring_back().unwrap();
    drills.end(None).unwrap();
    drive(&mut provider, "it heals by itself", |provider| provider.health().state == ProviderState::Ready);
    opens(&mut provider, &wraps);
    assert_eq!((provider.token().logins(), latches(&bench)), (logins + 1, latched));
}

#[test]
fn a_slow_token_answers_below_its_deadline_and_is_no_outage() {
    let bench = soft();
    let (mut provider, drills) = ready(&bench.config);
    drills.begin([1; 16], DrillKind::Slow, 60_000, "a test").unwrap();
    let begun = Instant::now();
    let wraps = seal(&mut provider).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(CALL_MS / 2), "{:?}", begun.elapsed());
    opens(&mut provider, &wraps);
    assert_eq!((provider.health().outages, drills.outages()), (0, 0));
    // A real outage in it is told as what it is.
    bench.token.take_away().unwrap();
    assert_eq!(seal(&mut provider), Err(OutageClass::Token));
    let detail = provider.health().outage.unwrap().detail;
    assert!(!detail.starts_with(MARK), "{detail}");
    assert_eq!((provider.health().outages, drills.outages()), (1, 0));
    bench.token.bring_back().unwrap();
    drive(&mut provider, "it heals in the drill", |provider| provider.health().state == ProviderState::Ready);
}

#[test]
fn a_drill_is_over_by_itself_and_the_node_logs_in_again_with_its_own_latch() {
    for kind in DrillKind::ALL {
        let bench = soft();
        let (mut provider, drills) = ready(&bench.config);
        let wraps = seal(&mut provider).unwrap();
        let begun = Instant::now();
        drills.begin([1; 16], kind, 300, "a test").unwrap();
        let sealed = seal(&mut provider);
        assert_eq!(sealed.err(), kind.class(), "{kind}");
        drive(&mut provider, "the drill is over", |_| drills.on().is_none());
        drive(&mut provider, "it is ready", |provider| provider.health().state == ProviderState::Ready);
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(300 + drills.times().healed_within_ms()), "{kind}: {took:?}");
        opens(&mut provider, &wraps);
        seal(&mut provider).unwrap();
    }
}

#[test]
fn a_token_that_is_really_gone_when_the_drill_is_over_is_told_as_a_real_outage() {
    let bench = soft();
    let (mut provider, drills) = ready(&bench.config);
    drills.begin([1; 16], DrillKind::Unplug, 60_000, "a test").unwrap();
    assert_eq!(seal(&mut provider), Err(OutageClass::Token));
    bench.token.take_away().unwrap();
    assert!(provider.health().outage.unwrap().detail.starts_with(MARK));
    drills.end(None).unwrap();
    drive(&mut provider, "the truth is told", |provider| {
        !provider.health().outage.is_some_and(|outage| outage.detail.starts_with(MARK))
    });
    assert_eq!(provider.health().outage.unwrap().class, OutageClass::Token);
    bench.token.bring_back().unwrap();
    drive(&mut provider, "it is ready", |provider| provider.health().state == ProviderState::Ready);
}

#[test]
fn a_latch_that_is_set_before_a_drill_is_as_it_was_after_it() {
    let bench = soft();
    let (mut provider, drills) = ready(&bench.config);
    // The operator has changed the file to a wrong PIN; the session still stands, so nobody has noticed.
    bench.token.write_pin("a-wrong-pin").unwrap();
    let latched = latches(&bench);
    drills.begin([1; 16], DrillKind::Pin, 60_000, "a test").unwrap();
    assert_eq!(seal(&mut provider), Err(OutageClass::Credential));
    assert_eq!(latches(&bench), latched, "the token was not asked, so nothing is latched");
    drills.end(None).unwrap();
    // Now it is: once, and for real.
    drive(&mut provider, "the refusal is real", |provider| {
        provider.health().outage.is_some_and(|outage| !outage.detail.starts_with(MARK))
    });
    assert_eq!(provider.health().outage.unwrap().class, OutageClass::Credential);
    assert_eq!(provider.token().logins(), 2);
    assert_ne!(latches(&bench), latched);
    bench.token.write_pin("a-right-pin-3308").unwrap();
    drive(&mut provider, "it is ready", |provider| provider.health().state == ProviderState::Ready);
}
