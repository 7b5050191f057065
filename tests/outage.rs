//! Goal: I2, I4, I7 with tokens that really hang, die and come back. Durable rounds are served as if nothing were wrong;
//! what is fresh is refused with class, since and next try; the round that was caught in flight comes out as itself.
//!
//! Method: SoftHSM behind a `p11-kit server` that is stopped with its children, or killed; the token directory moved away;
//! the token agent stopped; a module that aborts. Latencies are compared with those of the healthy run in the same test.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, consensus};
use frostkeep::bitcoin::{Prevout, ScriptBytes, UnsignedTransaction, key_path_script};
use frostkeep::engine::{BuildRequest, Engine, FinalizeRequest, Finish, Refusal, RoundReply, SignRequest};
use frostkeep::frost::Signature;
use frostkeep::hsm::health::{Outage, OutageClass};
use frostkeep::ids::{AttemptPolicy, CeremonyId};
use frostkeep::keygen::Parameters;
use frostkeep::node::Phase;
use frostkeep::reasons::Reason;
use frostkeep::store::{OpenError, Position};
use kit::{
    Cluster, Kind, Plan, Token, any_message, coordinator, durable_part, eventually, member, peer, session, start,
    subject, submitted,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The kit's deadline of one call, with room for a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// How much slower than in the healthy run a serve may be, and what counts as noise.
const SLOWER_MAX: u32 = 20;
const NOISE_MAX: Duration = Duration::from_millis(150);
const NOISE_P99: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Every call hangs.
    Hangs,
    /// Every call fails.
    Gone,
    /// The process of the module aborts at every call.
    Crashes,
}

fn begin(token: &mut Token, fault: Fault) {
    match fault {
        Fault::Hangs => token.hang(),
        Fault::Gone => token.take_away(),
        Fault::Crashes => token.shim().set_text("* 0 * before abort").unwrap(),
    }
}

fn end(token: &mut Token, fault: Fault) {
    match fault {
        Fault::Hangs => token.go_on(),
        Fault::Gone => token.bring_back(),
        Fault::Crashes => token.shim().clear().unwrap(),
    }
}

/// The outage that an answer tells of, and whether it left a round in line.
fn told(refusal: &Refusal) -> (&Outage, bool) {
    let (outage, pending) = match refusal {
        Refusal::KeyProviderUnavailable { outage, pending, .. } => (outage, *pending),
        Refusal::RoundNotDurable { outage: Some(outage), .. } => (outage, true),
        other => panic!("{other}"),
    };
    assert!(outage.next_try.is_some(), "every outage says when the token is tried next");
    assert!(outage.since_unix > 1_600_000_000, "every outage says since when");
    assert!(!outage.token.is_empty() && !outage.detail.is_empty());
    (outage, pending)
}

/// Asks until the outage has stood still around an answer: then both must tell the same.
async fn tells_what_status_tells(engine: &Engine, request: &SignRequest, reason: Reason, pending: bool) -> Refusal {
    for _ in 0..1_000 {
        let before = engine.status().health.outage;
        let refusal = start(engine, request).await.unwrap_err();
        assert_eq!(refusal.reason(), reason, "{refusal}");
        let (outage, found) = told(&refusal);
        assert_eq!(found, pending);
        if before == engine.status().health.outage {
            assert_eq!(Some(outage), before.as_ref());
            return refusal;
        }
    }
    panic!("the outage never stands still");
}

/// Clients that replay durable rounds until they are told to stop, each serve timed.
struct Replays {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<Duration>>>,
}

impl Replays {
    fn begin(engine: &Engine, rounds: &[(SignRequest, Vec<u8>)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..4)
            .map(|first| {
                let (engine, rounds, stop) = (engine.clone(), rounds.to_vec(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    for (request, bytes) in rounds.iter().cycle().skip(first) {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        let begun = Instant::now();
                        let served = engine.start_sign_round(&coordinator(), request, RoundReply::durable_part).await;
                        took.push(begun.elapsed());
                        assert_eq!(served.unwrap(), *bytes);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    took
                })
            })
            .collect();
        Self { stop, clients }
    }

    async fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::SeqCst);
        let mut took = Vec::new();
        for client in self.clients {
            took.extend(client.await.unwrap());
        }
        took.sort();
        took
    }
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

fn no_slower_than(hung: &[Duration], healthy: &[Duration]) {
    assert!(hung.len() > 500 && healthy.len() > 200, "{} and {} serves", hung.len(), healthy.len());
    let (slowest, bound) = (hung[hung.len() - 1], (healthy[healthy.len() - 1] * SLOWER_MAX).max(NOISE_MAX));
    assert!(slowest <= bound, "slowest serve {slowest:?}, bound {bound:?}");
    let (p99, bound) = (p99(hung), (p99(healthy) * SLOWER_MAX).max(NOISE_P99));
    assert!(p99 <= bound, "p99 of the serves {p99:?}, bound {bound:?}");
}

