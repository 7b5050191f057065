use std::time::Duration;

use frostkeep::frost::Signature;
use frostkeep::ids::AttemptPolicy;
use frostkeep::reasons::Reason;
use frostkeep::wire::v1;
use frostkeep::wire::v1::coordination_client::CoordinationClient;
use frostkeep::wire::v1::sign_event::Event;
use tonic::Status;

use crate::kit::{eventually, subject};
use crate::net::NetPlan;
use crate::stage::{Stage, problem, reason};

fn request(stage: &Stage, byte: u8, deadline_ms: u64) -> v1::SignRequest {
    v1::SignRequest {
        key_group: stage.key_group().as_bytes().to_vec(),
        subject: Some((&subject(byte)).into()),
        deadline_ms,
    }
}

/// Everything that a node tells of a session: its lines, and its end.
async fn sign(stage: &Stage, index: usize, byte: u8, deadline_ms: u64) -> (Vec<String>, Result<v1::Finished, Status>) {
    let mut client = CoordinationClient::new(stage.net.channel(index, "operator").await);
    let mut events = match client.sign(request(stage, byte, deadline_ms)).await {
        Ok(events) => events.into_inner(),
        Err(refused) => return (Vec::new(), Err(refused)),
    };
    let mut lines = Vec::new();
    loop {
        match events.message().await {
            Ok(Some(event)) => match event.event.unwrap() {
                Event::Progress(line) => lines.push(line),
                Event::Finished(finished) => {
                    assert!(events.message().await.unwrap().is_none(), "the end is the last");
                    return (lines, Ok(finished));
                }
            },
            Ok(None) => panic!("an end without an end"),
            Err(refused) => return (lines, Err(refused)),
        }
    }
}

fn verify(stage: &Stage, byte: u8, finished: &v1::Finished) {
    let signature = Signature::from_bytes(&finished.signature).unwrap();
    let group = stage.confirmed.certificate().group();
    group.verify(subject(byte).message, None, &signature).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_signs_for_its_caller_with_the_members_nodes_and_tells_how_it_goes_on() {
    for policy in [AttemptPolicy::Roast, AttemptPolicy::Evidence] {
        let stage = Stage::of(NetPlan::of(3), policy).await;
        let (lines, end) = sign(&stage, 0, 7, 0).await;
        let finished = end.unwrap();
        verify(&stage, 7, &finished);
        assert!(finished.unconfirmed.is_empty(), "{policy:?}: {:?}", finished.unconfirmed);
        assert!(lines.iter().any(|line| line.contains("attempt 1")), "{policy:?}: {lines:?}");
        // A second run finds the first one's session, at whatever node.
        let again = sign(&stage, 1, 7, 0).await.1.unwrap();
        assert_eq!((again.signature, again.session_id), (finished.signature, finished.session_id), "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_costs_no_signature_and_too_few_members_are_told_one_by_one() {
    let mut stage = Stage::new().await;
    stage.net.nodes[2].stop().await;
    let finished = sign(&stage, 0, 7, 0).await.1.unwrap();
    verify(&stage, 7, &finished);
    assert_eq!(finished.unconfirmed, [3]);
    stage.net.nodes[1].stop().await;
    let refused = sign(&stage, 0, 8, 3_000).await.1.err().unwrap();
    let problem = problem(&refused);
    assert_eq!(problem.reason, Reason::TooFewMembers);
    for told in ["member 2 does not answer", "member 3 does not answer"] {
        assert!(problem.problem.contains(told), "{}", problem.problem);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_not_told_to_coordinate_does_not() {
    let plan = NetPlan { coordination: false, ..NetPlan::of(2) };
    let stage = Stage::of(plan, AttemptPolicy::Roast).await;
    let refused = sign(&stage, 0, 7, 0).await.1;
    assert_eq!(reason(refused), Reason::CoordinationOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_ends_when_its_caller_goes_away() {
    let mut stage = Stage::new().await;
    stage.net.nodes[1].stop().await;
    stage.net.nodes[2].stop().await;
    let mut client = CoordinationClient::new(stage.net.channel(0, "operator").await);
    let mut events = client.sign(request(&stage, 7, 0)).await.unwrap().into_inner();
    assert!(events.message().await.unwrap().is_some(), "it tells of the members that it does not reach");
    assert_eq!(stage.net.nodes[0].server().drives(), 1);
    drop(events);
    let server = stage.net.nodes[0].server();
    eventually("nothing is driven any more", || server.drives() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drives_no_attempt_that_selects_another_s_member() {
    let stage = Stage::of(NetPlan::of(3), AttemptPolicy::Evidence).await;
    let session = stage.session("other", 7).await;
    let selected = session.context.coordinator().number();
    let drive = v1::DriveRequest {
        session: stage.request(&session, session.context.coordinator()).session,
        subject: Some((&session.subject).into()),
        attempt: Some((&session.context.parts()).into()),
        evidence: Vec::new(),
    };
    let other = if selected == 1 { 1 } else { 0 };
    let mut client = CoordinationClient::new(stage.net.channel(other, "operator").await);
    let refused = client.drive(drive.clone()).await.err().unwrap();
    assert!(problem(&refused).problem.contains("no seat of this node"), "{refused}");
    let mut altered = drive.clone();
    altered.attempt.as_mut().unwrap().number = 2;
    assert_eq!(reason(client.drive(altered).await), Reason::AttemptContextInvalid);
    let own = usize::from(selected) - 1;
    let mut client = CoordinationClient::new(stage.net.channel(own, "operator").await);
    let driven = tokio::time::timeout(Duration::from_secs(20), client.drive(drive)).await.unwrap().unwrap();
    let signature = Signature::from_bytes(&driven.into_inner().signature).unwrap();
    stage.confirmed.certificate().group().verify(session.subject.message, None, &signature).unwrap();
}
