//! The proto file says who may call what; what the server does is held against it, method by method.

use std::collections::BTreeSet;

use frostkeep::reasons::Reason;
use frostkeep::wire::status::Problem;
use http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::net::{Net, NetPlan};

const ROLES: [&str; 4] = ["coordinator", "peer", "admin", "observer"];

/// The methods of the proto file, each with the roles that its comment, or its service's, gives it.
fn described() -> Vec<(String, BTreeSet<&'static str>)> {
    let (mut service, mut of_service) = (String::new(), BTreeSet::new());
    let (mut comment, mut methods) = (String::new(), Vec::new());
    for line in include_str!("../../src/wire/frostkeep.proto").lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("//") {
            comment = format!("{comment} {}", text.trim());
            continue;
        }
        let mut words = line.split([' ', '(']).filter(|word| !word.is_empty());
        match (words.next(), words.next()) {
            (Some("service"), Some(name)) => {
                service = name.to_owned();
                of_service = roles_in(&comment);
                assert!(!of_service.is_empty(), "service {name} names no role");
            }
            (Some("rpc"), Some(name)) => {
                let own = roles_in(&comment);
                let more = comment.contains("will do as well");
                let roles = match (own.is_empty(), more) {
                    (true, _) => of_service.clone(),
                    (false, true) => &of_service | &own,
                    (false, false) => own,
                };
                methods.push((format!("/frostkeep.v1.{service}/{name}"), roles));
            }
            _ => {}
        }
        comment.clear();
    }
    methods
}

/// The roles in the sentence about roles.
fn roles_in(comment: &str) -> BTreeSet<&'static str> {
    if comment.contains("Any role") {
        return ROLES.into();
    }
    let sentence = comment.split("Role ").nth(1).map(|rest| rest.split('.').next().unwrap_or_default());
    let named = |role: &&str| sentence.is_some_and(|sentence| sentence.contains(&format!("`{role}`")));
    ROLES.into_iter().filter(named).collect()
}

/// An empty request, to whatever method.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut raw = tonic::client::Grpc::new(channel.clone());
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    raw.unary(Request::new(()), PathAndQuery::try_from(path).unwrap(), codec).await.map(drop)
}

fn is_denied(answer: &Result<(), Status>) -> bool {
    let refused = answer.as_ref().err().and_then(Problem::from_status);
    refused.is_some_and(|problem| problem.reason == Reason::PermissionDenied)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_proto_file_is_denied_to_every_role_that_its_comment_does_not_name() {
    let net = Net::started(NetPlan::of(1)).await;
    let methods = described();
    assert!(methods.len() > 25, "{methods:?}");
    let of = |path: &str| methods.iter().find(|(known, _)| known.ends_with(path)).map(|(_, roles)| roles.clone());
    assert_eq!(of("/StartSignRound"), Some(["coordinator"].into()), "the comments are read as people read them");
    assert_eq!(of("/VerifySignatureShare"), Some(["coordinator", "peer", "observer"].into()));
    assert_eq!(of("/Certify"), Some(["admin", "peer", "coordinator"].into()));
    assert_eq!(of("/Status"), Some(ROLES.into()));

    let channels = [
        ("coordinator", net.channel(0, "coordinator").await),
        ("peer", net.channel(0, "peer").await),
        ("admin", net.channel(0, "admin").await),
        ("observer", net.channel(0, "observer").await),
        ("nobody", net.channel(0, "nobody").await),
    ];
    for (path, roles) in &methods {
        for (role, channel) in &channels {
            let answer = call(channel, path).await;
            assert_eq!(is_denied(&answer), !roles.contains(role), "{path} by {role}: {answer:?}");
            let code = answer.err().map(|status| status.code());
            assert_ne!(code, Some(tonic::Code::Unimplemented), "{path} is served");
        }
    }
    for path in ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        for (role, channel) in &channels {
            // A watch does not end by itself.
            let answer = tokio::time::timeout(std::time::Duration::from_millis(300), call(channel, path)).await;
            assert_eq!(answer.is_ok_and(|answer| is_denied(&answer)), *role == "nobody", "{path} by {role}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_the_socket_are_admin_and_observer_and_nothing_else() {
    let net = Net::started(NetPlan::of(1)).await;
    let socket = net.nodes[0].socket().await.unwrap();
    for (path, roles) in described() {
        let allowed = roles.contains("admin") || roles.contains("observer");
        assert_eq!(is_denied(&call(&socket, &path).await), !allowed, "{path}");
    }
}
