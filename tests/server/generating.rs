use frostkeep::hsm::entropy;
use frostkeep::hsm::token::FaultClass;
use frostkeep::identity::NodeIdentity;
use frostkeep::ids::{AttemptPolicy, CeremonyId};
use frostkeep::keygen::Parameters;
use frostkeep::reasons::Reason;
use frostkeep::wire::ceremony::policy_json;
use frostkeep::wire::v1;
use frostkeep::wire::v1::key_generation_client::KeyGenerationClient;
use tonic::transport::Channel;

use crate::kit::any_message;
use crate::net::{Net, NetPlan};
use crate::stage::{problem, reason};

fn parameters(net: &Net) -> Parameters {
    let hash = any_message().hash().unwrap();
    Parameters::new(CeremonyId::new([7; 16]), 2, net.seats(), AttemptPolicy::Roast, hash).unwrap()
}

/// The pre-flight of a key generation of all nodes.
fn request(net: &Net) -> v1::PreflightRequest {
    let peer = |node: &crate::net::NetNode| v1::Peer {
        name: node.name.clone(),
        identity: node.line.identity.as_bytes().to_vec(),
    };
    v1::PreflightRequest {
        parameters: Some((&parameters(net)).into()),
        signing_policy: policy_json(&any_message()),
        peers: net.nodes.iter().map(peer).collect(),
    }
}

