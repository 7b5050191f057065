//! I7: what a start that cannot go well says, and that it changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frostkeep::engine::Refusal;
use frostkeep::hash::Framed;
use frostkeep::node::{Node, Phase};
use frostkeep::reasons::Reason;
use frostkeep::store::{FreeSpace, OpenError, Opening, VolumeSpace};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::kit::{Bench, Kind, Plan, TestNode, coordinator, durable_part, eventually, member, session};
use crate::served::listing;
use crate::stage::{Stage, impatient};

/// Starts a node that does not open, and says why.
async fn refusal(node: &TestNode) -> (Arc<OpenError>, Option<Node>) {
    let started = match Node::start(node.config.clone(), node.token.provider()) {
        Ok(started) => started,
        Err(error) => return (Arc::new(error), None),
    };
    eventually("the opening has an outcome", || !matches!(started.phase(), Phase::Opening)).await;
    match started.phase() {
        Phase::Failed(error) => (error, None),
        Phase::Sealed { error, .. } => (error, Some(started)),
        Phase::Opening | Phase::Open(_) => panic!("it opened"),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        } else {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    }
}

/// Names that came, went, or hold other bytes.
fn changed(after: &BTreeMap<String, Vec<u8>>, before: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names: BTreeSet<_> = after.keys().chain(before.keys()).collect();
    names.into_iter().filter(|name| after.get(*name) != before.get(*name)).cloned().collect()
}

/// What a state directory holds. Of the container its rows: redb keeps a mark of its own for an opening under way.
fn contents(state: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = listing(state);
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), files.remove("store.redb").unwrap()).unwrap();
    let database = Database::open(image.path()).unwrap();
    let transaction = database.begin_read().unwrap();
    for name in ["meta", "keys", "head", "bundles", "frames", "wraps", "bundle_wraps", "snapshots"] {
        let Ok(table) = transaction.open_table(TableDefinition::<u64, &[u8]>::new(name)) else { continue };
        for row in table.iter().unwrap() {
            let (key, value) = row.unwrap();
            files.insert(format!("{name} {}", key.value()), value.value().to_vec());
        }
    }
    assert!(files.keys().any(|name| name.starts_with("frames ")), "the store has rows");
    files
}

