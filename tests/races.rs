//! Goal: what can meet in the middle of a round ends as the contract says: one answer, for everyone who waits, and no
//! nonces used twice.
//!
//! Method: the engine's entropy is an argument. It is held while a computation draws the next pair (step 9), or it panics
//! there; the other side of the race then happens in between, at a known point. Where only the schedule decides, loops.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod kit;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use frostkeep::engine::{
    Engine, FinalizeRequest, Finish, Refusal, RoundReply, SignRequest, Subject, SubmittedShare, VoteRequest,
};
use frostkeep::frost::{Commitments, Signature, SigningPackage};
use frostkeep::hsm::entropy::{self, Entropy};
use frostkeep::ids::{AttemptPolicy, Member, SessionId};
use frostkeep::reasons::Reason;
use frostkeep::roast::{AttemptContext, Evidence as TransitionEvidence, Transition};
use frostkeep::store::Position;
use kit::{
    Cluster, Kind, Plan, admin, at_once, coordinator, coordinator_as, durable_part, eventually, member, peer, session,
    start, subject, submitted,
};
use rand_core::{CryptoRng, RngCore};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Go,
    Panic,
}

#[derive(Default)]
struct Trap {
    armed: bool,
    held: usize,
    then: Option<Then>,
}

/// Catches the next computation where it draws randomness, after its share is made and before its record is.
#[derive(Clone, Default)]
struct StepNine(Arc<(Mutex<Trap>, Condvar)>);

impl StepNine {
    fn arm(&self) {
        let mut trap = self.0.0.lock().unwrap();
        (trap.armed, trap.then) = (true, None);
    }

    async fn reached(&self) {
        let trap = self.clone();
        eventually("a computation is in step 9", move || trap.0.0.lock().unwrap().held == 1).await;
    }

    fn let_go(&self, then: Then) {
        self.0.0.lock().unwrap().then = Some(then);
        self.0.1.notify_all();
    }

    fn source(&self) -> Box<dyn Entropy> {
        let mut trap = self.0.0.lock().unwrap();
        let caught = std::mem::take(&mut trap.armed);
        if caught { Box::new(Caught(self.clone())) } else { Box::new(entropy::os()) }
    }
}

struct Caught(StepNine);

impl Caught {
    fn hold(&self) {
        let StepNine(shared) = &self.0;
        let mut trap = shared.0.lock().unwrap();
        trap.held += 1;
        let mut trap = shared.1.wait_while(trap, |trap| trap.then.is_none()).unwrap();
        trap.held -= 1;
        let then = trap.then;
        drop(trap);
        assert!(then == Some(Then::Go), "the computation panics, as the test wants it");
    }
}

