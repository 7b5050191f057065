//! Goal: the traps of the public ancestor stay shut (the manual has the table). Method: one test each, on the scripted token;
//! those that other tests guard are named there.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use frostkeep::engine::{RoundReply, SignRequest};
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::AttemptPolicy;
use frostkeep::node::{Node, Phase};
use frostkeep::reasons::Reason;
use kit::outsider::Outsider;
use kit::{Cluster, any_message, durable_part, member, session, start, subject};

/// One node, member 1; member 2 is the test's own.
async fn room() -> (Cluster, Outsider) {
    Cluster::with_outsider(1, 1, 2, AttemptPolicy::Roast, any_message()).await
}

fn request(cluster: &Cluster, outsider: &Outsider, name: &str) -> SignRequest {
    let (id, what) = (session(name), subject(1));
    let own = cluster.commit(&cluster.nodes[0].engine(), &id, member(1)).unwrap();
    let theirs = outsider.commit(member(2)).1;
    let commitments = [(member(1), own), (member(2), theirs)].into();
    let package = frostkeep::frost::SigningPackage::new(what.message, commitments).unwrap();
    cluster.request(&id, &what, 1, &package, member(1))
}

/// The files of a state, with their sizes.
fn files(state: &Path) -> Vec<(PathBuf, u64)> {
    let mut found: Vec<_> = std::fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::metadata(path).unwrap().len()))
        .collect();
    found.sort();
    found
}