struct Scene {
    cluster: Cluster,
    /// Durable rounds of member 1 in open sessions.
    rounds: Vec<(SignRequest, Vec<u8>)>,
    finalised: (FinalizeRequest, [u8; 64]),
    approved: BuildRequest,
}

impl Scene {
    async fn new(kind: Kind) -> Self {
        let cluster = Cluster::new(Plan::two_of_three(kind)).await;
        let mut rounds = Vec::new();
        for index in 0..6 {
            let request = request(&cluster, &format!("durable-{index}"), 100 + index);
            let reply = start(&cluster.nodes[0].engine(), &request).await.unwrap();
            rounds.push((request, durable_part(&reply)));
        }
        let (name, what) = (session("finalised"), subject(90));
        let signature = cluster.sign(&name, &what, &[member(1), member(2)]).await;
        let finalised = FinalizeRequest {
            session: name,
            key_group: cluster.key_group,
            subject: what,
            finish: Finish::Signature(Signature::new(signature)),
        };
        let approved = approval(&cluster, 1);
        cluster.nodes[0].engine().build_taproot_tx(&coordinator(), &approved).await.unwrap();
        Self { cluster, rounds, finalised: (finalised, signature), approved }
    }

    fn engine(&self) -> Engine {
        self.cluster.nodes[0].engine()
    }

    /// Lets `fault` happen and a fresh request be caught in it; says which, how it was refused, and how long that took.
    async fn caught_in_flight(&mut self, fault: Fault) -> (SignRequest, Refusal, Duration) {
        let engine = self.engine();
        for number in 0..20 {
            let caught = request(&self.cluster, &format!("caught-{number}"), 50 + number);
            begin(&mut self.cluster.nodes[0].token, fault);
            let begun = Instant::now();
            let refusal = start(&engine, &caught).await.unwrap_err();
            if told(&refusal).1 {
                return (caught, refusal, begun.elapsed());
            }
            // The health call was faster: the outage was known before the request was admitted.
            end(&mut self.cluster.nodes[0].token, fault);
            eventually("the token is back", || engine.status().admits_work()).await;
        }
        panic!("no request was ever caught in flight");
    }

    /// Finalisation, approval, commitments, view, status: what needs nothing fresh is served.
    async fn the_rest_is_served(&self) {
        let engine = self.engine();
        let (request, signature) = &self.finalised;
        let served = engine.finalize_sign_round(&coordinator(), request).await.unwrap().unwrap();
        assert_eq!(served.signature(), signature);
        engine.build_taproot_tx(&coordinator(), &self.approved).await.unwrap();
        let unanswered = session("only-committed");
        let own = self.cluster.commit(&engine, &unanswered, member(1)).unwrap();
        assert_eq!(self.cluster.commit(&engine, &unanswered, member(1)).unwrap(), own);
        let view = self.cluster.session_request(&self.rounds[0].0.session);
        assert_eq!(engine.session(&coordinator(), &view, |view| view.rounds.len()).unwrap(), 1);
    }

    /// Fresh rounds, finalisations, approvals and key generations are refused at once, typed, and leave nothing behind.
    async fn the_fresh_is_refused(&self, finish: &FinalizeRequest) {
        let engine = self.engine();
        let fresh = request(&self.cluster, "fresh", 40);
        let begun = Instant::now();
        tells_what_status_tells(&engine, &fresh, Reason::KeyProviderUnavailable, false).await;
        let refusal = engine.finalize_sign_round(&coordinator(), finish).await.unwrap_err();
        assert!(!told(&refusal).1);
        let refusal = engine.build_taproot_tx(&coordinator(), &approval(&self.cluster, 2)).await.unwrap_err();
        assert!(!told(&refusal).1);
        let refusal = engine.keygen_preflight(&peer()).unwrap_err();
        assert!(!told(&refusal).1);
        let refusal = engine.keygen_begin(&peer(), self.ceremony(), any_message()).await.unwrap_err();
        assert!(!told(&refusal).1);
        assert!(begun.elapsed() < SOON);
        let own = self.cluster.commit(&engine, &fresh.session, member(1)).unwrap();
        assert_eq!(own, *fresh.package.commitments_of(member(1)).unwrap(), "a refused round takes no nonces");
    }

    fn ceremony(&self) -> Parameters {
        let holders = self.cluster.identities.iter().enumerate();
        let holders = holders.map(|(index, identity)| (member(u16::try_from(index).unwrap() + 1), *identity)).collect();
        let policy = any_message().hash().unwrap();
        Parameters::new(CeremonyId::new([7; 16]), 2, holders, AttemptPolicy::Roast, policy).unwrap()
    }
}

