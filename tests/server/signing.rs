use frostkeep::frost::Signature;
use frostkeep::reasons::Reason;
use frostkeep::wire::v1;

use crate::kit::member;
use crate::net::{Net, NetPlan};
use crate::stage::{Stage, bytes, problem, status_over};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_whoever_has_a_role_who_it_is_and_how_it_stands() {
    let net = Net::started(NetPlan::of(1)).await;
    let status = status_over(net.channel(0, "observer").await).await;
    let line = &net.nodes[0].line;
    assert!(status.ready && status.coordination);
    assert!(status.name == "node-0" && status.phase() == v1::Phase::Open);
    assert_eq!(status.identity, line.identity.as_bytes());
    assert_eq!(status.serving_pin, line.serving_pin.as_bytes());
    assert_eq!(status.client_pin, line.client_pin.as_bytes());
    assert_eq!(status.roster_hash, net.read_roster().hash());
    assert_eq!(status.provider.unwrap().state, "ready");
    assert_eq!(status.storage.unwrap().releases, "allowed");
    let connections = status.connections.unwrap();
    assert_eq!((connections.open, connections.accepted), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_comes_out_over_the_network_by_raw_generated_clients() {
    let stage = Stage::new().await;
    let session = stage.session("network", 7).await;
    let mut rounds = Vec::new();
    for number in [1, 2] {
        let mut signer = stage.signer(usize::from(number) - 1).await;
        let request = stage.request(&session, member(number));
        let reply = signer.start_sign_round(request.clone()).await.unwrap().into_inner();
        assert!(reply.durable && !reply.next_commitments.is_empty());
        let again = signer.start_sign_round(request).await.unwrap().into_inner();
        assert_eq!(bytes(again.round.as_ref().unwrap()), bytes(reply.round.as_ref().unwrap()), "byte for byte");
        rounds.extend(reply.round);
    }
    let mut signer = stage.signer(0).await;
    let finish = stage.finalize(&session, &rounds);
    let finalized = signer.finalize_sign_round(finish.clone()).await.unwrap().into_inner();
    let signature = Signature::from_bytes(finalized.signature()).unwrap();
    let group = stage.confirmed.certificate().group();
    group.verify(session.subject.message, session.subject.root.as_ref(), &signature).unwrap();
    assert!(signer.finalize_sign_round(finish).await.unwrap().into_inner() == finalized, "byte for byte");
    // Whoever asks later gets the signature with the refusal.
    let refused = signer.start_sign_round(stage.request(&session, member(1))).await.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::SessionFinalized);
    assert_eq!(problem.signature.as_ref().map(<[u8; 64]>::as_slice), finalized.signature.as_deref());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_does_not_decode_is_the_caller_s_fault_and_says_so_as_every_refusal_does() {
    let stage = Stage::new().await;
    let mut signer = stage.signer(0).await;
    let empty = signer.commit(v1::CommitRequest::default()).await.err().unwrap();
    assert_eq!(problem(&empty).reason, Reason::InvalidRequest);
    // The same number, as a string where a message has to be.
    let channel = stage.net.channel(0, "coordinator").await;
    let garbage = v1::DangerDropPreparedRequest { key_group: vec![0xff; 40] };
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::DangerDropPreparedRequest, v1::CommitReply>::default();
    let path = http::uri::PathAndQuery::from_static("/frostkeep.v1.Signer/Commit");
    let refused = raw.unary(tonic::Request::new(garbage), path, codec).await.err().unwrap();
    assert_eq!(problem(&refused).reason, Reason::InvalidRequest);
    let mut raw = tonic::client::Grpc::new(stage.net.channel(0, "coordinator").await);
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = http::uri::PathAndQuery::from_static("/frostkeep.v1.Signer/NoSuchMethod");
    let refused = raw.unary(tonic::Request::new(()), path, codec).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}