/// The same container with a meta row of a format that does not exist yet.
fn make_newer(state: &Path) {
    let database = Database::open(state.join("store.redb")).unwrap();
    let table: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("meta");
    let row = [&2u16.to_be_bytes()[..], &[0; 16]].concat();
    let sum = Framed::new("frostkeep/store/row/v1").part(&[1]).part(&0u64.to_be_bytes()).part(&row).finish();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(0, [&row[..], &sum].concat().as_slice()).unwrap();
    transaction.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_six_faults_are_six_errors_and_none_of_them_starts_empty_or_changes_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = TestNode::new(directory.path(), Kind::Scripted, 0);
    let identity = node.start_open().await.node_identity().unwrap();
    node.stop();
    let older = directory.path().join("older");
    copy(node.state(), &older);
    let healthy = node.start_open().await;
    assert_eq!(healthy.node_identity().unwrap(), identity);
    let (busy, _) = refusal(&node).await;
    drop(healthy);
    node.stop();
    let good = directory.path().join("good");
    copy(node.state(), &good);
    let original = node.config.state.clone();

    let place = |node: &mut TestNode, name: &str, from: &Path| {
        node.config.state = directory.path().join(name);
        copy(from, &node.config.state);
    };
    let mut reasons = vec![busy.reason()];
    assert!(matches!(*busy, OpenError::Busy { .. }), "{busy}");

    node.config.state = directory.path().join("nothing");
    let (missing, _) = refusal(&node).await;
    assert!(matches!(*missing, OpenError::Missing { .. }), "{missing}");
    assert!(!node.config.state.exists(), "a look at a missing store made one");
    reasons.push(missing.reason());

    // An empty file, a dangling link and noise in the place of the container (trap 6).
    for (name, corrupt) in [("empty", 0), ("noise", 1), ("link", 2)] {
        place(&mut node, name, &good);
        let container = node.state().join("store.redb");
        match corrupt {
            0 => std::fs::write(&container, []).unwrap(),
            1 => {
                let mut bytes = std::fs::read(&container).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                std::fs::write(&container, bytes).unwrap();
            }
            _ => {
                std::fs::remove_file(&container).unwrap();
                std::os::unix::fs::symlink("gone", &container).unwrap();
            }
        }
        let before = listing(node.state());
        let (error, _) = refusal(&node).await;
        assert!(matches!(*error, OpenError::Corrupt { .. }), "{name}: {error}");
        assert_eq!(changed(&listing(node.state()), &before), [""; 0], "{name}");
        reasons.push(error.reason());
    }
    reasons.dedup();

    place(&mut node, "rolled-back", &older);
    let before = contents(node.state());
    let (error, _) = refusal(&node).await;
    assert!(matches!(*error, OpenError::RolledBack { .. }), "{error}");
    assert_eq!(changed(&contents(node.state()), &before), [""; 0]);
    reasons.push(error.reason());

    place(&mut node, "newer", &good);
    make_newer(node.state());
    let before = contents(node.state());
    let (error, _) = refusal(&node).await;
    assert!(matches!(*error, OpenError::UnsupportedVersion { found: 2, .. }), "{error}");
    assert_eq!(changed(&contents(node.state()), &before), [""; 0]);
    reasons.push(error.reason());

    // Another key answers under the name: sealed, since the right one may come back.
    node.config.state = original;
    let directory_before = contents(node.state());
    let handle = node.token.scripted_handle().clone();
    let other = handle.clone_token();
    other.swap_key(Some([0x77; 32]));
    let right = std::mem::replace(&mut node.token, crate::kit::Token::Scripted(other.clone()));
    let (error, sealed) = refusal(&node).await;
    assert!(matches!(*error, OpenError::WrongKey { .. }), "{error}");
    let sealed = sealed.expect("a wrong key seals");
    assert!(matches!(sealed.engine(), Err(Refusal::NotOpen(_))));
    reasons.push(error.reason());
    sealed.stop();
    assert_eq!(changed(&contents(node.state()), &directory_before), [""; 0]);

    let mut distinct = Vec::new();
    for reason in &reasons {
        if !distinct.contains(reason) {
            distinct.push(*reason);
        }
    }
    assert_eq!(distinct.len(), 6, "{reasons:?}");
    assert!(!distinct.contains(&Reason::KeyProviderUnavailable));

    // And after all of that the state is what it was.
    node.token = right;
    assert_eq!(node.start_open().await.node_identity().unwrap(), identity);
    node.stop();
}

