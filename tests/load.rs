//! Goal: many clients at once cost few syncs, bounds hold, and a bound that is reached takes nothing away.
//! Method: 64 clients on one node, on SoftHSM and on a scripted token; then a line that is filled by hand, with the
//! persister standing still.
//!
//! `FROSTKEEP_LOAD_SESSIONS` (sessions of each client, 3): see `scripts/soak --help`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

mod kit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use frostkeep::engine::{Engine, Refusal, RoundReply, SignRequest, Subject};
use frostkeep::frost::{Commitments, GroupKey, SignatureShare, SigningPackage};
use frostkeep::ids::{Member, Message, SessionId};
use frostkeep::limits::{ANSWERS_MAX, LINE_BYTES_MAX, LINE_RECORDS_MAX, LINE_RESERVED_FOR_FREEZES};
use frostkeep::node::Node;
use frostkeep::store::{Slot, SlotKind};
use kit::{Bench, Cluster, Kind, Plan, Slow, durable_part, member, session, start};

const CLIENTS: usize = 64;
const SESSIONS_EACH: usize = 3;
/// Records a sync under 64 clients, at least. One record a sync is what a node without group commit does.
const RECORDS_PER_SYNC_MIN: u64 = 2;

/// What a token across a network takes. Without it the tests would measure how unoptimised code computes shares on a
/// small machine.
const SEAL_MS: u64 = 40;

