//! Goal: hours of random outages lose nothing, double nothing, hold up no durable round, and every one of them heals (I1, I2, I4,
//! I5, I6). Method: one node under load; its token is SoftHSM in a container behind a network, with the fault shim before the
//! client module. Outages of every kind come in an order, at times and for times that a seed decides; after each the answers since
//! the last are judged. Without a container engine the token is on this machine, and the shim makes all outages.
//!
//! `FROSTKEEP_OUTAGE_SECONDS` (180), `FROSTKEEP_OUTAGE_SEED`: see `scripts/soak --help`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use frostkeep::hsm::entropy;
use frostkeep_container_tests::container::{Plan, SoftHsmContainer};
use frostkeep_container_tests::engine;
use frostkeep_container_tests::judge::{HEALS_WITHIN, Story, Times, Window};
use frostkeep_container_tests::leftovers;
use frostkeep_container_tests::load::{Dice, Pace, What};
use frostkeep_container_tests::node::{CALL_MS, TokenPlace};
use frostkeep_container_tests::scene::Scene;
use frostkeep_fixtures::shim::{Rule, What as Fault, When};
use frostkeep_fixtures::{Shim, SoftToken, make_token, p11_kit_client_module, softhsm_module};
use rand_core::RngCore;

const SECONDS: u64 = 180;
const PROGRAM: &str = env!("CARGO_BIN_EXE_frostkeep-under-test");
/// `CKR_DEVICE_ERROR`.
const DEVICE_ERROR: u64 = 0x30;
/// Most outages are about this long, and one in ten up to so many times longer.
const LENGTH_MS: u64 = 3_000;
const LONGER: u64 = 5;

/// Slow enough for a day: what is kept of each round is a few hundred bytes.
const PACE: Pace = Pace { readers: 4, signers: 3, between_sessions: Duration::from_millis(50), open_rounds: Some(256) };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The container is paused.
    Pause,
    /// It is killed, and started again later.
    Kill,
    /// It is restarted.
    Restart,
    /// The network takes everything and brings nothing.
    Freeze,
    /// The container is off its network.
    Cut,
    /// Every call of the module hangs.
    Hang,
    /// Every call that uses the key fails.
    Fail,
    /// The module ends its process, a few times.
    Crash,
}

impl Kind {
    const CONTAINER: [Self; 5] = [Self::Pause, Self::Kill, Self::Restart, Self::Freeze, Self::Cut];
    const SHIM: [Self; 3] = [Self::Hang, Self::Fail, Self::Crash];

    /// Whether the token is away from the beginning to the end: nothing fresh can be sealed then.
    fn is_solid(self) -> bool {
        !matches!(self, Self::Restart | Self::Crash)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pause => "pause",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
            Self::Hang => "shim hang",
            Self::Fail => "shim fail",
            Self::Crash => "shim crash",
        })
    }
}

/// The token, and what can be done to it.
struct Token {
    shim: Shim,
    container: Option<SoftHsmContainer>,
    local: Option<SoftToken>,
}

impl Token {
    fn new(directory: &Path) -> Self {
        if engine::answers() {
            let container = SoftHsmContainer::start(directory, Plan::bridged("soak")).unwrap();
            let shim = Shim::new(directory, p11_kit_client_module().unwrap()).unwrap();
            return Self { shim, container: Some(container), local: None };
        }
        assert!(std::env::var_os("FROSTKEEP_REQUIRE_DOCKER").is_none(), "no Docker engine: scripts/setup --docker");
        eprintln!("no Docker engine: the outages are those of the shim alone");
        let local = make_token(directory, "soak", "soak-pin-8f03").unwrap();
        let shim = Shim::new(directory, softhsm_module().unwrap()).unwrap();
        Self { shim, container: None, local: Some(local) }
    }

    fn place(&self) -> TokenPlace {
        let (uri, mut environment, latch_directory) = match (&self.container, &self.local) {
            (Some(container), _) => (
                container.uri_through(self.shim.module(), "frostkeep"),
                container.environment(),
                container.latch_directory(),
            ),
            (None, Some(local)) => {
                (local.uri_through(self.shim.module(), "frostkeep"), local.environment(), local.latch_directory())
            }
            (None, None) => panic!("there is a token"),
        };
        environment.extend(self.shim.environment());
        TokenPlace { uri, environment, latch_directory }
    }

