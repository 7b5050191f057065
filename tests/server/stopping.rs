use std::time::Duration;

use frostkeep::reasons::Reason;
use frostkeep::wire::v1;
use frostkeep::wire::v1::admin_client::AdminClient;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::kit::{eventually, member};
use crate::stage::{Stage, reason, status_over};

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_finishes_what_is_under_way_and_refuses_what_is_new() {
    let mut stage = Stage::new().await;
    let session = stage.session("under-way", 7).await;
    let (durable, _) = stage.durable_round("durable", 8).await;
    let key_group = stage.key_group().as_bytes().to_vec();
    let request = stage.request(&session, member(1));
    let mut signer = stage.signer(0).await;
    let channel = stage.net.channel(0, "operator").await;
    let mut watched = HealthClient::new(channel.clone())
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let unknown = HealthCheckRequest { service: "nobody.knows.it".into() };
    let mut unknown = HealthClient::new(channel.clone()).watch(unknown).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);

    // The token takes its time: a round is in line, and its caller waits.
    let token = stage.net.nodes[0].token.clone();
    token.set_deadline(Duration::from_secs(20));
    token.hang();
    let under_way = tokio::spawn({
        let mut signer = signer.clone();
        async move { signer.start_sign_round(request).await }
    });
    let waits = tokio::task::spawn_blocking({
        let token = token.clone();
        move || token.wait_until_hanging(Duration::from_secs(20))
    });
    assert!(waits.await.unwrap());

    let server = stage.net.nodes[0].server.take().unwrap();
    let stopping = tokio::spawn(server.stop());
    let mut told = watched.message().await.unwrap().unwrap().status();
    assert_eq!(told, ServingStatus::NotServing, "the first that anybody hears of it");
    assert_eq!(reason(signer.start_sign_round(durable).await), Reason::Stopping);
    assert!(watched.message().await.unwrap().is_none(), "a watch holds no stop up");
    let ended = tokio::time::timeout(Duration::from_secs(5), unknown.message()).await;
    assert!(ended.unwrap().unwrap().is_none(), "neither does a watch of what is not there");
    assert!(!status_over(channel.clone()).await.ready);
    told = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(told, ServingStatus::NotServing);
    let key = &stage.net.clients["operator"];
    assert!(stage.net.nodes[0].channel(key).await.is_err(), "nobody new comes in");
    let freeze = v1::FreezeRequest { key_group, reason: "late".into() };
    let late = AdminClient::new(stage.net.nodes[0].socket().await.unwrap()).freeze(freeze.clone()).await;
    assert!(!late.unwrap().into_inner().freeze.is_empty(), "a freeze gets in to the last");
    assert!(!under_way.is_finished() && !stopping.is_finished());

    token.release();
    let answer = under_way.await.unwrap();
    assert_eq!(reason(answer), Reason::Frozen, "what is under way is finished, and the freeze is looked at again");
    stopping.await.unwrap().unwrap();
    assert!(!stage.net.nodes[0].config.socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_under_way_is_handed_over_before_the_node_stops_and_is_served_again_by_the_next() {
    let mut stage = Stage::new().await;
    let session = stage.session("under-way", 7).await;
    let request = stage.request(&session, member(1));
    let token = stage.net.nodes[0].token.clone();
    token.set_deadline(Duration::from_secs(20));
    token.hang();
    let mut signer = stage.signer(0).await;
    let under_way = tokio::spawn({
        let request = request.clone();
        async move { signer.start_sign_round(request).await }
    });
    let waits = token.clone();
    assert!(tokio::task::spawn_blocking(move || waits.wait_until_hanging(Duration::from_secs(20))).await.unwrap());
    let stopping = tokio::spawn(stage.net.nodes[0].server.take().unwrap().stop());
    // Longer than connections have to say goodbye: it is the call that is waited for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    token.release();
    let round = under_way.await.unwrap().unwrap().into_inner().round;
    stopping.await.unwrap();
    stage.net.nodes[0].start_ready().await;
    let served = stage.signer(0).await.start_sign_round(request).await.unwrap().into_inner().round;
    assert!(served == round, "byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_hurried_cuts_off_what_is_under_way_and_closes_the_state() {
    let mut stage = Stage::new().await;
    let session = stage.session("under-way", 7).await;
    let request = stage.request(&session, member(1));
    let token = stage.net.nodes[0].token.clone();
    token.set_deadline(Duration::from_secs(20));
    token.hang();
    let mut signer = stage.signer(0).await;
    let under_way = tokio::spawn(async move { signer.start_sign_round(request).await });
    let waits = token.clone();
    assert!(tokio::task::spawn_blocking(move || waits.wait_until_hanging(Duration::from_secs(20))).await.unwrap());
    let server = stage.net.nodes[0].server.take().unwrap();
    let stopping = tokio::spawn(server.stop_or(std::future::ready(())));
    assert!(under_way.await.unwrap().is_err());
    token.release();
    stopping.await.unwrap().unwrap();
    // The lock of the state is free.
    stage.net.nodes[0].start_ready().await;
    eventually("the node is back", || stage.net.nodes[0].server().is_ready()).await;
}