fn subject_of(number: usize) -> Subject {
    let mut message = [0x5a; 32];
    message[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Subject { message: Message::new(message), root: None }
}

fn verifies(group: &GroupKey, request: &SignRequest, reply: &RoundReply) {
    let share = SignatureShare::from_bytes(reply.share()).unwrap();
    group.verify_share(request.member, &request.package, &share, None).unwrap();
}

fn replace(request: &SignRequest, cluster: &Cluster, number: u32, own: Commitments) -> SignRequest {
    let other = request.package.members().find(|other| *other != request.member).unwrap();
    let theirs = request.package.commitments_of(other).unwrap().clone();
    let commitments = BTreeMap::from([(request.member, own), (other, theirs)]);
    let package = SigningPackage::new(request.subject.message, commitments).unwrap();
    cluster.request(&request.session, &request.subject, number, &package, request.member)
}

async fn sixty_four_clients(kind: Kind) {
    let sessions = std::env::var("FROSTKEEP_LOAD_SESSIONS").map_or(SESSIONS_EACH, |text| text.parse().unwrap());
    let mut cluster = Cluster::new(Plan::two_of_three(kind)).await;
    cluster.nodes[0].stop();
    let slow = Box::new(Slow { provider: cluster.nodes[0].token.provider(), seal_ms: SEAL_MS });
    cluster.nodes[0].node = Some(Node::start(cluster.nodes[0].config.clone(), slow).unwrap());
    let engine = cluster.nodes[0].opened().await;
    let cluster = Arc::new(cluster);
    let before = engine.status().counters;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let cluster = Arc::clone(&cluster);
            tokio::spawn(async move {
                let mut rounds = Vec::new();
                for number in 0..sessions {
                    let name = session(&format!("load-{client}-{number}"));
                    let subject = subject_of(client * sessions + number);
                    let package = cluster.package(&name, &subject, &[member(1), member(2)]);
                    let mut request = cluster.request(&name, &subject, 1, &package, member(1));
                    let engine = cluster.engine_of(member(1));
                    for attempt in 1..=2 {
                        let reply = start(&engine, &request).await.unwrap();
                        verifies(&cluster.group, &request, &reply);
                        assert_eq!(durable_part(&start(&engine, &request).await.unwrap()), durable_part(&reply));
                        let next = reply.next_commitments().unwrap().clone();
                        rounds.push((request.clone(), durable_part(&reply)));
                        request = replace(&request, &cluster, attempt + 1, next);
                    }
                }
                rounds
            })
        })
        .collect();
    let mut rounds = Vec::new();
    for client in clients {
        rounds.extend(client.await.unwrap());
    }
    assert_eq!(rounds.len(), CLIENTS * sessions * 2, "a round for every request");

    let after = engine.status().counters;
    let (records, syncs, seals) =
        (after.records - before.records, after.batches - before.batches, after.seals - before.seals);
    eprintln!("{kind:?}: {records} records in {syncs} syncs under {seals} seals");
    assert_eq!(records, rounds.len() as u64, "one record a round");
    assert!(records > RECORDS_PER_SYNC_MIN * syncs, "{records} records in {syncs} syncs: no group commit");
    let extra = 2 + after.snapshots - before.snapshots;
    assert!(seals <= syncs + extra, "{seals} seals for {syncs} syncs: one a batch, and those of snapshots and bundles");
    for (request, bytes) in &rounds {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
    assert_eq!(engine.status().counters.records, after.records, "a replay writes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rounds_of_sixty_four_clients_share_syncs_on_softhsm() {
    sixty_four_clients(Kind::Soft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rounds_of_sixty_four_clients_share_syncs_on_a_scripted_token() {
    sixty_four_clients(Kind::Scripted).await;
}

/// Requests of member 1, each the first of a session of its own.
fn requests(cluster: &Cluster, engine: &Engine, names: &str, count: usize) -> Vec<SignRequest> {
    (0..count)
        .map(|number| {
            let name: SessionId = session(&format!("{names}-{number}"));
            let subject = subject_of(number);
            let commitments: BTreeMap<Member, Commitments> =
                [(member(1), engine), (member(2), &cluster.engine_of(member(2)))]
                    .map(|(member, engine)| (member, cluster.commit(engine, &name, member).unwrap()))
                    .into();
            let package = SigningPackage::new(subject.message, commitments).unwrap();
            cluster.request(&name, &subject, 1, &package, member(1))
        })
        .collect()
}

fn wakes(bench: &mut Bench, until: &AtomicBool) {
    while !until.load(Ordering::Acquire) {
        bench.settle();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `work` while the persister steps.
async fn persisted<T>(mut bench: Bench, work: impl Future<Output = T>) -> (Bench, T) {
    let done = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&done);
    let persister = std::thread::spawn(move || {
        wakes(&mut bench, &until);
        bench
    });
    let result = work.await;
    done.store(true, Ordering::Release);
    (persister.join().unwrap(), result)
}

/// All slots but `free`, as if so many rounds were under way.
fn fill(bench: &Bench, free: usize, bytes: usize) -> Vec<Slot> {
    let mut slots = Vec::new();
    while let Ok(slot) = bench.line.reserve(SlotKind::Round, bytes) {
        slots.push(slot);
    }
    slots.truncate(slots.len() - free);
    slots
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_line_refuses_fresh_rounds_and_loses_none_that_is_in_it() {
    const FREE: usize = 12;
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Soft)).await;
    let bench = cluster.nodes[0].open_by_hand();
    let engine = bench.engine.clone();
    let durable = requests(&cluster, &engine, "durable", 3);
    let (bench, served) = persisted(bench, async {
        let mut served = Vec::new();
        for request in &durable {
            served.push(durable_part(&start(&engine, request).await.unwrap()));
        }
        served
    })
    .await;

    // The persister stands still from here on.
    let slots = fill(&bench, FREE, 1);
    assert_eq!(slots.len() + FREE, LINE_RECORDS_MAX - LINE_RESERVED_FOR_FREEZES);
    let fresh = requests(&cluster, &engine, "fresh", CLIENTS);
    let full = Arc::new(AtomicUsize::new(0));
    let mut waiting = Vec::new();
    for request in fresh.clone() {
        let (engine, full) = (engine.clone(), Arc::clone(&full));
        waiting.push(tokio::spawn(async move {
            match start(&engine, &request).await {
                Ok(reply) => Some(reply),
                Err(Refusal::CapacityExceeded { limit, .. }) => {
                    assert_eq!(limit, (LINE_RECORDS_MAX - LINE_RESERVED_FOR_FREEZES) as u64);
                    full.fetch_add(1, Ordering::Relaxed);
                    None
                }
                Err(other) => panic!("{other}"),
            }
        }));
    }
    kit::eventually("every client is in line or refused", || {
        assert!(slots.len() + bench.line.waiting_records() <= LINE_RECORDS_MAX - LINE_RESERVED_FOR_FREEZES);
        bench.line.waiting_records() == FREE && full.load(Ordering::Relaxed) == CLIENTS - FREE
    })
    .await;
    // The bound binds admission, never replay, and leaves a freeze its slot.
    for (request, bytes) in durable.iter().zip(&served) {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
    assert!(bench.line.reserve(SlotKind::Freeze, 1).is_ok(), "a freeze has a slot of its own (I8)");

    // What was refused spent nothing: the very same requests pass when there is room again.
    drop(slots);
    let (bench, replies) = persisted(bench, async {
        let mut replies = Vec::new();
        for (request, waiting) in fresh.iter().zip(waiting) {
            let first = waiting.await.unwrap();
            let again = start(&engine, request).await.unwrap();
            verifies(&cluster.group, request, &again);
            if let Some(first) = &first {
                assert_eq!(durable_part(first), durable_part(&again));
            }
            replies.push((first.is_some(), durable_part(&again)));
        }
        replies
    })
    .await;
    assert_eq!(replies.iter().filter(|(waited, _)| *waited).count(), FREE, "all that was in line came out");
    assert_eq!(bench.line.waiting_records(), 0);
    drop((bench, engine));

    // And a restart has them all.
    let engine = cluster.nodes[0].start_open().await;
    for (request, (_, bytes)) in fresh.iter().zip(&replies) {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_full_of_bytes_refuses_fresh_rounds_and_serves_durable_ones() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let bench = cluster.nodes[0].open_by_hand();
    let engine = bench.engine.clone();
    let made = requests(&cluster, &engine, "bytes", 2);
    let (bench, served) = persisted(bench, async { durable_part(&start(&engine, &made[0]).await.unwrap()) }).await;
    let mut slots = fill(&bench, 0, 1 << 20);
    slots.extend(fill(&bench, 0, 1 << 10));
    assert!(slots.len() < LINE_RECORDS_MAX / 2, "bytes are the bound here");
    match start(&engine, &made[1]).await {
        Err(Refusal::CapacityExceeded { limit, .. }) => assert!(limit <= LINE_BYTES_MAX as u64 && limit > 1 << 20),
        other => panic!("{other:?}"),
    }
    assert_eq!(durable_part(&start(&engine, &made[0]).await.unwrap()), served);
    drop(slots);
    let (_, late) = persisted(bench, start(&engine, &made[1])).await;
    verifies(&cluster.group, &made[1], &late.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_no_answers_left_still_serves_those_it_gave() {
    let cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let engine = cluster.nodes[0].engine();
    let mut request = requests(&cluster, &engine, "answers", 1).remove(0);
    let mut given = Vec::new();
    for number in 1..=ANSWERS_MAX as u32 {
        let reply = start(&engine, &request).await.unwrap();
        given.push((request.clone(), durable_part(&reply)));
        request = replace(&request, &cluster, number + 1, reply.next_commitments().unwrap().clone());
    }
    match start(&engine, &request).await {
        Err(Refusal::AttemptExhausted { limit, .. }) => assert_eq!(limit, ANSWERS_MAX),
        other => panic!("{other:?}"),
    }
    for (request, bytes) in &given {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
}