impl RngCore for Caught {
    fn next_u32(&mut self) -> u32 {
        self.hold();
        entropy::os().next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.hold();
        entropy::os().next_u64()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.hold();
        entropy::os().fill_bytes(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Caught {}

/// Three nodes; node 0 holds member 1, and its computations can be caught.
struct Scene {
    cluster: Cluster,
    trap: StepNine,
    engine: Engine,
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A test that fails must not wait for a computation that it holds.
        self.trap.let_go(Then::Go);
    }
}

impl Scene {
    async fn new() -> Self {
        let mut cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
        let trap = StepNine::default();
        cluster.nodes[0].stop();
        let source = trap.clone();
        cluster.nodes[0].config.entropy = Arc::new(move || source.source());
        let engine = cluster.nodes[0].start_open().await;
        Self { cluster, trap, engine }
    }

    fn request(&self, name: &SessionId, what: &Subject, number: u32, other: u16) -> SignRequest {
        let package = self.cluster.package(name, what, &[member(1), member(other)]);
        self.cluster.request(name, what, number, &package, member(1))
    }

    fn commitments(&self, name: &SessionId) -> Result<Commitments, Refusal> {
        self.cluster.commit(&self.engine, name, member(1))
    }

    fn spawn(&self, request: &SignRequest) -> tokio::task::JoinHandle<Result<RoundReply, Refusal>> {
        let (engine, request) = (self.engine.clone(), request.clone());
        tokio::spawn(async move { start(&engine, &request).await })
    }

    /// Two callers of the same request, the first one's computation held in step 9.
    async fn two_in_step_nine(
        &self,
        request: &SignRequest,
    ) -> [tokio::task::JoinHandle<Result<RoundReply, Refusal>>; 2] {
        self.trap.arm();
        let first = self.spawn(request);
        self.trap.reached().await;
        let second = self.spawn(request);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!first.is_finished() && !second.is_finished());
        [first, second]
    }

    fn durable(&self) -> Position {
        self.engine.status().durable
    }

    /// The session's rounds of member 1, as a coordinator would be shown them.
    fn rounds(&self, name: &SessionId) -> usize {
        let request = self.cluster.session_request(name);
        self.engine.session(&coordinator(), &request, |view| view.rounds.len()).unwrap_or(0)
    }
}

async fn refused(waiting: [tokio::task::JoinHandle<Result<RoundReply, Refusal>>; 2], reason: Reason) {
    for caller in waiting {
        let refusal = caller.await.unwrap().unwrap_err();
        assert_eq!(refusal.reason(), reason, "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_twice_at_once_is_one_computation_and_another_package_is_a_conflict() {
    let scene = Scene::new().await;
    let (name, what) = (session("twice"), subject(1));
    let request = scene.request(&name, &what, 1, 2);
    let before = scene.durable();
    let waiting = scene.two_in_step_nine(&request).await;

    // The same attempt with other commitments of the other member.
    let own = request.package.commitments_of(member(1)).unwrap().clone();
    let other = scene.cluster.commit(&scene.cluster.nodes[1].engine(), &session("elsewhere"), member(2)).unwrap();
    let package = SigningPackage::new(what.message, [(member(1), own), (member(2), other)].into()).unwrap();
    let another = scene.cluster.request(&name, &what, 1, &package, member(1));
    assert_eq!(start(&scene.engine, &another).await.unwrap_err().reason(), Reason::AttemptConflict);

    scene.trap.let_go(Then::Go);
    let mut bytes = BTreeSet::new();
    for caller in waiting {
        bytes.insert(durable_part(&caller.await.unwrap().unwrap()));
    }
    assert_eq!(bytes.len(), 1, "both callers get the same bytes");
    assert_eq!(scene.durable(), before.next(), "one computation, one record");
    assert_eq!(start(&scene.engine, &another).await.unwrap_err().reason(), Reason::AttemptConflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_asks_at_once_gets_one_round_each_time() {
    let scene = Scene::new().await;
    for index in 0..25 {
        let (name, what) = (session(&format!("crowd-{index}")), subject(index));
        let request = scene.request(&name, &what, 1, 2);
        let before = scene.durable();
        let callers: Vec<_> = (0..8).map(|_| scene.spawn(&request)).collect();
        let mut bytes = BTreeSet::new();
        for caller in callers {
            bytes.insert(durable_part(&caller.await.unwrap().unwrap()));
        }
        assert_eq!((bytes.len(), scene.durable()), (1, before.next()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_that_goes_away_in_the_computation_cancels_nothing() {
    let scene = Scene::new().await;
    let (name, what) = (session("gone"), subject(2));
    let request = scene.request(&name, &what, 1, 2);
    let before = scene.durable();
    scene.trap.arm();
    let caller = scene.spawn(&request);
    scene.trap.reached().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    scene.trap.let_go(Then::Go);
    eventually("the round is durable without a caller", || scene.durable() == before.next()).await;
    let retried = start(&scene.engine, &request).await.unwrap();
    assert_eq!(retried.position(), before.next());
    assert_eq!(durable_part(&retried), durable_part(&start(&scene.engine, &request).await.unwrap()));
    assert_eq!(scene.durable(), before.next());
    let share = submitted(&retried).share;
    scene.cluster.group.verify_share(member(1), &request.package, &share, None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_that_goes_away_while_the_token_hangs_finds_its_round_later() {
    let scene = Scene::new().await;
    let (name, what) = (session("gone-later"), subject(3));
    let request = scene.request(&name, &what, 1, 2);
    let handle = scene.cluster.nodes[0].token.scripted_handle().clone();
    handle.set_deadline(Duration::from_secs(60));
    handle.hang();
    let caller = scene.spawn(&request);
    // The nonces are taken: the pair that is shown is another one.
    let own = request.package.commitments_of(member(1)).unwrap().clone();
    eventually("the round is installed", || scene.commitments(&name).unwrap() != own).await;
    let before = scene.durable();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(scene.durable(), before);
    handle.release();
    let retried = start(&scene.engine, &request).await.unwrap();
    assert_eq!(retried.position(), before.next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_in_the_computation_answers_everyone_spends_the_nonces_and_spoils_nothing_else() {
    let scene = Scene::new().await;
    let (name, what) = (session("panic"), subject(4));
    let request = scene.request(&name, &what, 1, 2);
    let before = scene.durable();
    let waiting = scene.two_in_step_nine(&request).await;
    scene.trap.let_go(Then::Panic);
    refused(waiting, Reason::Internal).await;
    assert_eq!((scene.durable(), scene.rounds(&name)), (before, 0));

    let refusal = start(&scene.engine, &request).await.unwrap_err();
    let Refusal::CommitmentsUnknown { current: Some(current), .. } = refusal else { panic!("{refusal}") };
    assert_ne!(*current, *request.package.commitments_of(member(1)).unwrap(), "the nonces stay spent");
    let again = scene.request(&name, &what, 1, 2);
    let reply = start(&scene.engine, &again).await.unwrap();
    let share = submitted(&reply).share;
    scene.cluster.group.verify_share(member(1), &again.package, &share, None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_in_the_computation_refuses_everyone_and_nothing_is_installed() {
    let scene = Scene::new().await;
    let (name, what) = (session("freeze"), subject(5));
    let request = scene.request(&name, &what, 1, 2);
    let waiting = scene.two_in_step_nine(&request).await;
    let key_group = scene.cluster.key_group;
    let report = scene.engine.freeze(&admin(), &key_group, "a test").await.unwrap();
    eventually("the freeze is durable", || scene.durable() >= report.position.unwrap()).await;
    let before = scene.durable();
    scene.trap.let_go(Then::Go);
    refused(waiting, Reason::Frozen).await;
    assert_eq!(scene.durable(), before);

    scene.engine.thaw(&admin(), &key_group, &[report.freeze]).await.unwrap();
    assert_eq!(scene.rounds(&name), 0);
    let refusal = start(&scene.engine, &request).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::CommitmentsUnknown, "the nonces stay spent");
    start(&scene.engine, &scene.request(&name, &what, 1, 2)).await.unwrap();
}

/// A session of node 0 whose attempt 1 is answered by both of its members; attempt 2 is what the races are about.
async fn answered(scene: &Scene, name: &SessionId, what: &Subject) -> FinalizeRequest {
    let package = scene.cluster.package(name, what, &[member(1), member(2)]);
    let mut shares: Vec<SubmittedShare> = Vec::new();
    for seat in [member(1), member(2)] {
        let request = scene.cluster.request(name, what, 1, &package, seat);
        shares.push(submitted(&start(&scene.cluster.engine_of(seat), &request).await.unwrap()));
    }
    let attempt = scene.cluster.context(name, what, 1, &[member(1), member(2)]).id();
    FinalizeRequest {
        session: name.clone(),
        key_group: scene.cluster.key_group,
        subject: *what,
        finish: Finish::Shares { attempt, shares },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_finalisation_in_the_computation_wins_and_the_round_is_refused_with_the_signature() {
    let scene = Scene::new().await;
    let (name, what) = (session("finalize"), subject(6));
    let finish = answered(&scene, &name, &what).await;
    let request = scene.request(&name, &what, 2, 3);
    let waiting = scene.two_in_step_nine(&request).await;
    let done = scene.engine.finalize_sign_round(&coordinator(), &finish).await.unwrap().unwrap();
    let before = scene.durable();
    scene.trap.let_go(Then::Go);
    for caller in waiting {
        let refusal = caller.await.unwrap().unwrap_err();
        let Refusal::SessionFinalized { signature, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!(**signature, *done.signature());
    }
    assert_eq!(scene.durable(), before);
    assert_eq!(scene.commitments(&name).unwrap_err().reason(), Reason::SessionFinalized);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_finalisation_that_is_still_in_line_lets_no_round_past_it() {
    let scene = Scene::new().await;
    let (name, what) = (session("finalize-pending"), subject(7));
    let finish = answered(&scene, &name, &what).await;
    let request = scene.request(&name, &what, 2, 3);
    let waiting = scene.two_in_step_nine(&request).await;
    let handle = scene.cluster.nodes[0].token.scripted_handle().clone();
    handle.set_deadline(Duration::from_secs(60));
    handle.hang();
    let (engine, wanted) = (scene.engine.clone(), finish.clone());
    let finishing = tokio::spawn(async move { engine.finalize_sign_round(&coordinator(), &wanted).await });
    // In line: a second try of the same session's fresh rounds is told to ask again.
    eventually("the end is in line", || scene.commitments(&name).is_err()).await;
    scene.trap.let_go(Then::Go);
    refused(waiting, Reason::Busy).await;
    assert!(!finishing.is_finished());
    handle.release();
    let done = finishing.await.unwrap().unwrap().unwrap();
    let refusal = start(&scene.engine, &request).await.unwrap_err();
    let Refusal::SessionFinalized { signature, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!(**signature, *done.signature());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_abort_in_the_computation_wins_and_leaves_no_nonces() {
    let scene = Scene::new().await;
    let (name, what) = (session("abort"), subject(8));
    answered(&scene, &name, &what).await;
    let request = scene.request(&name, &what, 2, 3);
    let waiting = scene.two_in_step_nine(&request).await;
    scene.engine.abort_session(&coordinator(), &scene.cluster.session_request(&name)).await.unwrap();
    let before = scene.durable();
    scene.trap.let_go(Then::Go);
    refused(waiting, Reason::SessionAborted).await;
    assert_eq!(scene.durable(), before);
    assert_eq!(scene.commitments(&name).unwrap_err().reason(), Reason::SessionAborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_a_session_whose_first_round_is_in_the_computation_is_told_to_ask_again() {
    let scene = Scene::new().await;
    let (name, what) = (session("first"), subject(10));
    // Members 2 and 3 have made the signature without this node.
    let included = [member(2), member(3)];
    let signature = scene.cluster.sign(&name, &what, &included).await;
    let finish = FinalizeRequest {
        session: name.clone(),
        key_group: scene.cluster.key_group,
        subject: what,
        finish: Finish::Signature(Signature::new(signature)),
    };
    let own = scene.commitments(&name).unwrap();
    let other = scene.cluster.commit(&scene.cluster.nodes[1].engine(), &session("elsewhere"), member(2)).unwrap();
    let package = SigningPackage::new(what.message, [(member(1), own), (member(2), other)].into()).unwrap();
    let request = scene.cluster.request(&name, &what, 2, &package, member(1));
    let waiting = scene.two_in_step_nine(&request).await;
    // "No such session here" would be true, and a moment later it would not.
    let abort = scene.cluster.session_request(&name);
    assert_eq!(scene.engine.abort_session(&coordinator(), &abort).await.unwrap_err().reason(), Reason::Busy);
    let early = scene.engine.finalize_sign_round(&coordinator(), &finish).await;
    assert_eq!(early.err().map(|refusal| refusal.reason()), Some(Reason::Busy));
    scene.trap.let_go(Then::Go);
    for caller in waiting {
        caller.await.unwrap().unwrap();
    }
    let done = scene.engine.finalize_sign_round(&coordinator(), &finish).await.unwrap().unwrap();
    assert_eq!(*done.signature(), signature);
    assert_eq!(start(&scene.engine, &request).await.unwrap_err().reason(), Reason::SessionFinalized);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn freeze_against_release_no_release_is_counted_after_a_freeze_has_returned() {
    let scene = Scene::new().await;
    let (name, what) = (session("released"), subject(9));
    let request = scene.request(&name, &what, 1, 2);
    let expected = durable_part(&start(&scene.engine, &request).await.unwrap());
    for _ in 0..25 {
        let (released, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (engine, request) = (scene.engine.clone(), request.clone());
                let (released, stop, expected) = (Arc::clone(&released), Arc::clone(&stop), expected.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        let encode = |reply: &RoundReply| {
                            assert_eq!(durable_part(reply), expected);
                            // The longer a release takes, the more freezes come in its middle.
                            std::thread::yield_now();
                            released.fetch_add(1, Ordering::SeqCst);
                        };
                        match engine.start_sign_round(&coordinator(), &request, encode).await {
                            Ok(()) => {}
                            Err(refusal) => assert_eq!(refusal.reason(), Reason::Frozen),
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        eventually("releases happen", || released.load(Ordering::SeqCst) > 20).await;
        let report = scene.engine.freeze(&admin(), &scene.cluster.key_group, "a test").await.unwrap();
        let counted = released.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(released.load(Ordering::SeqCst), counted, "released after the freeze had returned");
        scene.engine.thaw(&admin(), &scene.cluster.key_group, &[report.freeze]).await.unwrap();
    }
}

/// A 2-of-3 group under `evidence`, whose nodes vote for a timeout at once. Node 0 holds members 1 and 2.
struct Evidence {
    cluster: Cluster,
    trap: StepNine,
    name: SessionId,
    what: Subject,
    all: [Member; 3],
}

impl Drop for Evidence {
    fn drop(&mut self) {
        self.trap.let_go(Then::Go);
    }
}

impl Evidence {
    async fn new() -> Self {
        let seats = vec![2, 1];
        let plan = Plan { attempts: AttemptPolicy::Evidence, seats, ..Plan::two_of_three(Kind::Scripted) };
        let mut cluster = Cluster::new(plan).await;
        let trap = StepNine::default();
        for node in &mut cluster.nodes {
            node.stop();
            node.config.engine.attempt_timeout_ms = 0;
            let source = trap.clone();
            node.config.entropy = Arc::new(move || source.source());
            node.start_open().await;
        }
        let all = [member(1), member(2), member(3)];
        Self { cluster, trap, name: session("advance"), what: subject(11), all }
    }

    fn context(&self, number: u32) -> AttemptContext {
        self.cluster.context(&self.name, &self.what, number, &self.all)
    }

    fn request(&self, number: u32, package: &SigningPackage, seat: u16) -> SignRequest {
        let evidence = if number > 1 { vec![self.timeout(number - 1)] } else { Vec::new() };
        let request = self.cluster.request(&self.name, &self.what, number, package, member(seat));
        SignRequest { evidence, ..request }
    }

    /// Asks node 0, as the node of the selected coordinator.
    fn ask(&self, request: &SignRequest) -> tokio::task::JoinHandle<Result<RoundReply, Refusal>> {
        let caller = coordinator_as(self.cluster.identities[self.cluster.seats[&member(request.context.coordinator)]]);
        let (engine, request) = (self.cluster.nodes[0].engine(), request.clone());
        tokio::spawn(async move { engine.start_sign_round(&caller, &request, RoundReply::clone).await })
    }

    fn package(&self) -> SigningPackage {
        self.cluster.package(&self.name, &self.what, &self.all)
    }

    /// The step from `number` to the next: every member but the coordinator votes.
    fn timeout(&self, number: u32) -> Transition {
        let (from, to) = (self.context(number), self.context(number + 1));
        let vote = |seat: &Member| {
            let request = VoteRequest {
                session: self.name.clone(),
                key_group: self.cluster.key_group,
                member: *seat,
                subject: self.what,
                context: from.parts(),
                evidence: Vec::new(),
            };
            at_once(self.cluster.engine_of(*seat).vote_timeout(&peer(), &request)).unwrap()
        };
        let votes = self.all.iter().filter(|seat| **seat != from.coordinator()).map(vote).collect();
        Transition {
            active_number: number,
            active_id: from.id(),
            active_coordinator: from.coordinator().number(),
            excluded: Vec::new(),
            evidence: TransitionEvidence::CoordinatorTimeout { votes },
            next: to.parts(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn advance_against_release_the_old_round_is_served_whole_until_the_advance_is_durable_and_never_after() {
    let scene = Evidence::new().await;
    let mut old = scene.request(1, &scene.package(), 1);
    let mut bytes = durable_part(&scene.ask(&old).await.unwrap().unwrap());
    for number in 2..20 {
        let next = scene.request(number, &scene.package(), 1);
        let advanced = Arc::new(AtomicBool::new(false));
        let caller = coordinator_as(scene.cluster.identities[scene.cluster.seats[&member(old.context.coordinator)]]);
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (engine, request, caller) = (scene.cluster.nodes[0].engine(), old.clone(), caller.clone());
                let (advanced, bytes) = (Arc::clone(&advanced), bytes.clone());
                tokio::spawn(async move {
                    loop {
                        let over = advanced.load(Ordering::SeqCst);
                        match engine.start_sign_round(&caller, &request, RoundReply::durable_part).await {
                            Ok(served) => assert!(served == bytes && !over, "served after the advance was durable"),
                            Err(refusal) => {
                                assert_eq!(refusal.reason(), Reason::AttemptStale, "{refusal}");
                                return;
                            }
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let reply = scene.ask(&next).await.unwrap().unwrap();
        advanced.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        (old, bytes) = (next, durable_part(&reply));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_advance_in_the_computation_of_another_seat_lets_nothing_of_the_old_attempt_be_installed() {
    let scene = Evidence::new().await;
    let package = scene.package();
    let first = scene.ask(&scene.request(1, &package, 1)).await.unwrap().unwrap();
    scene.trap.arm();
    let held = scene.ask(&scene.request(1, &package, 2));
    scene.trap.reached().await;
    // Member 2 answers attempt 1 while member 1 leads the session to attempt 2. Member 2's pair is gone: it shows another.
    let second = scene.ask(&scene.request(2, &scene.package(), 1)).await.unwrap().unwrap();
    assert_eq!(second.position(), first.position().next());
    scene.trap.let_go(Then::Go);
    let refusal = held.await.unwrap().unwrap_err();
    assert!(matches!(refusal.reason(), Reason::AttemptConflict | Reason::AttemptStale), "{refusal}");
    assert_eq!(scene.cluster.nodes[0].engine().status().durable, second.position());
    let late = scene.ask(&scene.request(1, &package, 2)).await.unwrap().unwrap_err();
    assert_eq!(late.reason(), Reason::AttemptStale, "{late}");
}
