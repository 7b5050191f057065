//! Callers that are known, and are not who may ask.

use frostkeep::ids::AttemptPolicy;
use frostkeep::reasons::Reason;
use frostkeep::tls::TlsKey;
use frostkeep::wire::v1;
use frostkeep::wire::v1::signer_client::SignerClient;
use tonic::Code;

use crate::calls::{START, WINDOW, framed, http2, post, reason_of, say};
use crate::kit::member;
use crate::net::NetPlan;
use crate::scene::Scene;
use crate::stage::{Session, Stage, bytes, reason, status_over};

const PERMISSION_DENIED: &str = "permission_denied";

/// Asks node 0 for a round of member 1 with this key.
async fn ask(stage: &Stage, session: &Session, key: &std::sync::Arc<TlsKey>) -> Result<v1::Round, tonic::Status> {
    let channel = stage.net.nodes[0].channel(key).await.unwrap();
    let reply = SignerClient::new(channel).start_sign_round(stage.request(session, member(1))).await?;
    Ok(reply.into_inner().round.unwrap())
}

/// The key of the node that may drive the session's attempt.
fn driver<'a>(stage: &'a Stage, session: &Session) -> &'a std::sync::Arc<TlsKey> {
    &stage.net.nodes[usize::from(session.context.coordinator().number()) - 1].client_key
}

#[tokio::test(flavor = "multi_thread")]
async fn under_evidence_nobody_but_the_node_of_the_selected_member_gets_a_round() {
    let stage = Stage::of(NetPlan::of(3), AttemptPolicy::Evidence).await;
    let net = &stage.net;
    let session = stage.session("evidence", 7).await;
    let own = driver(&stage, &session);
    let other_nodes = net.nodes.iter().map(|node| &node.client_key).filter(|key| key.pin() != own.pin());
    let impostors: Vec<_> = other_nodes.chain(["coordinator", "operator"].map(|name| &net.clients[name])).collect();
    assert_eq!(impostors.len(), 4);
    let durable = net.nodes[0].engine().status().durable;
    for impostor in &impostors {
        assert_eq!(reason(ask(&stage, &session, impostor).await), Reason::PermissionDenied);
    }
    assert_eq!(net.nodes[0].engine().status().durable, durable, "nothing was consumed");
    let round = ask(&stage, &session, own).await.expect("the commitments are unspent");
    for impostor in &impostors {
        let again = ask(&stage, &session, impostor).await;
        assert_eq!(reason(again), Reason::PermissionDenied, "a durable round is for its driver, too");
    }
    let told = status_over(net.channel(0, "observer").await).await.counters.unwrap();
    let denied = told.refused.iter().find(|refused| refused.reason == PERMISSION_DENIED);
    assert_eq!(denied.map(|denied| denied.count), Some(8));

    assert!(bytes(&ask(&stage, &session, own).await.unwrap()) == bytes(&round), "byte for byte");
    let next = stage.session("next", 8).await;
    ask(&stage, &next, driver(&stage, &next)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_request_is_worth_nothing_to_a_caller_of_another_role() {
    let scene = Scene::new("").await;
    let net = &scene.stage.net;
    let node = &net.nodes[0];
    let key_group = scene.stage.key_group().as_bytes().to_vec();
    let session = scene.request.session.clone();
    let freeze = v1::FreezeRequest { key_group: key_group.clone(), reason: "recorded".into() };
    let recorded: [(&str, Vec<u8>, &[&str]); 5] = [
        (START, framed(&scene.fresh().await), &["peer", "admin", "observer", "nobody"]),
        (START, framed(&scene.request), &["peer", "admin", "observer", "nobody"]),
        (
            "/frostkeep.v1.Signer/AbortSession",
            framed(&v1::AbortSessionRequest { session }),
            &["peer", "admin", "observer", "nobody"],
        ),
        ("/frostkeep.v1.Admin/Freeze", framed(&freeze), &["coordinator", "peer", "observer", "nobody"]),
        (
            "/frostkeep.v1.Admin/RetireKeyGroup",
            framed(&v1::RetireKeyGroupRequest { key_group }),
            &["coordinator", "peer", "observer", "nobody"],
        ),
    ];
    let durable = node.engine().status().durable;
    let mut denied = 0;
    for (path, message, callers) in &recorded {
        for caller in *callers {
            let requests = http2(node, &net.clients[caller], WINDOW).await;
            let status = say(&requests, post(path), &[message], true).await;
            assert_eq!(reason_of(status.as_ref()), Some(Reason::PermissionDenied), "{path} by {caller}: {status:?}");
            denied += 1;
            assert_eq!(scene.calls_refused(Reason::PermissionDenied), denied);
        }
    }
    assert_eq!(node.engine().status().durable, durable, "no effect, and no record of one");
    assert!(!node.engine().key_group(&scene.stage.key_group()).unwrap().frozen);
    // The one whose request it is is served as if nothing had been: the commitments are unspent.
    let requests = http2(node, &net.clients["coordinator"], WINDOW).await;
    let status = say(&requests, post(START), &[&recorded[0].1], true).await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    drop(requests);
    scene.nothing_lost().await;
}