/// A first attempt of members 1 and 2, for member 1.
fn request(cluster: &Cluster, name: &str, byte: u8) -> SignRequest {
    let (name, what) = (session(name), subject(byte));
    let package = cluster.package(&name, &what, &[member(1), member(2)]);
    cluster.request(&name, &what, 1, &package, member(1))
}

/// A transaction that spends an output of the group.
fn approval(cluster: &Cluster, number: u32) -> BuildRequest {
    let script = key_path_script(&cluster.group.output_key(None)).to_vec();
    let transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint { vout: number, ..OutPoint::default() },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value: Amount::from_sat(90_000), script_pubkey: script.clone().into() }],
    };
    let prevouts = [Prevout { value_sat: 91_000, script: ScriptBytes::new(script) }];
    let transaction = UnsignedTransaction::from_parts(&consensus::serialize(&transaction), &prevouts).unwrap();
    BuildRequest { key_group: cluster.key_group, transaction, roots: Vec::new() }
}

/// A session whose members have answered and which nobody has finished.
async fn unfinished(cluster: &Cluster) -> FinalizeRequest {
    let (name, what) = (session("unfinished"), subject(91));
    let included = [member(1), member(2)];
    let package = cluster.package(&name, &what, &included);
    let mut shares = Vec::new();
    for seat in included {
        let request = cluster.request(&name, &what, 1, &package, seat);
        shares.push(submitted(&start(&cluster.engine_of(seat), &request).await.unwrap()));
    }
    let attempt = cluster.context(&name, &what, 1, &included).id();
    FinalizeRequest {
        session: name,
        key_group: cluster.key_group,
        subject: what,
        finish: Finish::Shares { attempt, shares },
    }
}

async fn an_outage_is_survived(kind: Kind, fault: Fault) {
    let mut scene = Scene::new(kind).await;
    let engine = scene.engine();
    let finish = unfinished(&scene.cluster).await;

    let replays = Replays::begin(&engine, &scene.rounds);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let healthy = replays.end().await;

    let replays = Replays::begin(&engine, &scene.rounds);
    let (caught, refusal, took) = scene.caught_in_flight(fault).await;
    assert_eq!(refusal.reason(), Reason::KeyProviderUnavailable);
    assert!(took < SOON, "refused after {took:?}");
    let since = told(&refusal).0.since;
    match fault {
        Fault::Hangs => assert_eq!(told(&refusal).0.class, OutageClass::Deadline),
        Fault::Crashes => assert_eq!(told(&refusal).0.class, OutageClass::Module),
        Fault::Gone => {}
    }
    let refusal = tells_what_status_tells(&engine, &caught, Reason::RoundNotDurable, true).await;
    assert_eq!(told(&refusal).0.since, since, "one outage has one beginning");
    let Refusal::RoundNotDurable { position, .. } = refusal else { panic!("{refusal}") };
    scene.the_fresh_is_refused(&finish).await;
    scene.the_rest_is_served().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    tells_what_status_tells(&engine, &caught, Reason::RoundNotDurable, true).await;
    scene.the_fresh_is_refused(&finish).await;
    no_slower_than(&replays.end().await, &healthy);

    end(&mut scene.cluster.nodes[0].token, fault);
    heals(&engine, &caught, position).await;
    scene.cluster.group.verify(finish.subject.message, None, &finished(&engine, &finish).await).unwrap();
    scene.the_rest_is_served().await;
    // The refused key generation has left nothing behind: its name is free.
    engine.keygen_begin(&peer(), scene.ceremony(), any_message()).await.unwrap();
    for (request, bytes) in &scene.rounds {
        assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
    }
}

async fn finished(engine: &Engine, finish: &FinalizeRequest) -> Signature {
    let done = engine.finalize_sign_round(&coordinator(), finish).await.unwrap().unwrap();
    Signature::new(*done.signature())
}

