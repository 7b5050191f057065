//! Goal: who a node and a member are, over the life of a state. A client key is made once and is kept; a member's identity is
//! changed by an administrator's record alone, and from then on the new one counts and the old one does not. Method: nodes on a
//! scripted token, one of them with a persister that the test steps, and one member that the test holds, which can sign with
//! its old identity and with a new one.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use frostkeep::engine::{
    Caller, Engine, EngineConfig, FinalizeRequest, Finish, KeyGroupPhase, Refusal, Role, RoundReply, SignRequest,
    Subject, VoteRequest,
};
use frostkeep::frost::{Nonces, SignatureShare, SigningPackage};
use frostkeep::hsm::clock::ManualClock;
use frostkeep::hsm::entropy;
use frostkeep::identity::{IdentityKey, NodeIdentity};
use frostkeep::ids::{AttemptPolicy, KeyGroupId, Member, SessionId};
use frostkeep::limits::ATTEMPT_TIMEOUT_MS;
use frostkeep::reasons::Reason;
use frostkeep::roast::{
    AttemptContext, Evidence, ShareVerdict, SignedRound, TimeoutVote, Transition, timeout_vote_message,
};
use frostkeep::store::{Position, Releases, Strength};
use frostkeep::tls::TlsKey;
use kit::outsider::{Outsider, SIGNED_HASH_DOMAIN, altered};
use kit::{Bench, Cluster, Kind, Plan, TestNode, admin, any_message, coordinator, member, peer, session, subject};

/// Nodes of members 1 and 2, and the member that the test holds.
const OUTSIDE: u16 = 3;

struct Room {
    cluster: Cluster,
    outsider: Outsider,
    /// The identity that takes the place of its own; it signs what the outsider's share makes.
    heir: Outsider,
    clock: ManualClock,
}

impl Room {
    async fn new() -> Self {
        let (mut cluster, outsider) = Cluster::with_outsider(2, 1, 2, AttemptPolicy::Evidence, any_message()).await;
        let clock = ManualClock::default();
        for node in &mut cluster.nodes {
            node.stop();
            node.config.clock = Arc::new(clock.clone());
            node.start_open().await;
        }
        let heir = Outsider {
            identity: Arc::new(NodeIdentity::generate(&mut entropy::os())),
            shares: std::collections::BTreeMap::new(),
        };
        Self { cluster, outsider, heir, clock }
    }

    fn key_group(&self) -> KeyGroupId {
        self.cluster.key_group
    }

    fn old(&self) -> IdentityKey {
        self.outsider.identity.public()
    }

    fn new_identity(&self) -> IdentityKey {
        self.heir.identity.public()
    }

    /// A package of members 1, 2 and the outsider's, asked of these engines.
    fn package(&self, engines: [&Engine; 2], id: &SessionId, what: &Subject) -> (SigningPackage, Nonces) {
        let (nonces, commitments) = self.outsider.commit(member(OUTSIDE));
        let mut all: std::collections::BTreeMap<Member, _> = (1..=2)
            .zip(engines)
            .map(|(seat, engine)| (member(seat), self.cluster.commit(engine, id, member(seat)).unwrap()))
            .collect();
        all.insert(member(OUTSIDE), commitments);
        (SigningPackage::new(what.message, all).unwrap(), nonces)
    }

    fn context(&self, id: &SessionId, what: &Subject, number: u32) -> AttemptContext {
        self.cluster.context(id, what, number, &[1, 2, OUTSIDE].map(member))
    }

    /// The first session whose attempt `number` is coordinated by `seat`.
    fn session_led_by(&self, seat: u16, number: u32, what: &Subject) -> SessionId {
        (0..1_000)
            .map(|index| session(&format!("led-{index}")))
            .find(|id| self.context(id, what, number).coordinator() == member(seat))
            .unwrap()
    }

