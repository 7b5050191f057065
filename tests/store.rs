//! The laws of the sealed store, on a token in memory and a disk in memory.
#![allow(clippy::disallowed_methods)]
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod store_kit;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use frostkeep::limits::{
    BATCH_RECORDS_MAX, FREEZE_RECORD_BYTES_MAX, LINE_RECORDS_MAX, LINE_RESERVED_FOR_FREEZES, RECORD_BYTES_MAX,
};
use frostkeep::store::{
    CreateError, EncodedRecord, Environment, Next, OpenError, Opening, Releases, SlotKind, Storage, Strength, Tuning,
    VolumeSpace, create, create_over,
};
use frostkeep_hsm::clock::ManualClock;
use frostkeep_hsm::health::ProviderState;
use proptest::prelude::*;
use rand_core::SeedableRng;
use redb::{Database, ReadableTable, TableDefinition};
use store_kit::{AnchorScript, Chaotic, Disk, Records, Running, Token, World, running, tuning};
use zeroize::Zeroizing;

fn settle(running: &mut Running) {
    for _ in 0..200 {
        if running.persister.step() != Next::Now {
            return;
        }
    }
    panic!("the persister does not come to rest");
}

fn write(running: &mut Running, count: usize) {
    for number in 0..count {
        running.enter(format!("record {number}").as_bytes());
        settle(running);
    }
}

