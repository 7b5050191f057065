//! Goal: key generation over engines ends in a key that every node keeps, or in nothing, whoever dies when. Method: nodes on
//! a scripted token whose persister the test steps; a crash drops engine and persister with all that was not written.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use frostkeep::engine::{Caller, CeremonyStage, CommitRequest, Engine, EngineConfig, Refusal, Role};
use frostkeep::hash::Framed;
use frostkeep::hsm::clock::ManualClock;
use frostkeep::hsm::entropy;
use frostkeep::hsm::token::FaultClass;
use frostkeep::identity::{IdentityKey, IdentitySignature, NodeIdentity};
use frostkeep::ids::{AttemptPolicy, CeremonyId, KeyGroupId, Member};
use frostkeep::keygen::{self, Body, Certificate, CertificateError, ConfirmedKeyGroup, Fault, Message, Parameters};
use frostkeep::limits;
use frostkeep::reasons::Reason;
use kit::{Bench, Kind, TestNode, admin, any_message, coordinator, member, peer, session};
use rand_core::RngCore;

const NODES: usize = 3;

/// Three nodes in one room, one seat each.
struct Room {
    nodes: Vec<TestNode>,
    benches: Vec<Option<Bench>>,
    holders: BTreeMap<Member, IdentityKey>,
    _directory: tempfile::TempDir,
}

/// How far a ceremony has come when somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begun,
    HeardOne,
    Advanced,
    HeardTwo,
    /// The prepared record is in line and not on disk.
    InLine,
}

impl Room {
    fn new(configure: impl Fn(&mut TestNode)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut nodes: Vec<TestNode> =
            (0..NODES).map(|index| TestNode::new(directory.path(), Kind::Scripted, index)).collect();
        nodes.iter_mut().for_each(configure);
        let benches: Vec<Option<Bench>> = nodes.iter_mut().map(|node| Some(node.open_by_hand())).collect();
        let identity = |bench: &Option<Bench>| bench.as_ref().unwrap().engine.node_identity().unwrap();
        let holders = (1..).map(member).zip(benches.iter().map(identity)).collect();
        Self { nodes, benches, holders, _directory: directory }
    }

    fn bench(&mut self, index: usize) -> &mut Bench {
        self.benches[index].as_mut().unwrap()
    }

    fn engine(&self, index: usize) -> Engine {
        self.benches[index].as_ref().unwrap().engine.clone()
    }

    fn engines(&self) -> Vec<Engine> {
        (0..NODES).map(|index| self.engine(index)).collect()
    }

    /// Everything in memory is gone, and every record that was not stepped.
    fn crash(&mut self, index: usize) {
        self.benches[index] = None;
        self.benches[index] = Some(Bench::open(&self.nodes[index], EngineConfig::default()));
    }

    fn parameters(&self) -> Parameters {
        let mut id = [0; 16];
        entropy::os().fill_bytes(&mut id);
        let policy = any_message().hash().unwrap();
        Parameters::new(CeremonyId::new(id), 2, self.holders.clone(), AttemptPolicy::Roast, policy).unwrap()
    }

    async fn begin(&mut self, parameters: &Parameters) -> Vec<Message> {
        let mut messages = Vec::new();
        for index in 0..NODES {
            messages.extend(self.begin_one(index, parameters).await.unwrap());
        }
        messages
    }

    async fn begin_one(&mut self, index: usize, parameters: &Parameters) -> Result<Vec<Message>, Refusal> {
        let parameters = parameters.clone();
        let begin = |engine: Engine| async move { engine.keygen_begin(&peer(), parameters, any_message()).await };
        self.stepping(index, begin).await
    }

    async fn advance(&self, ceremony: &CeremonyId) -> Vec<Message> {
        let mut messages = Vec::new();
        for engine in self.engines() {
            messages.extend(engine.keygen_advance(&peer(), ceremony).await.unwrap());
        }
        messages
    }

