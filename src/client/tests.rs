//! Goal: an answer that is not what the interface says is nonsense, whichever part of it. Method: answers as an honest node
//! writes them, each with one fault.

use std::collections::BTreeMap;

use frostkeep_hsm::entropy;

use super::error::ClientError;
use super::signer::ServedRound;
use super::view::{KeyGroupDetail, KeyGroupInfo, NodeStatus};
use crate::engine::{SignRequest, Subject};
use crate::frost::{Commitments, SigningPackage};
use crate::identity::{IdentityKey, NodeIdentity};
use crate::ids::{AttemptId, KeyGroupId, Member, Message, SessionId};
use crate::policy::SigningPolicy;
use crate::roast::{AttemptBinding, AttemptContext};
use crate::wire::{ceremony, v1};

fn member(number: u16) -> Member {
    Member::new(number).unwrap()
}

fn key_group() -> KeyGroupId {
    "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798".parse().unwrap()
}

fn is_nonsense<T>(answer: Result<T, ClientError>, fault: &str) {
    assert!(matches!(answer, Err(ClientError::Nonsense(_))), "{fault}");
}

/// A request for member 2 in an attempt of members 1 and 2.
fn request() -> SignRequest {
    // Two points with known encodings: commitments need no more here.
    let point = hex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798");
    let other = hex("02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5");
    let header = hex("00230f8ab3");
    let commitments = |hiding: &[u8], binding: &[u8]| {
        Commitments::from_bytes(&[header.as_slice(), hiding, binding].concat()).unwrap()
    };
    let pairs = [(member(1), commitments(&point, &other)), (member(2), commitments(&other, &point))];
    let (session, message) = (SessionId::new("session").unwrap(), Message::new([9; 32]));
    let binding = AttemptBinding { key_group: &key_group(), session: &session, message: &message, threshold: 2 };
    let context = AttemptContext::derive(&binding, 1, &[1, 2]).unwrap().parts();
    let package = SigningPackage::new(message, BTreeMap::from(pairs)).unwrap();
    let subject = Subject { message, root: None };
    SignRequest { session, key_group: key_group(), member: member(2), subject, context, package, evidence: Vec::new() }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn round_reply(request: &SignRequest) -> v1::StartSignRoundReply {
    let round = v1::Round {
        round_id: vec![1; 32],
        attempt_id: request.context.attempt_id.to_vec(),
        member: 2,
        signature_share: vec![3; 32],
        position: 7,
        round_signature: vec![4; 64],
    };
    v1::StartSignRoundReply { round: Some(round), durable: true, next_commitments: vec![5; Commitments::BYTES] }
}

#[test]
fn a_round_has_the_lengths_of_one_and_is_of_the_member_and_the_attempt_that_were_asked() {
    let request = request();
    let served = ServedRound::read(round_reply(&request), &request).unwrap();
    assert_eq!((served.member, served.position), (member(2), 7));
    assert_eq!(served.attempt, AttemptId::new(request.context.attempt_id));
    assert_eq!(served.next, Some([5; Commitments::BYTES]));
    let without = v1::StartSignRoundReply { next_commitments: Vec::new(), ..round_reply(&request) };
    assert_eq!(ServedRound::read(without, &request).unwrap().next, None);

    type Break = fn(&mut v1::Round);
    let breaks: [(&str, Break); 8] = [
        ("round id", |round| round.round_id.truncate(31)),
        ("attempt id", |round| round.attempt_id.push(0)),
        ("another attempt", |round| round.attempt_id[0] ^= 1),
        ("another member", |round| round.member = 1),
        ("no member", |round| round.member = 0),
        ("a member of more than 16 bits", |round| round.member = 65_538),
        ("share", |round| round.signature_share.push(0)),
        ("round signature", |round| round.round_signature.truncate(63)),
    ];
    for (fault, break_it) in breaks {
        let mut reply = round_reply(&request);
        break_it(reply.round.as_mut().unwrap());
        is_nonsense(ServedRound::read(reply, &request), fault);
    }
    is_nonsense(ServedRound::read(v1::StartSignRoundReply { round: None, ..round_reply(&request) }, &request), "round");
    is_nonsense(
        ServedRound::read(v1::StartSignRoundReply { durable: false, ..round_reply(&request) }, &request),
        "a round that is not durable",
    );
    let next_commitments = vec![5; Commitments::BYTES - 1];
    is_nonsense(
        ServedRound::read(v1::StartSignRoundReply { next_commitments, ..round_reply(&request) }, &request),
        "next commitments",
    );
}

fn seats() -> BTreeMap<Member, IdentityKey> {
    let identity = || NodeIdentity::generate(&mut entropy::os()).public();
    (1..=3).map(|number| (member(number), identity())).collect()
}

fn group_reply() -> v1::GetKeyGroupReply {
    let policy = SigningPolicy::standard();
    let key_group = v1::KeyGroup {
        id: key_group().as_bytes().to_vec(),
        phase: v1::KeyGroupPhase::Prepared.into(),
        ceremony: vec![8; 16],
        threshold: 2,
        seats: ceremony::seats(&seats()),
        local_members: vec![1],
        attempt_policy: v1::AttemptPolicy::Roast.into(),
        signing_policy_hash: policy.hash().unwrap().to_vec(),
        freezes: vec![vec![6; 16]],
        frozen: true,
        sessions: 0,
        roster_agrees: true,
    };
    v1::GetKeyGroupReply {
        key_group: Some(key_group),
        certificate: Vec::new(),
        signing_policy: ceremony::policy_json(&policy),
    }
}

#[test]
fn a_key_group_is_the_one_that_was_asked_for_with_a_policy_of_its_hash() {
    assert_eq!(KeyGroupDetail::read(&key_group(), group_reply()).unwrap().certificate, None);
    type Break = fn(&mut v1::GetKeyGroupReply);
    let breaks: [(&str, Break); 13] = [
        ("none", |reply| reply.key_group = None),
        ("another", |reply| reply.key_group.as_mut().unwrap().id[1] ^= 1),
        ("id", |reply| reply.key_group.as_mut().unwrap().id.truncate(32)),
        ("phase", |reply| reply.key_group.as_mut().unwrap().phase = 0),
        ("ceremony", |reply| reply.key_group.as_mut().unwrap().ceremony.truncate(15)),
        ("threshold", |reply| reply.key_group.as_mut().unwrap().threshold = 65_538),
        ("a seat twice", |reply| reply.key_group.as_mut().unwrap().seats[1].member = 1),
        ("identity", |reply| reply.key_group.as_mut().unwrap().seats[1].identity.truncate(31)),
        ("attempt policy", |reply| reply.key_group.as_mut().unwrap().attempt_policy = 0),
        ("freeze", |reply| reply.key_group.as_mut().unwrap().freezes[0].truncate(15)),
        ("another policy", |reply| reply.signing_policy = ceremony::policy_json(&SigningPolicy::default())),
        ("no policy", |reply| reply.signing_policy.clear()),
        ("certificate", |reply| reply.certificate = vec![1; 500]),
    ];
    for (fault, break_it) in breaks {
        let mut reply = group_reply();
        break_it(&mut reply);
        is_nonsense(KeyGroupDetail::read(&key_group(), reply), fault);
    }
    let many = v1::ListKeyGroupsReply { key_groups: vec![group_reply().key_group.unwrap(); 257] };
    is_nonsense(KeyGroupInfo::read_all(many), "more key groups than a node holds");
}

#[test]
fn a_status_has_a_phase_and_pins() {
    let honest = || v1::StatusReply {
        phase: v1::Phase::Sealed.into(),
        serving_pin: vec![1; 32],
        roster_hash: vec![2; 32],
        ..Default::default()
    };
    let status = NodeStatus::read(honest()).unwrap();
    assert_eq!((status.identity, status.client_pin), (None, None));
    type Break = fn(&mut v1::StatusReply);
    let breaks: [(&str, Break); 5] = [
        ("phase", |status| status.phase = 9),
        ("serving pin", |status| status.serving_pin.clear()),
        ("client pin", |status| status.client_pin = vec![1; 31]),
        ("roster hash", |status| status.roster_hash.clear()),
        ("identity", |status| status.identity = vec![1; 31]),
    ];
    for (fault, break_it) in breaks {
        let mut status = honest();
        break_it(&mut status);
        is_nonsense(NodeStatus::read(status), fault);
    }
}

#[test]
fn a_failure_of_a_key_generation_has_a_known_reason_and_readable_proofs() {
    let honest = || v1::CeremonyFailure {
        reason: "ceremony_failed".into(),
        problem: "because".into(),
        members: vec![2],
        faults: Vec::new(),
        complaints: vec![vec![1; 40]],
    };
    assert_eq!(super::ceremony::failed(honest()).unwrap().members, [member(2)]);
    let later = v1::CeremonyFailure { reason: "invented_later".into(), ..honest() };
    assert!(matches!(super::ceremony::failed(later), Err(ClientError::Unreachable(_))));
    type Break = fn(&mut v1::CeremonyFailure);
    let breaks: [(&str, Break); 3] = [
        ("member", |failure| failure.members = vec![0]),
        ("fault", |failure| failure.faults = vec![vec![0xff; 9]]),
        ("more complaints than members", |failure| failure.complaints = vec![Vec::new(); 256]),
    ];
    for (fault, break_it) in breaks {
        let mut failure = honest();
        break_it(&mut failure);
        is_nonsense(super::ceremony::failed(failure), fault);
    }
}