async fn an_outage_at_start_makes_a_sealed_node_that_heals_by_itself(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let (request, reply) = stage.durable_round("sealed", 1).await;
    stage.crash();
    let node = &mut stage.cluster.nodes[0];
    let before = contents(node.state());
    node.token.take_away();
    let (error, sealed) = refusal(node).await;
    assert_eq!(error.reason(), Reason::KeyProviderUnavailable, "{error}");
    let sealed = sealed.expect("an outage seals");
    let Err(Refusal::NotOpen(told)) = sealed.engine() else { panic!("a sealed node has no engine") };
    assert!(matches!(*told, OpenError::Outage(_)), "{told}");
    assert_eq!(changed(&contents(node.state()), &before), [""; 0]);
    node.token.bring_back();
    let engine = sealed.opened().await.unwrap();
    let served = crate::kit::start(&engine, &request).await.unwrap();
    assert_eq!(durable_part(&served), durable_part(&reply));
    sealed.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_an_outage_at_start_makes_a_sealed_node_that_heals_by_itself() {
    an_outage_at_start_makes_a_sealed_node_that_heals_by_itself(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_an_outage_at_start_makes_a_sealed_node_that_heals_by_itself_on_softhsm() {
    an_outage_at_start_makes_a_sealed_node_that_heals_by_itself(Kind::Soft).await;
}

/// Room that a test sets, bytes.
struct Room(Arc<AtomicU64>);

impl FreeSpace for Room {
    fn free_bytes(&self) -> std::io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

/// Opens the first node, which records nothing by itself: not even its epoch.
fn reopen(stage: &mut Stage, space: Box<dyn FreeSpace>, disk_reserve_bytes: u64) {
    stage.crash();
    let node = &mut stage.cluster.nodes[0];
    node.config.tuning.disk_reserve_bytes = disk_reserve_bytes;
    let environment = Bench::environment(node, space);
    let opening = Opening::begin(node.state(), node.token.provider(), environment, node.config.tuning).unwrap();
    let bench = Bench::unsettled(node, impatient(), opening);
    stage.replace(bench);
}

async fn a_token_that_goes_before_the_epoch_is_recorded_leaves_durable_rounds_served(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let (request, reply) = stage.durable_round("epoch", 1).await;
    let space = VolumeSpace::of(stage.cluster.nodes[0].state());
    reopen(&mut stage, Box::new(space), 0);
    let serves = async |stage: &Stage| {
        let served = stage.at_once(&coordinator(), &request).await.unwrap();
        assert_eq!(durable_part(&served), durable_part(&reply));
    };
    serves(&stage).await;
    let fresh = stage.opening_request("epoch-fresh", 2);
    let refusal = stage.at_once(&coordinator(), &fresh).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Starting), "{refusal}");
    stage.outage().await;
    assert!(!stage.bench().line.status().epoch_recorded);
    serves(&stage).await;
    assert_eq!(stage.view(&request.session, |view| view.rounds.len()).unwrap(), 1);
    stage.cluster.commit(stage.engine(), &session("epoch-commit"), member(1)).unwrap();
    let refusal = stage.at_once(&coordinator(), &fresh).await.unwrap_err();
    assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: false, .. }), "{refusal}");
    stage.heal().await;
    assert!(stage.bench().line.status().epoch_recorded);
    serves(&stage).await;
    // No refusal took the nonces of its request.
    stage.answer(&coordinator(), &fresh).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_goes_before_the_epoch_is_recorded_leaves_durable_rounds_served_and_the_start_completes_itself() {
    a_token_that_goes_before_the_epoch_is_recorded_leaves_durable_rounds_served(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_goes_before_the_epoch_is_recorded_leaves_durable_rounds_served_on_softhsm() {
    a_token_that_goes_before_the_epoch_is_recorded_leaves_durable_rounds_served(Kind::Soft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_before_the_epoch_is_recorded_leaves_durable_rounds_served_and_the_start_completes_itself()
{
    let mut stage = Stage::new(Plan::two_of_three(Kind::Scripted)).await;
    let (request, reply) = stage.durable_round("full", 1).await;
    let room = Arc::new(AtomicU64::new(999));
    reopen(&mut stage, Box::new(Room(Arc::clone(&room))), 1_000);
    stage.bench().settle();
    assert!(!stage.bench().line.status().epoch_recorded);
    let served = stage.at_once(&coordinator(), &request).await.unwrap();
    assert_eq!(durable_part(&served), durable_part(&reply));
    let fresh = stage.opening_request("full-fresh", 2);
    let refusal = stage.at_once(&coordinator(), &fresh).await.unwrap_err();
    assert!(matches!(refusal, Refusal::DiskFull { free: 999, reserve: 1_000, pending: false }), "{refusal}");
    room.store(1_000, Ordering::SeqCst);
    stage.step_until("the epoch is recorded", |status| status.epoch_recorded).await;
    stage.answer(&coordinator(), &fresh).await.unwrap();
}