    /// Runs a new ceremony up to `step`; the persister of `victim` is never stepped meanwhile.
    async fn run_to(&mut self, step: Step, victim: usize) -> Parameters {
        let parameters = self.parameters();
        let ceremony = parameters.ceremony();
        let messages = self.begin(&parameters).await;
        if step >= Step::HeardOne {
            kit::deliver(&self.engines(), &ceremony, &messages).await;
        }
        if step >= Step::Advanced {
            let messages = self.advance(&ceremony).await;
            if step >= Step::HeardTwo {
                kit::deliver(&self.engines(), &ceremony, &messages).await;
            }
        }
        if step >= Step::InLine {
            let engine = self.engine(victim);
            let waiting = tokio::spawn(async move { engine.keygen_finish(&peer(), &ceremony).await });
            let line = self.bench(victim).line.clone();
            kit::eventually("the prepared record is in line", || line.waiting_records() > 0).await;
            assert!(!waiting.is_finished(), "a statement left before its record was durable");
            waiting.abort();
        }
        parameters
    }

    /// `work` on the engine of a node, whose persister goes on meanwhile.
    async fn stepping<T, F: Future<Output = T>>(&mut self, index: usize, work: impl FnOnce(Engine) -> F) -> T {
        let work = work(self.engine(index));
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(1)) => self.bench(index).settle(),
            }
        }
    }

    /// Every node finishes; the certificate of their statements.
    async fn certificate(&mut self, ceremony: CeremonyId) -> Certificate {
        let mut replies = Vec::new();
        for index in 0..NODES {
            let reply = self.stepping(index, |engine| async move { engine.keygen_finish(&peer(), &ceremony).await });
            replies.push(reply.await.unwrap());
        }
        let transcript = replies[0].transcript.clone();
        Certificate::new(transcript, replies.iter().map(|reply| reply.statement)).unwrap()
    }

    async fn certify(&mut self, index: usize, certificate: &Certificate) -> Result<keygen::Confirmation, Refusal> {
        let bytes = certificate.to_bytes();
        // From anybody: it proves itself.
        self.stepping(index, |engine| async move { engine.keygen_certify(&coordinator(), bytes).await }).await
    }

    /// Why node `index` does not commit under the key group; none when it does.
    fn refused(&self, index: usize, key_group: KeyGroupId) -> Option<Reason> {
        let seat = member(u16::try_from(index).unwrap() + 1);
        let request = CommitRequest { session: session("any"), key_group, member: seat };
        self.engine(index).commit(&coordinator(), &request).err().map(|refusal| refusal.reason())
    }
}

fn reason<T>(result: Result<T, Refusal>) -> Reason {
    result.err().unwrap().reason()
}

