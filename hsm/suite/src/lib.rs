//! What every token must do for the key provider, as one suite over any [`Fixture`].
//!
//! ```text
//! fixture (kind, URI, environment, outages) + agent --conforms--> rows: outage, class, refused after, healed after
//! ```
//!
//! The suite goes through the real provider and the real token agent. A crate that has a token of its own implements [`Fixture`] and
//! calls [`conforms`]; [`present`] gives the fixtures of this machine and says which it lacks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support: it measures real time, and what fails here fails a test"
)]

mod rows;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use frostkeep_fixtures::{Fixture, Kind, Launch, Outage, Shows};
use frostkeep_hsm::clock::SystemClock;
use frostkeep_hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{OutageClass, ProviderState};
use frostkeep_hsm::pkcs11_token::Pkcs11Token;
use frostkeep_hsm::provider::{DataKey, KeyDescriptor, KeyProvider, SealedObject, UnwrapError, Wrap};
use frostkeep_hsm::provision::{CreateKey, ProvisionError, init, show};
use frostkeep_hsm::scheme;
use frostkeep_hsm::sealer::Provider;
use frostkeep_hsm::token::Token;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand_core::RngCore;

pub use rows::Row;

/// The label of the key in every test.
pub const KEY: &str = "frostkeep";

/// Probes of the suite are this far apart, milliseconds: what heals does so at most that much later than it could.
pub const PROBE_MS: u64 = 200;

/// Names the kinds that must be here, separated by spaces: one that is not is a failure then.
pub const REQUIRED: &str = "FROSTKEEP_REQUIRE_TOKENS";

/// The deadline of a call in the suite, milliseconds; starting and logging in have twice as much.
const CALL_MS: u64 = 1_000;
/// The longest that anything may take to heal.
const HEALS_MAX: Duration = Duration::from_secs(20);
/// What a call that is refused without asking the token may take on a busy machine.
const AT_ONCE_MAX: Duration = Duration::from_millis(150);

/// A fresh token of this kind below `directory`, or none, with a visible line that says why.
///
/// # Panics
/// When the kind is required and missing, or does not start.
pub fn present(kind: Kind, directory: &Path, label: &str) -> Option<Box<dyn Fixture>> {
    is_present(kind).then(|| kind.make(directory, label).unwrap_or_else(|error| panic!("{}: {error}", kind.name())))
}

/// Whether this machine has tokens of this kind. Says why not in a visible line.
///
/// # Panics
/// When the kind is required and missing.
pub fn is_present(kind: Kind) -> bool {
    let Err(missing) = kind.is_here() else { return true };
    let required = std::env::var(REQUIRED).unwrap_or_default();
    let is_required = required.split_whitespace().any(|name| name == kind.installed_as());
    assert!(!is_required, "{} is required by {REQUIRED}: {missing}", kind.name());
    // Not the macro: a test that passes shows nothing of what that prints.
    let _ = writeln!(std::io::stderr(), "skipped: tests of the token {}: {missing}", kind.name());
    false
}

/// The configuration of a provider of this token, with times that suit tests.
///
/// # Panics
/// When the fixture has no URI.
pub fn configure(fixture: &dyn Fixture, agent: &Path) -> TokenConfig {
    let Launch { program, arguments } = fixture.launch(Launch { program: agent.to_owned(), arguments: Vec::new() });
    TokenConfig {
        uri: fixture.uri(KEY).unwrap(),
        environment: fixture.environment(),
        agent: Some(AgentCommand { program, arguments }),
        deadlines: Deadlines { start_ms: 2 * CALL_MS, login_ms: 2 * CALL_MS, call_ms: CALL_MS },
        health_interval_ms: 100,
        backoff_ms_min: PROBE_MS,
        backoff_ms_max: PROBE_MS,
        latch_directory: fixture.latch_directory(),
    }
}

/// Makes the key, in the way of this kind of token, and proves it.
///
/// # Panics
/// When that fails.
pub fn provision(fixture: &mut dyn Fixture, config: &TokenConfig) {
    let made_by_tool = fixture.make_key(KEY).unwrap();
    let create = if made_by_tool { CreateKey::Never } else { CreateKey::IfAbsent };
    let report = init(config, create, Box::new(os())).unwrap();
    assert_eq!(report.created, !made_by_tool);
    assert_eq!((report.key.sensitive, report.key.extractable), (Some(true), Some(false)));
}