fn refused(world: &World) -> OpenError {
    match world.try_open() {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

// ---- durability and order

#[test]
fn what_is_durable_comes_back_in_order_after_any_number_of_restarts() {
    let world = World::new(tuning(Strength::Every(3)));
    let mut expected = Vec::new();
    for life in 1..=3 {
        let mut running = world.open();
        assert_eq!(running.records.lock().unwrap().0, expected);
        write(&mut running, 5);
        assert_eq!(running.line.status().epoch, life);
        expected = running.acknowledged();
        assert_eq!(expected.len(), 5 * usize::try_from(life).unwrap());
    }
}

#[test]
fn a_record_is_durable_only_after_its_frame_is_on_disk_and_anchored() {
    let world = World::new(tuning(Strength::Strict));
    let mut running = world.open();
    settle(&mut running);
    let position = running.enter(b"round");
    assert!(running.durable() < position);
    world.token.state().script = AnchorScript::Refused;
    settle(&mut running);
    assert!(running.durable() < position, "the anchor step failed");
    assert_eq!(running.line.status().health.state, ProviderState::Out, "and the line says that it is blocked");
    let seals = running.line.status().counters.seals;
    world.token.state().script = AnchorScript::Works;
    world.clock.advance(Duration::from_secs(2));
    settle(&mut running);
    assert_eq!(running.durable(), position);
    assert_eq!(running.line.status().counters.seals, seals, "a frame on disk is never sealed again");
}

#[test]
fn a_failed_seal_writes_nothing_and_keeps_the_order_of_the_line() {
    let world = World::new(tuning(Strength::Every(10)));
    let mut running = world.open();
    settle(&mut running);
    world.token.state().wraps_fail = true;
    let before = world.disk.bytes();
    let first = running.enter(b"first, in flight when the token went");
    settle(&mut running);
    world.token.state().out = true;
    let second = running.enter(b"second, of another session");
    settle(&mut running);
    assert!(world.disk.bytes() == before, "a failed seal wrote something");
    assert_eq!(running.line.status().counters.seals_failed, 1);
    world.token.state().wraps_fail = false;
    assert!(running.durable() < first && first < second);
    world.token.state().out = false;
    settle(&mut running);
    assert_eq!(running.durable(), second, "any later persist makes the first durable too");
    assert_eq!(world.open().records.lock().unwrap().0, running.acknowledged());
}

#[test]
fn what_waits_is_written_with_one_seal_and_one_sync() {
    let world = World::new(tuning(Strength::Off));
    let mut running = world.open();
    settle(&mut running);
    let before = running.line.status().counters;
    for number in 0..1_000 {
        running.enter(format!("record {number}").as_bytes());
    }
    settle(&mut running);
    let after = running.line.status().counters;
    assert_eq!(after.records - before.records, 1_000);
    assert_eq!((after.batches - before.batches, after.syncs - before.syncs, after.seals - before.seals), (1, 1, 1));
}

#[test]
fn a_batch_is_bounded_and_a_record_of_the_largest_size_fits() {
    let world = World::new(tuning(Strength::Off));
    let mut running = world.open();
    for _ in 0..6 {
        running.enter(&vec![9; RECORD_BYTES_MAX]);
    }
    for _ in 0..BATCH_RECORDS_MAX + 1 {
        running.enter(b"small");
    }
    settle(&mut running);
    assert_eq!(running.durable(), running.line.last());
    assert!(running.line.status().counters.batches >= 3);
    assert_eq!(world.open().records.lock().unwrap().0, running.acknowledged());
    assert!(EncodedRecord::new(Zeroizing::new(vec![0; RECORD_BYTES_MAX + 1])).is_err());
    assert!(EncodedRecord::new(Zeroizing::new(Vec::new())).is_err());
}

#[test]
fn a_full_line_refuses_rounds_and_takes_freezes_and_names_the_limit() {
    let world = World::new(tuning(Strength::Off));
    let running = world.open();
    let mut slots = Vec::new();
    let full = loop {
        match running.line.reserve(SlotKind::Round, 100) {
            Ok(slot) => slots.push(slot),
            Err(full) => break full,
        }
    };
    assert_eq!((full.limit, full.max), ("records", LINE_RECORDS_MAX - LINE_RESERVED_FOR_FREEZES));
    let mut freezes = Vec::new();
    while let Ok(slot) = running.line.reserve(SlotKind::Freeze, FREEZE_RECORD_BYTES_MAX) {
        freezes.push(slot);
    }
    assert_eq!(freezes.len(), LINE_RESERVED_FOR_FREEZES);
    assert!(running.line.reserve(SlotKind::Freeze, FREEZE_RECORD_BYTES_MAX + 1).is_err());
    drop(slots);
    drop(freezes);
    let mut large = Vec::new();
    let full = loop {
        match running.line.reserve(SlotKind::Round, RECORD_BYTES_MAX) {
            Ok(slot) => large.push(slot),
            Err(full) => break full,
        }
    };
    assert_eq!(full.limit, "bytes");
    assert!(running.line.reserve(SlotKind::Freeze, FREEZE_RECORD_BYTES_MAX).is_ok());
}

#[test]
fn the_cost_of_a_record_does_not_grow_with_the_state() {
    let world = World::new(tuning(Strength::Every(1_000_000)));
    let mut running = world.open();
    let mut cost = |records: usize| {
        let before = running.line.status().counters;
        write(&mut running, records);
        let after = running.line.status().counters;
        assert_eq!(after.seals - before.seals, records as u64);
        assert_eq!(after.syncs - before.syncs, records as u64);
        (after.row_bytes - before.row_bytes) / records as u64
    };
    let first = cost(50);
    cost(1_500);
    assert!(cost(50) <= first + 8, "row bytes of a record grew from {first}");
}

#[test]
fn with_snapshots_the_cost_of_a_record_stays_constant_and_the_state_is_the_same() {
    let mut tuning = tuning(Strength::Every(50));
    tuning.snapshot_floor_bytes = 20_000;
    let world = World::new(tuning);
    let mut running = world.open();
    write(&mut running, 400);
    let half = running.line.status().counters;
    write(&mut running, 400);
    let whole = running.line.status().counters;
    assert!(half.snapshots > 1, "{half:?}");
    assert!(whole.row_bytes < half.row_bytes * 2 + half.row_bytes / 2, "{half:?} {whole:?}");
    assert_eq!(world.open().records.lock().unwrap().0, running.acknowledged());
    let verified = world.opening().unwrap().verify(&mut Records::default()).unwrap();
    assert!(verified.base.number() > 0 && verified.frames < 800, "{verified:?}");
}

#[test]
fn a_snapshot_larger_than_a_chunk_comes_back_item_by_item() {
    let mut tuning = tuning(Strength::Off);
    tuning.snapshot_floor_bytes = 1 << 20;
    let world = World::new(tuning);
    let mut running = world.open();
    for size in [1, RECORD_BYTES_MAX, 300_000, 256 << 10, 7] {
        running.enter(&vec![3; size]);
        settle(&mut running);
    }
    write(&mut running, 3);
    let counters = running.line.status().counters;
    assert!(counters.snapshots >= 1 && counters.snapshot_chunks > 3, "{counters:?}");
    assert_eq!(world.open().records.lock().unwrap().0, running.acknowledged());
}

#[test]
fn an_opening_calls_the_token_as_often_for_many_frames_as_for_few() {
    let world = World::new(tuning(Strength::Off));
    let calls = |frames: usize| {
        let mut running = world.open();
        write(&mut running, frames);
        let before = world.token.state().unwraps;
        world.open();
        world.token.state().unwraps - before
    };
    assert_eq!(calls(3), 1);
    assert_eq!(calls(400), 1);
}

#[test]
fn frames_of_several_bundles_open_with_one_call_per_bundle() {
    let mut tuning = tuning(Strength::Off);
    tuning.bundle_frames_max = 10;
    let world = World::new(tuning);
    let mut running = world.open();
    write(&mut running, 35);
    let before = world.token.state().unwraps;
    assert_eq!(world.open().records.lock().unwrap().0, running.acknowledged());
    assert_eq!(world.token.state().unwraps - before, 4);
}

// ---- the disk

#[test]
fn below_the_reserve_nothing_is_written_and_it_heals_by_itself() {
    let world = World::new(tuning(Strength::Off));
    let mut running = world.open();
    settle(&mut running);
    world.room.0.store(999, Ordering::SeqCst);
    let before = world.disk.bytes();
    let position = running.enter(b"waits for room");
    settle(&mut running);
    assert!(world.disk.bytes() == before);
    assert!(matches!(running.line.status().storage, Storage::DiskFull { free_bytes: 999, reserve_bytes: 1_000, .. }));
    assert!(!running.line.status().admits_work());
    world.room.0.store(1_000, Ordering::SeqCst);
    settle(&mut running);
    assert_eq!(running.durable(), position);
    assert_eq!(running.line.status().storage, Storage::Writable);
}

#[test]
fn a_failed_write_or_sync_is_final_for_the_process_and_a_restart_looks_again() {
    let world = World::new(tuning(Strength::Every(10)));
    let mut running = world.open();
    write(&mut running, 2);
    let kept = running.acknowledged();
    world.disk.fail(true);
    let position = running.enter(b"lost with the disk");
    settle(&mut running);
    assert!(matches!(running.line.status().storage, Storage::Failed { .. }));
    world.disk.fail(false);
    let wraps = world.token.state().wraps;
    settle(&mut running);
    assert_eq!(world.token.state().wraps, wraps, "it tried to write again");
    assert!(running.durable() < position, "the page cache was believed after a failed sync");
    assert!(matches!(running.line.status().storage, Storage::Failed { .. }));
    drop(running);
    assert!(world.open().records.lock().unwrap().0.starts_with(&kept));
}

// ---- open errors (I7)

#[test]
fn missing_corrupt_rolled_back_wrong_key_busy_and_unsupported_are_six_errors_and_none_starts_empty() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let token = Token::new();
    let environment = || Environment {
        clock: Arc::new(ManualClock::default()),
        entropy: Box::new(Chaotic::seed_from_u64(5)),
        space: Box::new(VolumeSpace::of(directory.path())),
    };
    let tuning = Tuning { disk_reserve_bytes: 0, ..tuning(Strength::Strict) };
    let begin = || Opening::begin(&state, token.provider(), environment(), tuning);
    assert!(matches!(begin(), Err(OpenError::Missing { .. })));
    assert!(!state.exists(), "a look at a missing store left something behind");

    create(&state, &mut *token.provider(), &mut environment()).unwrap();
    assert!(matches!(create(&state, &mut *token.provider(), &mut environment()), Err(CreateError::Exists { .. })));
    let mode =
        |path: &std::path::Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode(&state) & 0o777, 0o700);
    assert_eq!(mode(&state.join("store.redb")) & 0o777, 0o600);

    let mut open = running(begin().unwrap().recover(Records::default()).unwrap_or_else(|e| panic!("{}", e.error)));
    write(&mut open, 3);
    let expected = open.acknowledged();
    assert!(matches!(begin(), Err(OpenError::Busy { .. })), "one process at a time (trap 21)");
    drop(open);
    // A stale or a removed lock file is harmless (trap 22).
    std::fs::remove_file(state.join("lock")).unwrap();
    let again = running(begin().unwrap().recover(Records::default()).unwrap_or_else(|e| panic!("{}", e.error)));
    assert_eq!(again.records.lock().unwrap().0, expected);
    drop(again);

    let container = state.join("store.redb");
    let healthy = std::fs::read(&container).unwrap();
    let refused = || match begin() {
        Ok(opening) => opening.recover(Records::default()).err().map(|not| not.error).expect("it opened"),
        Err(error) => error,
    };
    token.state().key = [8; 32];
    assert!(matches!(refused(), OpenError::WrongKey { .. }));
    token.state().key = [7; 32];
    token.state().out = true;
    assert!(matches!(refused(), OpenError::Outage(_)));
    token.state().out = false;
    let anchor = token.state().anchor.take();
    assert!(matches!(refused(), OpenError::AnchorMissing { .. }));
    let mut ahead = anchor.unwrap();
    ahead.position += 5;
    token.state().anchor = Some(ahead);
    assert!(matches!(refused(), OpenError::RolledBack { what: "the disk is behind", .. }));
    token.state().anchor = anchor;
    std::fs::write(&container, b"").unwrap();
    assert!(matches!(refused(), OpenError::Corrupt { .. }), "an empty file started a store (trap 6)");
    assert_eq!(std::fs::read(&container).unwrap(), b"", "an empty file was initialised");
    std::fs::write(&container, &healthy[..healthy.len() / 2]).unwrap();
    assert!(matches!(refused(), OpenError::Corrupt { .. }));
    std::fs::remove_file(&container).unwrap();
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &container).unwrap();
    assert!(matches!(refused(), OpenError::Corrupt { .. }), "a dangling link started a store (trap 6)");
    assert!(matches!(create(&state, &mut *token.provider(), &mut environment()), Err(CreateError::Exists { .. })));
    std::fs::remove_file(&container).unwrap();
    assert!(matches!(refused(), OpenError::Missing { .. }));
    let names: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["lock"], "something was renamed away or left behind (trap 5)");
}