    fn kinds(&self) -> Vec<Kind> {
        let container = self.container.iter().flat_map(|_| Kind::CONTAINER);
        container.chain(Kind::SHIM).collect()
    }

    fn container(&self) -> &SoftHsmContainer {
        self.container.as_ref().expect("its kinds are drawn only where there is one")
    }

    fn begin(&self, kind: Kind, dice: &mut Dice) {
        match kind {
            Kind::Pause => self.container().pause().unwrap(),
            Kind::Kill => self.container().kill().unwrap(),
            Kind::Restart => self.container().restart().unwrap(),
            Kind::Freeze => self.container().bridge().freeze().unwrap(),
            Kind::Cut => self.container().bridge().cut().unwrap(),
            Kind::Hang => self.strike(None, None, Fault::Hang),
            Kind::Fail => self.strike(Some("C_Sign"), None, Fault::Rv(DEVICE_ERROR)),
            Kind::Crash => self.strike(Some("C_Sign"), Some(1 + dice.below(3)), Fault::Abort),
        }
    }

    fn strike(&self, function: Option<&str>, count: Option<u64>, what: Fault) {
        let function = function.map(str::to_owned);
        self.shim.set(&[Rule { function, skip: 0, count, when: When::Before, what }]).unwrap();
    }

    fn end(&self, kind: Kind) {
        match kind {
            Kind::Pause => self.container().unpause().unwrap(),
            Kind::Kill => self.container().start_again().unwrap(),
            Kind::Restart => {}
            Kind::Freeze => self.container().bridge().thaw().unwrap(),
            Kind::Cut => self.container().bridge().mend().unwrap(),
            Kind::Hang | Kind::Fail | Kind::Crash => self.shim.clear().unwrap(),
        }
    }

    /// Whether a fault of the shim has met a call.
    fn struck(&self, kind: Kind) -> bool {
        !Kind::SHIM.contains(&kind) || self.shim.struck(1).unwrap() > 0
    }
}

/// What became of the outages of one kind.
#[derive(Default)]
struct Row {
    made: usize,
    /// Those that the node saw: some are over before it asks its token for anything.
    noticed: usize,
    healed: Vec<Duration>,
    /// The p99 of durable rounds, in each that was long enough to have one.
    p99: Vec<Duration>,
    refused: usize,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

struct Soak {
    token: Token,
    scene: Scene,
    rows: BTreeMap<Kind, Row>,
    began: Instant,
}

impl Soak {
    /// How often the node has lost its token or its agent.
    fn losses(&self) -> u64 {
        let provider = self.scene.load().status().unwrap().message.provider.unwrap();
        provider.outages + provider.agents_started
    }