/// By itself: the line moves without any request, and the round that was caught comes out at its own position.
async fn heals(engine: &Engine, caught: &SignRequest, position: Position) {
    eventually("the round that was caught is durable", || engine.status().durable >= position).await;
    let reply = start(engine, caught).await.unwrap();
    assert_eq!(reply.position(), position, "the same round, not another");
    assert_eq!(durable_part(&reply), durable_part(&start(engine, caught).await.unwrap()));
    eventually("fresh rounds are admitted", || engine.status().admits_work()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hung_token_delays_no_durable_round() {
    an_outage_is_survived(Kind::Remote, Fault::Hangs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hung_scripted_token_delays_no_durable_round() {
    an_outage_is_survived(Kind::Scripted, Fault::Hangs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_token_delays_no_durable_round_and_one_that_is_started_again_heals() {
    an_outage_is_survived(Kind::Remote, Fault::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_directory_that_is_moved_away_delays_no_durable_round_and_heals_when_it_is_back() {
    an_outage_is_survived(Kind::Soft, Fault::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_module_that_crashes_at_every_call_delays_no_durable_round_and_heals_when_it_does_not() {
    an_outage_is_survived(Kind::Shimmed, Fault::Crashes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_module_that_crashes_now_and_then_costs_no_round_and_every_agent_is_counted() {
    let scene = Scene::new(Kind::Shimmed).await;
    let (engine, shim) = (scene.engine(), scene.cluster.nodes[0].token.shim());
    let before = engine.status().health;
    // In a seal: before the token is asked, and after it has answered.
    for (crash, rule) in (1..).zip(["C_SignInit 0 1 before abort", "C_Sign 1 1 after abort", "C_Sign 3 1 after abort"])
    {
        shim.set_text(rule).unwrap();
        let fresh = request(&scene.cluster, &format!("crash-{crash}"), crash);
        let reply = start(&engine, &fresh).await.unwrap();
        assert_eq!(shim.struck(1).unwrap(), 1, "{rule}");
        let health = engine.status().health;
        assert_eq!((health.agents_started, health.outages), (before.agents_started + u64::from(crash), before.outages));
        assert_eq!(durable_part(&start(&engine, &fresh).await.unwrap()), durable_part(&reply));
        for (request, bytes) in &scene.rounds {
            assert_eq!(durable_part(&start(&engine, request).await.unwrap()), *bytes);
        }
    }
}

/// Token agents of this process: its children by that name.
fn agents() -> BTreeSet<i32> {
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let (name, fields) = stat.rsplit_once(')').unwrap();
        if name.ends_with("(frostkeep") && fields.split_whitespace().nth(1) == Some(own.as_str()) {
            found.insert(pid);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stopped_token_agent_is_killed_at_the_deadline_and_healed_at_once() {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Soft)).await;
    cluster.nodes[0].stop();
    let others = agents();
    let engine = cluster.nodes[0].start_open().await;
    let agent: Vec<i32> = agents().difference(&others).copied().collect();
    let [agent] = agent[..] else { panic!("one agent a node, found {agent:?}") };
    let caught = request(&cluster, "caught", 3);
    let started = engine.status().health.agents_started;

    kill(Pid::from_raw(agent), Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let refusal = start(&engine, &caught).await.unwrap_err();
    assert!(begun.elapsed() < SOON);
    let (outage, pending) = told(&refusal);
    assert_eq!((outage.class, pending), (OutageClass::Deadline, true), "{refusal}");
    eventually("the line moves again", || engine.status().admits_work()).await;
    assert!(begun.elapsed() < SOON, "healed after {:?}", begun.elapsed());
    assert!(engine.status().health.agents_started > started);
    eventually("the stopped agent is gone", || !agents().contains(&agent)).await;
    let reply = start(&engine, &caught).await.unwrap();
    let share = submitted(&reply).share;
    cluster.group.verify_share(member(1), &caught.package, &share, None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_without_a_token_is_a_sealed_node_that_says_why_waits_and_heals_by_itself() {
    let mut scene = Scene::new(Kind::Soft).await;
    scene.cluster.nodes[0].stop();
    scene.cluster.nodes[0].token.take_away();
    scene.cluster.nodes[0].start();
    let node = scene.cluster.nodes[0].node.as_ref().unwrap();
    eventually("the node is sealed", || matches!(node.phase(), Phase::Sealed { .. })).await;
    for _ in 0..3 {
        let Err(refusal) = node.engine() else { panic!("a sealed node has no engine") };
        let Refusal::NotOpen(error) = &refusal else { panic!("{refusal}") };
        let OpenError::Outage(outage) = error.as_ref() else { panic!("{error}") };
        assert!(outage.next_try.is_some() && outage.since_unix > 1_600_000_000 && !outage.detail.is_empty());
        assert_eq!(refusal.reason(), Reason::KeyProviderUnavailable);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let Phase::Sealed { health, .. } = node.phase() else { panic!("it opened without its token") };
    assert!(health.outage.is_some() && !health.admits_work());

    scene.cluster.nodes[0].token.bring_back();
    let engine = scene.cluster.nodes[0].opened().await;
    for (request, bytes) in &scene.rounds {
        let reply = start(&engine, request).await.unwrap();
        assert_eq!(durable_part(&reply), *bytes);
        assert!(reply.next_commitments().is_none(), "no nonce outlives a process");
    }
    scene.the_rest_is_served().await;
    let fresh = request(&scene.cluster, "after", 4);
    start(&engine, &fresh).await.unwrap();
}