async fn generator(net: &Net) -> KeyGenerationClient<Channel> {
    KeyGenerationClient::new(net.channel(0, "admin").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_flight_passes_when_every_peer_answers_this_node_as_the_one_it_should_be() {
    let net = Net::started(NetPlan::of(3)).await;
    generator(&net).await.preflight(request(&net)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_flight_names_every_peer_that_does_not_answer_as_who_it_should_be() {
    let mut net = Net::started(NetPlan::of(4)).await;
    net.nodes[1].stop().await;
    net.nodes[2].stop().await;
    net.nodes[2].token.fail_until_healed(FaultClass::Token);
    net.nodes[2].start().await;
    // An identity that the roster has, at a node that has another: node 3 by the name of a stranger.
    let refused = generator(&net).await.preflight(request(&net)).await.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::PeerUnreachable);
    assert!(problem.problem.contains("node-1: ") && problem.problem.contains("node-2: "), "{}", problem.problem);
    assert!(!problem.problem.contains("node-0") && !problem.problem.contains("node-3"), "{}", problem.problem);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_identity_than_the_roster_says_is_not_reached() {
    let net = Net::started(NetPlan::of(3)).await;
    // Node 0 is told that node 2 serves with node 1's key at node 1's address.
    let (address, pin) = (net.nodes[1].line.address.clone(), net.nodes[1].line.serving_pin);
    net.write_roster(|nodes, _| {
        nodes[1].address = "127.0.0.1:9".into();
        nodes[1].serving_pin = nodes[2].serving_pin;
        nodes[2].address = address;
        nodes[2].serving_pin = pin;
    });
    net.nodes[0].server().reload_roster().await.unwrap();
    let refused = generator(&net).await.preflight(request(&net)).await.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::PeerUnreachable);
    assert!(problem.problem.contains("node-2: it has the identity"), "{}", problem.problem);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_flight_refuses_parameters_that_this_node_could_not_live_with() {
    let net = Net::started(NetPlan::of(3)).await;
    let mut generator = generator(&net).await;
    let good = request(&net);
    let with = |change: &dyn Fn(&mut v1::Parameters)| {
        let mut request = good.clone();
        change(request.parameters.as_mut().unwrap());
        request
    };
    let other_policy = with(&|parameters| parameters.signing_policy_hash = vec![1; 32]);
    let refused = generator.preflight(other_policy).await.err().unwrap();
    assert!(problem(&refused).problem.contains("another signing policy"), "{refused}");
    let no_seat = with(&|parameters| {
        parameters.seats.remove(0);
    });
    let refused = generator.preflight(no_seat).await.err().unwrap();
    assert!(problem(&refused).problem.contains("no seat"), "{refused}");
    let swapped = with(&|parameters| {
        let first = parameters.seats[1].identity.clone();
        parameters.seats[1].identity = parameters.seats[2].identity.clone();
        parameters.seats[2].identity = first;
    });
    assert_eq!(reason(generator.preflight(swapped).await), Reason::RosterMismatch);
    let missing = v1::PreflightRequest { parameters: None, ..good.clone() };
    assert_eq!(reason(generator.preflight(missing).await), Reason::InvalidRequest);
    net.nodes[0].token.fail_until_healed(FaultClass::Token);
    let server = net.nodes[0].server();
    crate::kit::eventually("the outage is known", || !server.is_ready()).await;
    assert_eq!(reason(generator.preflight(good).await), Reason::KeyProviderUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_that_no_line_of_the_roster_has_are_refused_before_they_take_a_place() {
    let net = Net::started(NetPlan::of(2)).await;
    let mut peer = KeyGenerationClient::new(net.channel(0, "peer").await);
    let policy = policy_json(&any_message());
    // The victim's own member, and one that the caller made up.
    let mut made_up = net.seats();
    let stranger = NodeIdentity::generate(&mut entropy::os()).public();
    made_up.insert(crate::kit::member(7), stranger);
    // Members that the nodes do not have.
    let renamed = net.seats().into_values().zip(8..).map(|(identity, at)| (crate::kit::member(at), identity)).collect();
    for (seats, named) in [(made_up, "members 7 to"), (renamed, "members 8, 9 to")] {
        let hash = any_message().hash().unwrap();
        let parameters = Parameters::new(CeremonyId::new([9; 16]), 2, seats, AttemptPolicy::Roast, hash).unwrap();
        let begin = v1::BeginRequest { parameters: Some((&parameters).into()), signing_policy: policy.clone() };
        let preflight = v1::PreflightRequest {
            parameters: Some((&parameters).into()),
            signing_policy: policy.clone(),
            peers: Vec::new(),
        };
        let answers = [peer.begin(begin).await.map(|_| ()).err(), peer.preflight(preflight).await.map(|_| ()).err()];
        for answer in answers {
            let problem = problem(&answer.unwrap());
            assert_eq!(problem.reason, Reason::RosterMismatch);
            assert!(problem.problem.contains(named), "{}", problem.problem);
        }
        let stage = net.nodes[0].engine().keygen_stage(&crate::kit::peer(), &parameters.ceremony()).await;
        assert_eq!(stage.unwrap_err().reason(), Reason::CeremonyUnknown, "no place is taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_flight_reaches_for_the_holders_of_the_seats_whatever_its_caller_lists() {
    let mut net = Net::started(NetPlan::of(3)).await;
    net.nodes[2].stop().await;
    let refused = generator(&net).await.preflight(v1::PreflightRequest { peers: Vec::new(), ..request(&net) }).await;
    let problem = problem(&refused.err().unwrap());
    assert_eq!(problem.reason, Reason::PeerUnreachable);
    assert!(problem.problem.contains("node-2: ") && !problem.problem.contains("node-1"), "{}", problem.problem);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_runs_over_the_wire_and_a_fault_of_a_message_is_an_answer_with_its_proof() {
    let net = Net::started(NetPlan::of(2)).await;
    let mut one = generator(&net).await;
    let mut two = KeyGenerationClient::new(net.channel(1, "peer").await);
    let parameters = parameters(&net);
    let begin =
        v1::BeginRequest { parameters: Some((&parameters).into()), signing_policy: policy_json(&any_message()) };
    let ceremony = parameters.ceremony().as_bytes().to_vec();
    let first = one.begin(begin.clone()).await.unwrap().into_inner();
    let second = two.begin(begin).await.unwrap().into_inner();
    assert!(first.failure.is_none() && !first.messages.is_empty());
    let at = v1::CeremonyRequest { ceremony: ceremony.clone() };
    let early = one.advance(at.clone()).await.err().unwrap();
    let early = problem(&early);
    assert_eq!(early.reason, Reason::CeremonyIncomplete);
    assert_eq!(early.members.iter().map(|member| member.number()).collect::<Vec<_>>(), [2]);
    let hand = |message: &Vec<u8>| v1::ReceiveRequest { ceremony: ceremony.clone(), message: message.clone() };
    for message in &second.messages {
        assert!(one.receive(hand(message)).await.unwrap().into_inner().failure.is_none());
    }
    for message in &first.messages {
        assert!(two.receive(hand(message)).await.unwrap().into_inner().failure.is_none());
    }
    let mut altered = second.messages[0].clone();
    *altered.last_mut().unwrap() ^= 1;
    let refused = one.receive(hand(&altered)).await;
    assert_eq!(reason(refused), Reason::CeremonyMessageInvalid, "nobody is at fault for what anybody can alter");
    let (said_one, said_two) =
        (one.advance(at.clone()).await.unwrap().into_inner(), two.advance(at.clone()).await.unwrap().into_inner());
    for message in &said_two.messages {
        one.receive(hand(message)).await.unwrap();
    }
    for message in &said_one.messages {
        two.receive(hand(message)).await.unwrap();
    }
    let (done_one, done_two) =
        (one.finish(at.clone()).await.unwrap().into_inner(), two.finish(at.clone()).await.unwrap().into_inner());
    assert_eq!(done_one.transcript, done_two.transcript);
    let stage = one.stage(at.clone()).await.unwrap().into_inner();
    assert!(stage.stage() == v1::CeremonyStage::Prepared);
    let unfinished = one.unfinished(v1::UnfinishedRequest {}).await.unwrap().into_inner();
    assert_eq!(unfinished.ceremonies, [ceremony]);
    let replies: [_; 2] =
        [&done_one, &done_two].map(|reply| frostkeep::engine::PreparedReply::try_from(reply).unwrap());
    let statements: Vec<_> = replies.iter().map(|reply| reply.statement).collect();
    let certificate = frostkeep::keygen::Certificate::new(replies[0].transcript.clone(), statements).unwrap();
    let certify = v1::CertifyRequest { certificate: certificate.to_bytes() };
    for client in [&mut one, &mut two] {
        assert!(!client.certify(certify.clone()).await.unwrap().into_inner().confirmation.is_empty());
    }
    assert!(net.nodes[0].engine().key_group(&certificate.group().id()).unwrap().certificate.is_some());
}
