//! Goal: bad input is refused by its own stable reason, changes nothing, and makes nothing panic. Method: tables over every
//! operation of the engine, and arbitrary and altered bytes for every decoder that bytes from outside reach.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use frostkeep::bitcoin::{OutputKeys, Prevout, ScriptBytes, UnsignedTransaction};
use frostkeep::engine::{
    BuildRequest, Caller, CommitRequest, FinalizeRequest, Finish, Refusal, Replay, Role, RoundReply, SessionRequest,
    SignRequest, Subject, SubmittedShare, VoteRequest,
};
use frostkeep::frost::{Commitments, GroupKey, KeyShare, Signature, SignatureShare, SigningPackage};
use frostkeep::hsm::clock::ManualClock;
use frostkeep::ids::{
    AttemptId, AttemptPolicy, CeremonyId, FreezeId, KeyGroupId, Member, MerkleRoot, Message, SessionId,
};
use frostkeep::keygen::{Certificate, Confirmation, Parameters, Prepared, Statement, Transcript};
use frostkeep::limits::{ATTEMPTS_MAX, DENY_REASON_BYTES_MAX, FREEZES_PER_THAW_MAX};
use frostkeep::node::{Node, NodeConfig, Phase};
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use frostkeep::roast::{AttemptContextParts, ShareVerdict, SignedRound, Transition};
use frostkeep::store::{Opening, Position, RecoverySink};
use kit::outsider::{Kept, Outsider, altered};
use kit::{Cluster, Kind, Plan, admin, coordinator, durable_part, member, peer, session, start, subject, submitted};
use proptest::prelude::*;

fn reason<T>(result: Result<T, Refusal>) -> Reason {
    result.err().map_or_else(|| panic!("it was not refused"), |refusal| refusal.reason())
}

fn stranger() -> KeyGroupId {
    let mut bytes = [0x33; 33];
    bytes[0] = 2;
    KeyGroupId::new(bytes).unwrap()
}

fn with_roles(roles: &[Role]) -> Caller {
    Caller { name: "kit-caller".into(), identity: None, roles: roles.to_vec() }
}

/// One node with member 1, members 2 and 3 in the test's hands, and a durable round of member 1.
struct Room {
    cluster: Cluster,
    outsider: Outsider,
    request: SignRequest,
    reply: RoundReply,
}

impl Room {
    async fn new() -> Self {
        let (cluster, outsider) = Cluster::with_outsider(1, 2, 2, AttemptPolicy::Roast, kit::any_message()).await;
        let request = request(&cluster, &outsider, "served", subject(1));
        let reply = start(&cluster.nodes[0].engine(), &request).await.unwrap();
        Self { cluster, outsider, request, reply }
    }

