//! Goal: I1, I2, I4 with a token that operators lose as these are lost: the container paused, killed, restarted, cut off. Durable
//! rounds are served byte for byte, as fast as before; fresh ones are refused, typed, at the deadline and then at once; the node
//! heals by itself; what was in flight comes out as itself.
//!
//! Method: `frostkeep serve` as a process, on SoftHSM in a container through p11-kit, under load from seven clients over mutual
//! TLS. Each law is judged in one run: the times of an outage against those before it.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../extractor/mod.rs"]
mod extractor;

use std::path::Path;
use std::time::{Duration, Instant};

use extractor::{Emission, extract};

use frostkeep_container_tests::container::{Plan, SoftHsmContainer};
use frostkeep_container_tests::engine;
use frostkeep_container_tests::judge::{HEALS_WITHIN, Story, Times, Window};
use frostkeep_container_tests::leftovers;
use frostkeep_container_tests::load::{Dice, Pace, What};
use frostkeep_container_tests::scene::Scene;

const BEFORE: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(3);

/// Without an engine the test is no test; scripts/containers says so and does not run it.
fn needs_an_engine() {
    assert!(engine::answers(), "no Docker engine answers: scripts/containers runs these tests where there is one");
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_frostkeep-under-test");

/// Fields drop in this order: the node before its token, the directory last.
struct Stage {
    scene: Scene,
    container: SoftHsmContainer,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(plan: Plan) -> Self {
        needs_an_engine();
        let directory = leftovers::directory().unwrap();
        let container = SoftHsmContainer::start(directory.path(), plan).unwrap();
        let place = container.place("frostkeep").unwrap();
        let scene = Scene::begin(Path::new(PROGRAM), directory.path(), &place, Pace::usual(), 7).unwrap();
        Self { scene, container, _directory: directory }
    }
}

fn an_outage_is_survived(plan: Plan, begin: fn(&SoftHsmContainer), end: fn(&SoftHsmContainer)) {
    let Stage { _directory, container, scene } = Stage::new(plan);
    let before = Instant::now();
    std::thread::sleep(BEFORE);
    let going = Instant::now();
    begin(&container);
    let gone = Instant::now();
    std::thread::sleep(OUTAGE);
    let back = Instant::now();
    end(&container);
    let healed = scene.load().fresh_after(back, 6 * HEALS_WITHIN);
    let settled = Instant::now();
    std::thread::sleep(AFTER);
    let ended = Instant::now();
    let mut parts = scene.into_parts();
    let (answers, _, verdict) = parts.load.end(&mut parts.node);
    verdict.holds();
    let story = Story {
        answers: &answers,
        before: Window { from: before, to: going },
        outage: Window { from: gone, to: back },
        after: Window { from: settled, to: ended },
        healed,
    };
    story.durable_rounds_are_served();
    story.fresh_rounds_are_refused();
    eprintln!("healed after {} ms", (healed - back).as_millis());
    story.heals();
}

#[test]
fn a_token_that_is_paused_delays_no_durable_round_and_heals_when_it_goes_on() {
    an_outage_is_survived(
        Plan::local("paused"),
        |container| container.pause().unwrap(),
        |container| container.unpause().unwrap(),
    );
}

#[test]
fn a_token_that_is_killed_delays_no_durable_round_and_heals_when_it_is_started() {
    an_outage_is_survived(
        Plan::local("killed"),
        |container| container.kill().unwrap(),
        |container| container.start_again().unwrap(),
    );
}

#[test]
fn a_token_behind_a_frozen_bridge_delays_no_durable_round_and_heals_when_it_thaws() {
    an_outage_is_survived(
        Plan::bridged("frozen"),
        |container| container.bridge().freeze().unwrap(),
        |container| container.bridge().thaw().unwrap(),
    );
}

#[test]
fn a_token_whose_network_is_cut_delays_no_durable_round_and_heals_when_it_is_mended() {
    an_outage_is_survived(
        Plan::bridged("cut"),
        |container| container.bridge().cut().unwrap(),
        |container| container.bridge().mend().unwrap(),
    );
}

const RESTARTS: u64 = 20;
/// Rounds that the run hands out at the least: a restart meets many.
const ROUNDS_MIN: usize = 400;

#[test]
fn twenty_restarts_under_load_lose_no_share_and_double_none() {
    let Stage { _directory, container, scene } = Stage::new(Plan::local("restarted"));
    let mut dice = Dice(20);
    let mut healed = Vec::new();
    for number in 0..RESTARTS {
        std::thread::sleep(Duration::from_millis(200 + dice.below(600)));
        if number % 2 == 0 {
            container.restart().unwrap();
        } else {
            container.kill().unwrap();
            std::thread::sleep(Duration::from_millis(dice.below(400)));
            container.start_again().unwrap();
        }
        let back = Instant::now();
        healed.push(scene.load().fresh_after(back, 6 * HEALS_WITHIN) - back);
    }
    let outages = scene.load().status().unwrap().message.provider.unwrap().outages;
    let output_key = scene.output_key();
    let mut parts = scene.into_parts();
    let (answers, emitted, verdict) = parts.load.end(&mut parts.node);
    let count = |wanted| answers.iter().filter(|answer| answer.what == wanted).count();
    let healed = Times::new(healed);
    eprintln!(
        "{RESTARTS} restarts, {outages} outages, {} rounds, {} of them caught in flight, {} served again, healed {healed}",
        verdict.rounds,
        count(What::Refused { pending: true }),
        count(What::Again)
    );
    verdict.holds();
    assert!(healed.quantile(100) < HEALS_WITHIN, "healed {healed}");
    // Every restart ends the connection; the node counts those that one reconnection does not cure.
    assert!(outages >= RESTARTS / 2, "{outages} outages: the restarts did not meet the load");
    assert!(verdict.rounds >= ROUNDS_MIN && count(What::Refused { pending: true }) > 0);
    let emissions: Vec<Emission> = emitted
        .into_iter()
        .map(|one| Emission { member: one.member, package: one.package, share: one.share, output_key })
        .collect();
    assert!(emissions.len() >= verdict.rounds);
    let reused = extract(&emissions);
    assert!(reused.is_empty(), "nonces signed twice: {reused:?}");
}
