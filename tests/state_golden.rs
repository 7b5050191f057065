//! Goal: the state of every version opens for ever: its records and its snapshots, with the identity, the key group and the
//! rounds that they hold. Method: stores that earlier versions wrote, under a key that this test knows.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod golden;
mod kit;

use std::path::Path;

use frostkeep::engine::{Engine, FinalizeRequest, Finish, KeyGroupPhase};
use frostkeep::frost::Signature;
use frostkeep::hsm::scripted::ScriptedHandle;
use frostkeep::ids::{AttemptPolicy, KeyGroupId, to_hex};
use frostkeep::node::init;
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use frostkeep::store::{Opening, VolumeSpace};
use kit::{Bench, Kind, TestNode, Token, admin, any_message, coordinator, member, session, subject};

/// A node whose token keeps no anchors and has always had this key.
fn node(directory: &Path) -> TestNode {
    let mut node = TestNode::new(directory, Kind::Scripted, 0);
    let token = ScriptedHandle::new("golden", [7; 32]);
    token.set_anchors(false);
    node.token = Token::Scripted(token);
    node.config.state = directory.join("golden");
    node.config.tuning.snapshot_floor_bytes = 1;
    node
}

fn share_of_the_open_round(engine: &Engine, key_group: KeyGroupId) -> String {
    let request = frostkeep::engine::SessionRequest { session: session("open"), key_group };
    let rounds = engine.session(&coordinator(), &request, |view| {
        assert_eq!(view.subject, subject(2));
        view.rounds.iter().map(|round| to_hex(&round.get().body.share)).collect::<Vec<_>>()
    });
    let rounds = rounds.unwrap();
    assert_eq!(rounds.len(), 1);
    rounds[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the fixture, by hand: cargo test --test state_golden generate -- --ignored"]
async fn generate() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = node(directory.path());
    init(&node.config, node.token.provider().as_mut()).unwrap();
    let engine = node.start_open().await;
    let own = engine.node_identity().unwrap();
    let holders = [(member(1), own), (member(2), own)].into();
    let confirmed = kit::generate(std::slice::from_ref(&engine), holders, 2, AttemptPolicy::Roast, any_message()).await;
    let key_group = confirmed.certificate().group().id();
    let mut cluster = kit::Cluster::of_one(node, confirmed, directory);

    let signature = cluster.sign(&session("done"), &subject(1), &[member(1), member(2)]).await;
    let package = cluster.package(&session("open"), &subject(2), &[member(1), member(2)]);
    let request = cluster.request(&session("open"), &subject(2), 1, &package, member(1));
    kit::start(&engine, &request).await.unwrap();
    let package = cluster.package(&session("aborted"), &subject(3), &[member(1), member(2)]);
    let request = cluster.request(&session("aborted"), &subject(3), 1, &package, member(1));
    kit::start(&engine, &request).await.unwrap();
    engine.abort_session(&coordinator(), &cluster.session_request(&session("aborted"))).await.unwrap();
    let report = engine.freeze(&admin(), &key_group, "golden").await.unwrap();
    engine.thaw(&admin(), &key_group, &[report.freeze]).await.unwrap();
    // Its records go into a snapshot, and a few come after.
    for _ in 0..3 {
        cluster.nodes[0].open_by_hand();
    }
    let engine = cluster.nodes[0].start_open().await;
    let policy = SigningPolicy { danger_sign_any_message: true, ..SigningPolicy::standard() };
    engine.set_policy(&admin(), &key_group, &policy).await.unwrap();
    let share = share_of_the_open_round(&engine, key_group);
    cluster.nodes[0].stop();

    let image = std::fs::read(cluster.nodes[0].config.state.join("store.redb")).unwrap();
    let expected = format!("{own}\n{key_group}\n{share}\n{}\n", to_hex(&signature));
    std::fs::create_dir_all(golden::fixture("state-v1", "")).unwrap();
    std::fs::write(golden::fixture("state-v1", "store.redb.sparse"), golden::sparse(&image)).unwrap();
    std::fs::write(golden::fixture("state-v1", "expected.txt"), expected).unwrap();
}

/// Written before there were client keys and replaced identities.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_the_first_records_opens_with_all_that_it_held_and_gets_its_client_key() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = node(directory.path());
    let image = golden::whole(&std::fs::read(golden::fixture("state-v1", "store.redb.sparse")).unwrap());
    std::fs::create_dir_all(node.state()).unwrap();
    std::fs::write(node.state().join("store.redb"), image).unwrap();
    let expected = std::fs::read_to_string(golden::fixture("state-v1", "expected.txt")).unwrap();
    let [identity, key_group, share, signature] = expected.lines().collect::<Vec<_>>().try_into().unwrap();
    let key_group: KeyGroupId = key_group.parse().unwrap();

    let mut kept = kit::outsider::Kept::default();
    let environment = Bench::environment(&node, Box::new(VolumeSpace::of(node.state())));
    let opening = Opening::begin(node.state(), node.token.provider(), environment, node.config.tuning);
    opening.unwrap().verify(&mut kept).unwrap();
    assert!(kept.items.len() > 5 && !kept.records.is_empty(), "it is read from a snapshot and from records");

    let mut client_key = None;
    for _ in 0..3 {
        let bench = node.open_by_hand();
        let engine = &bench.engine;
        assert_eq!(engine.node_identity().unwrap().to_string(), identity);
        let view = engine.key_group(&key_group).unwrap();
        assert_eq!((view.phase, view.sessions, view.frozen), (KeyGroupPhase::Active, 1, false));
        assert_eq!(view.local_members, [member(1), member(2)]);
        assert_eq!(view.seats, *view.certificate.unwrap().seats());
        assert_eq!(share_of_the_open_round(engine, key_group), share);
        let bytes: [u8; 64] = frostkeep::ids::from_hex("signature", signature).unwrap();
        let finish = FinalizeRequest {
            session: session("done"),
            key_group,
            subject: subject(1),
            finish: Finish::Signature(Signature::from_bytes(&bytes).unwrap()),
        };
        let finalized = engine.finalize_sign_round(&coordinator(), &finish).await.unwrap().unwrap();
        assert_eq!(*finalized.signature(), bytes);
        let aborted = FinalizeRequest { session: session("aborted"), subject: subject(3), ..finish };
        let refused = engine.finalize_sign_round(&coordinator(), &aborted).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::SessionAborted);
        let key = engine.client_key().unwrap();
        assert_eq!(*client_key.get_or_insert_with(|| key.clone()), key, "made once");
    }
}
