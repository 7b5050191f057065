use std::time::{Duration, Instant};

use frostkeep::bitcoin::ScriptBytes;
use frostkeep::ids::AttemptPolicy;
use frostkeep::policy::{Destinations, SigningPolicy};
use frostkeep::reasons::Reason;
use frostkeep::wire::ceremony::policy_json;
use frostkeep::wire::v1;
use frostkeep::wire::v1::admin_client::AdminClient;
use frostkeep::wire::v1::node_client::NodeClient;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{any_message, eventually};
use crate::net::{Net, NetPlan};
use crate::stage::{Stage, problem, refused, status_over};

fn with(settings: &str) -> NetPlan {
    NetPlan { settings: format!("[limits]\n{settings}"), ..NetPlan::of(1) }
}

/// Reads until the other side has closed.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 1_024];
    while tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer)).await.unwrap().is_ok_and(|n| n > 0) {}
}

fn count(net: &Net, cause: &str) -> u64 {
    let counters = net.nodes[0].server().counters();
    counters.refused.iter().find(|(found, _)| found.name() == cause).map_or(0, |(_, count)| *count)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_as_many_handshakes_as_they_may_and_nobody_else_s_place() {
    let net = Net::started(with("handshake_ms = 60000\nhandshakes = 2\n")).await;
    let known = net.channel(0, "observer").await;
    status_over(known.clone()).await;
    let mut garbage = TcpStream::connect(net.nodes[0].address()).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nhost: frostkeep\r\n\r\n").await.unwrap();
    closed(&mut garbage).await;
    eventually("the garbage is counted", || count(&net, "tls") == 1).await;
    let silent = [
        TcpStream::connect(net.nodes[0].address()).await.unwrap(),
        TcpStream::connect(net.nodes[0].address()).await.unwrap(),
    ];
    let mut third = TcpStream::connect(net.nodes[0].address()).await.unwrap();
    closed(&mut third).await;
    assert_eq!(count(&net, "handshake_limit"), 1);
    status_over(known).await;
    drop(silent);
    eventually("their places are free again", || count(&net, "tls") == 3).await;
    status_over(net.channel(0, "observer").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_says_nothing_is_shown_out() {
    let net = Net::started(with("handshake_ms = 300\n")).await;
    let mut silent = TcpStream::connect(net.nodes[0].address()).await.unwrap();
    closed(&mut silent).await;
    eventually("it is counted", || count(&net, "handshake_timeout") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_caller_that_does_not_open_http_2_is_shown_out() {
    let net = Net::started(with("handshake_ms = 300\n")).await;
    let mut silent = net.nodes[0].tls(&net.clients["observer"]).await.unwrap();
    let mut slow = net.nodes[0].tls(&net.clients["observer"]).await.unwrap();
    slow.write_all(b"PRI * HT").await.unwrap();
    closed(&mut silent).await;
    closed(&mut slow).await;
    let status = status_over(net.channel(0, "observer").await).await;
    assert_eq!(refused(&status, "handshake_timeout"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_has_its_share_of_the_connections_and_no_more() {
    let net = Net::started(with("connections_per_pin = 2\n")).await;
    let one = net.channel(0, "observer").await;
    let two = net.channel(0, "observer").await;
    let mut third = net.nodes[0].tls(&net.clients["observer"]).await.unwrap();
    closed(&mut third).await;
    let status = status_over(net.channel(0, "admin").await).await;
    assert_eq!(refused(&status, "pin_limit"), 1);
    drop(one);
    status_over(two).await;
    let server = net.nodes[0].server();
    eventually("its place is free again", || server.counters().open <= 1).await;
    status_over(net.channel(0, "observer").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_above_the_limit_is_refused_by_its_length_before_it_has_come() {
    let net = Net::started(with("message_bytes = 65536\n")).await;
    let mut admin = AdminClient::new(net.channel(0, "admin").await);
    let policy = |bytes: usize| v1::SetPolicyRequest { key_group: vec![2; 33], signing_policy: "x".repeat(bytes) };
    let refused = admin.set_policy(policy(65_536)).await.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::InvalidRequest);
    assert!(problem.problem.contains("at most 65536"), "{}", problem.problem);
    let within = admin.set_policy(policy(65_000)).await.err().unwrap();
    assert!(!within.message().contains("at most 65536"), "{within}");
}

/// A connection that speaks HTTP/2 as the test wants it to.
async fn http2(net: &Net, client: &str, window: u32) -> h2::client::SendRequest<hyper::body::Bytes> {
    let tls = net.nodes[0].tls(&net.clients[client]).await.unwrap();
    let handshake = h2::client::Builder::new().initial_window_size(window).handshake(tls).await;
    let (requests, connection) = handshake.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

fn post(path: &str) -> http::Request<()> {
    let request = http::Request::post(format!("http://frostkeep{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// The reason in a reply of headers alone.
fn told(headers: &http::HeaderMap) -> Option<Reason> {
    frostkeep::wire::status::Problem::from_status(&tonic::Status::from_header_map(headers)?).map(|found| found.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_ends_its_call() {
    let net = Net::started(with("body_ms = 300\n")).await;
    let mut requests = http2(&net, "observer", 65_535).await;
    let (reply, mut body) = requests.send_request(post("/frostkeep.v1.Node/Status"), false).unwrap();
    // Three bytes of the five that come before a message.
    body.send_data(hyper::body::Bytes::from_static(&[0, 0, 0]), false).unwrap();
    let begun = Instant::now();
    let reply = tokio::time::timeout(Duration::from_secs(20), reply).await.unwrap().unwrap();
    assert_eq!(told(reply.headers()), Some(Reason::InvalidRequest));
    assert!(begun.elapsed() >= Duration::from_millis(250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_keeps_its_calls_for_a_while_and_then_no_longer() {
    let net = Net::started(with("calls = 4\nreply_ms = 500\n")).await;
    // Not a byte of a reply fits.
    let mut stingy = http2(&net, "observer", 0).await;
    let mut replies = Vec::new();
    for _ in 0..4 {
        let (reply, mut body) = stingy.send_request(post("/frostkeep.v1.Node/Status"), false).unwrap();
        body.send_data(hyper::body::Bytes::from_static(&[0, 0, 0, 0, 0]), true).unwrap();
        replies.push(tokio::time::timeout(Duration::from_secs(20), reply).await.unwrap().unwrap());
    }
    let mut other = NodeClient::new(net.channel(0, "operator").await);
    let full = other.status(v1::StatusRequest {}).await.err().unwrap();
    assert_eq!(problem(&full).reason, Reason::CapacityExceeded);
    // The socket has room of its own.
    status_over(net.nodes[0].socket().await.unwrap()).await;
    let begun = Instant::now();
    while other.status(v1::StatusRequest {}).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the calls are never given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for reply in replies {
        let mut body = reply.into_body();
        assert!(body.data().await.is_none_or(|data| data.is_err()), "the streams were reset");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_does_not_wait_for_callers_that_do_not_read_their_shares() {
    let stage = Stage::new().await;
    let (request, _) = stage.durable_round("durable", 7).await;
    let mut stingy = http2(&stage.net, "coordinator", 0).await;
    let mut replies = Vec::new();
    for _ in 0..8 {
        let (reply, mut body) = stingy.send_request(post("/frostkeep.v1.Signer/StartSignRound"), false).unwrap();
        let mut message = vec![0];
        message.extend(u32::try_from(request.encoded_len()).unwrap().to_be_bytes());
        request.encode(&mut message).unwrap();
        body.send_data(message.into(), true).unwrap();
        // Its head has come: the share is encoded, and waits for room.
        replies.push(tokio::time::timeout(Duration::from_secs(20), reply).await.unwrap().unwrap());
    }
    let mut admin = AdminClient::new(stage.net.channel(0, "admin").await);
    let freeze = v1::FreezeRequest { key_group: stage.key_group().as_bytes().to_vec(), reason: "a test".into() };
    let begun = Instant::now();
    assert!(admin.freeze(freeze).await.unwrap().into_inner().durable);
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(replies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reply_comes_whole() {
    let net = Net::started(NetPlan::of(2)).await;
    let script = |number: u16| ScriptBytes::new([&[0x51, 0x20][..], &[0; 30], &number.to_be_bytes()].concat());
    let destinations = Destinations::Only((0..1_000).map(script).collect());
    let policy = SigningPolicy { destinations, ..any_message() };
    let confirmed = net.generate_key_with(2, AttemptPolicy::Roast, policy.clone()).await;
    let expected = policy_json(&policy);
    let pieces = expected.len() / frostkeep::limits::SEND_BUFFER_BYTES_MAX;
    assert!(pieces >= 2, "{} bytes", expected.len());
    let mut node = NodeClient::new(net.channel(0, "observer").await);
    let asked = v1::GetKeyGroupRequest { key_group: confirmed.id().as_bytes().to_vec() };
    for _ in 0..3 {
        let shown = node.get_key_group(asked.clone()).await.unwrap().into_inner();
        assert!(shown.signing_policy == expected, "byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_has_no_more_calls_under_way_than_it_may() {
    let net = Net::started(with("calls_per_connection = 2\nbody_ms = 1000\n")).await;
    let mut requests = http2(&net, "observer", 65_535).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(requests.send_request(post("/frostkeep.v1.Node/Status"), false).unwrap());
        requests = requests.ready().await.unwrap();
    }
    // The client's library holds it back, or the server refuses the stream.
    let third = async {
        let (reply, mut body) = requests.ready().await?.send_request(post("/frostkeep.v1.Node/Status"), false)?;
        body.send_data(hyper::body::Bytes::from_static(&[0, 0, 0, 0, 0]), true)?;
        reply.await
    };
    let answered = tokio::time::timeout(Duration::from_millis(300), third).await;
    assert!(!matches!(answered, Ok(Ok(_))), "the third call has to wait");
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_countless_empty_elements_is_refused_before_it_is_decoded() {
    let stage = Stage::new().await;
    let mut requests = http2(&stage.net, "coordinator", 65_535).await;
    // Empty elements of `evidence`, two bytes each, and then what is no message: a decoder would have to get there first.
    let elements = [[0x2a, 0].repeat(1_000_000), vec![0xff; 11]].concat();
    let (reply, mut body) = requests.send_request(post("/frostkeep.v1.Signer/VoteTimeout"), false).unwrap();
    let mut message = vec![0];
    message.extend(u32::try_from(elements.len()).unwrap().to_be_bytes());
    message.extend(elements);
    body.send_data(message.into(), true).unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(20), reply).await.unwrap().unwrap();
    assert_eq!(told(reply.headers()), Some(Reason::InvalidRequest));
    let status = tonic::Status::from_header_map(reply.headers()).unwrap();
    assert!(status.message().contains("evidence has 65 elements: at most 64"), "{status}");
}
