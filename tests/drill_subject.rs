//! Goal: an outage drill's rounds pass under any policy, and can be of nothing that spends; few of their sessions can be open, and
//! one that has ended is over for good. Method: a key group under the policy that refuses everything.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;

use frostkeep::engine::{
    Caller, CommitRequest, EngineConfig, Role, SessionRequest, Subject, drill_subject, is_drill_session, trial_subject,
};
use frostkeep::hash::sha256;
use frostkeep::ids::{AttemptPolicy, CeremonyId, DrillId, MerkleRoot, Message, SessionId};
use frostkeep::limits::DRILL_SESSIONS_OPEN_MAX;
use frostkeep::policy::{SigningPolicy, Tightening};
use frostkeep::reasons::Reason;
use kit::{Cluster, Kind, Plan, coordinator, member, session};

async fn cluster(engine: &EngineConfig) -> Cluster {
    let plan = Plan {
        kind: Kind::Scripted,
        seats: vec![1, 1, 1],
        threshold: 2,
        attempts: AttemptPolicy::Roast,
        policy: SigningPolicy::default(),
    };
    Cluster::configured(plan, engine).await
}

fn drill(number: u8) -> DrillId {
    DrillId::new([number; 16])
}

/// Why member 1 does not answer; none when it does.
async fn refused(cluster: &Cluster, session: &SessionId, subject: &Subject) -> Option<Reason> {
    let package = cluster.package(session, subject, &[member(1), member(2)]);
    let request = cluster.request(session, subject, 1, &package, member(1));
    let engine = cluster.engine_of(member(1));
    let answer = engine.start_sign_round(&driller(), &request, |reply| reply.position()).await;
    answer.err().map(|refusal| refusal.reason())
}

/// A coordinator that is also an admin: whoever may begin a drill.
fn driller() -> Caller {
    Caller { name: "kit-driller".into(), identity: None, roles: vec![Role::Coordinator, Role::Admin] }
}

#[test]
fn the_drill_message_is_a_tagged_hash_under_a_tag_that_nothing_else_has() {
    let key_group = format!("02{}", "11".repeat(32)).parse().unwrap();
    let (name, subject) = drill_subject(&key_group, &drill(7));
    assert_eq!(name.as_str(), "outage-drill-07070707070707070707070707070707");
    let tagged = |tag: &str| {
        let tag = sha256(tag.as_bytes());
        sha256(&[tag.as_slice(), &tag, key_group.as_bytes(), drill(7).as_bytes()].concat())
    };
    assert_eq!(subject.message.as_bytes(), &tagged("frostkeep/outage-drill/v1"));
    assert_ne!(subject.message.as_bytes(), &tagged("TapSighash"));
    assert_ne!(subject, trial_subject(&key_group, &CeremonyId::new([7; 16])).1);
    assert_eq!(subject.root, None);
    assert!(is_drill_session(&name));
    for other in
        ["outage-drill-", "outage-drill-07", "payment", &name.as_str().replace("07", "0A"), &format!("{name}0")]
    {
        assert!(!is_drill_session(&session(other)), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_s_rounds_pass_under_a_policy_that_allows_nothing_and_nothing_else_passes_by_its_name() {
    let tighten = Some(Tightening { refuse_any_message: true, ..Tightening::default() });
    let cluster = cluster(&EngineConfig { tighten, ..EngineConfig::default() }).await;
    let (name, own) = drill_subject(&cluster.key_group, &drill(1));
    let (other_name, other) = drill_subject(&cluster.key_group, &drill(2));
    let stranger = format!("02{}", "11".repeat(32)).parse().unwrap();
    let (_, of_another_group) = drill_subject(&stranger, &drill(1));
    let refused_all = [
        (&name, Subject { message: Message::new([1; 32]), root: None }),
        (&name, other),
        (&other_name, own),
        (&name, of_another_group),
        (&name, Subject { root: Some(MerkleRoot::new([2; 32])), ..own }),
        (&session("payment"), own),
        (&session("outage-drill-0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A"), drill_subject(&cluster.key_group, &drill(10)).1),
    ];
    for (session, subject) in refused_all {
        let reason = refused(&cluster, session, &subject).await;
        assert_eq!(reason, Some(Reason::MessageNotApproved), "{session} {subject:?}");
    }
    assert_eq!(refused(&cluster, &name, &own).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_drill_sessions_are_open_at_a_time_and_an_ended_one_is_not_opened_again() {
    let cluster = cluster(&EngineConfig::default()).await;
    let count = u8::try_from(DRILL_SESSIONS_OPEN_MAX).unwrap();
    for number in 0..count {
        let (name, subject) = drill_subject(&cluster.key_group, &drill(number));
        assert_eq!(refused(&cluster, &name, &subject).await, None, "{number}");
    }
    let (one_more, subject) = drill_subject(&cluster.key_group, &drill(count));
    assert_eq!(refused(&cluster, &one_more, &subject).await, Some(Reason::CapacityExceeded));
    let (first, of_first) = drill_subject(&cluster.key_group, &drill(0));
    let engine = cluster.engine_of(member(1));
    let request = SessionRequest { session: first.clone(), key_group: cluster.key_group };
    engine.abort_session(&coordinator(), &request).await.unwrap();
    assert_eq!(refused(&cluster, &one_more, &subject).await, None, "its place is free");
    let again = CommitRequest { session: first.clone(), key_group: cluster.key_group, member: member(1) };
    assert_eq!(engine.commit(&coordinator(), &again).unwrap_err().reason(), Reason::SessionAborted);
    let package = cluster.package(&one_more, &of_first, &[member(1), member(2)]);
    let again = cluster.request(&first, &of_first, 2, &package, member(1));
    let answer = engine.start_sign_round(&driller(), &again, |reply| reply.position()).await;
    assert_eq!(answer.unwrap_err().reason(), Reason::SessionAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_no_admin_opens_no_session_of_a_drill_and_goes_on_with_one_that_is_open() {
    let cluster = cluster(&EngineConfig::default()).await;
    let engine = cluster.engine_of(member(1));
    let (name, subject) = drill_subject(&cluster.key_group, &drill(1));
    let package = cluster.package(&name, &subject, &[member(1), member(2)]);
    let request = cluster.request(&name, &subject, 1, &package, member(1));
    let ask = |caller: Caller| {
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.start_sign_round(&caller, &request, |reply| *reply.share()).await }
    };
    assert_eq!(ask(coordinator()).await.unwrap_err().reason(), Reason::PermissionDenied);
    let share = ask(driller()).await.unwrap();
    assert_eq!(ask(coordinator()).await.unwrap(), share, "the refusal has taken no nonces");
}
