//! Power cuts, enumerated in process: every event of a disk is a place to stop, with subsets of what was not synced and
//! torn sectors. Whatever remains must open and hold every acknowledged record, as a prefix of the order.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]

mod store_kit;

use frostkeep::store::Strength;
use frostkeep_hsm::provider::AnchorValue;
use rand_core::{RngCore, SeedableRng};
use store_kit::{Chaotic, Disk, Event, World, tuning};

const SECTOR_BYTES: usize = 512;

/// A disk as a power cut may leave it, and what had been promised by then.
struct CrashState {
    bytes: Vec<u8>,
    acknowledged: u64,
    anchor: Option<AnchorValue>,
    name: String,
}

fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::SetLen(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        Event::Write { offset, data } => {
            let start = usize::try_from(*offset).unwrap();
            if bytes.len() < start + data.len() {
                bytes.resize(start + data.len(), 0);
            }
            bytes[start..start + data.len()].copy_from_slice(data);
        }
        Event::Sync | Event::Acknowledged(_) | Event::Anchor(_) => {}
    }
}

/// Some of the sectors of a write.
fn torn(bytes: &mut Vec<u8>, event: &Event, random: &mut Chaotic) {
    let Event::Write { offset, data } = event else { return apply(bytes, event) };
    for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
        if random.next_u32() & 1 == 0 {
            let offset = offset + (index * SECTOR_BYTES) as u64;
            apply(bytes, &Event::Write { offset, data: sector.to_vec() });
        }
    }
}

/// Walks the crash states of a log that began on the disk `start`; `samples` random ones per place beside the fixed ones.
fn each_crash_state(
    start: &[u8],
    anchor: Option<AnchorValue>,
    acknowledged: u64,
    events: &[Event],
    samples: usize,
    mut visit: impl FnMut(CrashState),
) {
    let mut random = Chaotic::seed_from_u64(42);
    let (mut synced, mut anchor, mut acknowledged) = (start.to_vec(), anchor, acknowledged);
    let mut unsynced: Vec<&Event> = Vec::new();
    for (place, event) in events.iter().enumerate() {
        match event {
            Event::Sync => {
                for event in unsynced.drain(..) {
                    apply(&mut synced, event);
                }
            }
            Event::Acknowledged(position) => acknowledged = *position,
            Event::Anchor(value) => anchor = Some(*value),
            _ => unsynced.push(event),
        }
        let mut state = |name: String, keep: &mut dyn FnMut(usize, &mut Vec<u8>, &Event)| {
            let mut bytes = synced.clone();
            for (index, event) in unsynced.iter().enumerate() {
                keep(index, &mut bytes, event);
            }
            visit(CrashState { bytes, acknowledged, anchor, name: format!("event {place}, {name}") });
        };
        state("nothing unsynced".into(), &mut |_, _, _| {});
        if unsynced.is_empty() {
            continue;
        }
        state("everything".into(), &mut |_, bytes, event| apply(bytes, event));
        let last = unsynced.len() - 1;
        state("only the last".into(), &mut |index, bytes, event| {
            if index == last {
                apply(bytes, event);
            }
        });
        for sample in 0..samples {
            let mut coin = Chaotic::seed_from_u64(random.next_u64());
            state(format!("subset {sample}"), &mut |_, bytes, event| match coin.next_u32() % 4 {
                0 => {}
                1 => torn(bytes, event, &mut coin),
                _ => apply(bytes, event),
            });
        }
    }
}

/// Rounds of records with group commits, snapshots between them; every promise is noted in the disk's log.
fn run(world: &World, batches: usize) -> Vec<(u64, Vec<u8>)> {
    world.token.state().disk = Some(world.disk.clone());
    let mut running = world.open();
    for batch in 0..batches {
        for record in 0..1 + batch % 3 {
            running.enter(format!("batch {batch} record {record} {}", "x".repeat(200 * (batch % 5))).as_bytes());
        }
        for _ in 0..2 {
            running.persister.step();
            world.disk.note(Event::Acknowledged(running.durable().number()));
        }
    }
    assert_eq!(running.durable(), running.line.last());
    let snapshots = running.line.status().counters.snapshots;
    assert!(batches < 14 || snapshots > 1, "only {snapshots} snapshots were crossed");
    running.acknowledged()
}

