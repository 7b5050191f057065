//! What a reader takes passes, whatever it is; what no reader takes is refused before it is decoded; and every message that
//! a request can hold is known here.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::engine::VoteRequest;
use crate::wire::v1;

const VOTE: &str = "/frostkeep.v1.Signer/VoteTimeout";

/// Lengths below, at and above the limit of members.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0_usize..8, 1 => 250_usize..258]
}

/// Numbers of elements: the messages themselves have no `Debug`.
#[derive(Debug, Clone)]
struct Plan {
    included: usize,
    excluded: usize,
    votes: Option<usize>,
    accused: usize,
    steps: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let steps = prop_oneof![4 => 0_usize..4, 1 => 62_usize..67];
    (length(), length(), prop::option::of(length()), 0_usize..4, steps)
        .prop_map(|(included, excluded, votes, accused, steps)| Plan { included, excluded, votes, accused, steps })
}

fn request(plan: &Plan) -> v1::VoteTimeoutRequest {
    use v1::transition::Evidence;
    let attempt = v1::AttemptContext {
        number: 1,
        coordinator: 2,
        included: vec![300; plan.included],
        included_fingerprint: vec![3; 32],
        attempt_id: vec![4; 32],
    };
    let round = v1::SignedRound { member: 1, attempt: Some(attempt.clone()), ..Default::default() };
    let vote = v1::TimeoutVote { voter: 1, signature: vec![2; 64] };
    let evidence = match plan.votes {
        Some(votes) => Evidence::CoordinatorTimeout(v1::CoordinatorTimeout { votes: vec![vote; votes] }),
        None => Evidence::InvalidShares(v1::InvalidShares { accused: vec![round; plan.accused] }),
    };
    let step = v1::Transition {
        active_number: 1,
        active_id: vec![5; 32],
        active_coordinator: 1,
        excluded: vec![2; plan.excluded],
        evidence: Some(evidence),
        next: Some(attempt.clone()),
    };
    v1::VoteTimeoutRequest {
        session: Some(v1::SessionRef { session_id: "s".into(), key_group: [&[2; 1][..], &[0; 31], &[1]].concat() }),
        member: 1,
        subject: Some(v1::Subject { message: vec![7; 32], taproot_merkle_root: None }),
        attempt: Some(attempt),
        evidence: vec![step; plan.steps],
    }
}

fn is_taken(bytes: &[u8]) -> bool {
    v1::VoteTimeoutRequest::decode(bytes).is_ok_and(|request| VoteRequest::try_from(request).is_ok())
}

fn comes_twice(error: &FieldError) -> bool {
    matches!(error, FieldError::Value { problem, .. } if problem == "it comes twice")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_request_that_a_reader_takes_passes_and_one_with_too_much_does_not(plan in plan()) {
        let request = request(&plan);
        let counted = of(VOTE).check(&request.encode_to_vec());
        match VoteRequest::try_from(request) {
            Ok(_) => prop_assert_eq!(counted, Ok(())),
            Err(FieldError::TooMany { .. }) => prop_assert!(counted.is_err()),
            Err(error) => prop_assert!(false, "nothing else is wrong with it: {}", error),
        }
    }

    #[test]
    fn noise_that_a_reader_takes_passes(
        plan in plan(),
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = request(&plan).encode_to_vec();
        let length = bytes.len();
        for (at, byte) in noise {
            bytes[at.index(length)] = byte;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(length)]] {
            if let Err(error) = of(VOTE).check(bytes) {
                prop_assert!(comes_twice(&error) || !is_taken(bytes), "{}", error);
            }
        }
    }

    #[test]
    fn bytes_that_decode_pass_or_hold_too_much(bytes in vec(any::<u8>(), 0..48)) {
        if let Err(error) = of(VOTE).check(&bytes) {
            let too_much = matches!(error, FieldError::TooMany { .. }) || comes_twice(&error);
            prop_assert!(too_much || v1::VoteTimeoutRequest::decode(&bytes[..]).is_err(), "{}", error);
        }
    }
}

