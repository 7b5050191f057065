//! Goal: what a caller that goes away, an engine that outlives its node and a large transaction must not do. Method: the
//! engine on a scripted token.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod kit;

use std::time::{Duration, Instant};

use frostkeep::engine::Refusal;
use frostkeep::limits;
use kit::{Cluster, Kind, Plan, admin, member, session, start, subject};

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_is_recorded_although_its_caller_went_away() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let bench = cluster.nodes[0].open_by_hand();
    let before = bench.line.last();
    let caller = admin();
    let freeze = bench.engine.freeze(&caller, &cluster.key_group, "gone");
    // Polled once, then dropped.
    let _ = tokio::time::timeout(Duration::ZERO, freeze).await;
    kit::eventually("the freeze is in line", || bench.line.last() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_node_has_stopped_releases_nothing() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let (name, what) = (session("stopped"), subject(8));
    let package = cluster.package(&name, &what, &[member(1), member(2)]);
    let request = cluster.request(&name, &what, 1, &package, member(1));
    let old = cluster.nodes[0].engine();
    start(&old, &request).await.unwrap();
    cluster.nodes[0].stop();
    let new = cluster.nodes[0].start_open().await;
    new.freeze(&admin(), &cluster.key_group, "stop").await.unwrap();
    assert!(matches!(start(&new, &request).await, Err(Refusal::Frozen { .. })));
    // The same process, the same state: the freeze has returned, and a share must not leave any more (I8).
    let served = start(&old, &request).await;
    assert!(served.is_err(), "a share left after the freeze had returned");
}

#[test]
fn the_signature_hashes_of_the_largest_transaction_are_cheap() {
    use frostkeep::bitcoin::{Prevout, UnsignedTransaction};
    let inputs = limits::TRANSACTION_INPUTS_MAX;
    // Version 2, `inputs` inputs without scripts, one output, no lock time.
    let mut raw = vec![2, 0, 0, 0, 0xfd];
    raw.extend(u16::try_from(inputs).unwrap().to_le_bytes());
    for index in 0..inputs {
        raw.extend([7; 32]);
        raw.extend(u32::try_from(index).unwrap().to_le_bytes());
        raw.push(0);
        raw.extend([0xff; 4]);
    }
    raw.push(1);
    raw.extend(1_000u64.to_le_bytes());
    let mut script = vec![0x51, 0x20];
    script.extend([0x79, 0xbe, 0x66, 0x7e, 0xf9, 0xdc, 0xbb, 0xac, 0x55, 0xa0, 0x62, 0x95, 0xce, 0x87, 0x0b, 0x07]);
    script.extend([0x02, 0x9b, 0xfc, 0xdb, 0x2d, 0xce, 0x28, 0xd9, 0x59, 0xf2, 0x81, 0x5b, 0x16, 0xf8, 0x17, 0x98]);
    raw.push(34);
    raw.extend(&script);
    raw.extend([0; 4]);
    let prevout = Prevout { value_sat: 10_000, script: frostkeep::bitcoin::ScriptBytes::new(script) };
    let transaction = UnsignedTransaction::from_parts(&raw, &vec![prevout; inputs]).unwrap();
    let start = Instant::now();
    assert_eq!(transaction.signature_hashes().len(), 2 * inputs);
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
}