/// Opens what a crash left. What is wrong with it, if anything.
fn judge(world: &World, state: &CrashState, expected: &[(u64, Vec<u8>)]) -> Result<World, String> {
    world.token.state().disk = None;
    world.token.state().anchor = state.anchor;
    let crashed = world.with_disk(state.bytes.clone());
    let running = crashed.try_open().map_err(|error| format!("{}: does not open: {error}", state.name))?;
    let found = running.records.lock().unwrap().0.clone();
    if !expected.starts_with(&found) {
        return Err(format!("{}: not a prefix of what was entered", state.name));
    }
    let promised = expected.iter().filter(|(position, _)| *position <= state.acknowledged).count();
    if found.len() < promised {
        return Err(format!("{}: {} of {promised} acknowledged records are there", state.name, found.len()));
    }
    drop(running);
    Ok(crashed)
}

fn small_world(strength: Strength) -> World {
    let mut tuning = tuning(strength);
    tuning.snapshot_floor_bytes = 3_000;
    tuning.bundle_frames_max = 3;
    World::new(tuning)
}

/// A count of the long form (`scripts/soak crash`), or what every run takes.
fn from_environment(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn every_crash_state_of(strength: Strength) {
    let samples = from_environment("FROSTKEEP_CRASH_SAMPLES", 3);
    let world = small_world(strength);
    let start = world.disk.bytes();
    let began = world.disk.events().len();
    let expected = run(&world, from_environment("FROSTKEEP_CRASH_BATCHES", 14));
    let events = world.disk.events().split_off(began);
    let mut states = 0;
    each_crash_state(&start, None, 0, &events, samples, |state| {
        states += 1;
        if let Err(wrong) = judge(&world, &state, &expected) {
            panic!("{wrong}");
        }
    });
    eprintln!("{states} states");
    assert!(states > 500, "only {states} states");
}

#[test]
fn after_any_power_cut_every_acknowledged_record_is_there_under_strict() {
    every_crash_state_of(Strength::Strict);
}

#[test]
fn after_any_power_cut_every_acknowledged_record_is_there_under_every_n() {
    every_crash_state_of(Strength::Every(5));
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    let world = small_world(Strength::Strict);
    let start = world.disk.bytes();
    let began = world.disk.events().len();
    let expected = run(&world, 6);
    let events = world.disk.events().split_off(began);
    let (mut first, mut second) = (0, 0);
    each_crash_state(&start, None, 0, &events, 1, |state| {
        first += 1;
        if first % 23 != 0 {
            return;
        }
        let crashed = judge(&world, &state, &expected).unwrap();
        // Once more, with the log on, up to the opening anchor.
        let crashed = crashed.with_disk(state.bytes.clone());
        crashed.token.state().anchor = state.anchor;
        crashed.token.state().disk = Some(crashed.disk.clone());
        let mut running = crashed.open();
        let recovered = running.records.lock().unwrap().0.clone();
        running.persister.step();
        drop(running);
        let events = crashed.disk.events();
        each_crash_state(&state.bytes, state.anchor, state.acknowledged, &events, 1, |again| {
            second += 1;
            judge(&crashed, &again, &recovered).unwrap();
        });
    });
    assert!(second > 100, "only {second} states");
}

#[test]
fn with_a_dropped_sync_the_enumeration_finds_lost_records() {
    let world = small_world(Strength::Off);
    let start = world.disk.bytes();
    let began = world.disk.events().len();
    world.disk.drop_syncs();
    let expected = run(&world, 6);
    let events = world.disk.events().split_off(began);
    let mut lost = 0;
    each_crash_state(&start, None, 0, &events, 1, |state| {
        lost += usize::from(judge(&world, &state, &expected).is_err());
    });
    assert!(lost > 0, "the negative control passed: the enumeration is blind");
}

#[test]
fn a_power_cut_during_creation_leaves_no_store_that_opens_half() {
    // Under its temporary name nobody looks for it; this is about the bytes all the same.
    let world = World::new(tuning(Strength::Strict));
    let events = world.disk.events();
    let (mut opened, mut refused) = (0, 0);
    each_crash_state(&[], None, 0, &events, 2, |state| {
        world.token.state().anchor = None;
        match world.with_disk(state.bytes).try_open() {
            Ok(running) => {
                assert_eq!(running.records.lock().unwrap().0, []);
                opened += 1;
            }
            Err(_) => refused += 1,
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

#[test]
fn the_disk_of_these_tests_keeps_what_it_is_given() {
    let world = small_world(Strength::Strict);
    let start = world.disk.bytes();
    let began = world.disk.events().len();
    run(&world, 3);
    let events = world.disk.events().split_off(began);
    let mut bytes = start;
    events.iter().for_each(|event| apply(&mut bytes, event));
    let copy = Disk::new(bytes);
    assert_eq!(copy.bytes(), world.disk.bytes());
}
