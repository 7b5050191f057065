//! Goal: what a node serves, to whom, and when. Method: raw generated clients over real TLS and real Unix sockets against
//! servers in this process, on scripted tokens that can be taken away.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;
mod net;

use frostkeep::wire::v1;
use frostkeep::wire::v1::node_client::NodeClient;
use net::{Net, NetPlan};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_whoever_has_a_role_how_it_stands() {
    let net = Net::started(NetPlan::of(1)).await;
    let mut node = NodeClient::new(net.channel(0, "observer").await);
    let status = node.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.ready);
    assert_eq!(status.name, "node-0");
    let line = &net.nodes[0].line;
    assert_eq!(status.identity, line.identity.as_bytes());
    assert_eq!(status.serving_pin, line.serving_pin.as_bytes());
    assert_eq!(status.client_pin, line.client_pin.as_bytes());
    assert_eq!(status.roster_hash, net.read_roster().hash());
}