    /// What is durable is as it was: no record was written, the round comes out as before, and so do the unspent commitments.
    async fn unchanged(&self, before: &Before, case: &str) {
        assert_eq!(Before::of(&self.cluster), *before, "{case}: something was recorded or spent");
        let again = start(&self.cluster.nodes[0].engine(), &self.request).await.unwrap();
        assert_eq!(durable_part(&again), durable_part(&self.reply), "{case}");
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Before {
    durable: Position,
    commitments: Commitments,
}

impl Before {
    fn of(cluster: &Cluster) -> Self {
        let engine = cluster.nodes[0].engine();
        let commitments = cluster.commit(&engine, &session("fresh"), member(1)).unwrap();
        Self { durable: engine.status().durable, commitments }
    }
}

/// A request of member 1 with the first of the others.
fn request(cluster: &Cluster, outsider: &Outsider, name: &str, what: Subject) -> SignRequest {
    let id = session(name);
    let package = package(cluster, outsider, &id, &what, &[1, 2]);
    cluster.request(&id, &what, 1, &package, member(1))
}

fn package(cluster: &Cluster, outsider: &Outsider, id: &SessionId, what: &Subject, included: &[u16]) -> SigningPackage {
    let commitments = included
        .iter()
        .map(|number| match number {
            1 => (member(1), cluster.commit(&cluster.nodes[0].engine(), id, member(1)).unwrap()),
            other => (member(*other), outsider.commit(member(*other)).1),
        })
        .collect();
    SigningPackage::new(what.message, commitments).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_open_to_its_roles_alone() {
    use Role::{Admin, Coordinator, Observer, Peer};
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let (id, key_group, what) = (session("s"), stranger(), subject(1));
    // A key group that nobody knows: who may ask is told so, and nothing happens.
    let sign = SignRequest { key_group, ..room.request.clone() };
    let vote = VoteRequest {
        session: id.clone(),
        key_group,
        member: member(1),
        subject: what,
        context: sign.context.clone(),
        evidence: Vec::new(),
    };
    let finish = FinalizeRequest {
        session: id.clone(),
        key_group,
        subject: what,
        finish: Finish::Signature(Signature::new([0; 64])),
    };
    let asked = SessionRequest { session: id.clone(), key_group };
    let round = SignedRound {
        member: 1,
        attempt: sign.context.clone(),
        root: None,
        package: vec![],
        share: vec![],
        round_signature: vec![],
    };
    let raw = frostkeep_transaction();
    let build = BuildRequest { key_group, transaction: raw, roots: vec![] };
    let ceremony = CeremonyId::new([1; 16]);
    let policy = kit::any_message();
    let parameters = Parameters::new(
        ceremony,
        2,
        room.cluster
            .confirmed
            .certificate()
            .seats()
            .iter()
            .filter(|(seat, _)| seat.number() != 1)
            .map(|(a, b)| (*a, *b))
            .collect(),
        AttemptPolicy::Roast,
        policy.hash().unwrap(),
    )
    .unwrap();
    for role in [None, Some(Coordinator), Some(Peer), Some(Admin), Some(Observer)] {
        let caller = with_roles(role.as_slice());
        let commit = CommitRequest { session: id.clone(), key_group, member: member(1) };
        let table: Vec<(&str, &[Role], Result<(), Refusal>)> = vec![
            ("Commit", &[Coordinator], engine.commit(&caller, &commit).map(|_| ())),
            ("StartSignRound", &[Coordinator], engine.start_sign_round(&caller, &sign, |_| ()).await),
            ("FinalizeSignRound", &[Coordinator], engine.finalize_sign_round(&caller, &finish).await.map(|_| ())),
            ("AbortSession", &[Coordinator], engine.abort_session(&caller, &asked).await),
            ("GetSession", &[Coordinator], engine.session(&caller, &asked, |_| ())),
            (
                "VerifySignatureShare",
                &[Coordinator, Peer, Observer],
                engine.verify_signature_share(&caller, &key_group, &id, &what, &round).map(|_| ()),
            ),
            ("VoteTimeout", &[Coordinator, Peer], engine.vote_timeout(&caller, &vote).await.map(|_| ())),
            ("BuildTaprootTx", &[Coordinator], engine.build_taproot_tx(&caller, &build).await.map(|_| ())),
            ("freeze", &[Admin], engine.freeze(&caller, &key_group, "bad\nreason").await.map(|_| ())),
            ("thaw", &[Admin], engine.thaw(&caller, &key_group, &[FreezeId::new([1; 16])]).await.map(|_| ())),
            ("policy set", &[Admin], engine.set_policy(&caller, &key_group, &policy).await.map(|_| ())),
            ("retire", &[Admin], engine.retire_key_group(&caller, &key_group).await.map(|_| ())),
            ("drop prepared", &[Admin], engine.danger_drop_prepared(&caller, &key_group).await.map(|_| ())),
            (
                "keygen begin",
                &[Admin, Peer],
                engine.keygen_begin(&caller, parameters.clone(), policy.clone()).await.map(|_| ()),
            ),
            ("keygen receive", &[Admin, Peer], engine.keygen_receive(&caller, &ceremony, vec![]).await.map(|_| ())),
            ("keygen advance", &[Admin, Peer], engine.keygen_advance(&caller, &ceremony).await.map(|_| ())),
            ("keygen finish", &[Admin, Peer], engine.keygen_finish(&caller, &ceremony).await.map(|_| ())),
            ("keygen abandon", &[Admin, Peer], engine.keygen_abandon(&caller, &ceremony)),
            ("keygen certify", &[Admin, Peer, Coordinator], engine.keygen_certify(&caller, vec![]).await.map(|_| ())),
        ];
        for (operation, allowed, result) in table {
            let refused = reason(result);
            let denied = !role.is_some_and(|role| allowed.contains(&role));
            assert_eq!(refused == Reason::PermissionDenied, denied, "{operation} by {role:?}: {refused}");
        }
    }
}

fn frostkeep_transaction() -> UnsignedTransaction {
    use bitcoin::hashes::Hash;
    let transaction = bitcoin::Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![bitcoin::TxIn {
            previous_output: bitcoin::OutPoint::new(bitcoin::Txid::from_byte_array([1; 32]), 0),
            ..bitcoin::TxIn::default()
        }],
        output: vec![bitcoin::TxOut { value: bitcoin::Amount::from_sat(1), script_pubkey: bitcoin::ScriptBuf::new() }],
    };
    let prevouts = [Prevout { value_sat: 2, script: ScriptBytes::new(vec![0x51]) }];
    UnsignedTransaction::from_parts(&bitcoin::consensus::serialize(&transaction), &prevouts).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_group_a_foreign_member_and_an_unknown_session_are_told_apart() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let before = Before::of(&room.cluster);
    let commit = |key_group, seat| {
        let request = CommitRequest { session: session("s"), key_group, member: member(seat) };
        reason(engine.commit(&coordinator(), &request))
    };
    assert_eq!(commit(stranger(), 1), Reason::KeyGroupUnknown);
    assert_eq!(commit(room.cluster.key_group, 2), Reason::MemberNotLocal);
    assert_eq!(commit(room.cluster.key_group, 999), Reason::MemberNotLocal);
    for seat in [2, 999] {
        let foreign = SignRequest { member: member(seat), ..room.request.clone() };
        assert_eq!(reason(start(&engine, &foreign).await), Reason::MemberNotLocal);
    }
    let unknown = room.cluster.session_request(&session("never"));
    assert_eq!(reason(engine.session(&coordinator(), &unknown, |_| ())), Reason::SessionUnknown);
    assert_eq!(reason(engine.abort_session(&coordinator(), &unknown).await), Reason::SessionUnknown);
    let vote = VoteRequest {
        session: session("served"),
        key_group: room.cluster.key_group,
        member: member(1),
        subject: room.request.subject,
        context: room.request.context.clone(),
        evidence: Vec::new(),
    };
    assert_eq!(
        reason(engine.vote_timeout(&peer(), &vote).await),
        Reason::InvalidRequest,
        "votes are for the policy evidence"
    );
    room.unchanged(&before, "unknown names").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_message_or_root_for_a_session_is_a_conflict_everywhere() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let before = Before::of(&room.cluster);
    let id = session("served");
    for other in [subject(2), Subject { root: Some(MerkleRoot::new([0; 32])), ..subject(1) }] {
        let package = package(&room.cluster, &room.outsider, &id, &other, &[1, 2]);
        let request = room.cluster.request(&id, &other, 2, &package, member(1));
        assert_eq!(reason(start(&engine, &request).await), Reason::SessionConflict);
        let finish = FinalizeRequest {
            session: id.clone(),
            key_group: room.cluster.key_group,
            subject: other,
            finish: Finish::Signature(Signature::new([1; 64])),
        };
        assert_eq!(reason(engine.finalize_sign_round(&coordinator(), &finish).await), Reason::SessionConflict);
    }
    room.unchanged(&before, "conflicts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_an_attempt_context_has_its_reason() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let fresh = request(&room.cluster, &room.outsider, "fresh", subject(3));
    let good = fresh.context.clone();
    let before = Before::of(&room.cluster);
    let invalid = Reason::AttemptContextInvalid;
    type Fault = (&'static str, fn(&mut AttemptContextParts), Reason);
    let faults: Vec<Fault> = vec![
        ("number zero", |c| c.number = 0, invalid),
        ("number above the limit", |c| c.number = ATTEMPTS_MAX + 1, Reason::AttemptExhausted),
        ("the largest number", |c| c.number = u32::MAX, Reason::AttemptExhausted),
        ("coordinator zero", |c| c.coordinator = 0, invalid),
        ("coordinator outside", |c| c.coordinator = 9, invalid),
        ("another coordinator", |c| c.coordinator ^= 3, Reason::CoordinatorMismatch),
        ("nobody included", |c| c.included.clear(), invalid),
        ("member zero", |c| c.included = vec![0, 1], invalid),
        ("a member twice", |c| c.included = vec![1, 1, 2], invalid),
        ("too many members", |c| c.included = (1..=256).collect(), invalid),
        ("below the threshold", |c| c.included = vec![c.coordinator], invalid),
        ("another fingerprint", |c| c.included_fingerprint[0] ^= 1, invalid),
        ("another id", |c| c.attempt_id[31] ^= 1, Reason::AttemptIdMismatch),
    ];
    for (case, spoil, expected) in faults {
        let mut context = good.clone();
        spoil(&mut context);
        let wrong = SignRequest { context, ..fresh.clone() };
        assert_eq!(reason(start(&engine, &wrong).await), expected, "{case}");
        room.unchanged(&before, case).await;
    }
    // The order of the participants is no fault and no other request (trap 14).
    let mut context = good;
    context.included.reverse();
    start(&engine, &SignRequest { context, ..fresh.clone() }).await.unwrap();
    start(&engine, &fresh).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_13_a_package_or_threshold_that_does_not_fit_is_refused_and_burns_no_nonces() {
    let room = Room::new().await;
    let (cluster, outsider) = (&room.cluster, &room.outsider);
    let engine = cluster.nodes[0].engine();
    let (id, what) = (session("fresh"), subject(4));
    let before = Before::of(cluster);
    let own = before.commitments.clone();
    let make = |message: Message, members: Vec<(u16, Commitments)>| {
        SigningPackage::new(message, members.into_iter().map(|(seat, c)| (member(seat), c)).collect()).unwrap()
    };
    let other = |seat: u16| outsider.commit(member(seat)).1;
    let foreign = cluster.commit(&engine, &session("served"), member(1)).unwrap();
    let context = cluster.context(&id, &what, 1, &[member(1), member(2)]).parts();
    let below = {
        // A context that is valid for a threshold of one, which this key group has not.
        let binding = frostkeep::roast::AttemptBinding {
            key_group: &cluster.key_group,
            session: &id,
            message: &what.message,
            threshold: 1,
        };
        frostkeep::roast::AttemptContext::derive(&binding, 1, &[1]).unwrap().parts()
    };
    let ask = |context: &AttemptContextParts, package: SigningPackage| SignRequest {
        session: id.clone(),
        key_group: cluster.key_group,
        member: member(1),
        subject: what,
        context: context.clone(),
        package,
        evidence: vec![],
    };
    let unknown = outsider.commit(member(2)).1;
    let cases = [
        (
            "another message",
            ask(&context, make(subject(5).message, vec![(1, own.clone()), (2, other(2))])),
            Reason::PackageInvalid,
        ),
        (
            "another member",
            ask(&context, make(what.message, vec![(1, own.clone()), (3, other(3))])),
            Reason::PackageInvalid,
        ),
        (
            "one member more",
            ask(&context, make(what.message, vec![(1, own.clone()), (2, other(2)), (3, other(3))])),
            Reason::PackageInvalid,
        ),
        ("too few", ask(&context, make(what.message, vec![(1, own.clone())])), Reason::PackageInvalid),
        (
            "an unknown member",
            ask(&context, make(what.message, vec![(1, own.clone()), (77, unknown)])),
            Reason::PackageInvalid,
        ),
        (
            "without this member",
            ask(&context, make(what.message, vec![(2, other(2)), (3, other(3))])),
            Reason::PackageInvalid,
        ),
        (
            "a threshold below the group's",
            ask(&below, make(what.message, vec![(1, own.clone())])),
            Reason::AttemptContextInvalid,
        ),
        (
            "commitments that it never made",
            ask(&context, make(what.message, vec![(1, other(2)), (2, other(2))])),
            Reason::CommitmentsUnknown,
        ),
        (
            "commitments of another session",
            ask(&context, make(what.message, vec![(1, foreign), (2, other(2))])),
            Reason::CommitmentsUnknown,
        ),
    ];
    for (case, request, expected) in cases {
        let refusal = start(&engine, &request).await.unwrap_err();
        assert_eq!(refusal.reason(), expected, "{case}: {refusal}");
        if let Refusal::CommitmentsUnknown { current, .. } = refusal {
            assert_eq!(current.as_deref(), Some(&own), "{case}: the unspent pair is told, and never replaced");
        }
        room.unchanged(&before, case).await;
    }
    let right = ask(&context, make(what.message, vec![(1, own), (2, other(2))]));
    start(&engine, &right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_14_the_hex_case_of_a_message_makes_no_other_request() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let hex = "ab".repeat(32);
    let lower: Message = hex.parse().unwrap();
    let upper: Message = hex.to_uppercase().parse().unwrap();
    let first = request(&room.cluster, &room.outsider, "case", Subject { message: lower, root: None });
    let served = start(&engine, &first).await.unwrap();
    let retry = SignRequest { subject: Subject { message: upper, root: None }, ..first };
    assert_eq!(durable_part(&start(&engine, &retry).await.unwrap()), durable_part(&served));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attempt_with_another_package_is_a_conflict_and_its_round_stays() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let before = Before::of(&room.cluster);
    let package = package(&room.cluster, &room.outsider, &session("served"), &subject(1), &[1, 2]);
    let other = SignRequest { package, ..room.request.clone() };
    assert_eq!(reason(start(&engine, &other).await), Reason::AttemptConflict);
    room.unchanged(&before, "another package").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalisation_with_wrong_shares_or_a_bad_signature_ends_nothing_and_names_only_the_proved() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let (id, what) = (session("finish"), subject(6));
    let own = room.cluster.commit(&engine, &id, member(1)).unwrap();
    let (nonces, theirs) = room.outsider.commit(member(2));
    let package = SigningPackage::new(what.message, BTreeMap::from([(member(1), own), (member(2), theirs)])).unwrap();
    let asked = room.cluster.request(&id, &what, 1, &package, member(1));
    let reply = start(&engine, &asked).await.unwrap();
    let context = room.cluster.context(&id, &what, 1, &[member(1), member(2)]);
    let good = room.outsider.sign(member(2), nonces, &room.cluster.group, &package, &what);
    let says = |share: &[u8; 32]| {
        let round = room.outsider.says(&room.cluster, &id, &what, &context, &package, member(2), share);
        SubmittedShare {
            member: member(2),
            share: SignatureShare::from_bytes(share).unwrap(),
            round_signature: Some(round.round_signature.try_into().unwrap()),
        }
    };
    let (one, two, bad) = (submitted(&reply), says(&good.to_bytes()), says(&altered(&good.to_bytes())));
    let unsigned = SubmittedShare { round_signature: None, ..bad.clone() };
    let framed = SubmittedShare { share: bad.share.clone(), ..two.clone() };
    let third = SubmittedShare { member: member(3), ..two.clone() };
    let finish = |finish: Finish| FinalizeRequest {
        session: id.clone(),
        key_group: room.cluster.key_group,
        subject: what,
        finish,
    };
    let shares = |shares: &[&SubmittedShare]| {
        finish(Finish::Shares { attempt: context.id(), shares: shares.iter().map(|share| (*share).clone()).collect() })
    };
    let unknown = Finish::Shares { attempt: AttemptId::new([9; 32]), shares: vec![one.clone(), two.clone()] };
    let before = Before::of(&room.cluster);
    let named = |culprits: &[u16], open: &[u16]| {
        (
            Reason::SharesInvalid,
            Some((culprits.iter().copied().map(member).collect(), open.iter().copied().map(member).collect())),
        )
    };
    let plain = |reason: Reason| (reason, None::<(Vec<Member>, Vec<Member>)>);
    let cases = [
        ("no shares", shares(&[]), plain(Reason::InvalidRequest)),
        ("one missing", shares(&[&one]), plain(Reason::InvalidRequest)),
        ("one twice", shares(&[&one, &one]), plain(Reason::InvalidRequest)),
        ("one of another member", shares(&[&one, &third]), plain(Reason::InvalidRequest)),
        ("one too many", shares(&[&one, &two, &third]), plain(Reason::InvalidRequest)),
        ("trap 11: an attempt that nobody opened", finish(unknown), plain(Reason::InvalidRequest)),
        ("signed by its member", shares(&[&one, &bad]), named(&[2], &[])),
        ("without its signature", shares(&[&one, &unsigned]), named(&[], &[2])),
        ("altered on the way", shares(&[&one, &framed]), named(&[], &[2])),
        ("a bad signature", finish(Finish::Signature(Signature::new([7; 64]))), plain(Reason::SignatureInvalid)),
        ("an empty signature", finish(Finish::Signature(Signature::new([0; 64]))), plain(Reason::SignatureInvalid)),
    ];
    for (case, request, (expected, blame)) in cases {
        let refusal = engine.finalize_sign_round(&coordinator(), &request).await.unwrap_err();
        assert_eq!(refusal.reason(), expected, "{case}: {refusal}");
        if let Refusal::SharesInvalid { culprits, indeterminate } = refusal {
            assert_eq!(Some((culprits, indeterminate)), blame, "{case}");
        }
        room.unchanged(&before, case).await;
        assert_eq!(durable_part(&start(&engine, &asked).await.unwrap()), durable_part(&reply), "{case}");
    }
    // A node without the session records nothing, whatever it is given (trap 11).
    let elsewhere = FinalizeRequest { session: session("elsewhere"), ..shares(&[&one, &two]) };
    assert!(engine.finalize_sign_round(&coordinator(), &elsewhere).await.unwrap().is_none());
    room.unchanged(&before, "a session that is not here").await;

    let verdict = |round: &SignedRound| {
        engine.verify_signature_share(&coordinator(), &room.cluster.key_group, &id, &what, round).unwrap()
    };
    let said = |share: &[u8]| {
        let bytes = <[u8; 32]>::try_from(share).unwrap_or([0xff; 32]);
        let mut round = room.outsider.says(&room.cluster, &id, &what, &context, &package, member(2), &bytes);
        round.share = share.to_vec();
        round
    };
    assert_eq!(verdict(&said(&good.to_bytes())), ShareVerdict::Valid);
    assert_eq!(verdict(&said(&altered(&good.to_bytes()))), ShareVerdict::Invalid);
    assert_eq!(verdict(&said(&[0xff; 32])), ShareVerdict::Invalid, "signed, and no scalar at all");
    for round in [
        said(&[]),
        said(&[1; 33]),
        SignedRound { round_signature: vec![1; 64], ..said(&altered(&good.to_bytes())) },
        SignedRound { round_signature: vec![], ..said(&altered(&good.to_bytes())) },
        SignedRound { package: vec![], ..said(&good.to_bytes()) },
        SignedRound { member: 0, ..said(&good.to_bytes()) },
        SignedRound { member: 900, ..said(&good.to_bytes()) },
        SignedRound { root: Some(MerkleRoot::new([1; 32])), ..said(&good.to_bytes()) },
        SignedRound { attempt: AttemptContextParts { number: 0, ..said(&[1; 32]).attempt }, ..said(&good.to_bytes()) },
    ] {
        assert_eq!(verdict(&round), ShareVerdict::Indeterminate, "{round:?}");
    }
    let done = engine.finalize_sign_round(&coordinator(), &shares(&[&one, &two])).await.unwrap().unwrap();
    room.cluster.group.verify(what.message, None, &Signature::new(*done.signature())).unwrap();
    assert_eq!(reason(start(&engine, &asked).await), Reason::SessionFinalized);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_lists_are_taken_up_to_their_limits_and_refused_beyond() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let key_group = room.cluster.key_group;
    let longest = "x".repeat(128);
    let asked = request(&room.cluster, &room.outsider, &longest, subject(7));
    start(&engine, &asked).await.unwrap();
    for wrong in
        [String::new(), "x".repeat(129), "a b".into(), "a\"b".into(), "a=b".into(), "a\\b".into(), "\u{e9}".into()]
    {
        SessionId::new(&wrong).unwrap_err();
    }
    let before = Before::of(&room.cluster);
    for wrong in ["x".repeat(DENY_REASON_BYTES_MAX + 1), "a\nb".into(), "\u{7}".into()] {
        assert_eq!(reason(engine.freeze(&admin(), &key_group, &wrong).await), Reason::InvalidRequest);
    }
    for wrong in [vec![], vec![FreezeId::new([1; 16])], vec![FreezeId::new([1; 16]); FREEZES_PER_THAW_MAX + 1]] {
        assert_eq!(reason(engine.thaw(&admin(), &key_group, &wrong).await), Reason::InvalidRequest);
    }
    room.unchanged(&before, "freezes and thaws that are not").await;
    let frozen = engine.freeze(&admin(), &key_group, &"x".repeat(DENY_REASON_BYTES_MAX)).await.unwrap();
    frozen.deny_file.unwrap();
    assert_eq!(reason(start(&engine, &asked).await), Reason::Frozen);
    assert!(engine.thaw(&admin(), &key_group, &[frozen.freeze]).await.unwrap().is_empty());
    start(&engine, &asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_10_a_second_local_seat_answers_the_same_attempt() {
    let cluster = Cluster::new(Plan { seats: vec![2, 1], ..Plan::two_of_three(Kind::Scripted) }).await;
    let engine = cluster.nodes[0].engine();
    let (id, what) = (session("seats"), subject(8));
    let package = cluster.package(&id, &what, &[member(1), member(2)]);
    let first = start(&engine, &cluster.request(&id, &what, 1, &package, member(1))).await.unwrap();
    let second = start(&engine, &cluster.request(&id, &what, 1, &package, member(2))).await.unwrap();
    assert_eq!(first.attempt(), second.attempt());
    assert_ne!(first.share(), second.share());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_says_how_it_ended_and_takes_nothing_more() {
    let room = Room::new().await;
    let engine = room.cluster.nodes[0].engine();
    let aborted = room.cluster.session_request(&session("served"));
    engine.abort_session(&coordinator(), &aborted).await.unwrap();
    engine.abort_session(&coordinator(), &aborted).await.unwrap();
    assert_eq!(reason(start(&engine, &room.request).await), Reason::SessionAborted);
    assert_eq!(reason(engine.session(&coordinator(), &aborted, |_| ())), Reason::SessionAborted);
    let commit = CommitRequest { session: session("served"), key_group: room.cluster.key_group, member: member(1) };
    assert_eq!(reason(engine.commit(&coordinator(), &commit)), Reason::SessionAborted);
    let finish = FinalizeRequest {
        session: session("served"),
        key_group: room.cluster.key_group,
        subject: room.request.subject,
        finish: Finish::Signature(Signature::new([1; 64])),
    };
    assert_eq!(reason(engine.finalize_sign_round(&coordinator(), &finish).await), Reason::SessionAborted);
    let elsewhere = SignRequest { subject: subject(9), ..room.request.clone() };
    assert!(matches!(
        reason(start(&engine, &elsewhere).await),
        Reason::SessionConflict | Reason::AttemptIdMismatch | Reason::CoordinatorMismatch
    ));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_does_not_open_says_why_and_serves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = kit::TestNode::new(directory.path(), Kind::Scripted, 0);
    let state = node.config.state.clone();
    let elsewhere = NodeConfig { state: directory.path().join("nowhere"), ..node.config.clone() };
    let missing = Node::start(elsewhere, node.token.provider()).err().unwrap();
    assert_eq!(missing.reason(), Reason::StateMissing);

    node.start_open().await;
    let again = Node::start(node.config.clone(), node.token.provider()).err().unwrap();
    assert_eq!(again.reason(), Reason::Busy, "one process at a time");
    node.stop();
    let older = directory.path().join("older");
    copy(&state, &older);
    node.start_open().await;
    node.stop();

    let right = node.token.scripted_handle().anchor();
    let newer = directory.path().join("newer");
    std::fs::rename(&state, &newer).unwrap();
    copy(&older, &state);
    assert_eq!(why_not(&mut node).await, Reason::StateRolledBack);
    std::fs::remove_dir_all(&state).unwrap();
    copy(&newer, &state);

    node.token.scripted_handle().set_anchor(None);
    assert_eq!(why_not(&mut node).await, Reason::AnchorMissing);
    node.token.scripted_handle().set_anchor(right);

    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && std::fs::metadata(&path).unwrap().len() > 4_096 {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.iter_mut().skip(4_096).for_each(|byte| *byte ^= 0x5a);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    assert_eq!(why_not(&mut node).await, Reason::StateCorrupt);
    std::fs::remove_dir_all(&state).unwrap();
    copy(&newer, &state);

    node.token.scripted_handle().swap_key(Some([9; 32]));
    assert_eq!(why_not(&mut node).await, Reason::WrongKey);
}

/// Why the node does not open: sealed or failed.
async fn why_not(node: &mut kit::TestNode) -> Reason {
    match Node::start(node.config.clone(), node.token.provider()) {
        Err(error) => error.reason(),
        Ok(started) => {
            kit::eventually("it is sealed or it fails", || !matches!(started.phase(), Phase::Opening | Phase::Open(_)))
                .await;
            let refusal = started.engine().err().unwrap();
            started.stop();
            refusal.reason()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_a_fresh_round_is_refused_as_disk_full_and_durable_ones_are_served() {
    let mut room = Room::new().await;
    room.cluster.nodes[0].stop();
    room.cluster.nodes[0].config.tuning.disk_reserve_bytes = u64::MAX;
    let bench = room.cluster.nodes[0].open_by_hand();
    let served = start(&bench.engine, &room.request).await.unwrap();
    assert_eq!(durable_part(&served), durable_part(&room.reply));
    let id = session("full");
    let own = room.cluster.commit(&bench.engine, &id, member(1)).unwrap();
    let theirs = room.outsider.commit(member(2)).1;
    let what = subject(2);
    let package = SigningPackage::new(what.message, BTreeMap::from([(member(1), own), (member(2), theirs)])).unwrap();
    let asked = room.cluster.request(&id, &what, 1, &package, member(1));
    assert_eq!(reason(start(&bench.engine, &asked).await), Reason::DiskFull);
    assert_eq!(reason(bench.engine.keygen_preflight(&peer())), Reason::DiskFull);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_idle_for_too_long_is_closed_and_says_so() {
    let mut room = Room::new().await;
    let clock = ManualClock::default();
    room.cluster.nodes[0].stop();
    room.cluster.nodes[0].config.clock = std::sync::Arc::new(clock.clone());
    let mut bench = room.cluster.nodes[0].open_by_hand();
    for _ in 0..3 {
        bench.engine.tick().unwrap();
        bench.settle();
        clock.advance(std::time::Duration::from_millis(frostkeep::limits::SESSION_IDLE_MS_MAX));
    }
    bench.engine.tick().unwrap();
    bench.settle();
    assert_eq!(reason(start(&bench.engine, &room.request).await), Reason::SessionClosed);
}

/// Real records and snapshot items of a node that has done something of every kind, to alter.
fn real() -> &'static Kept {
    static REAL: OnceLock<Kept> = OnceLock::new();
    REAL.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut room = Room::new().await;
                let engine = room.cluster.nodes[0].engine();
                let key_group = room.cluster.key_group;
                let ended = request(&room.cluster, &room.outsider, "ended", subject(2));
                start(&engine, &ended).await.unwrap();
                engine.abort_session(&coordinator(), &room.cluster.session_request(&session("ended"))).await.unwrap();
                let frozen = engine.freeze(&admin(), &key_group, "a test").await.unwrap();
                engine.thaw(&admin(), &key_group, &[frozen.freeze]).await.unwrap();
                engine.set_policy(&admin(), &key_group, &kit::any_message()).await.unwrap();
                let mut kept = Kept::default();
                let node = &mut room.cluster.nodes[0];
                node.stop();
                read(node, &mut kept);
                // The same again as a snapshot.
                node.config.tuning.snapshot_floor_bytes = 1;
                let mut bench = node.open_by_hand();
                bench.settle();
                assert!(bench.engine.status().counters.snapshots > 0);
                drop(bench);
                let mut shot = Kept::default();
                read(node, &mut shot);
                assert!(!shot.items.is_empty());
                Kept { items: shot.items, records: kept.records }
            })
        })
        .join()
        .unwrap()
    })
}

fn read(node: &kit::TestNode, kept: &mut Kept) {
    let environment = frostkeep::store::Environment {
        clock: node.config.clock.clone(),
        entropy: (node.config.entropy)(),
        space: Box::new(frostkeep::store::VolumeSpace::of(&node.config.state)),
    };
    let mut opening =
        Opening::begin(&node.config.state, node.token.provider(), environment, node.config.tuning).unwrap();
    opening.verify(kept).unwrap();
}

#[test]
fn real_records_and_items_replay_and_every_cut_of_them_is_refused() {
    let kept = real();
    let mut replay = Replay::default();
    for (position, bytes) in &kept.records {
        replay.record(*position, bytes).unwrap();
        for cut in 0..bytes.len() {
            Replay::default().record(*position, &bytes[..cut]).unwrap_err();
        }
    }
    let mut replay = Replay::default();
    for bytes in &kept.items {
        replay.snapshot_item(bytes).unwrap();
        for cut in 0..bytes.len() {
            Replay::default().snapshot_item(&bytes[..cut]).unwrap_err();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_byte_in_a_record_or_snapshot_item_never_panics(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in 1u8..) {
        let kept = real();
        let chosen = which.index(kept.records.len());
        let mut replay = Replay::default();
        for (index, (position, bytes)) in kept.records.iter().enumerate() {
            let mut bytes = bytes.clone();
            if index == chosen {
                let place = at.index(bytes.len());
                bytes[place] ^= with;
            }
            if replay.record(*position, &bytes).is_err() {
                break;
            }
        }
        let chosen = which.index(kept.items.len());
        let mut replay = Replay::default();
        for (index, bytes) in kept.items.iter().enumerate() {
            let mut bytes = bytes.clone();
            if index == chosen {
                let place = at.index(bytes.len());
                bytes[place] ^= with;
            }
            if replay.snapshot_item(&bytes).is_err() {
                break;
            }
        }
    }

    #[test]
    fn arbitrary_bytes_make_no_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), position in 1u64..) {
        let _ = Replay::default().record(Position::new(position), &bytes);
        let _ = Replay::default().snapshot_item(&bytes);
        let _ = Certificate::from_bytes(&bytes);
        let _ = Transcript::from_bytes(&bytes);
        let _ = Statement::from_bytes(&bytes);
        let _ = Confirmation::from_bytes(&bytes);
        let _ = Prepared::decode(&bytes);
        let _ = postcard::from_bytes::<Transition>(&bytes);
        let _ = postcard::from_bytes::<SignedRound>(&bytes);
        let _ = postcard::from_bytes::<AttemptContextParts>(&bytes);
        let _ = postcard::from_bytes::<Parameters>(&bytes);
        let _ = postcard::from_bytes::<KeyGroupId>(&bytes);
        let _ = postcard::from_bytes::<SessionId>(&bytes);
        let _ = SigningPolicy::decode(&bytes);
        let _ = SigningPackage::from_bytes(&bytes);
        let _ = Commitments::from_bytes(&bytes);
        let _ = SignatureShare::from_bytes(&bytes);
        let _ = Signature::from_bytes(&bytes);
        let _ = KeyShare::decode(&bytes);
        let _ = GroupKey::from_bytes(&bytes);
        let _ = UnsignedTransaction::from_psbt(&bytes, &OutputKeys::new());
        let _ = UnsignedTransaction::from_parts(&bytes, &[]);
    }

    #[test]
    fn an_altered_certificate_is_no_certificate(at in any::<prop::sample::Index>(), with in 1u8..) {
        let bytes = certificate();
        let mut wrong = bytes.clone();
        let place = at.index(wrong.len());
        wrong[place] ^= with;
        prop_assert!(Certificate::from_bytes(&wrong).is_err());
    }
}

/// The certificate of the real records, as it lies in one of them.
fn certificate() -> &'static Vec<u8> {
    static CERTIFICATE: OnceLock<Vec<u8>> = OnceLock::new();
    CERTIFICATE.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (cluster, _) = Cluster::with_outsider(1, 1, 2, AttemptPolicy::Roast, kit::any_message()).await;
                cluster.confirmed.certificate().to_bytes()
            })
        })
        .join()
        .unwrap()
    })
}

