//! Goal: the main line works on both kinds of token. Method: a whole session, verified under the output key.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod kit;

use frostkeep::frost::Signature;
use kit::{Cluster, Kind, Plan, durable_part, member, session, start, subject};

async fn a_session_ends_in_a_signature(kind: Kind) {
    let cluster = Cluster::new(Plan::two_of_three(kind)).await;
    for (index, pair) in [[1, 2], [1, 3], [2, 3]].into_iter().enumerate() {
        let included = pair.map(member);
        let (name, what) = (session(&format!("s{index}")), subject(index as u8 + 1));
        let signature = cluster.sign(&name, &what, &included).await;
        cluster.group.verify(what.message, None, &Signature::new(signature)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_signs_on_a_scripted_token() {
    a_session_ends_in_a_signature(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_signs_on_softhsm() {
    a_session_ends_in_a_signature(Kind::Soft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_round_is_served_again_after_a_restart_and_no_nonces_are_left() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let (name, what) = (session("again"), subject(9));
    let package = cluster.package(&name, &what, &[member(1), member(2)]);
    let request = cluster.request(&name, &what, 1, &package, member(1));
    let first = start(&cluster.nodes[0].engine(), &request).await.unwrap();
    cluster.nodes[0].stop();
    let engine = cluster.nodes[0].start_open().await;
    let again = start(&engine, &request).await.unwrap();
    assert_eq!(durable_part(&first), durable_part(&again));
    assert!(again.next_commitments().is_none());
}
