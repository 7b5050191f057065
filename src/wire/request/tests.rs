//! What is written is read again as the same; what is none is refused by name, and never a panic.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::engine::BuildRequest;
use crate::roast::{Evidence, SignedRound, TimeoutVote};
use crate::wire::v1;

fn context() -> impl Strategy<Value = AttemptContextParts> {
    (any::<u32>(), any::<u16>(), vec(any::<u16>(), 0..8), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(
        |(number, coordinator, included, included_fingerprint, attempt_id)| AttemptContextParts {
            number,
            coordinator,
            included,
            included_fingerprint,
            attempt_id,
        },
    )
}

fn round() -> impl Strategy<Value = SignedRound> {
    let root = option::of(any::<[u8; 32]>().prop_map(MerkleRoot::new));
    let bytes = || vec(any::<u8>(), 0..80);
    (any::<u16>(), context(), root, bytes(), bytes(), bytes()).prop_map(
        |(member, attempt, root, package, share, round_signature)| SignedRound {
            member,
            attempt,
            root,
            package,
            share,
            round_signature,
        },
    )
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let vote = (any::<u16>(), vec(any::<u8>(), 0..80)).prop_map(|(voter, signature)| TimeoutVote { voter, signature });
    prop_oneof![
        vec(round(), 0..3).prop_map(|accused| Evidence::InvalidShare { accused }),
        vec(vote, 0..3).prop_map(|votes| Evidence::CoordinatorTimeout { votes }),
    ]
}

fn transition() -> impl Strategy<Value = Transition> {
    let active = (any::<u32>(), any::<[u8; 32]>(), any::<u16>());
    (active, vec(any::<u16>(), 0..4), evidence(), context()).prop_map(
        |((active_number, active_id, active_coordinator), excluded, evidence, next)| Transition {
            active_number,
            active_id: AttemptId::new(active_id),
            active_coordinator,
            excluded,
            evidence,
            next,
        },
    )
}

fn session() -> (SessionId, KeyGroupId) {
    let mut key = [3; 33];
    key[0] = 2;
    (SessionId::new("session-1").unwrap(), KeyGroupId::new(key).unwrap())
}

proptest! {
    #[test]
    fn a_transition_that_is_written_is_read_as_the_same(step in transition()) {
        let bytes = v1::Transition::from(&step).encode_to_vec();
        let read = Transition::try_from(v1::Transition::decode(bytes.as_slice()).unwrap()).unwrap();
        prop_assert_eq!(read, step);
    }

    #[test]
    fn a_vote_request_that_is_written_is_read_as_the_same(
        context in context(),
        evidence in vec(transition(), 0..3),
        message in any::<[u8; 32]>(),
        root in option::of(any::<[u8; 32]>()),
        number in 1..=u16::MAX,
    ) {
        let (session, key_group) = session();
        let subject = Subject { message: Message::new(message), root: root.map(MerkleRoot::new) };
        let member = crate::ids::Member::new(number).unwrap();
        let request = VoteRequest { session, key_group, member, subject, context, evidence };
        let bytes = v1::VoteTimeoutRequest::from(&request).encode_to_vec();
        let read = VoteRequest::try_from(v1::VoteTimeoutRequest::decode(bytes.as_slice()).unwrap()).unwrap();
        prop_assert_eq!(read.session, request.session);
        prop_assert_eq!(read.key_group, request.key_group);
        prop_assert_eq!(read.member, request.member);
        prop_assert_eq!(read.subject, request.subject);
        prop_assert_eq!(read.context, request.context);
        prop_assert_eq!(read.evidence, request.evidence);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        step in transition(),
        noise in vec(any::<u8>(), 0..256),
        hits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        plain in any::<bool>(),
    ) {
        // Pure noise is seldom protobuf; a valid message with some bytes changed often is. Whatever protobuf accepts goes
        // through every reader.
        let bytes = if plain { noise } else {
            let mut bytes = v1::StartSignRoundRequest { evidence: vec![(&step).into()], ..sign_request() }.encode_to_vec();
            for (at, value) in hits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes
        };
        if let Ok(message) = v1::StartSignRoundRequest::decode(bytes.as_slice()) {
            let _ = SignRequest::try_from(message).map_err(crate::engine::Refusal::from);
        }
        if let Ok(message) = v1::FinalizeSignRoundRequest::decode(bytes.as_slice()) {
            let _ = FinalizeRequest::try_from(message);
        }
        if let Ok(message) = v1::VerifySignatureShareRequest::decode(bytes.as_slice()) {
            let _ = VerifyRequest::try_from(message);
        }
        if let Ok(message) = v1::BuildTaprootTxRequest::decode(bytes.as_slice()) {
            let _ = build_request(message, |_, _| Ok(Default::default()));
        }
        if let Ok(message) = v1::Parameters::decode(bytes.as_slice()) {
            let _ = crate::keygen::Parameters::try_from(message);
        }
        if let Ok(message) = v1::DriveRequest::decode(bytes.as_slice()) {
            let _ = DriveRequest::try_from(message);
        }
    }
}

fn sign_request() -> v1::StartSignRoundRequest {
    let (session, key_group) = session();
    v1::StartSignRoundRequest {
        session: Some(session_ref(&session, &key_group)),
        member: 1,
        subject: Some(v1::Subject { message: vec![1; 32], taproot_merkle_root: None }),
        attempt: Some(v1::AttemptContext {
            number: 1,
            coordinator: 1,
            included: vec![1, 2],
            included_fingerprint: vec![0; 32],
            attempt_id: vec![0; 32],
        }),
        signing_package: Vec::new(),
        evidence: Vec::new(),
    }
}

fn refusal(change: impl FnOnce(&mut v1::StartSignRoundRequest)) -> FieldError {
    let mut request = sign_request();
    change(&mut request);
    match SignRequest::try_from(request) {
        Ok(_) => panic!("it was read"),
        Err(error) => error,
    }
}

#[test]
fn a_field_that_does_not_fit_is_named_with_its_value_and_the_limit() {
    let attempt = |request: &mut v1::StartSignRoundRequest| request.attempt.as_mut().unwrap().clone();
    let cases: Vec<(FieldError, &str)> = vec![
        (refusal(|request| request.session = None), "session is missing"),
        (refusal(|request| request.member = 70_000), "member is 70000: members are 1 to 65535"),
        (refusal(|request| request.member = 0), "member: "),
        (
            refusal(|request| request.session.as_mut().unwrap().key_group = vec![2; 32]),
            "key_group has 32 bytes: 33 are needed",
        ),
        (refusal(|request| request.session.as_mut().unwrap().session_id = "a b".into()), "session_id: "),
        (
            refusal(|request| request.subject.as_mut().unwrap().message = vec![0; 31]),
            "message has 31 bytes: 32 are needed",
        ),
        (
            refusal(|request| request.subject.as_mut().unwrap().taproot_merkle_root = Some(Vec::new())),
            "taproot_merkle_root has 0 bytes: 32 are needed",
        ),
        (
            refusal(|request| request.attempt.as_mut().unwrap().included = vec![1; 256]),
            "included has 256 elements: at most 255 are allowed",
        ),
        (refusal(|_| {}), "signing_package: "),
        (
            refusal(|request| {
                let next = Some(attempt(request));
                let step = v1::Transition { active_id: vec![0; 32], next, ..Default::default() };
                request.evidence = vec![step; EVIDENCE_STEPS_MAX + 1];
                request.signing_package = Vec::new();
            }),
            "signing_package: ",
        ),
    ];
    for (error, expected) in cases {
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(crate::engine::Refusal::from(error).reason(), crate::reasons::Reason::InvalidRequest);
    }
}

#[test]
fn a_request_without_an_attempt_context_has_a_reason_of_its_own() {
    let error = refusal(|request| request.attempt = None);
    assert_eq!(crate::engine::Refusal::from(error).reason(), crate::reasons::Reason::AttemptContextMissing);
}

#[test]
fn too_long_a_chain_of_evidence_is_refused_before_it_is_read() {
    let (session, key_group) = session();
    let request = v1::VoteTimeoutRequest {
        session: Some(session_ref(&session, &key_group)),
        member: 1,
        evidence: vec![v1::Transition::default(); EVIDENCE_STEPS_MAX + 1],
        ..sign_request_as_vote()
    };
    let error = VoteRequest::try_from(request).unwrap_err();
    assert_eq!(
        error,
        FieldError::TooMany { field: "evidence", found: EVIDENCE_STEPS_MAX + 1, limit: EVIDENCE_STEPS_MAX }
    );
}

fn sign_request_as_vote() -> v1::VoteTimeoutRequest {
    let request = sign_request();
    v1::VoteTimeoutRequest {
        session: request.session,
        member: request.member,
        subject: request.subject,
        attempt: request.attempt,
        evidence: Vec::new(),
    }
}

#[test]
fn a_transaction_is_read_with_its_prevouts_and_its_roots() {
    let (_, key_group) = session();
    let raw = "02000000010101010101010101010101010101010101010101010101010101010101010101000000000001000000\
               01e803000000000000015100000000";
    let raw: Vec<u8> = raw
        .replace(' ', "")
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let prevout = crate::bitcoin::Prevout { value_sat: 2_000, script: crate::bitcoin::ScriptBytes::new(vec![0x51]) };
    let transaction = crate::bitcoin::UnsignedTransaction::from_parts(&raw, &[prevout]);
    // An empty output script of one opcode is enough for a transaction.
    let Ok(transaction) = transaction else { panic!("{:?}", transaction.unwrap_err()) };
    let request = BuildRequest { key_group, transaction, roots: vec![MerkleRoot::new([9; 32])] };
    let read = build_request((&request).into(), |_, _| Ok(Default::default())).unwrap();
    assert_eq!(read.transaction, request.transaction);
    assert_eq!((read.key_group, read.roots), (request.key_group, request.roots));
}
