//! Goal: what a caller that goes away and an engine that outlives its node must not do. Method: the
//! engine on a scripted token.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod kit;

use std::time::Duration;

use frostkeep::engine::Refusal;
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
