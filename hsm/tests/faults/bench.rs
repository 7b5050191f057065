//! A provider on SoftHSM behind the shim, on a clock that stands still, and what every cell proves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use frostkeep_fixtures::{Rule, Shim, SoftToken, What, When, make_token, softhsm_module};
use frostkeep_hsm::clock::{Clock, ManualClock, Millis};
use frostkeep_hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{Outage, OutageClass, ProviderState};
use frostkeep_hsm::pkcs11_token::Pkcs11Token;
use frostkeep_hsm::provider::{DataKey, KeyDescriptor, KeyProvider, SealedObject, UnwrapError, Wrap};
use frostkeep_hsm::provision::{CreateKey, init, unlatch};
use frostkeep_hsm::sealer::Provider;
use tempfile::TempDir;

use crate::cells::{Cell, State};
use crate::documented::End;
use crate::sites::Operation;

pub const PIN: &str = "faults-pin-9023";
const HEALTH_MS: u64 = 5_000;
pub const BACKOFF_MS_MIN: u64 = 250;
pub const BACKOFF_MS_MAX: u64 = 30_000;

/// An outage at once.
const OUT: What = What::Rv(0x07);

/// Something sealed, and what it was.
pub struct Sealed {
    object: SealedObject,
    wraps: Vec<Wrap>,
    key: [u8; 32],
}

pub struct Bench {
    pub shim: Shim,
    pub config: TokenConfig,
    pub provider: Provider<Pkcs11Token>,
    pub keys: Vec<KeyDescriptor>,
    clock: ManualClock,
    token: SoftToken,
    sealed: u64,
    kept: Sealed,
    objects: BTreeSet<PathBuf>,
    _directory: TempDir,
}

/// What is seen of the provider from outside.
struct Seen {
    connection: u64,
    agents: u64,
    outages: u64,
    /// Since when there is an outage already.
    since: Option<Millis>,
}