/// A provider that has not connected yet.
///
/// # Panics
/// When the configuration is not usable.
pub fn provider(config: &TokenConfig) -> Provider<Pkcs11Token> {
    Provider::from_config(config, Arc::new(SystemClock::new())).unwrap()
}

/// Does what is due until `state` is reached. Returns how long that took.
///
/// # Panics
/// When it takes too long.
pub fn drive(provider: &mut Provider<Pkcs11Token>, state: ProviderState) -> Duration {
    let begun = Instant::now();
    while provider.health().state != state {
        assert!(begun.elapsed() < HEALS_MAX, "not {state:?} but {:?}", provider.health());
        let wait = provider.tick();
        if provider.health().state != state {
            sleep(wait.min(Duration::from_millis(5)));
        }
    }
    begun.elapsed()
}

/// What the tests seal.
pub fn object(id: u64) -> SealedObject {
    SealedObject { store: [7; 16], kind: 1, id }
}

/// Data keys that were sealed before anything happened to the token.
pub struct Sealed(Vec<(u64, [u8; 32], Vec<Wrap>)>);

impl Sealed {
    /// Seals some.
    ///
    /// # Panics
    /// When the provider does not seal.
    pub fn new(provider: &mut Provider<Pkcs11Token>) -> Self {
        let seal = |id: u64| {
            let bytes = [u8::try_from(id).unwrap().wrapping_mul(37); 32];
            (id, bytes, provider.wrap(&object(id), &DataKey::new(&bytes)).unwrap())
        };
        Self((1..=4).map(seal).collect())
    }

    /// Opens all of them and compares every byte.
    ///
    /// # Panics
    /// When one differs or does not open.
    pub fn come_back(&self, provider: &mut Provider<Pkcs11Token>) {
        for (id, bytes, wraps) in &self.0 {
            assert_eq!(provider.unwrap(&object(*id), wraps).unwrap().expose(), bytes);
            let swapped = provider.unwrap(&object(id + 100), wraps);
            assert!(matches!(swapped, Err(UnwrapError::Corrupt)), "a wrap opens as its own object only");
        }
    }
}

/// The whole suite on one token. Returns a row per outage, and appends them to the file that `FROSTKEEP_MATRIX_OUT` names.
///
/// # Panics
/// When the token, or the provider on it, does not do what it must.
pub fn conforms(fixture: &mut dyn Fixture, agent: &Path) -> Vec<Row> {
    let config = configure(fixture, agent);
    let refused = init(&config, CreateKey::Never, Box::new(os()));
    assert!(matches!(refused, Err(ProvisionError::NoKey)), "an empty token: {refused:?}");
    provision(fixture, &config);
    let found = init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    assert!(!found.created, "a key that is there is found, and no other is made");
    answers_are_known(&config);

    let mut provider = provider(&config);
    drive(&mut provider, ProviderState::Ready);
    let keys = provider.keys();
    provider.require(&keys);
    let sealed = Sealed::new(&mut provider);
    sealed.come_back(&mut provider);
    let mut provider = another_key_is_refused(provider, &config, &keys);
    sealed.come_back(&mut provider);

    let mut rows = vec![agent_killed(&mut provider, fixture, &sealed)];
    for outage in fixture.outages() {
        rows.push(survives(&mut provider, fixture, *outage, &sealed));
    }
    assert_eq!(provider.keys(), keys);
    // Some tokens have one connection.
    drop(provider);
    let shown = show(&config, true, Box::new(os())).unwrap();
    assert_eq!(shown.keys, Some(vec![found.key]), "no outage made or lost a key");
    assert!(!shown.latch.latched && shown.latch.succeeded && shown.latch.unanswered == 0, "{:?}", shown.latch);
    for row in &rows {
        row.append().unwrap();
    }
    rows
}

/// The same question has the same answer, in two lives of the agent, and its check value is the key's.
fn answers_are_known(config: &TokenConfig) {
    let answer = || {
        let mut token = Pkcs11Token::new(config, Box::new(os())).unwrap();
        let opened = token.open(&[]).unwrap();
        let answer = token.derive(0, &scheme::check_value_input()).unwrap();
        assert_eq!(scheme::check_value(&answer), opened.keys[0].check_value);
        assert_ne!(token.derive(0, b"another question").unwrap().expose(), answer.expose());
        *answer.expose()
    };
    assert_eq!(answer(), answer());
}

