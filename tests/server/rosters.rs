use frostkeep::reasons::Reason;
use frostkeep::tls::TlsKey;
use frostkeep::wire::v1;
use frostkeep::wire::v1::admin_client::AdminClient;
use frostkeep::wire::v1::node_client::NodeClient;
use frostkeep::wire::v1::signer_client::SignerClient;

use crate::kit::eventually;
use crate::net::{Net, NetPlan};
use crate::stage::{Stage, problem, reason, refused, status_over};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_new_roster_does_not_know_loses_its_connections_and_gets_no_new_one() {
    let net = Net::started(NetPlan::of(1)).await;
    let mut revoked = NodeClient::new(net.channel(0, "observer").await);
    revoked.status(v1::StatusRequest {}).await.unwrap();
    // Nothing of it depends on the caller: this one asks nothing, and is closed all the same.
    let mut idle = net.nodes[0].tls(&net.clients["observer"]).await.unwrap();
    let server = net.nodes[0].server();
    eventually("both are open", || server.counters().open == 2).await;

    net.write_roster(|_, clients| clients.retain(|client| client.name != "observer"));
    let mut admin = AdminClient::new(net.channel(0, "admin").await);
    let reloaded = admin.reload_roster(v1::ReloadRosterRequest {}).await.unwrap().into_inner();
    assert_eq!(reloaded.roster_hash, net.read_roster().hash());
    assert_eq!((reloaded.nodes, reloaded.clients), (1, 5));
    eventually("its connections are closed", || server.counters().open == 1).await;
    assert!(revoked.status(v1::StatusRequest {}).await.is_err());
    // What HTTP/2 says at its beginning, and then the end.
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(20), end).await.expect("closed");

    // TLS 1.3 lets a client finish before its server has looked: the refusal comes with the first read.
    let again = net.nodes[0].channel(&net.clients["observer"]).await;
    match again {
        Ok(channel) => assert!(NodeClient::new(channel).status(v1::StatusRequest {}).await.is_err()),
        Err(_refused_at_once) => {}
    }
    let status = status_over(net.channel(0, "admin").await).await;
    assert_eq!(refused(&status, "revoked"), 2);
    assert!(refused(&status, "unknown_pin") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_never_known_is_refused_before_a_byte_of_application_data() {
    let net = Net::started(NetPlan::of(1)).await;
    let stranger = std::sync::Arc::new(TlsKey::generate().unwrap());
    let serving = net.nodes[0].config.state.join("serving.key");
    // Whoever steals the disk has the serving key: it opens no door.
    let thief = std::sync::Arc::new(TlsKey::read(&serving).unwrap());
    for key in [stranger, thief] {
        if let Ok(channel) = net.nodes[0].channel(&key).await {
            assert!(NodeClient::new(channel).status(v1::StatusRequest {}).await.is_err());
        }
    }
    let status = status_over(net.channel(0, "admin").await).await;
    assert!(refused(&status, "unknown_pin") >= 2);
    assert_eq!(status.connections.unwrap().accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_of_a_new_roster_count_at_the_next_call_of_a_connection_that_stands() {
    let net = Net::started(NetPlan::of(1)).await;
    let mut admin = AdminClient::new(net.channel(0, "admin").await);
    let reload = v1::ReloadRosterRequest {};
    admin.reload_roster(reload).await.unwrap();
    net.write_roster(|_, clients| {
        let admin = clients.iter_mut().find(|client| client.name == "admin").unwrap();
        admin.roles = vec![frostkeep::engine::Role::Observer];
    });
    admin.reload_roster(reload).await.unwrap();
    assert_eq!(reason(admin.reload_roster(reload).await), Reason::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_that_does_not_parse_changes_nothing_and_says_where() {
    let net = Net::started(NetPlan::of(1)).await;
    let before = net.read_roster().hash();
    let mut text = std::fs::read_to_string(&net.roster).unwrap();
    text.push_str("[[client]]\nname = \"x\"\n");
    std::fs::write(&net.roster, text).unwrap();
    let mut admin = AdminClient::new(net.channel(0, "admin").await);
    let refused = admin.reload_roster(v1::ReloadRosterRequest {}).await.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::RosterInvalid);
    assert!(problem.problem.contains("line"), "{}", problem.problem);
    let status = status_over(net.channel(0, "observer").await).await;
    assert_eq!(status.roster_hash, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_group_that_the_roster_contradicts_is_refused_by_name_until_one_of_them_is_changed() {
    let stage = Stage::new().await;
    let (request, _) = stage.durable_round("durable", 7).await;
    let key_group = stage.key_group().as_bytes().to_vec();
    // Nodes 1 and 2 have changed places.
    stage.net.write_roster(|nodes, _| {
        let [_, one, two] = nodes.as_mut_slice() else { panic!("three nodes") };
        std::mem::swap(&mut one.members, &mut two.members);
    });
    let mut admin = AdminClient::new(stage.net.channel(0, "admin").await);
    let reloaded = admin.reload_roster(v1::ReloadRosterRequest {}).await.unwrap().into_inner();
    assert_eq!(reloaded.disagreeing, std::slice::from_ref(&key_group));

    let mut signer = SignerClient::new(stage.net.channel(0, "coordinator").await);
    let refused = signer.start_sign_round(request.clone()).await.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::RosterMismatch);
    assert!(problem.problem.contains("members 2, 3 of"), "{}", problem.problem);
    let retire = v1::RetireKeyGroupRequest { key_group: key_group.clone() };
    assert_eq!(reason(admin.retire_key_group(retire).await), Reason::RosterMismatch);

    // What only looks, what only denies, and what ends the disagreement.
    let mut node = NodeClient::new(stage.net.channel(0, "observer").await);
    let shown = node.get_key_group(v1::GetKeyGroupRequest { key_group: key_group.clone() }).await.unwrap().into_inner();
    assert!(!shown.key_group.unwrap().roster_agrees);
    let freeze = v1::FreezeRequest { key_group: key_group.clone(), reason: String::new() };
    let frozen = admin.freeze(freeze).await.unwrap().into_inner();
    let thaw = v1::ThawRequest { key_group: key_group.clone(), freezes: vec![frozen.freeze] };
    assert_eq!(reason(admin.thaw(thaw.clone()).await), Reason::RosterMismatch);
    let identity = stage.net.nodes[2].line.identity.as_bytes().to_vec();
    let replace = v1::ReplaceIdentityRequest { key_group: key_group.clone(), member: 2, identity };
    let answered = admin.replace_identity(replace).await;
    assert_ne!(answered.err().map(|status| problem_of(&status)), Some(Reason::RosterMismatch));
    // On the machine itself the operator is not held up.
    let mut socket = AdminClient::new(stage.net.nodes[0].socket().await.unwrap());
    socket.thaw(thaw).await.unwrap();

    stage.net.write_roster(|_, _| {});
    admin.reload_roster(v1::ReloadRosterRequest {}).await.unwrap();
    signer.start_sign_round(request).await.unwrap();
}

fn problem_of(status: &tonic::Status) -> Reason {
    problem(status).reason
}