fn many_snapshots(node: &mut TestNode) {
    node.config.tuning.snapshot_floor_bytes = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_before_the_prepared_record_is_durable_voids_the_ceremony_by_name_at_every_step() {
    let mut room = Room::new(|_| {});
    for step in [Step::Begun, Step::HeardOne, Step::Advanced, Step::HeardTwo, Step::InLine] {
        for victim in [0, NODES - 1] {
            let ceremony = room.run_to(step, victim).await.ceremony();
            room.crash(victim);
            let engine = room.engine(victim);
            assert_eq!(reason(engine.keygen_advance(&peer(), &ceremony).await), Reason::CeremonyUnknown, "{step:?}");
            assert_eq!(reason(engine.keygen_finish(&peer(), &ceremony).await), Reason::CeremonyUnknown, "{step:?}");
            assert_eq!(reason(engine.keygen_missing(&ceremony)), Reason::CeremonyUnknown, "{step:?}");
            let received = engine.keygen_receive(&peer(), &ceremony, vec![0; 8]).await;
            let refusal = received.unwrap_err();
            assert!(refusal.to_string().contains(&ceremony.to_string()), "it is named: {refusal}");
            // The others give it up; their seats are free for the next one.
            for index in (0..NODES).filter(|index| *index != victim) {
                room.engine(index).keygen_abandon(&peer(), &ceremony).unwrap();
            }
        }
    }
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let certificate = room.certificate(ceremony).await;
    for index in 0..NODES {
        room.certify(index, &certificate).await.unwrap();
        assert_eq!(room.refused(index, certificate.group().id()), None, "the next ceremony makes a key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_signature_of_a_node_that_died_there_is_no_certificate() {
    let mut room = Room::new(|_| {});
    let ceremony = room.run_to(Step::InLine, 2).await.ceremony();
    room.crash(2);
    let mut statements = Vec::new();
    let mut transcript = None;
    for index in [0, 1] {
        let reply = room.stepping(index, |engine| async move { engine.keygen_finish(&peer(), &ceremony).await }).await;
        let reply = reply.unwrap();
        statements.push(reply.statement);
        transcript = Some(reply.transcript);
    }
    let missing = Certificate::new(transcript.unwrap(), statements).unwrap_err();
    assert_eq!(missing, CertificateError::Missing { identities: vec![room.holders[&member(3)]] });
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_own_signature_a_node_keeps_its_share_over_restarts_and_snapshots_and_anybodys_certificate_activates_it()
 {
    let mut room = Room::new(many_snapshots);
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let certificate = room.certificate(ceremony).await;
    let key_group = certificate.group().id();
    let mut snapshots = 0;
    for index in 0..NODES {
        let statement = room
            .stepping(index, |engine| async move { engine.keygen_finish(&peer(), &ceremony).await })
            .await
            .unwrap()
            .statement;
        for _ in 0..4 {
            room.bench(index).settle();
            snapshots += room.engine(index).status().counters.snapshots;
            room.crash(index);
            assert_eq!(room.refused(index, key_group), Some(Reason::KeyGroupPrepared), "it signs nothing yet");
            let again = room.stepping(index, |engine| async move { engine.keygen_finish(&peer(), &ceremony).await });
            let again = again.await.unwrap();
            assert_eq!(again.statement.to_bytes(), statement.to_bytes());
            assert_eq!(again.transcript.hash(), certificate.transcript().hash());
        }
    }
    assert!(snapshots > 0, "the prepared share has been through a snapshot");

    // The certificate dies in line with its node: the share is prepared as before, and the certificate is taken again.
    let (engine, bytes) = (room.engine(0), certificate.to_bytes());
    let waiting = tokio::spawn(async move { engine.keygen_certify(&coordinator(), bytes).await });
    let line = room.bench(0).line.clone();
    kit::eventually("the certificate is in line", || line.waiting_records() > 0).await;
    assert!(!waiting.is_finished(), "a confirmation left before its record was durable");
    assert_eq!(room.refused(0, key_group), Some(Reason::KeyGroupPrepared), "a certificate in line activates nothing");
    waiting.abort();
    room.crash(0);
    assert_eq!(room.refused(0, key_group), Some(Reason::KeyGroupPrepared));

    for index in 0..NODES {
        let first = room.certify(index, &certificate).await.unwrap();
        for _ in 0..2 {
            room.crash(index);
            assert_eq!(room.refused(index, key_group), None, "active after every restart");
            let again = room.certify(index, &certificate).await.unwrap();
            assert_eq!(again.to_bytes(), first.to_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_address_before_every_node_has_confirmed_its_durable_certificate() {
    let mut room = Room::new(|_| {});
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let certificate = room.certificate(ceremony).await;
    let mut confirmations = Vec::new();
    for index in 0..NODES {
        let missing = ConfirmedKeyGroup::new(certificate.clone(), confirmations.clone()).unwrap_err();
        let CertificateError::Missing { identities } = missing else { panic!("{missing}") };
        assert_eq!(identities.len(), NODES - index);
        confirmations.push(room.certify(index, &certificate).await.unwrap());
    }
    let confirmed = ConfirmedKeyGroup::new(certificate.clone(), confirmations).unwrap();
    assert_eq!(confirmed.id(), certificate.group().id());
    assert!(confirmed.address(bitcoin::Network::Regtest).to_string().starts_with("bcrt1p"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_a_ceremony_is_refused_before_any_secret_exists_and_one_under_way_waits() {
    let draws = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&draws);
    let mut room = Room::new(move |node| {
        let counted = Arc::clone(&counted);
        node.config.entropy = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::new(entropy::os())
        });
    });
    let under_way = room.run_to(Step::HeardTwo, 0).await.ceremony();
    room.nodes[0].token.scripted_handle().fail_until_healed(FaultClass::Token);
    for _ in 0..200 {
        room.bench(0).settle();
        if !room.engine(0).status().health.admits_work() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let engine = room.engine(0);
    assert!(!engine.status().health.admits_work());

    let before = draws.load(Ordering::SeqCst);
    assert_eq!(reason(engine.keygen_preflight(&peer())), Reason::KeyProviderUnavailable);
    let begun = engine.keygen_begin(&peer(), room.parameters(), any_message()).await;
    assert_eq!(reason(begun), Reason::KeyProviderUnavailable);
    assert_eq!(draws.load(Ordering::SeqCst), before, "no randomness was drawn: there is no secret");
    assert_eq!(reason(engine.keygen_finish(&peer(), &under_way).await), Reason::KeyProviderUnavailable);

    room.nodes[0].token.scripted_handle().heal();
    for _ in 0..200 {
        room.bench(0).settle();
        if room.engine(0).status().health.admits_work() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let certificate = room.certificate(under_way).await;
    for index in 0..NODES {
        room.certify(index, &certificate).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_absent_are_named_and_nothing_is_lost_and_the_faulty_end_the_ceremony_by_name() {
    let mut room = Room::new(|_| {});
    // Member 3 is the test's own: it stays away, then says two different things.
    let rogue = Arc::new(NodeIdentity::generate(&mut entropy::os()));
    let mut holders = room.holders.clone();
    holders.insert(member(3), rogue.public());
    let policy = any_message().hash().unwrap();
    let ceremony = CeremonyId::new([7; 16]);
    let parameters = Parameters::new(ceremony, 2, holders, AttemptPolicy::Roast, policy).unwrap();
    let engines = [room.engine(0), room.engine(1)];
    let mut messages = Vec::new();
    for index in 0..engines.len() {
        messages.extend(room.begin_one(index, &parameters).await.unwrap());
    }
    kit::deliver(&engines, &ceremony, &messages).await;

    for _ in 0..2 {
        let refusal = engines[0].keygen_advance(&peer(), &ceremony).await.unwrap_err();
        assert_eq!(refusal.reason(), Reason::CeremonyIncomplete);
        let Refusal::CeremonyAbsent { members, .. } = refusal else { panic!("{refusal}") };
        assert_eq!(members, vec![member(3)]);
    }
    assert_eq!(engines[0].keygen_missing(&ceremony).unwrap(), vec![member(3)]);

    let (_, one) = keygen::begin(parameters.clone(), Arc::clone(&rogue), &mut entropy::os()).unwrap();
    let (_, other) = keygen::begin(parameters.clone(), rogue, &mut entropy::os()).unwrap();
    engines[0].keygen_receive(&peer(), &ceremony, one[0].to_bytes()).await.unwrap();
    let told = engines[0].keygen_receive(&peer(), &ceremony, other[0].to_bytes()).await;
    assert_eq!(reason(told), Reason::CeremonyMessageInvalid);
    let refusal = engines[0].keygen_advance(&peer(), &ceremony).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::CeremonyFailed);
    let Refusal::CeremonyFailed(failure) = refusal else { panic!("{refusal}") };
    assert_eq!(failure.faults.iter().flat_map(Fault::members).collect::<Vec<_>>(), vec![member(3)]);
    assert!(failure.faults.iter().all(|fault| fault.verify(&parameters).is_ok()), "with proof");
    assert_eq!(reason(engines[0].keygen_advance(&peer(), &ceremony).await), Reason::CeremonyUnknown, "it is over");
}

/// A ceremony message as it travels.
#[derive(serde::Serialize, serde::Deserialize)]
struct Wire {
    ceremony: CeremonyId,
    parameters: [u8; 32],
    sender: Member,
    body: Body,
    signature: IdentitySignature,
}

/// A round-one message whose package is no package, signed by its sender all the same.
fn malformed(message: &Message, identity: &NodeIdentity) -> Vec<u8> {
    let mut wire: Wire = postcard::from_bytes(&message.to_bytes()).unwrap();
    let Body::RoundOne { package, .. } = &mut wire.body else { panic!("a message of round one") };
    package.truncate(5);
    let digest = Framed::new("frostkeep-keygen-message-v1")
        .part(wire.ceremony.as_bytes())
        .part(&wire.parameters)
        .part(b"one")
        .part(&wire.sender.number().to_be_bytes())
        .part(b"to all members")
        .part(&postcard::to_allocvec(&wire.body).unwrap())
        .finish();
    wire.signature = identity.sign("frostkeep-keygen-message-signature-v1", &[&digest]);
    postcard::to_allocvec(&wire).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_only_message_is_at_fault_is_named_as_faulty_and_not_as_absent() {
    let mut room = Room::new(|_| {});
    let rogue = Arc::new(NodeIdentity::generate(&mut entropy::os()));
    let mut holders = room.holders.clone();
    holders.insert(member(3), rogue.public());
    let ceremony = CeremonyId::new([8; 16]);
    let policy = any_message().hash().unwrap();
    let parameters = Parameters::new(ceremony, 2, holders, AttemptPolicy::Roast, policy).unwrap();
    let engine = room.engine(0);
    let own = room.begin_one(0, &parameters).await.unwrap();
    let other = room.begin_one(1, &parameters).await.unwrap();
    kit::deliver(std::slice::from_ref(&engine), &ceremony, &[own, other].concat()).await;
    let (_, one) = keygen::begin(parameters.clone(), Arc::clone(&rogue), &mut entropy::os()).unwrap();
    let told = engine.keygen_receive(&peer(), &ceremony, malformed(&one[0], &rogue)).await;
    assert_eq!(reason(told), Reason::CeremonyMessageInvalid);
    let refusal = engine.keygen_advance(&peer(), &ceremony).await.unwrap_err();
    let Refusal::CeremonyFailed(failure) = refusal else { panic!("{refusal}") };
    assert_eq!(failure.faults.iter().flat_map(Fault::members).collect::<Vec<_>>(), vec![member(3)]);
    assert!(failure.faults.iter().all(|fault| fault.verify(&parameters).is_ok()), "with proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_out_of_order_and_messages_of_others_are_refused_and_change_nothing() {
    let mut room = Room::new(|_| {});
    let parameters = room.parameters();
    let ceremony = parameters.ceremony();
    let messages = room.begin(&parameters).await;
    let engine = room.engine(0);
    let seats = room.holders.iter().map(|(seat, holder)| (*seat, *holder)).collect();
    let policy = any_message().hash().unwrap();
    let changed = Parameters::new(ceremony, 3, seats, AttemptPolicy::Roast, policy).unwrap();
    let begun = engine.keygen_begin(&peer(), changed, any_message()).await;
    assert_eq!(reason(begun), Reason::CeremonyConflict, "the same id with another threshold");
    assert_eq!(reason(engine.keygen_finish(&peer(), &ceremony).await), Reason::CeremonyConflict);
    let other = room.parameters();
    let strange = room.begin_one(1, &other).await.unwrap();
    for bytes in [strange[0].to_bytes(), vec![], vec![0xff; 40_000]] {
        let told = engine.keygen_receive(&peer(), &ceremony, bytes).await;
        assert_eq!(reason(told), Reason::CeremonyMessageInvalid);
    }
    let mut forged = messages[1].to_bytes();
    *forged.last_mut().unwrap() ^= 1;
    let told = engine.keygen_receive(&peer(), &ceremony, forged).await;
    assert_eq!(reason(told), Reason::CeremonyMessageInvalid);
    // A policy other than the one whose hash the parameters hold, and a node without a seat.
    let tighter = frostkeep::policy::SigningPolicy::standard();
    let begun = engine.keygen_begin(&peer(), room.parameters(), tighter).await;
    assert_eq!(reason(begun), Reason::InvalidRequest);
    let strangers: BTreeMap<_, _> =
        (1..=3).map(|number| (member(number), NodeIdentity::generate(&mut entropy::os()).public())).collect();
    let foreign =
        Parameters::new(CeremonyId::new([9; 16]), 2, strangers, AttemptPolicy::Roast, any_message().hash().unwrap());
    let begun = engine.keygen_begin(&peer(), foreign.unwrap(), any_message()).await;
    assert_eq!(reason(begun), Reason::InvalidRequest);
    room.engine(1).keygen_abandon(&peer(), &other.ceremony()).unwrap();

    kit::deliver(&room.engines(), &ceremony, &messages).await;
    let messages = room.advance(&ceremony).await;
    let refusal = engine.keygen_finish(&peer(), &ceremony).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::CeremonyIncomplete);
    kit::deliver(&room.engines(), &ceremony, &messages).await;
    let certificate = room.certificate(ceremony).await;
    room.certify(0, &certificate).await.unwrap();
    // Once prepared, its id is taken for good.
    let begun = engine.keygen_begin(&peer(), parameters, any_message()).await;
    assert_eq!(reason(begun), Reason::CeremonyConflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_complete_and_its_own_is_refused_and_the_prepared_share_stays() {
    let mut room = Room::new(|_| {});
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let certificate = room.certificate(ceremony).await;
    let key_group = certificate.group().id();
    let bytes = certificate.to_bytes();
    let mut flipped = Vec::new();
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        flipped.push(wrong);
    }
    flipped.push(bytes[..bytes.len() - 1].to_vec());
    flipped.push([bytes.as_slice(), &[0]].concat());
    flipped.push(Vec::new());
    let position = room.engine(0).status().durable;
    for wrong in flipped {
        let refused = reason(room.engine(0).keygen_certify(&coordinator(), wrong).await);
        assert!(matches!(refused, Reason::CertificateInvalid | Reason::KeyGroupUnknown), "{refused}");
    }
    assert_eq!(room.engine(0).status().durable, position, "nothing was recorded");
    assert_eq!(room.refused(0, key_group), Some(Reason::KeyGroupPrepared), "nothing was lost");

    // A whole certificate of a ceremony that this node has voided.
    let lost = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let unknown = room.certificate(lost).await;
    let (id, refused) = (unknown.group().id(), reason(drop_prepared(&mut room, 0, unknown.group().id()).await));
    assert_eq!(refused, Reason::CeremonyUnknown, "{id} is dropped: {refused}");
    assert_eq!(reason(room.certify(0, &unknown).await), Reason::KeyGroupUnknown);

    room.certify(0, &certificate).await.unwrap();
    assert_eq!(room.refused(0, key_group), None);
}

/// Drops the prepared share, and asks for its statement again.
async fn drop_prepared(room: &mut Room, index: usize, key_group: KeyGroupId) -> Result<(), Refusal> {
    room.stepping(index, |engine| async move { engine.danger_drop_prepared(&admin(), &key_group).await })
        .await
        .unwrap();
    let gone = CeremonyId::new([0; 16]);
    room.engine(index).keygen_finish(&peer(), &gone).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_administrators_danger_command_drops_a_prepared_share_and_never_an_active_one() {
    let mut room = Room::new(many_snapshots);
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let certificate = room.certificate(ceremony).await;
    let key_group = certificate.group().id();
    for roles in [vec![Role::Peer], vec![Role::Coordinator], vec![Role::Observer], vec![]] {
        let caller = Caller { name: "kit".into(), identity: None, roles };
        let refused = room.engine(0).danger_drop_prepared(&caller, &key_group).await;
        assert_eq!(reason(refused), Reason::PermissionDenied);
    }
    // In line only: a crash keeps the share.
    let engine = room.engine(0);
    let waiting = tokio::spawn(async move { engine.danger_drop_prepared(&admin(), &key_group).await });
    let line = room.bench(0).line.clone();
    kit::eventually("the record is in line", || line.waiting_records() > 0).await;
    waiting.abort();
    room.crash(0);
    assert_eq!(room.refused(0, key_group), Some(Reason::KeyGroupPrepared));

    room.stepping(0, |engine| async move { engine.danger_drop_prepared(&admin(), &key_group).await }).await.unwrap();
    for _ in 0..2 {
        assert_eq!(room.refused(0, key_group), Some(Reason::KeyGroupUnknown));
        assert_eq!(reason(room.certify(0, &certificate).await), Reason::KeyGroupUnknown);
        let finish = room.stepping(0, |engine| async move { engine.keygen_finish(&peer(), &ceremony).await });
        assert_eq!(reason(finish.await), Reason::CeremonyUnknown);
        room.crash(0);
    }
    room.certify(1, &certificate).await.unwrap();
    let active = room.engine(1).danger_drop_prepared(&admin(), &key_group).await;
    assert_eq!(reason(active), Reason::InvalidRequest);
    assert_eq!(room.refused(1, key_group), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_key_group_signs_nothing_any_more_and_stays_retired() {
    let mut room = Room::new(many_snapshots);
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let certificate = room.certificate(ceremony).await;
    let key_group = certificate.group().id();
    let retire = room.engine(0).retire_key_group(&admin(), &key_group).await;
    assert_eq!(reason(retire), Reason::KeyGroupPrepared);
    room.certify(0, &certificate).await.unwrap();
    room.stepping(0, |engine| async move { engine.retire_key_group(&admin(), &key_group).await }).await.unwrap();
    for _ in 0..3 {
        assert_eq!(room.refused(0, key_group), Some(Reason::KeyGroupRetired));
        assert_eq!(reason(room.certify(0, &certificate).await), Reason::KeyGroupRetired);
        let again = room.engine(0).retire_key_group(&admin(), &key_group).await;
        assert_eq!(reason(again), Reason::KeyGroupRetired);
        room.bench(0).settle();
        room.crash(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ceremonies_under_way_are_bounded_and_the_limit_is_named() {
    let mut room = Room::new(|_| {});
    let engine = room.engine(0);
    for _ in 0..limits::CEREMONIES_MAX {
        let parameters = room.parameters();
        room.begin_one(0, &parameters).await.unwrap();
    }
    let refusal = engine.keygen_begin(&peer(), room.parameters(), any_message()).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::CapacityExceeded);
    assert!(refusal.to_string().contains("ceremonies"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_lost_a_reply_asks_again_and_hears_the_same_messages() {
    let mut room = Room::new(|_| {});
    let parameters = room.parameters();
    let ceremony = parameters.ceremony();
    let one = room.begin(&parameters).await;
    assert_eq!(room.begin(&parameters).await, one, "no second set of secrets");
    kit::deliver(&room.engines(), &ceremony, &one).await;
    let two = room.advance(&ceremony).await;
    assert_eq!(room.advance(&ceremony).await, two);
    assert_eq!(room.begin(&parameters).await, one, "even a round later");
    kit::deliver(&room.engines(), &ceremony, &two).await;
    let certificate = room.certificate(ceremony).await;
    room.certify(0, &certificate).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_whose_driver_is_gone_gives_its_slot_back_and_one_that_is_asked_for_does_not() {
    let clock = ManualClock::default();
    let mut room = Room::new(|node| node.config.clock = Arc::new(clock.clone()));
    let engine = room.engine(0);
    let mut begun = Vec::new();
    for _ in 0..limits::CEREMONIES_MAX {
        let parameters = room.parameters();
        room.begin_one(0, &parameters).await.unwrap();
        begun.push(parameters.ceremony());
    }
    assert_eq!(reason(engine.keygen_preflight(&peer())), Reason::CapacityExceeded, "seen before any secret exists");
    clock.advance(Duration::from_millis(limits::CEREMONY_IDLE_MS_MAX - 1));
    engine.tick().unwrap();
    assert_eq!(reason(engine.keygen_preflight(&peer())), Reason::CapacityExceeded, "not a moment too soon");
    let stage = engine.keygen_stage(&peer(), &begun[0]).await.unwrap();
    assert_eq!(stage, CeremonyStage::RoundOne { missing: vec![member(2), member(3)] });

    clock.advance(Duration::from_millis(1));
    engine.tick().unwrap();
    engine.keygen_preflight(&peer()).unwrap();
    assert!(engine.keygen_stage(&peer(), &begun[0]).await.is_ok(), "somebody has asked for it");
    for gone in &begun[1..] {
        assert_eq!(reason(engine.keygen_stage(&peer(), gone).await), Reason::CeremonyUnknown);
    }
    let parameters = room.parameters();
    room.begin_one(0, &parameters).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_where_a_ceremony_stands_and_which_ones_lack_their_certificate() {
    let mut room = Room::new(|_| {});
    let ceremony = room.run_to(Step::HeardTwo, 0).await.ceremony();
    let stage = room.engine(0).keygen_stage(&peer(), &ceremony).await.unwrap();
    assert_eq!(stage, CeremonyStage::RoundTwo { missing: Vec::new() });
    assert!(room.engine(0).keygen_unfinished(&peer()).unwrap().is_empty());
    let certificate = room.certificate(ceremony).await;
    assert_eq!(room.engine(0).keygen_stage(&peer(), &ceremony).await.unwrap(), CeremonyStage::Prepared);
    assert_eq!(room.engine(0).keygen_unfinished(&peer()).unwrap(), vec![ceremony]);
    room.certify(0, &certificate).await.unwrap();
    assert_eq!(room.engine(0).keygen_stage(&peer(), &ceremony).await.unwrap(), CeremonyStage::Active);
    assert!(room.engine(0).keygen_unfinished(&peer()).unwrap().is_empty());
    let nobody = Caller { name: "kit".into(), identity: None, roles: vec![Role::Observer] };
    assert_eq!(reason(room.engine(0).keygen_unfinished(&nobody)), Reason::PermissionDenied);
    assert_eq!(reason(room.engine(0).keygen_stage(&nobody, &ceremony).await), Reason::PermissionDenied);
}

/// The same name with other secrets would be two different signed messages of one round: a proof against an honest node.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_never_draws_secrets_again_under_a_name_that_it_has_used() {
    let mut room = Room::new(many_snapshots);
    let (abandoned, crashed) = (room.parameters(), room.parameters());
    room.begin_one(0, &abandoned).await.unwrap();
    room.engine(0).keygen_abandon(&peer(), &abandoned.ceremony()).unwrap();
    assert_eq!(reason(room.begin_one(0, &abandoned).await), Reason::CeremonyConflict);
    room.begin_one(0, &crashed).await.unwrap();
    for _ in 0..2 {
        room.crash(0);
        for used in [&abandoned, &crashed] {
            assert_eq!(reason(room.begin_one(0, used).await), Reason::CeremonyConflict);
        }
    }
    // Nothing had left before its record was durable: the name is free.
    let unwritten = room.parameters();
    let (engine, parameters) = (room.engine(0), unwritten.clone());
    let waiting = tokio::spawn(async move { engine.keygen_begin(&peer(), parameters, any_message()).await });
    let line = room.bench(0).line.clone();
    kit::eventually("the record is in line", || line.waiting_records() > 0).await;
    assert!(!waiting.is_finished(), "a message left before its record was durable");
    waiting.abort();
    room.crash(0);
    room.begin_one(0, &unwritten).await.unwrap();
}