    fn request(
        &self,
        id: &SessionId,
        what: &Subject,
        number: u32,
        package: &SigningPackage,
        evidence: &[Transition],
    ) -> SignRequest {
        SignRequest {
            session: id.clone(),
            key_group: self.key_group(),
            member: member(1),
            subject: *what,
            context: self.context(id, what, number).parts(),
            package: package.clone(),
            evidence: evidence.to_vec(),
        }
    }

    fn verdict(&self, engine: &Engine, id: &SessionId, what: &Subject, round: &SignedRound) -> ShareVerdict {
        engine.verify_signature_share(&coordinator(), &self.key_group(), id, what, round).unwrap()
    }

    fn seat(&self, engine: &Engine) -> IdentityKey {
        engine.key_group(&self.key_group()).unwrap().seats[&member(OUTSIDE)]
    }

    async fn replace(&self, engine: &Engine) -> Position {
        let (seat, identity) = (member(OUTSIDE), self.new_identity());
        engine.replace_identity(&admin(), &self.key_group(), seat, identity).await.unwrap()
    }

    /// What the outsider's member says, good or altered, under either identity.
    fn says(
        &self,
        by: &Outsider,
        id: &SessionId,
        what: &Subject,
        package: &SigningPackage,
        share: &[u8; 32],
    ) -> SignedRound {
        by.says(&self.cluster, id, what, &self.context(id, what, 1), package, member(OUTSIDE), share)
    }

    fn vote(&self, by: &Outsider, id: &SessionId, context: &AttemptContext) -> TimeoutVote {
        let message = timeout_vote_message(&self.key_group(), id, context, member(OUTSIDE));
        let signature = by.identity.sign(SIGNED_HASH_DOMAIN, &[&message]).as_bytes().to_vec();
        TimeoutVote { voter: OUTSIDE, signature }
    }
}

fn node_as(identity: IdentityKey) -> Caller {
    kit::coordinator_as(identity)
}

fn reason<T>(result: Result<T, Refusal>) -> Reason {
    result.err().expect("it is refused").reason()
}

/// Runs an operation of an engine whose persister the test steps.
async fn stepped<T: Send + 'static>(bench: &mut Bench, operation: impl Future<Output = T> + Send + 'static) -> T {
    let task = tokio::spawn(operation);
    kit::eventually("the operation ends", || {
        bench.settle();
        task.is_finished()
    })
    .await;
    task.await.unwrap()
}