#[test]
fn a_bare_directory_name_is_made_in_the_current_directory() {
    // Trap 20: the parent of a bare name is empty. Relative names are resolved against the crate's own directory here.
    let name = format!("target-store-{}", std::process::id());
    let state = std::path::PathBuf::from(&name);
    let world = World::new(tuning(Strength::Off));
    let made = create(&state, &mut *world.token.provider(), &mut world.environment());
    std::fs::remove_dir_all(&state).unwrap();
    made.unwrap();
}

#[test]
fn a_creation_that_did_not_end_leaves_no_store_and_does_not_hinder_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(tuning(Strength::Off));
    let begin = || Opening::begin(directory.path(), world.token.provider(), world.environment(), world.tuning);
    std::fs::write(directory.path().join(".store.redb.new"), world.disk.bytes()).unwrap();
    assert!(matches!(begin(), Err(OpenError::Missing { .. })));
    create(directory.path(), &mut *world.token.provider(), &mut world.environment()).unwrap();
    assert!(begin().is_ok());
    assert!(!directory.path().join(".store.redb.new").exists());
}

#[test]
fn a_sealed_store_keeps_its_lock_and_opens_when_the_token_is_back() {
    let world = World::new(tuning(Strength::Strict));
    let mut running = world.open();
    write(&mut running, 4);
    let expected = running.acknowledged();
    drop(running);
    world.token.state().out = true;
    let Err(sealed) = world.opening().unwrap().recover(Records::default()) else { panic!("it opened without a token") };
    assert!(matches!(sealed.error, OpenError::Outage(_)));
    world.token.state().out = false;
    let opened = sealed.sealed.unwrap().recover(Records::default()).unwrap_or_else(|again| panic!("{}", again.error));
    assert_eq!(opened.sink.0, expected);
}