#[test]
fn elements_of_two_bytes_are_counted_wherever_they_are() {
    let many = |count: usize, tag: u8| [tag, 0].repeat(count);
    let within = |tag: u8, inner: Vec<u8>| {
        let mut bytes = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend(inner);
        bytes
    };
    let check = |path: &str, bytes: &[u8]| of(path).check(bytes);
    assert!(check(VOTE, &many(EVIDENCE_STEPS_MAX, 0x2a)).is_ok());
    assert!(check(VOTE, &many(EVIDENCE_STEPS_MAX + 1, 0x2a)).is_err());
    let accused = |count| within(0x2a, within(0x2a, many(count, 0x0a)));
    assert!(check(VOTE, &accused(MEMBERS_MAX)).is_ok());
    assert!(check(VOTE, &accused(MEMBERS_MAX + 1)).is_err());
    let begin = "/frostkeep.v1.KeyGeneration/Begin";
    assert!(check(begin, &within(0x0a, many(MEMBERS_MAX, 0x1a))).is_ok());
    assert!(check(begin, &within(0x0a, many(MEMBERS_MAX + 1, 0x1a))).is_err());
    assert!(check("/frostkeep.v1.Admin/Thaw", &many(FREEZES_PER_THAW_MAX + 1, 0x12)).is_err());
    let half = within(0x22, within(0x1a, vec![1; 200]));
    assert!(check(VOTE, &half).is_ok());
    assert!(check(VOTE, &half.repeat(2)).is_err(), "the halves of a message are joined");
    // Numbers in packed form and one by one are the same field.
    let mixed = |more: usize| within(0x22, [within(0x1a, vec![1; 200]), [0x18, 1].repeat(more)].concat());
    assert!(check(VOTE, &mixed(55)).is_ok());
    assert!(check(VOTE, &mixed(56)).is_err());
}

/// Number, name and type of a field, and whether it is repeated.
type DescribedField<'a> = (u64, &'a str, &'a str, bool);

/// The messages of the proto file by name.
type DescribedMessages<'a> = BTreeMap<&'a str, Vec<DescribedField<'a>>>;

/// The messages, and the request of each method by its path.
fn described(proto: &str) -> (DescribedMessages<'_>, Vec<(String, &str)>) {
    let (mut messages, mut methods) = (BTreeMap::<&str, Vec<_>>::new(), Vec::new());
    let (mut message, mut service) = ("", "");
    for line in proto.lines().map(str::trim) {
        let words: Vec<&str> = line.split([' ', '(', ')', ';']).filter(|word| !word.is_empty()).collect();
        let mut field = |kind, name, number: &str, repeated| {
            let fields = messages.entry(message).or_default();
            fields.push((number.parse().unwrap(), name, kind, repeated));
        };
        match words[..] {
            ["message", name, ..] => {
                message = name;
                messages.entry(name).or_default();
            }
            ["service", name, ..] => service = name,
            ["rpc", name, request, ..] => methods.push((format!("/frostkeep.v1.{service}/{name}"), request)),
            ["repeated", kind, name, "=", number] => field(kind, name, number, true),
            ["optional", kind, name, "=", number] | [kind, name, "=", number] => field(kind, name, number, false),
            _ => {}
        }
    }
    (messages, methods)
}

fn compare(described: &BTreeMap<&str, Vec<DescribedField<'_>>>, message: &str, shape: &Shape) {
    let mut known: Vec<u64> = shape.0.iter().map(|field| field.number).collect();
    for &(number, name, kind, repeated) in &described[message] {
        let inner = described.contains_key(kind);
        if !inner && !repeated {
            continue;
        }
        let field = shape.0.iter().find(|field| field.number == number);
        let field = field.unwrap_or_else(|| panic!("{message}.{name} is not counted"));
        assert_eq!(field.name, name);
        known.retain(|found| *found != number);
        match (&field.kind, inner, repeated) {
            (Kind::One(shape), true, false) | (Kind::Messages(shape, _), true, true) => compare(described, kind, shape),
            (Kind::Bytes(_), false, true) => assert_eq!(kind, "bytes"),
            (Kind::Numbers(_), false, true) => assert_eq!(kind, "uint32"),
            _ => panic!("{message}.{name} is of another kind"),
        }
    }
    assert!(known.is_empty(), "{message} has no fields {known:?}");
}

#[test]
fn everything_that_a_request_can_hold_more_than_once_is_counted() {
    let (messages, methods) = described(include_str!("../frostkeep.proto"));
    assert!(methods.len() > 25 && messages["Transition"].len() == 7);
    for (path, request) in &methods {
        compare(&messages, request, of(path));
    }
    for (name, _) in REQUESTS {
        assert!(methods.iter().any(|(path, _)| path.ends_with(name)), "{name} is no method");
    }
}