impl Bench {
    pub fn new(deadlines: Deadlines) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = make_token(directory.path(), "faulty", PIN).unwrap();
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
            deadlines,
            health_interval_ms: HEALTH_MS,
            backoff_ms_min: BACKOFF_MS_MIN,
            backoff_ms_max: BACKOFF_MS_MAX,
            latch_directory: token.latch_directory(),
        };
        init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
        let clock = ManualClock::default();
        let mut provider = Provider::from_config(&config, Arc::new(clock.clone())).unwrap();
        provider.tick();
        let keys = provider.keys();
        provider.require(&keys);
        let kept = seal(&mut provider, 0).unwrap();
        let objects = objects(&token.token_directory());
        assert!(!objects.is_empty());
        Self { shim, config, provider, keys, clock, token, sealed: 1, kept, objects, _directory: directory }
    }

    /// Deadlines that nothing misses by itself, also on a loaded machine.
    pub fn patient() -> Self {
        Self::new(Deadlines { start_ms: 60_000, login_ms: 60_000, call_ms: 60_000 })
    }

    fn seen(&self) -> Seen {
        let health = self.provider.health();
        // A provider that starts is not connected: its outage begins when that fails.
        let since = health.outage.filter(|_| health.state != ProviderState::Starting).map(|outage| outage.since);
        Seen { connection: self.provider.connection(), agents: health.agents_started, outages: health.outages, since }
    }

    /// Does `operation`; the outage, when it failed by one. What it sealed must open, what it opened must be what was sealed.
    pub fn act(&mut self, operation: Operation) -> Result<Option<Sealed>, Outage> {
        match operation {
            Operation::Reopen | Operation::Wrap => {
                self.sealed += 1;
                seal(&mut self.provider, self.sealed).map(Some)
            }
            Operation::Unwrap => unseal(&mut self.provider, &self.kept).map(|()| None),
            Operation::UnwrapDamaged => {
                let mut wraps = self.kept.wraps.clone();
                wraps[0].blob[40] ^= 1;
                match self.provider.unwrap(&self.kept.object, &wraps) {
                    Err(UnwrapError::Corrupt) => Ok(None),
                    Err(UnwrapError::Unavailable(unavailable)) => Err(unavailable.0),
                    other => panic!("a damaged wrap is {other:?}"),
                }
            }
            Operation::Health => {
                self.clock.advance(Duration::from_millis(HEALTH_MS));
                self.provider.tick();
                self.provider.health().outage.map_or(Ok(None), Err)
            }
        }
    }

    /// The fault strikes once, ends as documented, loses nothing, and heals.
    pub fn run(&mut self, cell: &Cell) {
        let strikes = Rule::once(cell.site.function, cell.site.skip, cell.when, cell.what);
        let before = match cell.state {
            State::Open => self.seen(),
            State::Out => {
                self.shim.set(&[Rule::once("C_SignInit", 0, When::Before, OUT)]).unwrap();
                assert!(self.act(Operation::Wrap).is_err());
                self.seen()
            }
            State::Starting | State::Naming => {
                self.provider = Provider::from_config(&self.config, Arc::new(self.clock.clone())).unwrap();
                self.provider.require(if cell.state == State::Starting { &self.keys } else { &[] });
                // The first agent is no news.
                Seen { agents: 1, ..self.seen() }
            }
        };
        let mut plan = Vec::new();
        if cell.state == State::Open {
            plan.extend(
                cell.site
                    .first
                    .iter()
                    .map(|(function, skip, code)| Rule::once(function, *skip, When::Before, What::Rv(*code))),
            );
        }
        plan.push(strikes);
        self.shim.set(&plan).unwrap();
        let done = match cell.state {
            State::Open => self.act(cell.site.operation),
            State::Out | State::Starting | State::Naming => {
                self.probe();
                self.provider.health().outage.map_or(Ok(None), Err)
            }
        };
        for rule in 1..=plan.len() {
            assert_eq!(self.shim.struck(rule).unwrap(), 1, "rule {rule} did not strike: {:?}", self.shim.hits());
        }
        self.ended(cell, &done, &before);
        self.heals(cell.end);
        self.lost_nothing(done.ok().flatten());
        self.provider.require(&self.keys);
    }

    fn ended(&self, cell: &Cell, done: &Result<Option<Sealed>, Outage>, before: &Seen) {
        let health = self.provider.health();
        let agents = health.agents_started - before.agents;
        match cell.end {
            End::Nothing | End::Cured => {
                assert!(done.is_ok(), "{done:?}");
                assert_eq!((health.state, health.outages), (ProviderState::Ready, before.outages));
                let asked_for = u64::from(cell.site.operation == Operation::Reopen || cell.end == End::Cured);
                assert_eq!(self.provider.connection() - before.connection, asked_for, "reconnections");
                assert_eq!(agents, u64::from(cell.ends_agent), "agents started");
            }
            End::Out(class) => self.down(cell, done, class, ProviderState::Out, before),
            End::Fenced(class) => self.down(cell, done, class, ProviderState::Fenced, before),
            End::Latched => self.down(cell, done, OutageClass::Credential, ProviderState::Fenced, before),
        }
    }

    /// An outage, told as it is to be told.
    fn down(
        &self,
        cell: &Cell,
        done: &Result<Option<Sealed>, Outage>,
        class: OutageClass,
        state: ProviderState,
        before: &Seen,
    ) {
        let Err(outage) = done else { panic!("it succeeded") };
        assert_eq!(outage.class, class, "{outage:?}");
        let health = self.provider.health();
        assert_eq!((health.state, health.outage.as_ref()), (state, Some(outage)), "status tells the same");
        assert!(outage.detail.starts_with(&cell.told), "{outage:?}, documented is {:?}", cell.told);
        if let Some(since) = before.since {
            assert_eq!(outage.since, since, "one outage has one beginning");
        }
        assert_eq!(self.provider.token().agent_pid().is_none(), cell.ends_agent, "the agent");
        let wait = outage.next_try.map(|at| at.since(self.clock.now()));
        match class {
            OutageClass::Credential => assert_eq!(wait, None),
            OutageClass::Integrity | OutageClass::Usage => assert_eq!(wait, Some(BACKOFF_MS_MAX)),
            _ => assert!((BACKOFF_MS_MIN..=BACKOFF_MS_MAX).contains(&wait.unwrap()), "{wait:?} ms"),
        }
    }

    /// Lets the time pass after which the next probe is due, and no more, and does what is due. How long that was.
    pub fn probe(&mut self) -> u64 {
        let wait = match self.provider.health().outage.unwrap().next_try {
            Some(at) => at.since(self.clock.now()),
            None => BACKOFF_MS_MAX,
        };
        self.clock.advance(Duration::from_millis(wait));
        self.provider.tick();
        wait
    }

    /// Until then refused at once, without a call; then one probe is enough.
    fn heals(&mut self, expected: End) {
        if matches!(expected, End::Nothing | End::Cured) {
            self.shim.clear().unwrap();
            return;
        }
        self.shim.set_text("* 0 0 before abort").unwrap();
        let known = self.provider.health();
        assert!(self.act(Operation::Wrap).is_err());
        self.provider.tick();
        assert_eq!(self.shim.hits().unwrap(), [], "a known outage costs no call before its probe is due");
        assert_eq!(self.provider.health(), known);
        if expected == End::Latched {
            self.stays_latched();
        }
        self.shim.clear().unwrap();
        self.probe();
        assert_eq!(self.provider.health().state, ProviderState::Ready, "{:?}", self.provider.health());
    }

    /// The token is whole again, and yet no login is tried: not by this process, not by another.
    fn stays_latched(&mut self) {
        self.shim.set_text("C_Login 0 0 before abort").unwrap();
        for _ in 0..3 {
            self.probe();
            let health = self.provider.health();
            assert_eq!(health.state, ProviderState::Fenced);
            assert_eq!(health.outage.unwrap().class, OutageClass::Credential);
        }
        let mut other = Provider::from_config(&self.config, Arc::new(self.clock.clone())).unwrap();
        other.require(&self.keys);
        other.tick();
        assert_eq!(other.health().outage.unwrap().class, OutageClass::Credential, "after a restart");
        assert_eq!(self.shim.hits().unwrap(), [], "a login was tried");
        unlatch(&self.config, Box::new(os())).unwrap();
    }

    /// What was sealed before opens, what was sealed meanwhile opens, and so does what is sealed now.
    pub fn lost_nothing(&mut self, meanwhile: Option<Sealed>) {
        assert_eq!(self.provider.health().state, ProviderState::Ready, "{:?}", self.provider.health());
        assert_eq!(self.provider.keys(), self.keys, "the key that seals has another name now");
        let after = self.act(Operation::Wrap).unwrap_or_else(|outage| panic!("{outage:?}"));
        for sealed in [meanwhile.as_ref(), after.as_ref(), Some(&self.kept)].into_iter().flatten() {
            unseal(&mut self.provider, sealed).unwrap_or_else(|outage| panic!("{outage:?}"));
        }
    }

    /// Another pin in the file; the token's own stays.
    pub fn write_pin(&self, pin: &str) {
        self.token.write_pin(pin).unwrap();
    }

    /// The configuration of the key `object` on the same token.
    pub fn config_of(&self, object: &str) -> TokenConfig {
        TokenConfig { uri: self.token.uri_through(self.shim.module(), object), ..self.config.clone() }
    }

    /// Makes a second key on the token, which this bench then counts as there from the beginning.
    pub fn second_key(&mut self) -> KeyDescriptor {
        let config = self.config_of("second");
        init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
        let mut provider = Provider::from_config(&config, Arc::new(self.clock.clone())).unwrap();
        provider.tick();
        self.objects = objects(&self.token.token_directory());
        provider.keys().remove(0)
    }

    /// Another process, whose state names `keys`.
    pub fn restart_with(&mut self, keys: &[KeyDescriptor]) {
        self.provider = Provider::from_config(&self.config, Arc::new(self.clock.clone())).unwrap();
        self.provider.require(keys);
        self.provider.tick();
    }

    /// At the end: nothing was made or deleted on the token.
    pub fn left_the_token_alone(&self) {
        assert_eq!(objects(&self.token.token_directory()), self.objects);
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({})", self.object.id)
    }
}

fn seal(provider: &mut Provider<Pkcs11Token>, number: u64) -> Result<Sealed, Outage> {
    let object = SealedObject { store: [7; 16], kind: 1, id: number };
    let mut key = [0x5a; 32];
    key.iter_mut().zip(number.to_be_bytes()).for_each(|(to, from)| *to ^= from);
    match provider.wrap(&object, &DataKey::new(&key)) {
        Ok(wraps) => Ok(Sealed { object, wraps, key }),
        Err(unavailable) => Err(unavailable.0),
    }
}

fn unseal(provider: &mut Provider<Pkcs11Token>, sealed: &Sealed) -> Result<(), Outage> {
    match provider.unwrap(&sealed.object, &sealed.wraps) {
        Ok(key) => {
            assert_eq!(*key.expose(), sealed.key, "another data key came back");
            Ok(())
        }
        Err(UnwrapError::Unavailable(unavailable)) => Err(unavailable.0),
        Err(lost) => panic!("what was sealed is lost: {lost}"),
    }
}

/// The files in which SoftHSM keeps its objects.
fn objects(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else if path.extension().is_some_and(|ending| ending == "object") {
            found.insert(path);
        }
    }
    found
}