    fn one_outage(&mut self, kind: Kind, dice: &mut Dice) {
        let load = self.scene.load();
        let quiet = Duration::from_millis(500 + dice.below(1_500));
        let length = LENGTH_MS / 10 + dice.below(LENGTH_MS);
        let length =
            Duration::from_millis(if dice.below(10) == 0 { length * (1 + dice.below(LONGER)) } else { length });
        load.take_answers();
        let before = Instant::now();
        std::thread::sleep(quiet);
        let losses = self.losses();
        let going = Instant::now();
        self.token.begin(kind, dice);
        let gone = Instant::now();
        if kind.is_solid() {
            std::thread::sleep(length);
        }
        // A crash is over when it has struck, which takes a call that uses the key.
        let patience = Instant::now();
        while !self.token.struck(kind) && patience.elapsed() < HEALS_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        let back = Instant::now();
        self.token.end(kind);
        let healed = load.fresh_after(back, 6 * HEALS_WITHIN);
        let noticed = self.losses() > losses;
        let answers = load.take_answers();
        let story = Story {
            answers: &answers,
            before: Window { from: before, to: going },
            outage: Window { from: gone, to: back },
            after: Window { from: back, to: healed },
            healed,
        };
        let row = self.rows.entry(kind).or_default();
        row.made += 1;
        row.noticed += usize::from(noticed && self.token.struck(kind));
        row.refused +=
            answers.iter().filter(|answer| matches!(answer.what, What::Refused { .. } | What::NotDurable)).count();
        row.healed.push(healed - back);
        story.heals();
        let mut served = String::new();
        if kind.is_solid() {
            story.nothing_fresh_is_handed_out();
            let before = story.before.of(&answers, |what| what == What::Again);
            // Shorter ones have no p99 that says anything.
            if back - gone > Duration::from_millis(CALL_MS) {
                let (durable, control) =
                    story.in_the_band(&before, story.outage, |what| what == What::Again, "durable");
                row.p99.push(durable.p99());
                served = format!(", durable rounds {durable} (control p99 {:.1} ms)", ms(control.p99()));
            }
        }
        let (breaches, broken) = load.broken();
        assert_eq!(breaches, 0, "{broken:#?}");
        eprintln!(
            "[{:>5} s] {kind:<10} {:>5} ms, {}, healed after {:>4} ms, {} rounds in all{served}",
            self.began.elapsed().as_secs(),
            (back - gone).as_millis(),
            if noticed { "noticed" } else { "unseen" },
            (healed - back).as_millis(),
            load.rounds(),
        );
    }
}

#[test]
#[ignore = "campaign: random outages for minutes or hours; scripts/soak outage runs it"]
fn random_outages_lose_nothing_double_nothing_and_heal() {
    let seconds = number("FROSTKEEP_OUTAGE_SECONDS").unwrap_or(SECONDS);
    let seed = number("FROSTKEEP_OUTAGE_SEED").unwrap_or_else(|| entropy::os().next_u64());
    eprintln!("FROSTKEEP_OUTAGE_SEED={seed}, for {seconds} s");
    let mut dice = Dice(seed);
    let directory = leftovers::directory().unwrap();
    let token = Token::new(directory.path());
    let scene = Scene::begin(Path::new(PROGRAM), directory.path(), &token.place(), PACE, dice.roll()).unwrap();
    let kinds = token.kinds();
    let mut soak = Soak { token, scene, rows: BTreeMap::new(), began: Instant::now() };
    let mut bag = Vec::new();
    while soak.began.elapsed() < Duration::from_secs(seconds) || soak.rows.len() < kinds.len() {
        if bag.is_empty() {
            bag.clone_from(&kinds);
        }
        // Every kind once before any comes again.
        let kind = bag.swap_remove(dice.below(bag.len() as u64) as usize);
        soak.one_outage(kind, &mut dice);
    }

    let Soak { token, scene, rows, began } = soak;
    let mut parts = scene.into_parts();
    let (_, _, verdict) = parts.load.end(&mut parts.node);
    eprintln!(
        "kind         made  noticed  refused  healed ms: median    p90  slowest  p99 of durable rounds ms: median  worst"
    );
    for (kind, row) in &rows {
        let (healed, p99) = (Times::new(row.healed.clone()), Times::new(row.p99.clone()));
        // None was long enough to have one.
        let told = |percent| if row.p99.is_empty() { "-".into() } else { format!("{:.1}", ms(p99.quantile(percent))) };
        eprintln!(
            "{kind:<10}  {:>5}  {:>7}  {:>7}  {:>17.0}  {:>5.0}  {:>7.0}  {:>32}  {:>5}",
            row.made,
            row.noticed,
            row.refused,
            ms(healed.quantile(50)),
            ms(healed.quantile(90)),
            ms(healed.quantile(100)),
            told(50),
            told(100),
        );
    }
    let made: usize = rows.values().map(|row| row.made).sum();
    eprintln!("{made} outages in {} s, {} rounds, seed {seed}", began.elapsed().as_secs(), verdict.rounds);
    verdict.holds();
    for kind in kinds {
        assert!(rows.get(&kind).is_some_and(|row| row.noticed > 0), "no outage of the kind {kind} was noticed");
    }
    drop((token, directory));
}
