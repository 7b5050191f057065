//! Goal: the client gets what a node has done, whatever becomes of connections and answers, believes no node alone, and says of
//! each failure whose it is. Method: real servers in one process, real TLS and Unix sockets, and a wire that the test cuts.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;
mod net;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use frostkeep::client::view::{GroupPhase, NodePhase};
use frostkeep::client::{
    Client, ClientError, Endpoint, KnownGroup, Network, NodeClient, NotKnown, Patience, SigningError,
};
use frostkeep::coordinator::{DriveConfig, Port, PortError, Setting, session_id, sign};
use frostkeep::engine::{BuildRequest, CommitRequest, SessionRequest, SignRequest, Subject};
use frostkeep::frost::{Commitments, SigningPackage};
use frostkeep::hsm::clock::{Clock, SystemClock};
use frostkeep::hsm::entropy;
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::{AttemptPolicy, KeyGroupId, Member, MerkleRoot};
use frostkeep::keygen::ConfirmedKeyGroup;
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use frostkeep::roast::ShareVerdict;
use frostkeep::tls::TlsKey;
use frostkeep::wire::request::DeriveRequest;
use frostkeep::wire::v1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::{eventually, member, session, subject};
use net::{Net, NetPlan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};
use tower::ServiceExt;

/// A short wait for what is not there.
fn short() -> Patience {
    Patience { pause_ms_min: 10, pause_ms_max: 50, ..Patience::within_ms(3_000) }
}

fn endpoint(net: &Net, index: usize, client: &str) -> Endpoint {
    let line = &net.nodes[index].line;
    Endpoint::Tls { address: line.address.clone(), key: Arc::clone(&net.clients[client]), pin: line.serving_pin }
}

fn client(net: &Net, index: usize, name: &str) -> Client {
    Client::connect(&endpoint(net, index, name)).unwrap().with(short())
}

fn network(net: &Net) -> Network {
    Network::new(net.read_roster(), &net.clients["operator"]).unwrap()
}

fn setting(confirmed: &ConfirmedKeyGroup, subject: Subject) -> Setting {
    let certificate = confirmed.certificate();
    Setting::new(certificate.group().clone(), certificate.seats().clone(), session_id(&subject, 0), subject)
}

/// The requests of a session's first attempt, one for each included member, over the clients of their nodes.
async fn first_attempt(clients: &[Client], setting: &Setting, included: &[Member]) -> Vec<SignRequest> {
    let mut commitments = BTreeMap::new();
    for seat in included {
        let request =
            CommitRequest { session: setting.session().clone(), key_group: setting.key_group(), member: *seat };
        let bytes = clients[usize::from(seat.number()) - 1].commit(&request).await.unwrap();
        commitments.insert(*seat, Commitments::from_bytes(&bytes).unwrap());
    }
    let package = SigningPackage::new(setting.subject().message, commitments).unwrap();
    let request = |seat: &Member| SignRequest {
        session: setting.session().clone(),
        key_group: setting.key_group(),
        member: *seat,
        subject: *setting.subject(),
        context: setting.derive(1, included).unwrap().parts(),
        package: package.clone(),
        evidence: Vec::new(),
    };
    included.iter().map(request).collect()
}

/// A wire to a node, which takes an answer away when it is told to.
struct Wire {
    address: SocketAddr,
    /// The next bytes from the node are dropped, and their connection with them.
    cut: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Wire {
    async fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Self { address, cut: Arc::default(), connections: Arc::default() };
        let (cut, connections) = (Arc::clone(&wire.cut), Arc::clone(&wire.connections));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(near, TcpStream::connect(node).await.unwrap(), Arc::clone(&cut)));
            }
        });
        wire
    }
}

