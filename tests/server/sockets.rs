use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use frostkeep::reasons::Reason;
use frostkeep::server::{Server, SocketError, StartError};
use frostkeep::wire::v1;
use frostkeep::wire::v1::node_client::NodeClient;

use crate::kit::Token;
use crate::net::{Net, NetNode, NetPlan};
use crate::stage::{refused, status_over};

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

async fn start(node: &NetNode) -> Result<Server, StartError> {
    let provider = Token::Scripted(node.token.clone()).provider_on(Arc::clone(&node.node_config.clock));
    Server::start(&node.config, node.node_config.clone(), provider, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_and_for_the_users_of_the_configuration_alone() {
    let net = Net::started(NetPlan::of(1)).await;
    let mode = std::fs::metadata(&net.nodes[0].config.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    status_over(net.nodes[0].socket().await.unwrap()).await;

    let others = NetPlan { admin_uids: Some(vec![own_uid() + 1]), ..NetPlan::of(1) };
    let net = Net::started(others).await;
    if let Ok(channel) = net.nodes[0].socket().await {
        assert!(NodeClient::new(channel).status(v1::StatusRequest {}).await.is_err());
    }
    let status = status_over(net.channel(0, "admin").await).await;
    assert!(refused(&status, "socket_user") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_dead_node_is_replaced_and_neither_a_live_one_nor_another_file_is() {
    let mut net = Net::started(NetPlan::of(1)).await;
    let path = net.nodes[0].config.socket.clone();
    net.nodes[0].stop().await;
    assert!(!path.exists(), "a node that stops well takes its socket along");

    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "as a node that was killed leaves it");
    net.nodes[0].start_ready().await;
    status_over(net.nodes[0].socket().await.unwrap()).await;
    net.nodes[0].stop().await;

    let live = UnixListener::bind(&path).unwrap();
    let refused = start(&net.nodes[0]).await.err().unwrap();
    assert_eq!(refused.reason(), Some(Reason::Busy));
    drop(live);
    std::fs::remove_file(&path).unwrap();

    std::fs::write(&path, "an operator's note").unwrap();
    let refused = start(&net.nodes[0]).await.err().unwrap();
    assert!(matches!(refused, StartError::Socket(SocketError::Taken(_))), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"an operator's note");
}