/// Reasons that no test of this crate expects by name, and why.
const UNTESTED: &[(&str, &str)] = &[
    (
        "attempt_context_missing",
        "a context is a field of the request type: the network, which has optional ones, will say so",
    ),
    (
        "attempt_replay",
        "the answer to a state that no sequence of records makes: a round gives way with its attempt, which is stale then",
    ),
    ("state_exists", "the command that makes a state will say so; the store's tests expect the error itself"),
    ("unsupported_version", "the store's tests expect the error itself, byte by byte"),
    ("fenced", "the store's tests bring the two copies of a state about that it takes"),
    ("starting", "the store's tests hold an opening anchor back"),
    ("freeze_not_durable", "a deny file that cannot be written is a matter of the tests of the freeze"),
    ("storage_failed", "the store's tests fail the disk under the persister"),
    ("internal", "a defect: a test that produced it would have to contain one"),
];

#[test]
fn every_reason_is_expected_by_some_test_or_listed_with_why_not() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    let mut folders: Vec<_> = ["src", "tests", "hsm"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let code = std::fs::read_to_string(&path).unwrap();
                // Of a room, its tests alone.
                let in_tests = path.strip_prefix(root).unwrap().components().any(|part| {
                    let part = part.as_os_str().to_string_lossy();
                    part == "tests" || part == "tests.rs"
                });
                let from = if in_tests { Some(0) } else { code.find("#[cfg(test)]\nmod ") };
                text.push_str(from.map_or("", |from| &code[from..]));
            }
        }
    }
    let expected = |reason: &Reason| {
        let name = format!("Reason::{reason:?}");
        text.match_indices(&name)
            .any(|(at, _)| !text[at + name.len()..].starts_with(|next: char| next.is_ascii_alphanumeric()))
            || text.contains(&format!("\"{}\"", reason.name()))
    };
    let listed: Vec<&str> = UNTESTED.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&str> = Reason::ALL
        .iter()
        .filter(|reason| !expected(reason) && !listed.contains(&reason.name()))
        .map(|reason| reason.name())
        .collect();
    assert!(missing.is_empty(), "no test expects {missing:?}");
}