async fn carry(near: TcpStream, far: TcpStream, cut: Arc<AtomicBool>) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let out = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut near_in, &mut far_out).await;
    });
    let mut bytes = vec![0; 65_536];
    loop {
        let read = far_in.read(&mut bytes).await.unwrap_or_default();
        // A frame of a few bytes is HTTP/2's own bookkeeping: what is waited for is an answer.
        if read == 0 || (read > 100 && cut.swap(false, Ordering::SeqCst)) {
            break;
        }
        if near_out.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
    out.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_asked_for_again_and_is_the_same_to_the_byte() {
    let net = Net::started(NetPlan::of(2)).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    let wire = Wire::to(net.nodes[0].address()).await;
    let line = &net.nodes[0].line;
    let key = Arc::clone(&net.clients["coordinator"]);
    let endpoint = Endpoint::Tls { address: wire.address.to_string(), key, pin: line.serving_pin };
    let through = Client::connect(&endpoint).unwrap().with(short());
    let clients = [through.clone(), client(&net, 1, "coordinator")];
    let setting = setting(&confirmed, subject(7));
    let requests = first_attempt(&clients, &setting, &[member(1), member(2)]).await;

    wire.cut.store(true, Ordering::SeqCst);
    let served = through.start_sign_round(&requests[0]).await.unwrap();
    assert!(!wire.cut.load(Ordering::SeqCst), "an answer was taken away");
    assert_eq!(wire.connections.load(Ordering::SeqCst), 2);
    let tally = net.nodes[0].engine().tally();
    assert_eq!(tally.rounds_fresh + tally.rounds_replayed, 2, "the node has answered twice, from one round");
    let again = client(&net, 0, "coordinator").start_sign_round(&requests[0]).await.unwrap();
    assert_eq!(served.durable_part(), again.durable_part());
    assert_eq!(
        served.round,
        setting.round_id(&setting.derive(1, &[member(1), member(2)]).unwrap(), member(1), &requests[0].package)
    );

    // Who has a plan of its own hears of the loss.
    wire.cut.store(true, Ordering::SeqCst);
    let lost = through.with(Patience::once()).start_sign_round(&requests[0]).await.unwrap_err();
    assert!(matches!(lost, ClientError::Unreachable(_)), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_started_again_is_reached_by_the_same_client() {
    let mut net = Net::started(NetPlan::of(1)).await;
    let (tls, local) =
        (client(&net, 0, "observer"), Client::connect(&Endpoint::Socket(net.nodes[0].config.socket.clone())));
    let local = local.unwrap().with(short());
    let before = tls.status().await.unwrap();
    assert_eq!((before.phase, before.message.ready), (NodePhase::Open, true));
    assert_eq!(local.status().await.unwrap().identity, Some(net.nodes[0].line.identity));
    net.nodes[0].stop().await;
    for client in [&tls, &local] {
        let error = client.with(Patience { deadline_ms: 300, ..short() }).status().await.err().unwrap();
        assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
    }
    net.nodes[0].start_ready().await;
    for client in [&tls, &local] {
        assert_eq!(client.status().await.unwrap().message.epoch, before.message.epoch + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_expected_one_on_either_side_is_named() {
    let net = Net::started(NetPlan::of(2)).await;
    let Endpoint::Tls { address, key, .. } = endpoint(&net, 0, "operator") else { panic!("over the network") };
    let other = net.nodes[1].line.serving_pin;
    let wrong = Client::connect(&Endpoint::Tls { address: address.clone(), key, pin: other }).unwrap();
    let error = wrong.with(Patience::once()).status().await.err().unwrap().to_string();
    assert!(
        error.contains(&other.to_string()) && error.contains(&net.nodes[0].line.serving_pin.to_string()),
        "{error}"
    );

    let stranger = Arc::new(TlsKey::generate().unwrap());
    let pin = net.nodes[0].line.serving_pin;
    let unknown = Client::connect(&Endpoint::Tls { address, key: stranger, pin }).unwrap();
    let error = unknown.with(Patience::once()).status().await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("its roster does not name it"), "{error}");

    // Known, and without the role.
    let error = client(&net, 0, "nobody").freeze(&unknown_id(), "because").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PermissionDenied));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_node_that_hangs_wait_for_one_connection_and_not_in_turn() {
    let net = Net::new(NetPlan::of(1)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    let (key, pin) = (Arc::clone(&net.clients["operator"]), net.nodes[0].line.serving_pin);
    let client = Client::connect(&Endpoint::Tls { address, key, pin }).unwrap().with(Patience::once());
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        calls.spawn(async move { client.status().await.err().unwrap().to_string() });
    }
    let all = async {
        while let Some(error) = calls.join_next().await {
            assert_eq!(error.unwrap(), "not reached: no connection within 5000 ms");
        }
    };
    // In turn they would take 100 seconds.
    tokio::time::timeout(Duration::from_secs(15), all).await.unwrap();
    assert!(accepted.load(Ordering::SeqCst) <= 2, "{accepted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_a_node_does_not_serve_is_told_why() {
    let net = Net::started(NetPlan { admin_uids: Some(vec![54_321]), ..NetPlan::of(1) }).await;
    let local = Client::connect(&Endpoint::Socket(net.nodes[0].config.socket.clone())).unwrap();
    let error = local.with(Patience::once()).status().await.err().unwrap();
    assert!(matches!(&error, ClientError::Unreachable(problem) if problem.contains("admin_uids")), "{error}");
}

fn unknown_id() -> KeyGroupId {
    format!("02{}", "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_interface_has_a_typed_answer() {
    let net = Net::started(NetPlan::of(2)).await;
    let policy = SigningPolicy { danger_sign_any_message: true, ..SigningPolicy::standard() };
    let confirmed = net.generate_key_with(2, AttemptPolicy::Roast, policy.clone()).await;
    let id = confirmed.id();
    let clients = [client(&net, 0, "operator"), client(&net, 1, "operator")];
    let setting = setting(&confirmed, subject(9));
    let included = [member(1), member(2)];

    let derived = clients[0]
        .derive_attempt_context(&DeriveRequest {
            session: setting.session().clone(),
            key_group: id,
            message: setting.subject().message,
            threshold: 2,
            number: 1,
            included: vec![2, 1],
        })
        .await
        .unwrap();
    assert_eq!(derived, setting.derive(1, &included).unwrap().parts());

    let requests = first_attempt(&clients, &setting, &included).await;
    let served = clients[0].start_sign_round(&requests[0]).await.unwrap();
    let session = SessionRequest { session: setting.session().clone(), key_group: id };
    let report = clients[0].session(&session).await.unwrap();
    assert_eq!((report.subject, report.active, report.rounds.len()), (*setting.subject(), None, 1));
    assert_eq!(report.rounds[0].share, served.share);
    let round = frostkeep::roast::SignedRound {
        member: 1,
        attempt: requests[0].context.clone(),
        root: None,
        package: requests[0].package.to_bytes(),
        share: served.share.to_vec(),
        round_signature: served.round_signature.to_vec(),
    };
    let verdict = |round: frostkeep::roast::SignedRound| {
        let (client, setting) = (&clients[1], &setting);
        async move { client.verify_signature_share(&id, setting.session(), setting.subject(), &round).await.unwrap() }
    };
    assert_eq!(verdict(round.clone()).await, ShareVerdict::Valid);
    let mut bad = round;
    bad.share[31] ^= 1;
    assert_eq!(verdict(bad).await, ShareVerdict::Indeterminate);

    clients[0].abort_session(&session).await.unwrap();
    let ended = clients[0].session(&session).await.unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::SessionAborted));

    let detail = clients[1].key_group(&id).await.unwrap();
    assert_eq!(detail.certificate.as_ref(), Some(confirmed.certificate()));
    assert_eq!((detail.policy, detail.info.phase), (policy, GroupPhase::Active));
    assert_eq!(detail.info.local_members, [member(2)]);
    assert_eq!(clients[1].key_groups().await.unwrap(), [detail.info]);

    let confirmation = clients[0].certify(&confirmed.certificate().to_bytes()).await.unwrap();
    assert_eq!(confirmation.identity(), net.nodes[0].line.identity);
    confirmation.verify(confirmed.certificate()).unwrap();
    assert_eq!(clients[0].unfinished_ceremonies().await.unwrap(), []);

    let frozen = clients[0].freeze(&id, "a look at it").await.unwrap();
    assert_eq!(frozen.not_durable, None);
    assert_eq!(clients[0].key_group(&id).await.unwrap().info.freezes, [frozen.freeze]);
    assert_eq!(clients[0].thaw(&id, &[frozen.freeze]).await.unwrap(), []);
    let position = clients[0].set_policy(&id, &SigningPolicy::default()).await.unwrap();
    assert!(position > 0);
    assert_eq!(clients[0].key_group(&id).await.unwrap().policy, SigningPolicy::default());
    let roster = clients[0].reload_roster().await.unwrap();
    assert_eq!((roster.hash, roster.nodes, roster.disagreeing), (net.read_roster().hash(), 2, Vec::new()));
    let dropped = clients[0].danger_drop_prepared(&id).await.unwrap_err();
    assert_eq!(dropped.reason(), Some(Reason::InvalidRequest));
    clients[0].retire_key_group(&id).await.unwrap();
    assert_eq!(clients[0].key_groups().await.unwrap()[0].phase, GroupPhase::Retired);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out_when_the_caller_says_so_and_told_at_once_when_not() {
    let net = Net::started(NetPlan::of(2)).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    let clients = [client(&net, 0, "coordinator"), client(&net, 1, "coordinator")];
    let setting = setting(&confirmed, subject(3));
    let requests = first_attempt(&clients, &setting, &[member(1), member(2)]).await;
    net.nodes[0].token.fail_until_healed(FaultClass::Token);
    let engine = net.nodes[0].engine();
    eventually("the outage is seen", || !engine.status().health.admits_work()).await;
    let refused = clients[0].start_sign_round(&requests[0]).await.unwrap_err();
    let ClientError::Refused(problem) = &refused else { panic!("{refused}") };
    assert_eq!(problem.reason, Reason::KeyProviderUnavailable);
    assert!(problem.next_try_ms.is_some() && problem.durable_served);

    let token = net.nodes[0].token.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        token.heal();
    });
    let patience = Patience { deadline_ms: 20_000, ..short() }.through_outages();
    clients[0].with(patience).start_sign_round(&requests[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_above_the_limit_never_leaves() {
    let net = Net::started(NetPlan::of(1)).await;
    let huge = vec![MerkleRoot::new([1; 32]); 200_000];
    let raw = "0200000001000000000000000000000000000000000000000000000000000000000000000100000000\
               00ffffffff01e80300000000000001510000000000";
    let raw: Vec<u8> = (0..raw.len() / 2).map(|at| u8::from_str_radix(&raw[2 * at..2 * at + 2], 16).unwrap()).collect();
    let prevout =
        frostkeep::bitcoin::Prevout { value_sat: 2_000, script: frostkeep::bitcoin::ScriptBytes::new(vec![0x51]) };
    let raw = &raw[..raw.len() - 1];
    let transaction = frostkeep::bitcoin::UnsignedTransaction::from_parts(raw, &[prevout]).unwrap();
    let request = BuildRequest { key_group: unknown_id(), transaction, roots: huge };
    let accepted = net.nodes[0].server().counters().accepted;
    let error = client(&net, 0, "operator").build_taproot_tx(&request).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::InvalidRequest));
    assert!(error.to_string().contains("4194304"), "{error}");
    assert_eq!(net.nodes[0].server().counters().accepted, accepted, "nobody was called");
}

fn quick() -> DriveConfig {
    DriveConfig { deadline_ms: 30_000, handover_ms: 1_000, ..DriveConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_signs_over_the_network_with_a_node_down_and_a_member_that_no_line_has_is_unreachable_by_name() {
    let mut net = Net::started(NetPlan::of(3)).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    net.nodes[2].stop().await;
    let setting = setting(&confirmed, subject(5));
    let port = Arc::new(network(&net).port(confirmed.certificate().seats()));
    let done = sign(&port, &setting, &quick(), &mut entropy::os(), &mut |_| {}).await.unwrap();
    setting.group().verify(setting.subject().message, None, &done.signature).unwrap();
    assert_eq!(done.unconfirmed, [member(3)]);

    net.write_roster(|nodes, _| nodes.truncate(2));
    let port = network(&net).port(confirmed.certificate().seats());
    let request = || SessionRequest { session: session("any"), key_group: confirmed.id() };
    let error = port.session(member(3), request()).await.unwrap_err();
    assert!(
        matches!(&error, PortError::Unreachable(problem) if problem.contains(&net.nodes[2].line.identity.to_string()))
    );
    let error = port.session(member(4), request()).await.unwrap_err();
    assert!(matches!(&error, PortError::Unreachable(problem) if problem.contains("member 4")), "{error}");
    let error = port.session(member(1), request()).await.unwrap_err();
    assert!(matches!(&error, PortError::Refused(refused) if refused.reason == Reason::SessionUnknown), "{error}");
}

async fn known(network: &Network, id: &KeyGroupId) -> Result<KnownGroup, NotKnown> {
    network.key_group(id, short()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_holders_of_seats_are_who_most_members_say_and_fewer_than_the_threshold_say_nothing() {
    let mut net = Net::started(NetPlan::of(4)).await;
    let confirmed = net.generate_key(3, AttemptPolicy::Roast).await;
    let (id, certificate) = (confirmed.id(), confirmed.certificate());
    let all = network(&net);
    let group = known(&all, &id).await.unwrap();
    assert_eq!((&group.certificate, &group.seats), (certificate, certificate.seats()));
    assert!(group.answers.iter().all(|(_, answer)| answer.is_ok()));

    // One node alone knows of a replacement: it lies, or the others have not heard.
    let replaced = frostkeep::identity::NodeIdentity::generate(&mut entropy::os()).public();
    client(&net, 3, "admin").replace_identity(&id, member(1), &replaced).await.unwrap();
    assert_eq!(&known(&all, &id).await.unwrap().seats, certificate.seats());
    // Two against two, of whom neither is the threshold.
    client(&net, 2, "admin").replace_identity(&id, member(1), &replaced).await.unwrap();
    let error = known(&all, &id).await.unwrap_err();
    assert_eq!(error.reason, Reason::RosterMismatch, "{error}");
    // Three of four.
    client(&net, 1, "admin").replace_identity(&id, member(1), &replaced).await.unwrap();
    assert_eq!(known(&all, &id).await.unwrap().seats[&member(1)], replaced);

    // The node that says it is not counted twice, whatever members the roster gives it.
    net.write_roster(|nodes, _| nodes.retain(|node| node.name == "node-1" || node.name == "node-2"));
    let error = known(&network(&net), &id).await.unwrap_err();
    assert_eq!(error.reason, Reason::RosterMismatch, "{error}");
    net.write_roster(|_, _| {});
    let error = known(&all, &unknown_id()).await.unwrap_err();
    assert_eq!(error.reason, Reason::KeyGroupUnknown, "{error}");
    for index in 0..2 {
        net.nodes[index].stop().await;
    }
    let error = known(&all, &id).await.unwrap_err();
    assert_eq!(error.reason, Reason::PeerUnreachable, "{error}");
    assert!(error.to_string().contains("node-0: not reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_evidence_a_node_coordinates_and_one_that_does_not_is_passed_by() {
    let settings = "[engine]\nattempt_timeout_ms = 500\n".to_owned();
    let mut net = Net::started(NetPlan { settings, ..NetPlan::of(3) }).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Evidence).await;
    let group = KnownGroup::certified(confirmed.certificate().clone());
    let all = network(&net);
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&heard);
    let watch = move |line: &str| told.lock().unwrap().push(line.to_owned());
    let done = all.sign(&group, subject(1), None, 60_000, &watch).await.unwrap();
    assert_eq!(done.session, session_id(&subject(1), 0));
    assert!(heard.lock().unwrap().iter().any(|line| line.starts_with("node-0: ")), "{:?}", heard.lock().unwrap());
    let key = confirmed.certificate().group();
    let signature = frostkeep::frost::Signature::from_bytes(&done.signature).unwrap();
    key.verify(subject(1).message, None, &signature).unwrap();

    // The same signature by another node: it finds the finished session.
    let via = all.node_named("node-2").unwrap();
    let again = all.sign(&group, subject(1), Some(via), 60_000, &watch).await.unwrap();
    assert_eq!(again.signature, done.signature);

    net.nodes[0].stop().await;
    all.sign(&group, subject(2), None, 60_000, &watch).await.unwrap();
    let gone = all.node_named("node-0").unwrap();
    let error = all.sign(&group, subject(3), Some(gone), 1_000, &watch).await.unwrap_err();
    assert!(matches!(&error, SigningError::Node { node, .. } if node == "node-0"), "{error}");
    assert_eq!(error.reason(), Reason::PeerUnreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_node_coordinates_evidence_has_no_signature_and_the_reason_says_so() {
    let net = Net::started(NetPlan { coordination: false, ..NetPlan::of(2) }).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Evidence).await;
    let group = KnownGroup::certified(confirmed.certificate().clone());
    let error = network(&net).sign(&group, subject(1), None, 5_000, &|_| {}).await.unwrap_err();
    assert_eq!(error.reason(), Reason::CoordinationOff, "{error}");
}

/// What a lying node does when it is to coordinate.
#[derive(Clone, Copy)]
enum Lie {
    /// It makes a signature up.
    Signature,
    /// It says nothing, for ever.
    Silence,
    /// It refuses for whatever reason it likes.
    Refusal(Reason),
    /// It says more than anybody reads.
    TooMuch,
}

/// A node that says that it coordinates, and lies.
#[derive(Clone)]
struct Liar(Arc<Mutex<Lie>>);

#[tonic::async_trait]
impl v1::node_server::Node for Liar {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let phase = v1::Phase::Open.into();
        let (serving_pin, roster_hash) = (vec![1; 32], vec![2; 32]);
        Ok(Response::new(v1::StatusReply {
            phase,
            serving_pin,
            roster_hash,
            ready: true,
            coordination: true,
            name: "\u{1b}[2J".repeat(1_000),
            ..Default::default()
        }))
    }

    async fn list_key_groups(
        &self,
        _: Request<v1::ListKeyGroupsRequest>,
    ) -> Result<Response<v1::ListKeyGroupsReply>, Status> {
        Err(Status::unimplemented("it holds nothing"))
    }

    async fn get_key_group(
        &self,
        _: Request<v1::GetKeyGroupRequest>,
    ) -> Result<Response<v1::GetKeyGroupReply>, Status> {
        Err(Status::unimplemented("it holds nothing"))
    }
}

#[tonic::async_trait]
impl v1::coordination_server::Coordination for Liar {
    type SignStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::SignEvent, Status>>>;

    async fn sign(&self, _: Request<v1::SignRequest>) -> Result<Response<Self::SignStream>, Status> {
        let lie = *self.0.lock().unwrap();
        match lie {
            Lie::Signature => {}
            Lie::Silence => std::future::pending().await,
            Lie::Refusal(reason) => return Err(frostkeep::wire::status::status(reason, "because I say so")),
            Lie::TooMuch => {
                let event = v1::sign_event::Event::Progress("x".repeat(5 << 20));
                return Ok(Response::new(tokio_stream::iter(vec![Ok(v1::SignEvent { event: Some(event) })])));
            }
        }
        // A signature of somebody, under another key.
        let key = bitcoin::key::Keypair::from_seckey_slice(&bitcoin::secp256k1::Secp256k1::new(), &[1; 32]).unwrap();
        let message = bitcoin::secp256k1::Message::from_digest([1; 32]);
        let signature = bitcoin::secp256k1::Secp256k1::new().sign_schnorr_no_aux_rand(&message, &key);
        let finished = v1::Finished {
            signature: signature.serialize().to_vec(),
            session_id: session_id(&subject(1), 0).to_string(),
            unconfirmed: Vec::new(),
            blamed: Vec::new(),
        };
        let event = v1::SignEvent { event: Some(v1::sign_event::Event::Finished(finished)) };
        Ok(Response::new(tokio_stream::iter(vec![Ok(event)])))
    }

    async fn drive(&self, _: Request<v1::DriveRequest>) -> Result<Response<v1::DriveReply>, Status> {
        Ok(Response::new(v1::DriveReply { signature: vec![1; 63] }))
    }
}

async fn answer<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: S, liar: Liar) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let liar = liar.clone();
        async move {
            if request.uri().path().starts_with("/frostkeep.v1.Node/") {
                v1::node_server::NodeServer::new(liar).oneshot(request).await
            } else {
                v1::coordination_server::CoordinationServer::new(liar).oneshot(request).await
            }
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// Puts a liar in the place of a node: at its address, with its key.
async fn replace_with_liar(net: &mut Net, index: usize, lie: Lie) -> Liar {
    let liar = Liar(Arc::new(Mutex::new(lie)));
    let told = liar.clone();
    net.nodes[index].stop().await;
    let node = &net.nodes[index];
    let key = TlsKey::read(&node.config.state.join(frostkeep::server::SERVING_KEY)).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(frostkeep::tls::server_config(&key, Arc::new(|_| true)).unwrap());
    let listener = TcpListener::bind(node.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, liar) = (acceptor.clone(), told.clone());
            tokio::spawn(async move { answer(acceptor.accept(stream).await.unwrap(), liar).await });
        }
    });
    liar
}

#[tokio::test(flavor = "multi_thread")]
async fn under_evidence_a_holder_that_refuses_or_lies_does_not_stop_the_others() {
    let settings = "[engine]\nattempt_timeout_ms = 500\n".to_owned();
    let mut net = Net::started(NetPlan { settings, ..NetPlan::of(4) }).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Evidence).await;
    let group = KnownGroup::certified(confirmed.certificate().clone());
    let liar = replace_with_liar(&mut net, 0, Lie::Silence).await;
    let all = network(&net);
    let lies = [Lie::Signature, Lie::Refusal(Reason::MessageNotApproved), Lie::TooMuch];
    for (number, lie) in (2..).zip(lies) {
        *liar.0.lock().unwrap() = lie;
        let heard = Mutex::new(Vec::new());
        let watch = |line: &str| heard.lock().unwrap().push(line.to_owned());
        all.sign(&group, subject(number), None, 60_000, &watch).await.unwrap();
        assert!(heard.lock().unwrap()[0].starts_with("node-0: "), "{heard:?}");
    }
    // What enough holders say is final, and no other holder is asked.
    *liar.0.lock().unwrap() = Lie::Refusal(Reason::MessageNotApproved);
    replace_with_liar(&mut net, 1, Lie::Refusal(Reason::MessageNotApproved)).await;
    let error = network(&net).sign(&group, subject(9), None, 60_000, &|_| {}).await.unwrap_err();
    assert!(matches!(&error, SigningError::Node { .. }), "{error}");
    assert_eq!(error.reason(), Reason::MessageNotApproved);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_evidence_silent_holders_together_have_no_more_than_the_one_deadline() {
    let settings = "[engine]\nattempt_timeout_ms = 500\n".to_owned();
    let mut net = Net::started(NetPlan { settings, ..NetPlan::of(3) }).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Evidence).await;
    let group = KnownGroup::certified(confirmed.certificate().clone());
    let clock = SystemClock::new();
    for index in 0..3 {
        replace_with_liar(&mut net, index, Lie::Silence).await;
    }
    let all = network(&net);
    for via in [None, all.node_named("node-1")] {
        let begun = clock.now();
        let error = all.sign(&group, subject(2), via, 2_000, &|_| {}).await.unwrap_err();
        assert_eq!(error.reason(), Reason::PeerUnreachable, "{error}");
        let took_ms = clock.now().since(begun);
        assert!(took_ms < 3_000, "{took_ms}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_a_coordinating_node_made_up_is_found_out() {
    let net = Net::started(NetPlan::of(2)).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    let group = KnownGroup::certified(confirmed.certificate().clone());
    let path = net.directory().join("liar.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Liar(Arc::new(Mutex::new(Lie::Signature)))));
        }
    });
    let liar = NodeClient {
        name: "liar".into(),
        identity: net.nodes[0].line.identity,
        members: vec![member(1)],
        client: Client::connect(&Endpoint::Socket(path)).unwrap().with(short()),
    };
    let error = network(&net).sign(&group, subject(1), Some(&liar), 5_000, &|_| {}).await.unwrap_err();
    assert!(matches!(&error, SigningError::Wrong(node) if node == "liar"), "{error}");
    assert_eq!(error.reason(), Reason::SignatureInvalid);
    let status = liar.client.status().await.unwrap();
    assert!(status.message.name.len() <= 1_024 && !status.message.name.contains('\u{1b}'), "{}", status.message.name);
    let held = liar.client.key_groups().await.unwrap_err();
    assert!(matches!(held, ClientError::Nonsense(_)), "{held}");
}