/// The container: the largest file.
fn container(state: &Path) -> PathBuf {
    files(state).into_iter().max_by_key(|(_, bytes)| *bytes).unwrap().0
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_2_a_hanging_token_holds_no_lock_that_a_cached_serve_or_a_status_needs() {
    let (cluster, outsider) = room().await;
    let engine = cluster.nodes[0].engine();
    let served = request(&cluster, &outsider, "served");
    let first = start(&engine, &served).await.unwrap();
    let fresh = request(&cluster, &outsider, "fresh");
    let token = cluster.nodes[0].token.scripted_handle();
    token.set_deadline(Duration::from_secs(600));
    token.hang();
    let asking = engine.clone();
    let waiting = tokio::spawn(async move { start(&asking, &fresh).await });
    assert!(token.wait_until_hanging(Duration::from_secs(20)));
    let caller = kit::coordinator();
    for _ in 0..50 {
        // Answered at the first poll: nothing was waited for.
        let mut answer = pin!(engine.start_sign_round(&caller, &served, RoundReply::clone));
        let Poll::Ready(again) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("a cached serve waits for the token")
        };
        assert_eq!(durable_part(&again.unwrap()), durable_part(&first));
        assert!(engine.status().epoch_recorded);
    }
    assert!(!waiting.is_finished());
    token.release();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_3_every_batch_calls_the_token_and_none_is_sealed_without_it() {
    let (cluster, outsider) = room().await;
    let engine = cluster.nodes[0].engine();
    let token = cluster.nodes[0].token.scripted_handle();
    for index in 0..5 {
        let (derives, batches) = (token.calls().derives, engine.status().counters.batches);
        start(&engine, &request(&cluster, &outsider, &format!("s{index}"))).await.unwrap();
        let (derived, written) = (token.calls().derives - derives, engine.status().counters.batches - batches);
        assert!(written >= 1 && derived >= written, "{written} batches, {derived} calls");
    }
    token.fail_until_healed(FaultClass::Token);
    let refused = start(&engine, &request(&cluster, &outsider, "gone")).await;
    assert_eq!(refused.err().unwrap().reason(), Reason::KeyProviderUnavailable, "no key stands in for the token");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_5_an_outage_at_start_is_no_corruption_and_nothing_is_moved_or_made() {
    let (mut cluster, outsider) = room().await;
    let served = request(&cluster, &outsider, "served");
    let first = start(&cluster.nodes[0].engine(), &served).await.unwrap();
    cluster.nodes[0].stop();
    let before = files(cluster.nodes[0].state());
    cluster.nodes[0].token.take_away();
    cluster.nodes[0].start();
    kit::eventually("it is sealed", || matches!(cluster.nodes[0].node.as_ref().unwrap().phase(), Phase::Sealed { .. }))
        .await;
    let refusal = cluster.nodes[0].node.as_ref().unwrap().engine().err().unwrap();
    assert_eq!(refusal.reason(), Reason::KeyProviderUnavailable);
    assert_eq!(files(cluster.nodes[0].state()), before);
    cluster.nodes[0].token.bring_back();
    let engine = cluster.nodes[0].opened().await;
    assert_eq!(durable_part(&start(&engine, &served).await.unwrap()), durable_part(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_6_an_empty_a_cut_a_dangling_and_a_missing_file_never_start_a_fresh_signer() {
    let (mut cluster, _) = room().await;
    cluster.nodes[0].stop();
    let state = cluster.state_of(0);
    let kept = state.with_file_name("kept");
    copy(&state, &kept);
    let name = container(&state).file_name().unwrap().to_owned();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("missing", |file| std::fs::remove_file(file).unwrap()),
        ("empty", |file| std::fs::write(file, []).unwrap()),
        ("cut", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a dangling link", |file| {
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink(file.with_file_name("nowhere"), file).unwrap();
        }),
    ];
    for (case, damage) in damages {
        damage(&state.join(&name));
        let before = files(&state);
        let refused = match Node::start(cluster.nodes[0].config.clone(), cluster.nodes[0].token.provider()) {
            Err(error) => error.reason(),
            Ok(node) => {
                kit::eventually("it gives up", || matches!(node.phase(), Phase::Failed(_))).await;
                node.engine().err().unwrap().reason()
            }
        };
        assert!(matches!(refused, Reason::StateMissing | Reason::StateCorrupt), "{case}: {refused}");
        let after = files(&state);
        assert!(after.iter().all(|file| before.iter().any(|known| known.0 == file.0)), "{case}: made {after:?}");
        assert!(!state.join("nowhere").exists(), "{case}");
        std::fs::remove_dir_all(&state).unwrap();
        copy(&kept, &state);
    }
    cluster.nodes[0].start_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_9_and_21_of_many_first_callers_one_holds_the_state_and_the_others_are_told() {
    let (mut cluster, _) = room().await;
    cluster.nodes[0].stop();
    let barrier = Barrier::new(6);
    let node = &cluster.nodes[0];
    let started: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let (config, provider) = (node.config.clone(), node.token.provider());
                    barrier.wait();
                    Node::start(config, provider)
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let (held, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
    assert_eq!(held.len(), 1);
    assert!(refused.into_iter().all(|one| one.err().unwrap().reason() == Reason::Busy));
    let held = held.into_iter().next().unwrap().unwrap();
    held.opened().await.unwrap();
    held.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_22_neither_a_lock_file_that_stays_behind_nor_its_removal_keeps_a_node_from_starting() {
    let (mut cluster, _) = room().await;
    let state = cluster.state_of(0);
    // As a killed process leaves it: everything is there, the lock's file too.
    let left = state.with_file_name("left");
    copy(&state, &left);
    cluster.nodes[0].stop();
    let name = container(&state).file_name().unwrap().to_owned();
    let small: Vec<PathBuf> =
        files(&state).into_iter().map(|(path, _)| path).filter(|path| !path.ends_with(&name)).collect();
    assert!(!small.is_empty(), "the lock is a file of its own");
    cluster.nodes[0].start_open().await;
    cluster.nodes[0].stop();
    for path in small {
        std::fs::remove_file(path).unwrap();
    }
    cluster.nodes[0].start_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_18_replays_are_counted_apart_from_fresh_rounds() {
    let (cluster, outsider) = room().await;
    let engine = cluster.nodes[0].engine();
    let asked = request(&cluster, &outsider, "counted");
    for replays in 0..4 {
        start(&engine, &asked).await.unwrap();
        let view = engine.tally();
        assert_eq!((view.rounds_fresh, view.rounds_replayed), (1, replays));
    }
}
