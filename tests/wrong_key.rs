//! Goal: a node whose token was swapped for one with another key under the same names seals nothing under it and writes nothing: it
//! is fenced by class `key`, serves what was durable, and goes on by itself when the right token is back. Started before the wrong
//! token, it is a sealed node that says `wrong_key`.
//!
//! Method: two SoftHSM tokens whose keys have the same labels, and the same `CKA_ID` in one case; their directories are exchanged
//! under a running node. Every file of the state is compared.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod kit;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use frostkeep::engine::{Engine, Refusal, SignRequest};
use frostkeep::hsm::entropy;
use frostkeep::hsm::health::{Health, OutageClass, ProviderState};
use frostkeep::hsm::provision::{self, CreateKey};
use frostkeep::node::Phase;
use frostkeep::reasons::Reason;
use frostkeep::store::OpenError;
use kit::{Cluster, Kind, Plan, Token, durable_part, eventually, member, session, start, subject};

fn request(cluster: &Cluster, name: &str, byte: u8) -> SignRequest {
    let (name, what) = (session(name), subject(byte));
    let package = cluster.package(&name, &what, &[member(1), member(2)]);
    cluster.request(&name, &what, 1, &package, member(1))
}

/// Every file below, with its bytes.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn exchange(one: &Path, other: &Path) {
    let between = one.with_extension("between");
    fs::rename(one, &between).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(&between, other).unwrap();
}

/// The fence stands, and says why, through several probes.
async fn is_fenced(engine: &Engine) {
    let sees_another = |health: Health| health.outage.is_some_and(|outage| outage.detail.contains("key_changed"));
    eventually("the node sees another key", || sees_another(engine.status().health)).await;
    for _ in 0..5 {
        let health = engine.status().health;
        let outage = health.outage.clone().unwrap();
        assert_eq!((health.state, outage.class), (ProviderState::Fenced, OutageClass::Key), "{outage:?}");
        assert!(outage.detail.contains("key_changed") && outage.next_try.is_some(), "{outage:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_token_was_swapped_writes_nothing_and_goes_on_when_the_right_one_is_back() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Soft)).await;
    let engine = cluster.nodes[0].engine();
    let mut rounds = Vec::new();
    for number in 0..3 {
        let request = request(&cluster, &format!("durable-{number}"), number);
        let bytes = durable_part(&start(&engine, &request).await.unwrap());
        rounds.push((request, bytes));
    }
    let fresh = request(&cluster, "fresh", 40);
    let other_directory = tempfile::tempdir().unwrap();
    let Token::Soft(ours) = &cluster.nodes[0].token else { panic!("a real token") };
    let ours = ours.token_directory();
    let Token::Soft(other) = Token::soft(other_directory.path(), "kit-0") else { panic!("a real token") };
    let show_other = || {
        let config = Token::Soft(other.clone()).config();
        provision::show(&config, true, Box::new(entropy::os())).unwrap().keys
    };
    let key_of_other = show_other();
    let state = cluster.nodes[0].state().to_owned();
    let (before, position) = (files(&state), engine.status().durable);

    exchange(&ours, &other.token_directory());
    is_fenced(&engine).await;
    for _ in 0..3 {
        let refusal = start(&engine, &fresh).await.unwrap_err();
        let Refusal::KeyProviderUnavailable { outage, pending, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!((outage.class, *pending), (OutageClass::Key, false));
    }
    for (request, bytes) in &rounds {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
    is_fenced(&engine).await;
    assert_eq!(engine.status().durable, position);
    assert!(files(&state) == before, "the state was written");

    // Started before the wrong token: sealed, by name, and nothing is written either.
    drop(engine);
    cluster.nodes[0].stop();
    cluster.nodes[0].start();
    let node = cluster.nodes[0].node.as_ref().unwrap();
    let is_wrong_key = || match node.engine() {
        Err(Refusal::NotOpen(error)) => matches!(error.as_ref(), OpenError::WrongKey { .. }),
        Err(Refusal::Starting) => false,
        Err(refusal) => panic!("{refusal}"),
        Ok(_) => panic!("it opened under another key"),
    };
    eventually("the node says which key is wrong", is_wrong_key).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let Err(refusal) = node.engine() else { panic!("it opened under another key") };
    assert_eq!(refusal.reason(), Reason::WrongKey, "{refusal}");
    assert!(matches!(node.phase(), Phase::Sealed { .. }));

    exchange(&ours, &other.token_directory());
    let engine = cluster.nodes[0].opened().await;
    // The container notes on disk that it is open; records there are none but that of the new epoch.
    assert_eq!(engine.status().durable.number(), position.number() + 1, "a sealed node wrote a record");
    for (request, bytes) in &rounds {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
    start(&engine, &self::request(&cluster, "after", 41)).await.unwrap();
    assert_eq!(show_other(), key_of_other, "the wrong token was left as it was");
}

/// The same names to the last: by id too. Nothing but the check value tells them apart; a running node heals without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_of_the_same_label_and_id_is_another_key_and_the_running_node_heals_when_its_own_is_back() {
    let cluster = Cluster::new(Plan::two_of_three(Kind::Soft)).await;
    let engine = cluster.nodes[0].engine();
    let durable = request(&cluster, "durable", 1);
    let bytes = durable_part(&start(&engine, &durable).await.unwrap());
    let config = cluster.nodes[0].token.config();
    let Token::Soft(token) = &cluster.nodes[0].token else { panic!("a real token") };
    let id = provision::show(&config, true, Box::new(entropy::os())).unwrap().keys.unwrap()[0].id.clone();
    let escaped: String = id.as_bytes().chunks(2).map(|hex| format!("%{}", String::from_utf8_lossy(hex))).collect();
    let state = cluster.nodes[0].state().to_owned();
    let before = files(&state);

    let away = token.directory().join("away");
    token.take_objects(&away).unwrap();
    let mut named = config.clone();
    named.uri = config.uri.replacen('?', &format!(";id={escaped}?"), 1);
    assert!(provision::init(&named, CreateKey::IfAbsent, Box::new(entropy::os())).unwrap().created);
    is_fenced(&engine).await;
    let detail = engine.status().health.outage.unwrap().detail;
    assert!(detail.contains("check value"), "{detail}");
    let refusal = start(&engine, &request(&cluster, "fresh", 2)).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::KeyProviderUnavailable);
    assert_eq!(durable_part(&start(&engine, &durable).await.unwrap()), bytes);
    assert!(files(&state) == before, "the state was written");

    token.take_objects(&token.directory().join("other")).unwrap();
    token.put_objects(&away).unwrap();
    eventually("the node heals by itself", || engine.status().admits_work()).await;
    start(&engine, &request(&cluster, "after", 3)).await.unwrap();
    assert_eq!(durable_part(&start(&engine, &durable).await.unwrap()), bytes);
}