#[test]
fn a_newer_version_is_unsupported_and_a_flipped_version_is_corrupt() {
    let world = World::new(tuning(Strength::Off));
    let change = |row: Vec<u8>| {
        let changed = world.with_disk(world.disk.bytes());
        let database = Database::builder().create_with_backend(changed.disk.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        let table: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("meta");
        transaction.open_table(table).unwrap().insert(0, row.as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(database);
        refused(&changed)
    };
    let sum = |row: &[u8]| {
        let hash = frostkeep::hash::Framed::new("frostkeep/store/row/v1").part(&[1]).part(&0u64.to_be_bytes());
        [row, &hash.part(row).finish()].concat()
    };
    let newer = [&2u16.to_be_bytes()[..], &[0; 16]].concat();
    assert!(matches!(change(sum(&newer)), OpenError::UnsupportedVersion { found: 2, supported: 1 }));
    assert!(matches!(change([&newer[..], &[0; 32]].concat()), OpenError::Corrupt { .. }));
}

// ---- damage

const TABLES: [&str; 8] = ["meta", "keys", "head", "bundles", "frames", "wraps", "bundle_wraps", "snapshots"];

/// Changes one row of a copy of the disk through the container, so that only our own checks can find it.
fn damaged(world: &World, table: &str, row: usize, change: impl Fn(&mut Vec<u8>)) -> Option<World> {
    let copy = world.with_disk(world.disk.bytes());
    let database = Database::builder().create_with_backend(copy.disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut found = false;
    if table == "chunks" {
        let mut table = transaction.open_table(TableDefinition::<(u64, u32), &[u8]>::new("chunks")).unwrap();
        let at = table.iter().unwrap().nth(row).map(|row| row.unwrap()).map(|(k, v)| (k.value(), v.value().to_vec()));
        if let Some((key, mut value)) = at {
            change(&mut value);
            table.insert(key, value.as_slice()).unwrap();
            found = true;
        }
    } else {
        let mut table = transaction.open_table(TableDefinition::<u64, &[u8]>::new(table)).unwrap();
        let at = table.iter().unwrap().nth(row).map(|row| row.unwrap()).map(|(k, v)| (k.value(), v.value().to_vec()));
        if let Some((key, mut value)) = at {
            change(&mut value);
            table.insert(key, value.as_slice()).unwrap();
            found = true;
        }
    }
    transaction.commit().unwrap();
    drop(database);
    found.then_some(copy)
}

#[test]
fn any_flipped_bit_in_any_row_is_corrupt_or_changes_nothing() {
    let mut tuning = tuning(Strength::Every(4));
    tuning.snapshot_floor_bytes = 1_500;
    tuning.bundle_frames_max = 3;
    let world = World::new(tuning);
    let mut running = world.open();
    write(&mut running, 17);
    let expected = running.acknowledged();
    drop(running);
    let (mut corrupt, mut same) = (0, 0);
    for table in TABLES.iter().chain(&["chunks"]) {
        for row in 0..3 {
            let mut bits = 1;
            let mut bit = 0;
            while bit < bits {
                let copy = damaged(&world, table, row, |value| value[bit / 8] ^= 1 << (bit % 8));
                let Some(copy) = copy else { break };
                if bits == 1 {
                    damaged(&world, table, row, |value| assert!(!value.is_empty()));
                    bits = row_bits(&world, table, row);
                }
                match copy.try_open() {
                    Err(OpenError::Corrupt { .. }) => corrupt += 1,
                    Err(other) => panic!("{table} row {row} bit {bit}: {other}"),
                    Ok(running) => {
                        assert_eq!(running.records.lock().unwrap().0, expected, "{table} row {row} bit {bit}");
                        same += 1;
                    }
                }
                bit += 37;
            }
        }
    }
    assert!(corrupt > 100, "{corrupt} corrupt, {same} the same");
}

fn row_bits(world: &World, table: &str, row: usize) -> usize {
    let bits = std::cell::Cell::new(0);
    damaged(world, table, row, |value| bits.set(value.len() * 8));
    bits.get()
}

#[test]
fn a_missing_row_a_gap_and_a_cut_end_are_corrupt() {
    let world = World::new(tuning(Strength::Off));
    let mut running = world.open();
    write(&mut running, 6);
    drop(running);
    for table in TABLES {
        for last in [false, true] {
            let copy = world.with_disk(world.disk.bytes());
            let database = Database::builder().create_with_backend(copy.disk.clone()).unwrap();
            let transaction = database.begin_write().unwrap();
            let gone = {
                let mut table = transaction.open_table(TableDefinition::<u64, &[u8]>::new(table)).unwrap();
                let gone = if last { table.pop_last() } else { table.pop_first() };
                gone.unwrap().is_some()
            };
            transaction.commit().unwrap();
            drop(database);
            if gone {
                let error = refused(&copy);
                assert!(matches!(error, OpenError::Corrupt { .. }), "{table}: {error}");
            }
        }
    }
}

/// The frame rows at a first position, in the order frames, wraps, bundle wraps.
fn frame_rows(world: &World, first: u64) -> Vec<Vec<u8>> {
    let database = Database::builder().create_with_backend(world.with_disk(world.disk.bytes()).disk).unwrap();
    let transaction = database.begin_write().unwrap();
    let row = |table: &&str| {
        let table = transaction.open_table(TableDefinition::<u64, &[u8]>::new(table)).unwrap();
        table.get(first).unwrap().unwrap().value().to_vec()
    };
    ["frames", "wraps", "bundle_wraps"].iter().map(row).collect()
}

#[test]
fn a_frame_of_another_branch_of_the_same_store_breaks_the_chain() {
    let world = World::new(tuning(Strength::Off));
    let mut running = world.open();
    write(&mut running, 2);
    drop(running);
    let branch = |name: &str| {
        let branch = world.with_disk(world.disk.bytes());
        let mut running = branch.open();
        settle(&mut running);
        let mut middle = 0;
        for number in 0..3 {
            let position = running.enter(format!("{name} {number}").as_bytes());
            settle(&mut running);
            middle = if number == 1 { position.number() } else { middle };
        }
        drop(running);
        (branch, middle)
    };
    let ((ours, middle), (theirs, _)) = (branch("ours"), branch("theirs"));
    let spliced = ours.with_disk(ours.disk.bytes());
    let database = Database::builder().create_with_backend(spliced.disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    for (table, row) in ["frames", "wraps", "bundle_wraps"].iter().zip(frame_rows(&theirs, middle)) {
        let mut table = transaction.open_table(TableDefinition::<u64, &[u8]>::new(table)).unwrap();
        table.insert(middle, row.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let OpenError::Corrupt { place, what } = refused(&spliced) else { panic!("not corrupt") };
    assert_eq!((place, what.as_str()), (format!("frame at position {middle}"), "does not continue the chain"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_container_of_arbitrary_bytes_never_panics_and_never_opens(bytes in proptest::collection::vec(any::<u8>(), 0..9_000)) {
        let token = Token::new();
        let world = World::new(tuning(Strength::Off));
        let opening = Opening::over(Disk::new(bytes), token.provider(), world.environment(), world.tuning);
        prop_assert!(opening.is_err());
    }

    #[test]
    fn damage_to_the_container_itself_is_corrupt_or_changes_nothing(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let world = World::new(tuning(Strength::Off));
        let mut running = world.open();
        write(&mut running, 3);
        let expected = running.acknowledged();
        drop(running);
        let mut bytes = world.disk.bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match world.with_disk(bytes).try_open() {
            Ok(running) => prop_assert_eq!(&running.records.lock().unwrap().0, &expected),
            Err(OpenError::Corrupt { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

// ---- the anchor (I6)

#[test]
fn under_strict_nothing_is_released_before_the_opening_anchor_step() {
    let world = World::new(tuning(Strength::Strict));
    let mut running = world.open();
    assert_eq!(running.line.status().releases, Releases::AwaitingOpeningAnchor);
    world.token.state().script = AnchorScript::Refused;
    settle(&mut running);
    assert_eq!(running.line.status().releases, Releases::AwaitingOpeningAnchor);
    assert!(!running.line.status().epoch_recorded);
    world.token.state().script = AnchorScript::Works;
    world.clock.advance(Duration::from_secs(2));
    settle(&mut running);
    assert_eq!(running.line.status().releases, Releases::Allowed);
    assert!(running.line.status().epoch_recorded);
}

#[test]
fn an_older_disk_is_rolled_back_and_another_branch_is_too() {
    for strength in [Strength::Strict, Strength::Every(2)] {
        let world = World::new(tuning(strength));
        let mut running = world.open();
        write(&mut running, 4);
        drop(running);
        let old = world.disk.bytes();
        let old_anchor = world.token.state().anchor;
        let mut running = world.open();
        write(&mut running, 4);
        drop(running);
        assert!(matches!(refused(&world.with_disk(old.clone())), OpenError::RolledBack { .. }));
        // A branch that grew past the anchor while the token was cheated.
        let anchor = world.token.state().anchor;
        world.token.state().anchor = old_anchor;
        let branch = world.with_disk(old);
        let mut running = branch.open();
        write(&mut running, 9);
        drop(running);
        world.token.state().anchor = anchor;
        assert!(matches!(refused(&branch), OpenError::RolledBack { .. }));
    }
}

#[test]
fn two_copies_that_run_with_one_token_are_fenced_within_one_batch_at_strict() {
    let world = World::new(tuning(Strength::Strict));
    let mut first = world.open();
    write(&mut first, 2);
    let clone = world.with_disk(world.disk.bytes());
    let mut second = clone.open();
    settle(&mut second);
    assert_eq!(second.line.status().releases, Releases::Allowed);
    let durable = first.durable();
    let position = first.enter(b"signed by both");
    assert_eq!(first.persister.step(), Next::Stopped);
    assert_eq!(first.line.status().releases, Releases::FencedByAnchor);
    assert!(first.durable() < position && first.durable() == durable, "the clone's batch became durable");
    assert!(world.token.state().fenced);
}

#[test]
fn after_a_reconnection_the_anchor_is_read_before_the_next_seal() {
    let world = World::new(tuning(Strength::Every(1_000)));
    let mut running = world.open();
    write(&mut running, 3);
    let mut foreign = world.token.state().anchor.unwrap();
    foreign.epoch += 1;
    world.token.state().anchor = Some(foreign);
    write(&mut running, 1);
    assert_eq!(running.line.status().releases, Releases::Allowed, "within the window of every = N");
    world.token.state().connection += 1;
    let wraps = world.token.state().wraps;
    running.enter(b"not sealed");
    assert_eq!(running.persister.step(), Next::Stopped);
    assert_eq!(world.token.state().wraps, wraps);
    assert_eq!(running.line.status().releases, Releases::FencedByAnchor);
}

#[test]
fn while_the_anchor_cannot_be_read_after_a_reconnection_no_work_is_admitted() {
    let world = World::new(tuning(Strength::Every(1_000)));
    let mut running = world.open();
    write(&mut running, 1);
    world.token.state().connection += 1;
    world.token.state().reads_fail = true;
    let wraps = world.token.state().wraps;
    let position = running.enter(b"waits");
    settle(&mut running);
    assert_eq!(world.token.state().wraps, wraps);
    assert!(!running.line.status().admits_work());
    world.token.state().reads_fail = false;
    settle(&mut running);
    assert!(running.line.status().admits_work());
    assert_eq!(running.durable(), position);
}

#[test]
fn an_interrupted_anchor_update_is_ours_whether_it_landed_or_not() {
    for strength in [Strength::Strict, Strength::Every(2)] {
        for script in [AnchorScript::AppliedAnswerLost, AnchorScript::Refused, AnchorScript::Lies] {
            let world = World::new(tuning(strength));
            let mut running = world.open();
            write(&mut running, 3);
            world.token.state().script = script;
            running.enter(b"one");
            running.enter(b"two");
            settle(&mut running);
            world.token.state().script = AnchorScript::Works;
            // A crash right here opens.
            let anchor = world.token.state().anchor;
            drop(world.with_disk(world.disk.bytes()).open());
            assert_eq!(world.token.state().anchor, anchor);
            // And without a crash it goes on.
            world.token.state().connection += 1;
            world.clock.advance(Duration::from_secs(2));
            settle(&mut running);
            let status = running.line.status();
            assert_eq!(status.releases, Releases::Allowed, "{strength:?} {script:?}");
            assert_eq!(running.durable(), running.line.last(), "{strength:?} {script:?}");
        }
    }
}

#[test]
fn under_every_n_the_position_rises_while_the_anchor_is_owed_and_the_line_stops_at_2n() {
    let world = World::new(tuning(Strength::Every(5)));
    let mut running = world.open();
    settle(&mut running);
    world.token.state().script = AnchorScript::Refused;
    for _ in 0..40 {
        running.enter(b"owed");
        settle(&mut running);
    }
    let status = running.line.status();
    assert_eq!(status.anchor.owed_records, 10, "2N");
    assert_eq!(status.durable.number(), status.anchor.confirmed.unwrap().number() + 10);
    assert_eq!(status.health.state, ProviderState::Out);
    world.token.state().script = AnchorScript::Works;
    world.clock.advance(Duration::from_secs(2));
    settle(&mut running);
    settle(&mut running);
    assert_eq!(running.durable(), running.line.last());
    assert!(running.line.status().anchor.owed_records < 5);
}

#[test]
fn what_must_be_anchored_at_once_is() {
    let world = World::new(tuning(Strength::Every(1_000)));
    let mut running = world.open();
    write(&mut running, 3);
    let freeze = running.enter_record(b"freeze", true);
    settle(&mut running);
    assert_eq!(world.token.state().anchor.unwrap().position, freeze.number());
}

#[test]
fn what_must_be_anchored_at_once_is_also_behind_an_update_that_is_not_confirmed() {
    let world = World::new(tuning(Strength::Every(1_000)));
    let mut running = world.open();
    write(&mut running, 1);
    world.token.state().script = AnchorScript::Refused;
    running.enter_record(b"policy", true);
    settle(&mut running);
    let freeze = running.enter_record(b"freeze", true);
    settle(&mut running);
    assert_eq!(running.durable(), freeze);
    world.token.state().script = AnchorScript::Works;
    world.clock.advance(Duration::from_secs(2));
    settle(&mut running);
    assert_eq!(world.token.state().anchor.unwrap().position, freeze.number());
}

#[test]
fn a_wrong_answer_of_the_token_is_not_what_a_bundle_or_a_snapshot_hangs_on() {
    let mut tuning = tuning(Strength::Off);
    tuning.bundle_frames_max = 2;
    tuning.snapshot_floor_bytes = 400;
    let world = World::new(tuning);
    let mut running = world.open();
    for number in 0..20 {
        // Each call of a batch once: the frame's wrap, the bundle's, the snapshot's.
        world.token.state().garbled_wrap = Some(number % 3);
        write(&mut running, 1);
        settle(&mut running);
        let copy = world.with_disk(world.disk.bytes()).open();
        assert_eq!(copy.records.lock().unwrap().0, running.acknowledged(), "after {number}");
    }
    assert!(running.line.status().counters.snapshots > 0);
    assert_eq!(running.acknowledged().len(), 20);
    let disk = Disk::new(Vec::new());
    world.token.state().garbled_wrap = Some(0);
    let made = create_over(disk, &mut *world.token.provider(), &mut world.environment());
    assert!(matches!(made, Err(CreateError::Provider { .. })), "{made:?}");
}

#[test]
fn a_token_without_anchors_turns_the_strength_off_and_says_so() {
    let world = World::new(tuning(Strength::Strict));
    world.token.state().anchors = false;
    let mut running = world.open();
    write(&mut running, 2);
    let status = running.line.status();
    assert_eq!((status.anchor.strength, status.anchor.supported), (Strength::Off, false));
    assert_eq!(running.durable(), running.line.last());
}

#[test]
fn a_token_that_keeps_another_stores_anchor_is_not_taken_over() {
    let world = World::new(tuning(Strength::Strict));
    let mut running = world.open();
    write(&mut running, 1);
    let made = create_over(Disk::new(Vec::new()), &mut *world.token.provider(), &mut world.environment());
    assert!(matches!(made, Err(CreateError::AnchorHeld { .. })));
}

#[test]
fn stopping_writes_what_waits_and_anchors_what_is_owed() {
    let world = World::new(tuning(Strength::Every(1_000)));
    let running = world.open();
    let line = running.line.clone();
    for number in 0..10_000 {
        let slot = line.reserve(SlotKind::Round, 64);
        let Ok(slot) = slot else { break };
        line.enter(slot, EncodedRecord::new(Zeroizing::new(format!("{number}").into_bytes())).unwrap());
    }
    let status = running.persister.spawn().unwrap().stop();
    assert_eq!(status.durable, line.last());
    assert_eq!(status.anchor.owed_records, 0);
    assert_eq!(world.token.state().anchor.unwrap().position, line.last().number());
}

#[test]
fn a_persister_that_panicked_keeps_the_state_to_its_process_while_that_one_releases() {
    let world = World::new(tuning(Strength::Off));
    let directory = tempfile::tempdir().unwrap();
    create(directory.path(), &mut *world.token.provider(), &mut world.environment()).unwrap();
    let begin = || Opening::begin(directory.path(), world.token.provider(), world.environment(), world.tuning);
    let Ok(opened) = begin().unwrap().recover(Records::default()) else { panic!("it did not open") };
    world.token.state().wraps_panic = true;
    let line = opened.line.clone();
    let handle = opened.persister.spawn().unwrap();
    while !matches!(line.status().storage, Storage::Failed { .. }) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Long enough for a thread that has nothing left to do.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(line.status().releases, Releases::Allowed);
        assert!(matches!(begin(), Err(OpenError::Busy { .. })));
    }
    let status = handle.stop();
    assert_eq!(status.releases, Releases::Closed);
    assert!(matches!(status.storage, Storage::Failed { .. }));
    world.token.state().wraps_panic = false;
    assert!(begin().unwrap().recover(Records::default()).is_ok());
}