/// What a state holds in the clear, in a place of its own.
fn copy_of(state: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(state).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn pin_of(engine: &Engine) -> frostkeep::roster::Pin {
    TlsKey::from_pkcs8(engine.client_key().unwrap()).unwrap().pin()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_a_client_key_and_every_later_one_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut nodes: Vec<_> = (0..2).map(|index| TestNode::new(directory.path(), Kind::Scripted, index)).collect();
    nodes[0].config.tuning.snapshot_floor_bytes = 1;
    let mut pins = Vec::new();
    for node in &mut nodes {
        let engine = node.start_open().await;
        kit::eventually("the client key is durable", || engine.client_key().is_ok()).await;
        pins.push(pin_of(&engine));
    }
    assert_ne!(pins[0], pins[1]);
    let mut snapshots = 0;
    for _ in 0..4 {
        let bench = nodes[0].open_by_hand();
        assert_eq!(pin_of(&bench.engine), pins[0]);
        snapshots += bench.engine.status().counters.snapshots;
    }
    assert!(snapshots > 0, "some of these starts read a snapshot");
}

/// A source that gives nothing leaves the state as a release without client keys does.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_without_a_client_key_gets_one_at_its_next_start_and_gives_it_out_when_it_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = TestNode::new(directory.path(), Kind::Scripted, 0);
    let source = std::mem::replace(&mut node.config.client_key, Arc::new(|| Err("not today".into())));
    let bench = node.open_by_hand();
    let identity = bench.engine.node_identity().unwrap();
    assert_eq!(reason(bench.engine.client_key()), Reason::Internal);
    drop(bench);

    node.config.client_key = source;
    let opening = frostkeep::store::Opening::begin(
        node.state(),
        node.token.provider(),
        Bench::environment(&node, Box::new(frostkeep::store::VolumeSpace::of(node.state()))),
        node.config.tuning,
    );
    let mut bench = Bench::unsettled(&node, EngineConfig::default(), opening.unwrap());
    assert_eq!(reason(bench.engine.client_key()), Reason::Starting, "a key that a crash forgets is nobody's");
    bench.settle();
    let pin = pin_of(&bench.engine);
    assert_eq!(bench.engine.node_identity().unwrap(), identity);
    drop(bench);
    assert_eq!(pin_of(&node.open_by_hand().engine), pin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_node_gets_no_client_key() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = TestNode::new(directory.path(), Kind::Scripted, 0);
    node.config.tuning.strength = Strength::Strict;
    let mut first = node.open_by_hand();
    first.engine.client_key().unwrap();
    let clone = directory.path().join("clone");
    copy_of(node.state(), &clone);
    let original = std::mem::replace(&mut node.config.state, clone);
    let second = Bench::open(&node, EngineConfig::default());
    second.engine.client_key().unwrap();
    node.config.state = original;
    // Under `strict` the first one learns of the second with the next record that it makes.
    let begun = first.engine.clone();
    let asked = tokio::spawn(async move {
        let parameters = parameters_of(&begun);
        begun.keygen_begin(&peer(), parameters, any_message()).await.map(|_| ())
    });
    kit::eventually("it is fenced", || {
        first.settle();
        first.line.status().releases == Releases::FencedByAnchor
    })
    .await;
    assert_eq!(reason(first.engine.client_key()), Reason::Fenced);
    assert!(asked.await.unwrap().is_err());
    second.engine.client_key().unwrap();
}

/// A key generation of two seats of this node: something that has to be recorded.
fn parameters_of(engine: &Engine) -> frostkeep::keygen::Parameters {
    let own = engine.node_identity().unwrap();
    let seats = [(member(1), own), (member(2), own)].into();
    let ceremony = frostkeep::ids::CeremonyId::new([7; 16]);
    let policy = any_message().hash().unwrap();
    frostkeep::keygen::Parameters::new(ceremony, 2, seats, AttemptPolicy::Roast, policy).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_group_is_shown_as_it_stands() {
    let cluster = Cluster::new(Plan { seats: vec![2, 1], ..Plan::two_of_three(Kind::Scripted) }).await;
    let engine = cluster.nodes[0].engine();
    let id = cluster.key_group;
    let view = engine.key_group(&id).unwrap();
    assert_eq!((view.id, view.phase, view.threshold), (id, KeyGroupPhase::Active, 2));
    assert_eq!(view.ceremony, cluster.confirmed.certificate().transcript().parameters().ceremony());
    assert_eq!((view.local_members.as_slice(), view.sessions), (&[member(1), member(2)][..], 0));
    assert_eq!(view.attempt_policy, AttemptPolicy::Roast);
    assert_eq!(view.policy.hash().unwrap(), any_message().hash().unwrap());
    assert_eq!(view.certificate.unwrap().to_bytes(), cluster.confirmed.certificate().to_bytes());
    assert_eq!(view.seats, *cluster.confirmed.certificate().seats());
    assert!(view.freezes.is_empty() && !view.frozen);

    let package = cluster.package(&session("open"), &subject(1), &[1, 2].map(member));
    let request = cluster.request(&session("open"), &subject(1), 1, &package, member(1));
    kit::start(&engine, &request).await.unwrap();
    let report = engine.freeze(&admin(), &id, "drill").await.unwrap();
    let view = engine.key_group(&id).unwrap();
    assert_eq!((view.freezes.as_slice(), view.frozen, view.sessions), (&[report.freeze][..], true, 1));

    let other = cluster.nodes[1].engine();
    other.retire_key_group(&admin(), &id).await.unwrap();
    let view = &other.key_groups().unwrap()[0];
    assert_eq!((view.id, view.phase, view.sessions), (id, KeyGroupPhase::Retired, 0));
    assert!(view.local_members.is_empty() && view.certificate.is_some());

    let unknown = KeyGroupId::new([2; 33]).unwrap();
    assert_eq!(reason(engine.key_group(&unknown)), Reason::KeyGroupUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_replaced_by_an_administrator_alone() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let roles = vec![Role::Coordinator, Role::Peer, Role::Observer];
    let everybody_else = Caller { name: "kit".into(), identity: Some(room.cluster.identities[1]), roles };
    for caller in [everybody_else, coordinator(), peer()] {
        let refused = engine.replace_identity(&caller, &room.key_group(), member(OUTSIDE), room.new_identity()).await;
        assert_eq!(reason(refused), Reason::PermissionDenied, "{caller:?}");
    }
    assert_eq!(room.seat(&engine), room.old());
    let position = room.replace(&engine).await;
    assert_eq!(room.seat(&engine), room.new_identity());
    assert!(engine.status().durable >= position);
    assert_eq!(room.replace(&engine).await, position, "a lost answer costs no second record");
    assert_eq!(room.seat(&room.cluster.nodes[1].engine()), room.old(), "every node is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_the_seat_cannot_have_is_refused_and_changes_nothing() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let (key_group, fresh) = (room.key_group(), room.new_identity());
    let before = engine.key_group(&key_group).unwrap().seats;
    let unknown = KeyGroupId::new([2; 33]).unwrap();
    for (group, seat, identity, why, says) in [
        (unknown, OUTSIDE, fresh, Reason::KeyGroupUnknown, ""),
        (key_group, 9, fresh, Reason::InvalidRequest, "member 9 is not one of this key group"),
        (key_group, OUTSIDE, room.old(), Reason::InvalidRequest, "already"),
        (key_group, OUTSIDE, room.cluster.identities[1], Reason::InvalidRequest, "is that of member 2"),
        (key_group, 1, fresh, Reason::InvalidRequest, "member 1 is a seat of this node"),
    ] {
        let refusal = engine.replace_identity(&admin(), &group, member(seat), identity).await.unwrap_err();
        assert_eq!(refusal.reason(), why, "{refusal}");
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    assert_eq!(engine.key_group(&key_group).unwrap().seats, before);
    engine.retire_key_group(&admin(), &key_group).await.unwrap();
    let refused = engine.replace_identity(&admin(), &key_group, member(OUTSIDE), fresh).await;
    assert_eq!(reason(refused), Reason::KeyGroupRetired);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seats_of_one_node_move_together_and_no_node_gets_the_seat_of_another() {
    let cluster = Cluster::new(Plan { seats: vec![2, 1, 1], ..Plan::two_of_three(Kind::Scripted) }).await;
    let engine = cluster.nodes[1].engine();
    let fresh = NodeIdentity::generate(&mut entropy::os()).public();
    let give = |seat: u16, identity| {
        let (engine, id) = (engine.clone(), cluster.key_group);
        async move { engine.replace_identity(&admin(), &id, member(seat), identity).await }
    };
    give(1, fresh).await.unwrap();
    assert_eq!(reason(give(4, fresh).await), Reason::InvalidRequest, "members 1 and 4 are of two nodes");
    give(2, fresh).await.unwrap();
    // One lost node cannot take another's place, even when both are new: four votes stay four nodes' votes.
    assert_eq!(reason(give(4, cluster.identities[0]).await.map(|_| ())), Reason::InvalidRequest);
    let seats = engine.key_group(&cluster.key_group).unwrap().seats;
    assert_eq!(seats[&member(1)], seats[&member(2)]);
    assert_eq!(seats[&member(1)], fresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_identity_survives_restarts_and_snapshots() {
    let mut room = Room::new().await;
    room.cluster.nodes[0].config.tuning.snapshot_floor_bytes = 1;
    let position = room.replace(&room.cluster.nodes[0].engine()).await;
    let mut snapshots = 0;
    for _ in 0..4 {
        let mut bench = room.cluster.nodes[0].open_by_hand();
        assert_eq!(room.seat(&bench.engine), room.new_identity());
        let (engine, id, identity) = (bench.engine.clone(), room.key_group(), room.new_identity());
        let again =
            stepped(&mut bench, async move { engine.replace_identity(&admin(), &id, member(OUTSIDE), identity).await });
        assert_eq!(again.await.unwrap(), position);
        snapshots += bench.engine.status().counters.snapshots;
    }
    assert!(snapshots > 0, "some of these starts read a snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_replacement_the_old_identity_proves_nothing_and_the_new_one_counts() {
    let room = Room::new().await;
    let engines = [room.cluster.nodes[0].engine(), room.cluster.nodes[1].engine()];
    let engine = &engines[0];
    let (id, what) = (session("verdicts"), subject(1));
    let (package, nonces) = room.package([engine, &engines[1]], &id, &what);
    let good = room.outsider.sign(member(OUTSIDE), nonces, &room.cluster.group, &package, &what).to_bytes();
    let bad = altered(&good);
    let rounds = |share| [&room.outsider, &room.heir].map(|by| room.says(by, &id, &what, &package, share));
    let verdicts = |rounds: &[SignedRound; 2]| rounds.each_ref().map(|round| room.verdict(engine, &id, &what, round));
    assert_eq!(verdicts(&rounds(&bad)), [ShareVerdict::Invalid, ShareVerdict::Indeterminate]);
    room.replace(engine).await;
    assert_eq!(verdicts(&rounds(&bad)), [ShareVerdict::Indeterminate, ShareVerdict::Invalid]);
    assert_eq!(verdicts(&rounds(&good)), [ShareVerdict::Valid; 2], "a share that verifies proves itself");
    // A node that was not told judges as before.
    let untold = rounds(&bad).map(|round| room.verdict(&engines[1], &id, &what, &round));
    assert_eq!(untold, [ShareVerdict::Invalid, ShareVerdict::Indeterminate]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_of_the_selected_member_is_the_one_with_the_identity_in_force() {
    let room = Room::new().await;
    let engines = [room.cluster.nodes[0].engine(), room.cluster.nodes[1].engine()];
    let what = subject(2);
    let id = room.session_led_by(OUTSIDE, 1, &what);
    let (package, _) = room.package([&engines[0], &engines[1]], &id, &what);
    let request = room.request(&id, &what, 1, &package, &[]);
    let ask = |identity| {
        let (engine, request) = (engines[0].clone(), request.clone());
        async move { engine.start_sign_round(&node_as(identity), &request, RoundReply::clone).await }
    };
    assert_eq!(reason(ask(room.new_identity()).await), Reason::PermissionDenied);
    let reply = ask(room.old()).await.unwrap();
    room.replace(&engines[0]).await;
    assert_eq!(reason(ask(room.old()).await), Reason::PermissionDenied, "the cached serve asks as well");
    let again = ask(room.new_identity()).await.unwrap();
    assert_eq!(kit::durable_part(&again), kit::durable_part(&reply));
}

/// An attempt that members 2 and 3 may vote against is left by a vote of the identity in force.
#[tokio::test(flavor = "multi_thread")]
async fn votes_count_under_the_identity_in_force() {
    let room = Room::new().await;
    let engines = [room.cluster.nodes[0].engine(), room.cluster.nodes[1].engine()];
    let engine = &engines[0];
    let what = subject(3);
    let id = room.session_led_by(1, 1, &what);
    let one = room.context(&id, &what, 1);
    let (package, _) = room.package([engine, &engines[1]], &id, &what);
    let first = room.request(&id, &what, 1, &package, &[]);
    engine.start_sign_round(&room.cluster.driver(&one), &first, RoundReply::clone).await.unwrap();
    let ask = VoteRequest {
        session: id.clone(),
        key_group: room.key_group(),
        member: member(2),
        subject: what,
        context: one.parts(),
        evidence: Vec::new(),
    };
    let _ = engines[1].vote_timeout(&peer(), &ask).await;
    room.clock.advance(Duration::from_millis(ATTEMPT_TIMEOUT_MS));
    let honest = engines[1].vote_timeout(&peer(), &ask).await.unwrap();

    let two = room.context(&id, &what, 2);
    let (next, _) = room.package([engine, &engines[1]], &id, &what);
    let step = |by: &Outsider| {
        let votes = vec![honest.clone(), room.vote(by, &id, &one)];
        kit::timeout_step(&one, &two, votes)
    };
    let driver = |context: &AttemptContext| match context.coordinator() {
        seat if seat == member(OUTSIDE) => node_as(room.new_identity()),
        _ => room.cluster.driver(context),
    };
    room.replace(engine).await;
    let drive = |step: Transition| {
        let request = room.request(&id, &what, 2, &next, &[step]);
        let (engine, driver) = (engine.clone(), driver(&two));
        async move { engine.start_sign_round(&driver, &request, RoundReply::clone).await }
    };
    assert_eq!(reason(drive(step(&room.outsider)).await), Reason::AttemptTransitionUnauthorized);
    drive(step(&room.heir)).await.unwrap();
}

/// The chain is verified off the lock; what it proved is used only while the same identities are in force.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_was_judged_before_a_replacement_is_judged_again_after_it() {
    let mut room = Room::new().await;
    let other = room.cluster.nodes[1].engine();
    let mut bench = room.cluster.nodes[0].open_by_hand();
    let engine = bench.engine.clone();
    let what = subject(4);
    let id = (0..1_000)
        .map(|index| session(&format!("race-{index}")))
        .find(|id| [1, 2].iter().all(|number| room.context(id, &what, *number).coordinator() != member(OUTSIDE)))
        .unwrap();
    let (one, two) = (room.context(&id, &what, 1), room.context(&id, &what, 2));
    let (package, nonces) = room.package([&engine, &other], &id, &what);
    let (request, driver) = (room.request(&id, &what, 1, &package, &[]), room.cluster.driver(&one));
    let asked = engine.clone();
    stepped(&mut bench, async move { asked.start_sign_round(&driver, &request, RoundReply::clone).await })
        .await
        .unwrap();

    let good = room.outsider.sign(member(OUTSIDE), nonces, &room.cluster.group, &package, &what).to_bytes();
    let accused = room.says(&room.outsider, &id, &what, &package, &altered(&good));
    let survivors = [1, 2].map(member);
    let two = room.cluster.context(&id, &what, two.number(), &survivors);
    let evidence = Transition {
        active_number: one.number(),
        active_id: one.id(),
        active_coordinator: one.coordinator().number(),
        excluded: vec![OUTSIDE],
        evidence: Evidence::InvalidShare { accused: vec![accused] },
        next: two.parts(),
    };
    let commitments = survivors.into_iter().zip([&engine, &other]);
    let commitments = commitments.map(|(seat, of)| (seat, room.cluster.commit(of, &id, seat).unwrap())).collect();
    let request = SignRequest {
        context: two.parts(),
        package: SigningPackage::new(what.message, commitments).unwrap(),
        evidence: vec![evidence],
        ..room.request(&id, &what, 1, &package, &[])
    };
    let driver = room.cluster.driver(&two);

    // The first look hands the chain to a thread that verifies it by the identities of now.
    let mut advance = Box::pin(engine.start_sign_round(&driver, &request, RoundReply::clone));
    assert!(looked_at(&mut advance).is_pending());
    let (admin_engine, key_group, identity) = (engine.clone(), room.key_group(), room.new_identity());
    stepped(
        &mut bench,
        async move { admin_engine.replace_identity(&admin(), &key_group, member(OUTSIDE), identity).await },
    )
    .await
    .unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(20), advance).await.unwrap();
    assert_eq!(reason(refused), Reason::AttemptTransitionUnauthorized);
}

fn looked_at<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_is_not_durable_changes_no_reply() {
    let mut room = Room::new().await;
    let other = room.cluster.nodes[1].engine();
    let mut bench = room.cluster.nodes[0].open_by_hand();
    let engine = bench.engine.clone();
    let what = subject(5);
    let id = room.session_led_by(OUTSIDE, 1, &what);
    let one = room.context(&id, &what, 1);
    let (package, nonces) = room.package([&engine, &other], &id, &what);
    let request = room.request(&id, &what, 1, &package, &[]);
    let (asked, old) = (engine.clone(), node_as(room.old()));
    let own = {
        let request = request.clone();
        stepped(&mut bench, async move { asked.start_sign_round(&old, &request, RoundReply::clone).await })
    };
    let own = own.await.unwrap();
    let good = room.outsider.sign(member(OUTSIDE), nonces, &room.cluster.group, &package, &what).to_bytes();
    let accused = room.says(&room.outsider, &id, &what, &package, &altered(&good));

    let (admin_engine, key_group, identity) = (engine.clone(), room.key_group(), room.new_identity());
    let mut pending =
        Box::pin(async move { admin_engine.replace_identity(&admin(), &key_group, member(OUTSIDE), identity).await });
    assert!(looked_at(&mut pending).is_pending());
    assert_eq!(room.seat(&engine), room.old());
    assert_eq!(room.verdict(&engine, &id, &what, &accused), ShareVerdict::Invalid);
    let served = engine.start_sign_round(&node_as(room.old()), &request, RoundReply::clone).await.unwrap();
    assert_eq!(kit::durable_part(&served), kit::durable_part(&own));
    let (driver, theirs) = (node_as(room.old()), SignRequest { member: member(2), ..request });
    let theirs = other.start_sign_round(&driver, &theirs, RoundReply::clone).await.unwrap();
    let mut shares = vec![kit::submitted(&own), kit::submitted(&theirs)];
    let mut lie = shares[0].clone();
    lie.member = member(OUTSIDE);
    lie.share = SignatureShare::from_bytes(&accused.share).unwrap();
    lie.round_signature = Some(<[u8; 64]>::try_from(accused.round_signature.as_slice()).unwrap());
    shares.push(lie);
    let finish = FinalizeRequest {
        session: id.clone(),
        key_group: room.key_group(),
        subject: what,
        finish: Finish::Shares { attempt: one.id(), shares },
    };
    let blamed = |refusal: Refusal| match refusal {
        Refusal::SharesInvalid { culprits, indeterminate } => (culprits, indeterminate),
        other => panic!("{other}"),
    };
    let refusal = engine.finalize_sign_round(&coordinator(), &finish).await.unwrap_err();
    assert_eq!(blamed(refusal), (vec![member(OUTSIDE)], vec![]));

    bench.settle();
    pending.await.unwrap();
    assert_eq!(room.seat(&engine), room.new_identity());
    assert_eq!(room.verdict(&engine, &id, &what, &accused), ShareVerdict::Indeterminate);
    let refusal = engine.finalize_sign_round(&coordinator(), &finish).await.unwrap_err();
    assert_eq!(blamed(refusal), (vec![], vec![member(OUTSIDE)]), "nobody is named any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_no_identity_is_replaced() {
    let mut room = Room::new().await;
    let mut bench = room.cluster.nodes[0].open_by_hand();
    let engine = bench.engine.clone();
    room.cluster.nodes[0].token.take_away();
    kit::eventually("the outage is known", || {
        room.clock.advance(Duration::from_secs(1));
        bench.persister.step();
        !engine.status().health.admits_work()
    })
    .await;
    let replaced = engine.replace_identity(&admin(), &room.key_group(), member(OUTSIDE), room.new_identity()).await;
    assert_eq!(reason(replaced), Reason::KeyProviderUnavailable);
    assert_eq!(room.seat(&engine), room.old());
}