/// A state that was sealed under another key, by check value or by id, fences; naming the right one lifts that.
fn another_key_is_refused(
    provider: Provider<Pkcs11Token>,
    config: &TokenConfig,
    keys: &[KeyDescriptor],
) -> Provider<Pkcs11Token> {
    drop(provider);
    let mut other_value = keys[0].clone();
    other_value.check_value[0] ^= 1;
    let mut other_id = keys[0].clone();
    other_id.id[0] ^= 1;
    let mut last: Option<Provider<Pkcs11Token>> = None;
    for (other, code) in [(other_value, "key_changed"), (other_id, "key_changed")] {
        drop(last.take());
        let mut provider = self::provider(config);
        provider.require(&[other]);
        drive(&mut provider, ProviderState::Fenced);
        let outage = provider.health().outage.unwrap();
        assert_eq!(outage.class, OutageClass::Key, "{outage:?}");
        assert!(outage.detail.contains(code), "{outage:?}");
        assert!(provider.wrap(&object(1), &DataKey::new(&[1; 32])).is_err(), "nothing is sealed under another key");
        provider.require(keys);
        drive(&mut provider, ProviderState::Ready);
        last = Some(provider);
    }
    last.unwrap()
}

/// The agent's death is no outage: the call that meets it starts another one.
fn agent_killed(provider: &mut Provider<Pkcs11Token>, fixture: &dyn Fixture, sealed: &Sealed) -> Row {
    let (connection, outages) = (provider.connection(), provider.health().outages);
    kill_agent(provider);
    let begun = Instant::now();
    provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap();
    let healed = begun.elapsed();
    sealed.come_back(provider);
    assert!(provider.connection() > connection && provider.health().outages == outages);
    Row {
        token: fixture.kind(),
        outage: "token agent killed",
        class: "",
        refused: None,
        again: None,
        healed,
        reopened: healed,
    }
}

fn survives(provider: &mut Provider<Pkcs11Token>, fixture: &mut dyn Fixture, outage: Outage, sealed: &Sealed) -> Row {
    let (kind, name) = (fixture.kind(), outage.name);
    let connection = provider.connection();
    // A health call of a moment ago may not be the one that notices.
    drive(provider, ProviderState::Ready);
    fixture.begin(name).unwrap();
    if outage.shows == Shows::WhenOpened {
        provider.wrap(&object(1), &DataKey::new(&[1; 32])).expect("who is connected goes on");
        kill_agent(provider);
    }
    let begun = Instant::now();
    let told = provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap_err().0;
    let refused = begun.elapsed();
    let class = told.class.name();
    assert!(outage.classes.contains(&class), "{kind}, {name}: {told:?}");
    // Between two probes the token is not asked.
    let again = (0..3)
        .map(|_| {
            let begun = Instant::now();
            provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap_err();
            begun.elapsed()
        })
        .min()
        .unwrap();
    assert!(again < AT_ONCE_MAX, "{kind}, {name}: refused again after {again:?}");
    // It ends at any moment between two probes.
    let lasts = Duration::from_millis(3 * PROBE_MS + u64::from(os().next_u32()) % PROBE_MS);
    let held = Instant::now();
    while held.elapsed() < lasts {
        sleep(provider.tick().min(Duration::from_millis(5)));
        let health = provider.health();
        let seen = health.outage.unwrap_or_else(|| panic!("{kind}, {name}: healed while it lasts"));
        assert!(outage.classes.contains(&seen.class.name()), "{kind}, {name}: {seen:?}");
        assert_eq!(seen.since, told.since, "one outage has one beginning");
    }
    fixture.end(name).unwrap();
    let ended = Instant::now();
    let reopened = loop {
        let begun = Instant::now();
        let wait = provider.tick();
        if provider.health().state == ProviderState::Ready {
            break begun.elapsed();
        }
        assert!(ended.elapsed() < HEALS_MAX, "{kind}, {name}: never healed: {:?}", provider.health());
        sleep(wait.min(Duration::from_millis(5)));
    };
    let healed = ended.elapsed();
    assert!(provider.connection() > connection, "{kind}, {name}: opened again from the start");
    sealed.come_back(provider);
    Row { token: kind, outage: name, class, refused: Some(refused), again: Some(again), healed, reopened }
}

/// Kills the agent and waits until it is dead.
///
/// # Panics
/// When none runs.
pub fn kill_agent(provider: &Provider<Pkcs11Token>) {
    let pid = i32::try_from(provider.token().agent_pid().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // A zombie is dead.
    let runs = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while runs() {
        sleep(Duration::from_millis(1));
    }
}
