use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::FreezeId;
use frostkeep::reasons::Reason;
use frostkeep::wire::v1;
use frostkeep::wire::v1::admin_client::AdminClient;
use frostkeep::wire::v1::key_generation_client::KeyGenerationClient;
use frostkeep::wire::v1::node_client::NodeClient;
use frostkeep::wire::v1::signer_client::SignerClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::kit::{eventually, member};
use crate::stage::{Stage, bytes, problem, reason, status_over};

async fn health(channel: tonic::transport::Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_node_answers_status_and_the_outage_takes_a_freeze_on_its_socket_and_opens_by_itself() {
    let mut stage = Stage::new().await;
    let (request, round) = stage.durable_round("before", 7).await;
    let key_group = stage.key_group();
    let node = &mut stage.net.nodes[0];
    node.stop().await.unwrap();
    node.token.fail_until_healed(FaultClass::Token);
    node.start().await;
    let server = node.server();
    eventually("the node says that it is sealed", || {
        matches!(server.node().phase(), frostkeep::node::Phase::Sealed { .. })
    })
    .await;

    let channel = stage.net.channel(0, "operator").await;
    let status = status_over(channel.clone()).await;
    assert!(status.phase() == v1::Phase::Sealed);
    assert_eq!(status.reason, "key_provider_unavailable");
    assert!(status.identity.is_empty() && status.client_pin.is_empty() && !status.ready);
    assert_eq!(status.provider.unwrap().outage.unwrap().class, "token");
    assert_eq!(health(channel.clone(), "").await, ServingStatus::NotServing);

    // Everything else is the typed outage, without the claim that something is served.
    let refused = SignerClient::new(channel.clone()).start_sign_round(request.clone()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let details = refused.get_error_details();
    assert!(details.retry_info().is_some() && details.error_info().is_some());
    let outage = problem(&refused);
    assert_eq!(outage.reason, Reason::KeyProviderUnavailable);
    assert!(!outage.durable_served && !outage.pending);
    assert_eq!(outage.outage.unwrap().0, "token");
    let freeze = v1::FreezeRequest { key_group: key_group.as_bytes().to_vec(), reason: "a test".into() };
    let over_network = AdminClient::new(channel.clone()).freeze(freeze.clone()).await;
    assert_eq!(reason(over_network), Reason::KeyProviderUnavailable, "a stolen disk takes no freeze over the network");
    let listed = NodeClient::new(channel.clone()).list_key_groups(v1::ListKeyGroupsRequest {}).await;
    assert_eq!(reason(listed), Reason::KeyProviderUnavailable);
    let observer = stage.net.channel(0, "observer").await;
    let unfinished = KeyGenerationClient::new(observer).unfinished(v1::UnfinishedRequest {}).await;
    assert_eq!(reason(unfinished), Reason::PermissionDenied, "roles come first");
    let reload = AdminClient::new(channel.clone()).reload_roster(v1::ReloadRosterRequest {}).await;
    assert_eq!(reason(reload), Reason::KeyProviderUnavailable);

    let mut socket = AdminClient::new(stage.net.nodes[0].socket().await.unwrap());
    let frozen = socket.freeze(freeze).await.unwrap().into_inner();
    assert!(frozen.durable, "{}", frozen.problem);
    socket.reload_roster(v1::ReloadRosterRequest {}).await.unwrap();
    let thaw = v1::ThawRequest { key_group: key_group.as_bytes().to_vec(), freezes: vec![frozen.freeze.clone()] };
    assert_eq!(reason(socket.thaw(thaw.clone()).await), Reason::KeyProviderUnavailable);

    stage.net.nodes[0].token.heal();
    stage.net.nodes[0].ready().await;
    let mut signer = SignerClient::new(channel);
    let refused = signer.start_sign_round(request.clone()).await;
    assert_eq!(reason(refused), Reason::Frozen, "the freeze of the sealed node is in force");
    let engine = stage.net.nodes[0].engine();
    let freeze = FreezeId::new(frozen.freeze.as_slice().try_into().unwrap());
    assert_eq!(engine.key_group(&key_group).unwrap().freezes, [freeze]);
    assert!(socket.thaw(thaw).await.unwrap().into_inner().freezes.is_empty());
    let served = signer.start_sign_round(request).await.unwrap().into_inner().round.unwrap();
    assert_eq!(bytes(&served), bytes(&round));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_a_durable_round_is_served_byte_for_byte_and_a_fresh_one_gets_the_typed_outage() {
    let stage = Stage::new().await;
    let (request, round) = stage.durable_round("durable", 7).await;
    let fresh = stage.session("fresh", 8).await;
    let channel = stage.net.channel(0, "coordinator").await;
    assert_eq!(health(channel.clone(), "frostkeep.v1.Signer").await, ServingStatus::Serving);
    stage.net.nodes[0].token.fail_until_healed(FaultClass::Token);
    let server = stage.net.nodes[0].server();
    eventually("the outage is known", || !server.is_ready()).await;

    let mut signer = SignerClient::new(channel.clone());
    let served = signer.start_sign_round(request).await.unwrap().into_inner().round.unwrap();
    assert_eq!(bytes(&served), bytes(&round));
    let fresh = stage.request(&fresh, member(1));
    let refused = signer.start_sign_round(fresh.clone()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let details = refused.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("key_provider_unavailable", "frostkeep"));
    assert_eq!(info.metadata["outage_class"], "token");
    assert_eq!(info.metadata["durable_served"], "true");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    assert_eq!(health(channel.clone(), "").await, ServingStatus::NotServing);
    let status = status_over(channel.clone()).await;
    assert!(!status.ready && status.provider.unwrap().outage.is_some());

    stage.net.nodes[0].token.heal();
    stage.net.nodes[0].ready().await;
    signer.start_sign_round(fresh).await.unwrap();
    assert_eq!(health(channel, "").await, ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_the_health_is_told_of_every_change() {
    let stage = Stage::new().await;
    let channel = stage.net.channel(0, "observer").await;
    let mut client = HealthClient::new(channel);
    let watched = client.watch(HealthCheckRequest { service: "frostkeep.v1.Node".into() }).await;
    let mut watched = watched.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    stage.net.nodes[0].token.fail_until_healed(FaultClass::Token);
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    stage.net.nodes[0].token.heal();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let unknown = client.check(HealthCheckRequest { service: "no.such.Service".into() }).await.err().unwrap();
    assert_eq!(unknown.code(), Code::NotFound);
}
