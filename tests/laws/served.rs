//! I1, I2, I4 and I5: what is served, when, and in which order.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use frostkeep::engine::Refusal;
use frostkeep::store::Position;

use crate::kit::{Bench, Kind, Plan, coordinator, durable_part, member, session};
use crate::stage::Stage;

/// Every file below a directory with its bytes.
pub(crate) fn listing(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let bytes = if entry.path().is_file() { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
            (entry.file_name().into_string().unwrap(), bytes)
        })
        .collect()
}

async fn no_share_leaves_before_its_position_is_durable(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let request = stage.opening_request("i1", 1);
    let first = stage.ask(&coordinator(), &request);
    stage.in_line(1).await;
    let replay = stage.ask(&coordinator(), &request);
    let position = stage.bench().line.last();
    // Bounded from below only: with the persister still, these may never end.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!first.is_finished() && !replay.is_finished(), "a share left above the durable position");
    assert!(stage.bench().line.durable().position() < position);
    assert!(matches!(stage.view(&request.session, |_| ()), Err(Refusal::SessionUnknown(_))));
    let first = stage.finish(first).await.unwrap();
    let replay = stage.finish(replay).await.unwrap();
    assert_eq!(durable_part(&first), durable_part(&replay));
    assert_eq!(first.position(), position);
    assert!(position <= stage.bench().line.durable().position());
    assert_eq!(stage.view(&request.session, |view| view.rounds.len()).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_no_share_leaves_before_its_position_is_durable() {
    no_share_leaves_before_its_position_is_durable(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_no_share_leaves_before_its_position_is_durable_on_softhsm() {
    no_share_leaves_before_its_position_is_durable(Kind::Soft).await;
}

/// The persister is inside a token call that does not return, while eight threads ask for durable rounds and others for
/// fresh ones.
#[tokio::test(flavor = "multi_thread")]
async fn i2_durable_rounds_are_served_while_a_token_call_hangs_without_a_token_call_or_a_disk_write() {
    const REPLAYS: usize = 100;
    let mut stage = Stage::new(Plan::two_of_three(Kind::Scripted)).await;
    let mut durable = Vec::new();
    for number in 0..8 {
        durable.push(stage.durable_round(&format!("i2-{number}"), number).await);
    }
    let fresh: Vec<_> =
        (0..8).map(|number| stage.opening_request(&format!("i2-fresh-{number}"), 50 + number)).collect();
    let handle = stage.cluster.nodes[0].token.scripted_handle().clone();
    handle.set_deadline(Duration::from_secs(60));
    handle.hang();
    let waiting: Vec<_> = fresh.iter().map(|request| stage.ask(&coordinator(), request)).collect();
    stage.in_line(fresh.len()).await;

    let mut bench: Bench = stage.take();
    let (engine, line) = (bench.engine.clone(), bench.line.clone());
    let stepping = std::thread::spawn(move || {
        bench.persister.step();
        bench
    });
    assert!(handle.wait_until_hanging(Duration::from_secs(10)));
    let (calls, counters) = (handle.calls(), line.status().counters);
    let disk = listing(stage.cluster.nodes[0].state());

    let tasks: Vec<_> = durable
        .iter()
        .map(|(request, reply)| {
            let (engine, request, expected) = (engine.clone(), request.clone(), durable_part(reply));
            tokio::spawn(async move {
                for _ in 0..REPLAYS {
                    let served = crate::kit::start(&engine, &request).await.unwrap();
                    assert_eq!(durable_part(&served), expected);
                }
            })
        })
        .collect();
    // Meanwhile others ask for what needs no durability.
    for number in 0..100 {
        stage.cluster.commit(&engine, &session(&format!("i2-commit-{number}")), member(1)).unwrap();
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(30), task)
            .await
            .expect("a cached serve hangs with the token")
            .unwrap();
    }
    assert_eq!(handle.calls(), calls, "a cached serve called the token");
    assert_eq!(line.status().counters, counters, "a cached serve wrote");
    assert_eq!(listing(stage.cluster.nodes[0].state()), disk, "a cached serve changed the disk");
    assert!(waiting.iter().all(|task| !task.is_finished()));

    handle.release();
    stage.replace(stepping.join().unwrap());
    for task in waiting {
        stage.finish(task).await.unwrap();
    }
}

async fn a_pending_round_is_refused_while_the_line_cannot_move_and_comes_out_with_the_same_share(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let (request, _) = stage.round_caught_by_an_outage("i4", 1).await;
    let position = stage.bench().line.last();
    for _ in 0..20 {
        stage.bench().persister.step();
        let start = Instant::now();
        let refusal = stage.at_once(&coordinator(), &request).await.unwrap_err();
        assert!(matches!(refusal, Refusal::RoundNotDurable { position: told, .. } if told == position), "{refusal}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    stage.heal().await;
    let served = stage.at_once(&coordinator(), &request).await.unwrap();
    assert_eq!(served.position(), position);
    let share = crate::kit::submitted(&served).share;
    stage.cluster.group.verify_share(member(1), &request.package, &share, None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_pending_round_is_refused_while_the_line_cannot_move_and_comes_out_with_the_same_share() {
    a_pending_round_is_refused_while_the_line_cannot_move_and_comes_out_with_the_same_share(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_pending_round_is_refused_while_the_line_cannot_move_and_comes_out_with_the_same_share_on_softhsm() {
    a_pending_round_is_refused_while_the_line_cannot_move_and_comes_out_with_the_same_share(Kind::Soft).await;
}

async fn the_order_of_records_survives_failures_and_a_later_one_never_overtakes(kind: Kind) {
    let mut stage = Stage::new(Plan::two_of_three(kind)).await;
    let requests: Vec<_> = (0..6).map(|number| stage.opening_request(&format!("i5-{number}"), number)).collect();
    let mut tasks = Vec::new();
    let mut expected = Vec::new();
    // Three enter, the token fails; two failures more; then three others enter behind them.
    for request in &requests[..3] {
        let before = stage.bench().line.waiting_records();
        tasks.push(stage.ask(&coordinator(), request));
        stage.in_line(before + 1).await;
        expected.push(stage.bench().line.last());
    }
    stage.outage().await;
    for task in tasks.drain(..) {
        let refusal = stage.finish(task).await.unwrap_err();
        assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: true, .. }), "{refusal}");
    }
    stage.in_line(3).await;
    let durable = stage.bench().line.durable().position();
    for _ in 0..3 {
        stage.bench().persister.step();
        assert_eq!(stage.bench().line.durable().position(), durable);
    }
    stage.bring_back();
    // Ready again means that the same step has flushed the line, or that the next one does: both keep the order.
    stage.step_until("the token is back", |status| status.admits_work()).await;
    for request in &requests[3..] {
        let last: Position = stage.bench().line.last();
        tasks.push(stage.ask(&coordinator(), request));
        let line = stage.bench().line.clone();
        crate::kit::eventually("the record entered", || line.last() > last).await;
        expected.push(stage.bench().line.last());
    }
    for task in tasks {
        stage.finish(task).await.unwrap();
    }
    stage.restart();
    let mut positions = Vec::new();
    for request in &requests {
        positions.push(stage.at_once(&coordinator(), request).await.unwrap().position());
    }
    assert_eq!(positions, expected);
    assert!(positions.windows(2).all(|pair| pair[0].next() == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_the_order_of_records_survives_failures_and_a_later_one_never_overtakes() {
    the_order_of_records_survives_failures_and_a_later_one_never_overtakes(Kind::Scripted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_the_order_of_records_survives_failures_and_a_later_one_never_overtakes_on_softhsm() {
    the_order_of_records_survives_failures_and_a_later_one_never_overtakes(Kind::Soft).await;
}
