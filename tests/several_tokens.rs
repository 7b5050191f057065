//! A state under two tokens: either one opens it alone, losing one costs nothing, and one that comes back is caught up.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods
)]

mod store_kit;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use frostkeep::store::{
    CreateError, EncodedRecord, Line, NotOpened, OpenError, Opening, PersisterHandle, SlotKind, Status, Strength,
    Tuning, create_over,
};
use frostkeep_hsm::clock::{Clock, SystemClock};
use frostkeep_hsm::health::ProviderState;
use frostkeep_hsm::outage::Backoff;
use frostkeep_hsm::provider::KeyProvider;
use frostkeep_hsm::scripted::ScriptedHandle;
use frostkeep_hsm::sealer::{Provider, Timing};
use frostkeep_hsm::token::FaultClass;
use frostkeep_hsm::tokens::Tokens;
use store_kit::{Disk, Records, World, tuning};
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    world: World,
    disk: Disk,
    one: ScriptedHandle,
    two: ScriptedHandle,
}

struct Running {
    line: Line,
    handle: PersisterHandle,
    /// What the opening found.
    found: Vec<Vec<u8>>,
    records: Arc<Mutex<Records>>,
}

fn provider(token: &ScriptedHandle, clock: &Arc<dyn Clock>) -> Box<dyn KeyProvider> {
    let timing = Timing { health_interval_ms: 50, backoff: Backoff { min_ms: 5, max_ms: 20 } };
    Box::new(Provider::new(token.token(), timing, Arc::clone(clock), Box::new(frostkeep_hsm::entropy::os())))
}

impl Bench {
    /// Bundles of two frames, so that there are many.
    fn new() -> Self {
        let tuning = Tuning { bundle_frames_max: 2, ..tuning(Strength::Off) };
        let (one, two) = (ScriptedHandle::new("one", [1; 32]), ScriptedHandle::new("two", [2; 32]));
        Self { world: World::new(tuning), disk: Disk::new(Vec::new()), one, two }
    }

    fn made() -> Self {
        let bench = Self::new();
        bench.create().unwrap();
        bench
    }

    fn tokens(&self) -> Box<dyn KeyProvider> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let providers = vec![provider(&self.one, &clock), provider(&self.two, &clock)];
        Box::new(Tokens::new(providers, 1, &clock).unwrap())
    }

    fn create(&self) -> Result<[u8; 16], CreateError> {
        create_over(self.disk.clone(), &mut *self.tokens(), &mut self.world.environment())
    }

    fn open(&self) -> Result<Running, OpenError> {
        let opening =
            Opening::over(self.disk.clone(), self.tokens(), self.world.environment(), self.world.tuning).unwrap();
        match opening.recover(Records::default()) {
            Ok(opened) => {
                let store_kit::Running { line, persister, records } = store_kit::running(opened);
                let found = records.lock().unwrap().0.iter().map(|(_, text)| text.clone()).collect();
                Ok(Running { line, handle: persister.spawn().unwrap(), found, records })
            }
            Err(NotOpened { error, .. }) => Err(error),
        }
    }
}

impl Running {
    /// One frame for each record.
    fn write(&self, texts: &[&[u8]]) {
        for text in texts {
            let slot = self.line.reserve(SlotKind::Round, text.len()).unwrap();
            let record = EncodedRecord::new(Zeroizing::new(text.to_vec())).unwrap();
            // As the engine does: a snapshot never has a position without its record.
            let mut records = self.records.lock().unwrap();
            let position = self.line.enter(slot, record);
            records.0.push((position.number(), text.to_vec()));
            drop(records);
            self.until(|status| status.durable >= position);
        }
    }

    fn until(&self, holds: impl Fn(&Status) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.line.status()) {
            assert!(Instant::now() < end, "{:?}", self.line.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn all_current(&self) {
        self.until(|status| status.tokens.len() == 2 && status.tokens.iter().all(|token| token.current));
    }
}

#[test]
fn losing_one_of_two_tokens_refuses_nothing_and_the_one_that_is_back_is_caught_up() {
    let bench = Bench::made();
    let running = bench.open().unwrap();
    running.write(&[b"1", b"2", b"3"]);
    running.all_current();

    bench.one.fail_until_healed(FaultClass::Token);
    running.until(|status| status.tokens[0].health.state == ProviderState::Out);
    running.write(&[b"4", b"5", b"6", b"7", b"8"]);
    let status = running.line.status();
    assert!(status.health.admits_work() && status.tokens[1].current);
    assert!(!status.tokens[0].current, "rows were written without it");
    // It has to wait for the other one: no wrap of the last bundle is its own.
    bench.one.heal();
    bench.two.fail_until_healed(FaultClass::Token);
    drop(running.handle.stop());
    let Err(error) = bench.open() else { panic!("it opened with a key that never wrapped its head") };
    assert!(matches!(error, OpenError::Outage(_)), "an outage, not damage: {error}");

    bench.two.heal();
    let running = bench.open().unwrap();
    running.all_current();
    assert!(running.line.status().counters.wraps_caught_up >= 5, "{:?}", running.line.status().counters);
    drop(running.handle.stop());

    // Each alone.
    for (away, there) in [(&bench.two, &bench.one), (&bench.one, &bench.two)] {
        there.heal();
        away.fail_until_healed(FaultClass::Token);
        let running = bench.open().unwrap();
        assert_eq!(running.found, [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"]);
        drop(running.handle.stop());
    }
}

#[test]
fn a_snapshot_made_while_a_token_was_away_is_caught_up_too() {
    let mut bench = Bench::new();
    bench.world.tuning.snapshot_floor_bytes = 1;
    bench.create().unwrap();
    bench.one.fail_until_healed(FaultClass::Token);
    let running = bench.open().unwrap();
    running.write(&[b"1", b"2", b"3", b"4"]);
    running.until(|status| status.counters.snapshots > 0);
    bench.one.heal();
    running.all_current();
    drop(running.handle.stop());
    bench.two.fail_until_healed(FaultClass::Token);
    let running = bench.open().unwrap();
    assert_eq!(running.found, [b"1", b"2", b"3", b"4"]);
}

#[test]
fn a_state_is_made_with_all_of_its_tokens_or_not_at_all() {
    let bench = Bench::new();
    bench.two.fail_until_healed(FaultClass::Token);
    let Err(CreateError::Outage(outage)) = bench.create() else { panic!("it was made without its second token") };
    assert_eq!(outage.token, "two");
    assert!(bench.disk.bytes().is_empty());
    bench.two.heal();
    bench.create().unwrap();
}
