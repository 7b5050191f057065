//! Goal: what the fault shim is told, it does, and what it did can be proved. Method: the real agent on SoftHSM, through it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and make plain files")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use frostkeep_fixtures::{Rule, Shim, What, When, make_token, softhsm_module};
use frostkeep_hsm::clock::SystemClock;
use frostkeep_hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{OutageClass, ProviderState};
use frostkeep_hsm::pkcs11_token::Pkcs11Token;
use frostkeep_hsm::provider::{DataKey, KeyProvider, SealedObject};
use frostkeep_hsm::provision::{CreateKey, init};
use frostkeep_hsm::sealer::Provider;
use tempfile::TempDir;

const OBJECT: SealedObject = SealedObject { store: [7; 16], kind: 1, id: 1 };

struct Bench {
    directory: TempDir,
    shim: Shim,
    config: TokenConfig,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "shim one", "shim-pin-5581").unwrap();
    let shim = Shim::new(directory.path(), softhsm_module().unwrap()).unwrap();
    let mut environment = token.environment();
    environment.extend(shim.environment());
    let config = TokenConfig {
        uri: token.uri_through(shim.module(), "frostkeep"),
        environment,
        agent: Some(AgentCommand {
            program: PathBuf::from(env!("CARGO_BIN_EXE_frostkeep-token-agent")),
            arguments: Vec::new(),
        }),
        deadlines: Deadlines { start_ms: 5_000, login_ms: 5_000, call_ms: 1_000 },
        health_interval_ms: 100,
        backoff_ms_min: 10,
        backoff_ms_max: 50,
        latch_directory: token.latch_directory(),
    };
    init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    Bench { directory, shim, config }
}

fn ready(bench: &Bench) -> Provider<Pkcs11Token> {
    let mut provider = Provider::from_config(&bench.config, Arc::new(SystemClock::new())).unwrap();
    heal(&mut provider);
    provider
}

fn heal(provider: &mut Provider<Pkcs11Token>) {
    let begun = Instant::now();
    while provider.health().state != ProviderState::Ready {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", provider.health());
        sleep(provider.tick());
    }
}

fn wraps(provider: &mut Provider<Pkcs11Token>) -> bool {
    provider.wrap(&OBJECT, &DataKey::new(&[42; 32])).is_ok()
}

fn strikes(bench: &Bench) -> Vec<(usize, bool)> {
    bench.shim.hits().unwrap().iter().map(|hit| (hit.rule, hit.struck)).collect()
}

#[test]
fn without_a_plan_every_call_passes_and_nothing_is_counted() {
    let bench = bench();
    let mut provider = ready(&bench);
    assert!(wraps(&mut provider));
    assert_eq!(provider.health().agents_started, 1);
    assert_eq!(bench.shim.hits().unwrap(), []);
}

#[test]
fn rules_skip_and_count_calls_of_their_function_in_order() {
    let bench = bench();
    let mut provider = ready(&bench);
    // C_Sign is called for the length, then for the answer. The first hit is cured by a reconnection, which calls it as well.
    let plan =
        [Rule::once("C_Sign", 1, When::Before, What::Rv(0x30)), Rule::once("C_Sign", 2, When::After, What::Rv(0x30))];
    bench.shim.set(&plan).unwrap();
    assert!(!wraps(&mut provider));
    // A call that rule 1 has hit does not count for rule 2.
    assert_eq!(strikes(&bench), [(1, false), (2, false), (1, true), (1, false), (2, false), (1, false), (2, true)]);
    assert_eq!((bench.shim.struck(1).unwrap(), bench.shim.struck(2).unwrap()), (1, 1));
    heal(&mut provider);
    assert!(wraps(&mut provider));
    assert_eq!((bench.shim.struck(1).unwrap(), bench.shim.struck(2).unwrap()), (1, 1), "spent");
}

#[test]
fn counts_hold_over_the_agents_that_a_plan_kills() {
    let bench = bench();
    let mut provider = ready(&bench);
    bench.shim.set(&[Rule { count: Some(3), ..Rule::once("C_SignInit", 0, When::Before, What::Abort) }]).unwrap();
    let before = provider.health().agents_started;
    assert!(!wraps(&mut provider));
    heal(&mut provider);
    assert!(wraps(&mut provider));
    assert_eq!(bench.shim.struck(1).unwrap(), 3);
    let mut pids: Vec<u32> = bench.shim.hits().unwrap().iter().map(|hit| hit.pid).collect();
    pids.dedup();
    assert_eq!(pids.len(), 4, "three died, the fourth passed");
    assert_eq!(provider.health().agents_started, before + 3);
}

#[test]
fn a_call_can_hang_be_late_and_lie_by_one_bit() {
    let bench = bench();
    let mut provider = ready(&bench);
    bench.shim.set_text("C_Sign 1 1 before hang\n").unwrap();
    let refused = provider.wrap(&OBJECT, &DataKey::new(&[42; 32])).unwrap_err();
    assert_eq!(refused.0.class, OutageClass::Deadline);
    bench.shim.clear().unwrap();
    heal(&mut provider);

    bench.shim.set_text("C_Sign 0 2 after delay 150\n").unwrap();
    let begun = Instant::now();
    assert!(wraps(&mut provider));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(bench.shim.struck(1).unwrap(), 2);
    bench.shim.clear().unwrap();

    let sealed = provider.wrap(&OBJECT, &DataKey::new(&[42; 32])).unwrap();
    bench.shim.set_text("C_Sign 1 1 after flip 17\n").unwrap();
    let calls = provider.health().calls;
    let _ = provider.unwrap(&OBJECT, &sealed);
    assert_eq!(bench.shim.struck(1).unwrap(), 1);
    assert!(provider.health().calls > calls + 1, "the first answer did not open the wrap");
    assert!(provider.unwrap(&OBJECT, &sealed).is_ok());
}

#[test]
fn a_plan_that_cannot_be_carried_out_ends_the_agent_and_says_why() {
    let bench = bench();
    for (plan, why) in [
        ("C_Sign 0 1 before rv CKR_DEVICE_ERROR", "is not a number"),
        ("C_Sing 0 1 before hang", "is no function of this module"),
        ("C_SignInit 0 1 after flip 0", "the output has no such bit"),
        ("C_Sign 1 1 after flip 320", "the output has no such bit"),
    ] {
        let mut provider = ready(&bench);
        bench.shim.set_text(plan).unwrap();
        let refused = provider.wrap(&OBJECT, &DataKey::new(&[42; 32])).unwrap_err();
        assert_eq!(refused.0.class, OutageClass::Module, "{plan}");
        let told = bench.shim.hits().unwrap_err().to_string();
        assert!(told.starts_with("error ") && told.contains(why), "{plan}: {told}");
        bench.shim.set(&[]).unwrap();
        heal(&mut provider);
    }
}

#[test]
fn a_real_module_that_does_not_load_is_named() {
    let bench = bench();
    let mut config = bench.config.clone();
    let absent = bench.directory.path().join("absent.so").display().to_string();
    config.environment.insert(frostkeep_fixtures::shim::plan::MODULE.to_owned(), absent.clone());
    let mut provider = Provider::from_config(&config, Arc::new(SystemClock::new())).unwrap();
    provider.tick();
    let outage = provider.health().outage.unwrap();
    assert_eq!(outage.class, OutageClass::Module);
    assert!(outage.detail.contains("CKR_LIBRARY_LOAD_FAILED"), "{outage:?}");
    assert!(bench.shim.hits().unwrap_err().to_string().contains(&absent));
    fs::remove_file(bench.directory.path().join("shim.plan.hits")).unwrap();
    ready(&bench);
}
