//! A store of every released version opens for ever.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods)]

mod golden;
mod store_kit;

use std::path::PathBuf;

use frostkeep::store::Strength;
use frostkeep_hsm::provider::AnchorValue;
use golden::{sparse, whole};
use store_kit::{Records, World, tuning};

fn fixture(name: &str) -> PathBuf {
    golden::fixture("store-v1", name)
}

/// What the fixture holds: 40 records in batches of one to three, one of 5 000 bytes, over two lives.
fn record(number: usize) -> Vec<u8> {
    if number == 20 { vec![0x5a; 5_000] } else { format!("record {number} of the golden store").into_bytes() }
}

fn golden_world() -> World {
    let mut tuning = tuning(Strength::Strict);
    tuning.snapshot_floor_bytes = 6_000;
    tuning.bundle_frames_max = 8;
    World::new(tuning)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
#[ignore = "writes the fixture, by hand: cargo test --test store_golden generate -- --ignored"]
fn generate() {
    let world = golden_world();
    let mut number = 0;
    for _ in 0..2 {
        let mut running = world.open();
        for batch in 0..10 {
            for _ in 0..1 + batch % 3 {
                running.enter(&record(number));
                number += 1;
            }
            while running.persister.step() == frostkeep::store::Next::Now {}
        }
        assert_eq!(running.durable(), running.line.last());
    }
    let AnchorValue { store, epoch, position, head } = world.token.state().anchor.unwrap();
    let anchor = format!("{}\n{epoch}\n{position}\n{}\n", hex(&store), hex(&head));
    std::fs::create_dir_all(fixture("")).unwrap();
    std::fs::write(fixture("store.redb.sparse"), sparse(&world.disk.bytes())).unwrap();
    std::fs::write(fixture("anchor.txt"), anchor).unwrap();
}

#[test]
fn a_store_of_version_1_opens_with_every_record_snapshot_bundle_and_anchor() {
    let image = whole(&std::fs::read(fixture("store.redb.sparse")).unwrap());
    let anchor = std::fs::read_to_string(fixture("anchor.txt")).unwrap();
    let mut lines = anchor.lines();
    let mut line = || lines.next().unwrap();
    let anchor = AnchorValue {
        store: frostkeep::ids::from_hex("store", line()).unwrap(),
        epoch: line().parse().unwrap(),
        position: line().parse().unwrap(),
        head: frostkeep::ids::from_hex("head", line()).unwrap(),
    };
    let fresh = golden_world();
    fresh.token.state().anchor = Some(anchor);
    let world = fresh.with_disk(image);
    let verified = world.opening().unwrap().verify(&mut Records::default()).unwrap();
    assert_eq!((verified.epoch, verified.last.number()), (2, anchor.position));
    assert!(verified.base.number() > 0 && verified.frames > 1, "{verified:?}");
    let mut running = world.open();
    let records: Vec<Vec<u8>> = running.records.lock().unwrap().0.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(records, (0..38).map(record).collect::<Vec<_>>());
    // And it goes on.
    let position = running.enter(b"written by this release");
    while running.persister.step() == frostkeep::store::Next::Now {}
    assert_eq!(running.durable(), position);
}
