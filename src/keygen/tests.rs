//! Ceremonies among nodes in one process: what honest nodes get, what each lie leads to, what no bytes can do.

use std::collections::BTreeMap;
use std::sync::Arc;

use frostkeep_hsm::entropy;
use proptest::prelude::*;

use super::envelope::EnvelopeKey;
use super::*;
use crate::frost::danger_dealer::deal;
use crate::frost::{DkgRoundOne, KeyShare, RoundTwoPackage, SigningPackage, commit, sign};
use crate::identity::NodeIdentity;
use crate::ids::{AttemptPolicy, CeremonyId, Member, MerkleRoot};
use crate::limits::{KEYGEN_MESSAGE_BYTES_MAX, RECORD_BYTES_MAX};

fn m(number: u16) -> Member {
    Member::new(number).unwrap()
}

fn identities(count: usize) -> Vec<Arc<NodeIdentity>> {
    (0..count).map(|_| Arc::new(NodeIdentity::generate(&mut entropy::os()))).collect()
}

/// Seats by node: `seats[i]` are the members of node i.
fn parameters(nodes: &[Arc<NodeIdentity>], seats: &[&[u16]], threshold: u16, ceremony: u8) -> Parameters {
    let held = seats.iter().zip(nodes).flat_map(|(seats, node)| seats.iter().map(|&seat| (m(seat), node.public())));
    let id = CeremonyId::new([ceremony; 16]);
    Parameters::new(id, threshold, held.collect(), AttemptPolicy::Roast, [5; 32]).unwrap()
}

fn start(parameters: &Parameters, nodes: &[Arc<NodeIdentity>]) -> (Vec<AwaitingRoundOne>, Vec<Message>) {
    let (states, messages): (Vec<_>, Vec<_>) =
        nodes.iter().map(|node| begin(parameters.clone(), Arc::clone(node), &mut entropy::os()).unwrap()).unzip();
    (states, messages.concat())
}

/// Gives `receive` every message; none may be refused.
fn give<'a>(
    messages: impl IntoIterator<Item = &'a Message>,
    mut receive: impl FnMut(&[u8]) -> Result<Receipt, ReceiveError>,
) {
    for message in messages {
        receive(&message.to_bytes()).unwrap();
    }
}

fn to_round_two(states: Vec<AwaitingRoundOne>, messages: &[Message]) -> (Vec<AwaitingRoundTwo>, Vec<Message>) {
    let (states, messages): (Vec<_>, Vec<_>) = states
        .into_iter()
        .map(|mut state| {
            give(messages, |bytes| state.receive(bytes));
            assert!(state.missing().is_empty());
            state.advance(&mut entropy::os()).unwrap()
        })
        .unzip();
    (states, messages.concat())
}

fn to_end(states: Vec<AwaitingRoundTwo>, messages: &[Message]) -> Vec<Prepared> {
    let finish = |mut state: AwaitingRoundTwo| {
        give(messages, |bytes| state.receive(bytes));
        state.finish().unwrap()
    };
    states.into_iter().map(finish).collect()
}

fn run(parameters: &Parameters, nodes: &[Arc<NodeIdentity>]) -> Vec<Prepared> {
    let (states, one) = start(parameters, nodes);
    let (states, two) = to_round_two(states, &one);
    to_end(states, &two)
}

fn certify(prepared: &[Prepared]) -> Certificate {
    Certificate::new(prepared[0].transcript().clone(), prepared.iter().map(|one| *one.statement())).unwrap()
}

fn three() -> (Vec<Arc<NodeIdentity>>, Parameters) {
    let nodes = identities(3);
    let parameters = parameters(&nodes, &[&[1], &[2], &[3]], 2, 1);
    (nodes, parameters)
}

fn every_threshold_subset_signs(shares: &[KeyShare], certificate: &Certificate) {
    let group = certificate.group();
    let message = crate::ids::Message::new([3; 32]);
    let size = u32::from(group.threshold());
    for mask in (0u32..1 << shares.len()).filter(|mask| mask.count_ones() == size) {
        let root = (mask % 2 == 0).then_some(MerkleRoot::new([4; 32]));
        let signers: Vec<&KeyShare> =
            shares.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, s)| s).collect();
        let pairs: Vec<_> = signers.iter().map(|share| commit(share, &mut entropy::os())).collect();
        let commitments =
            signers.iter().map(|share| share.member()).zip(pairs.iter().map(|(_, c)| c.clone())).collect();
        let package = SigningPackage::new(message, commitments).unwrap();
        let made: Vec<_> = pairs
            .into_iter()
            .zip(&signers)
            .map(|((nonces, _), share)| (share.member(), sign(nonces, share, group, &package, root.as_ref()).unwrap()))
            .collect();
        let signature = group.aggregate(&package, &made, root.as_ref()).unwrap();
        group.verify(message, root.as_ref(), &signature).unwrap();
    }
}

fn whole_life(seats: &[&[u16]], threshold: u16) {
    let nodes = identities(seats.len());
    let parameters = parameters(&nodes, seats, threshold, 1);
    let prepared = run(&parameters, &nodes);
    let certificate = certify(&prepared);
    let again = Certificate::from_bytes(&certificate.to_bytes()).unwrap();
    assert_eq!(again, certificate);
    let confirmations: Vec<_> = nodes.iter().map(|node| Confirmation::sign(&certificate, node)).collect();
    let group = ConfirmedKeyGroup::new(certificate.clone(), confirmations).unwrap();
    assert_eq!(group.id(), certificate.group().id());
    let shares: Vec<KeyShare> = prepared
        .into_iter()
        .flat_map(|one| Prepared::decode(&one.encode()).unwrap().activate(&certificate).map_err(|(_, e)| e).unwrap())
        .collect();
    assert_eq!(shares.len(), parameters.seats().len());
    every_threshold_subset_signs(&shares, &certificate);
}

#[test]
fn two_of_three_nodes_sign_with_a_key_that_nobody_dealt() {
    whole_life(&[&[1], &[2], &[3]], 2);
}

#[test]
fn three_of_five_with_a_node_of_two_seats_sign() {
    whole_life(&[&[1, 40_000], &[2], &[7], &[300]], 3);
}

#[test]
fn seven_of_ten_sign() {
    whole_life(&[&[1], &[2], &[3], &[4], &[5], &[6], &[7], &[8], &[9], &[10]], 7);
}

#[test]
fn order_and_repetition_of_messages_change_nothing() {
    let (nodes, parameters) = three();
    let (mut states, mut one) = start(&parameters, &nodes);
    one.reverse();
    one.extend(one.clone());
    for state in &mut states {
        let receipts: Vec<_> = one.iter().map(|message| state.receive(&message.to_bytes()).unwrap()).collect();
        assert_eq!(receipts.iter().filter(|receipt| matches!(receipt, Receipt::New(_))).count(), 2);
    }
    let (mut states, two): (Vec<_>, Vec<_>) =
        states.into_iter().map(|state| state.advance(&mut entropy::os()).unwrap()).unzip();
    let two = two.concat();
    for state in &mut states {
        assert_eq!(state.receive(&one[0].to_bytes()), Ok(Receipt::Repeat(one[0].sender())), "late, but the same");
    }
    certify(&to_end(states, &two));
}

#[test]
fn a_message_of_a_later_round_is_refused_until_its_round_and_accepted_then() {
    let (nodes, parameters) = three();
    let (mut states, one) = start(&parameters, &nodes);
    let mut slow = states.pop().unwrap();
    let (fast, two) = to_round_two(states, &one);
    let early = ReceiveError::Early { sender: m(1), expected: Round::One, found: Round::Two };
    assert_eq!(slow.receive(&two[0].to_bytes()), Err(early));
    give(&one, |bytes| slow.receive(bytes));
    let (slow, last) = slow.advance(&mut entropy::os()).unwrap();
    certify(&to_end(fast.into_iter().chain([slow]).collect(), &[two, last].concat()));
}

#[test]
fn a_message_that_is_not_of_this_ceremony_is_refused_by_name_and_changes_nothing() {
    let (nodes, ours) = three();
    let (mut states, one) = start(&ours, &nodes);
    let body = one[1].body().clone();
    let other_ceremony = parameters(&nodes, &[&[1], &[2], &[3]], 2, 9);
    let other_threshold = parameters(&nodes, &[&[1], &[2], &[3]], 3, 1);
    let wider = parameters(&nodes, &[&[1, 8], &[2], &[3]], 2, 1);
    let sign = |parameters: &Parameters, sender: u16, node: usize| {
        Message::sign(parameters, m(sender), body.clone(), &nodes[node]).to_bytes()
    };
    let cases = [
        (
            sign(&other_ceremony, 2, 1),
            MessageError::WrongCeremony { expected: ours.ceremony(), found: other_ceremony.ceremony() },
        ),
        (sign(&other_threshold, 2, 1), MessageError::WrongParameters { ceremony: ours.ceremony(), sender: m(2) }),
        (sign(&wider, 8, 0), MessageError::UnknownSender { sender: m(8) }),
        (sign(&ours, 2, 2), MessageError::Signature { sender: m(2) }),
        (sign(&ours, 3, 1), MessageError::Signature { sender: m(3) }),
        (
            vec![0; KEYGEN_MESSAGE_BYTES_MAX + 1],
            MessageError::Encoding(EncodingError::Length {
                what: "key generation message",
                found: KEYGEN_MESSAGE_BYTES_MAX + 1,
                limit: KEYGEN_MESSAGE_BYTES_MAX,
            }),
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(states[0].receive(&bytes), Err(ReceiveError::Message(expected)));
    }
    let whole = one[1].to_bytes();
    for len in 0..whole.len() {
        assert!(matches!(states[0].receive(&whole[..len]), Err(ReceiveError::Message(_))), "cut to {len}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(matches!(states[0].receive(&longer), Err(ReceiveError::Message(MessageError::Encoding(_)))));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        assert!(matches!(states[0].receive(&damaged), Err(ReceiveError::Message(_))), "byte {at}");
    }
    let (states, two) = to_round_two(states, &one);
    certify(&to_end(states, &two));
}

#[test]
fn the_absent_are_named_in_either_round() {
    let (nodes, parameters) = three();
    let (mut states, one) = start(&parameters, &nodes);
    let mut alone = states.remove(0);
    alone.receive(&one[1].to_bytes()).unwrap();
    assert_eq!(alone.missing(), [m(3)]);
    let failure = alone.advance(&mut entropy::os()).err().unwrap();
    assert_eq!(failure.faults, [Fault::Absent { member: m(3), round: Round::One }]);
    assert_eq!(failure.faults[0].verify(&parameters), Err(FaultUnproved));

    let (nodes, parameters) = three();
    let (states, one) = start(&parameters, &nodes);
    let (mut states, _) = to_round_two(states, &one);
    let failure = states.remove(1).finish().err().unwrap();
    let absent = |number| Fault::Absent { member: m(number), round: Round::Two };
    assert_eq!(failure.faults, [absent(1), absent(3)]);
}

fn round_one_fault(body: impl Fn(&Message) -> Body, reason: RoundOneFault) {
    let (nodes, parameters) = three();
    let (mut states, one) = start(&parameters, &nodes);
    let forged = Message::sign(&parameters, m(3), body(&one[1]), &nodes[2]);
    let error = states[0].receive(&forged.to_bytes()).unwrap_err();
    let expected = Fault::RoundOne { reason, proof: Box::new(forged) };
    assert_eq!(error, ReceiveError::Fault(expected.clone()));
    expected.verify(&parameters).unwrap();
    states[0].receive(&one[1].to_bytes()).unwrap();
    let failure = states.remove(0).advance(&mut entropy::os()).err().unwrap();
    assert_eq!(failure.faults, [expected], "named once, as faulty and not as absent");
    assert_eq!(failure.faults[0].members(), [m(3)]);
}

#[test]
fn a_wrong_proof_of_knowledge_is_blamed_with_proof() {
    round_one_fault(|of_another| of_another.body().clone(), RoundOneFault::Proof);
}

#[test]
fn a_malformed_round_one_package_is_blamed_with_proof() {
    round_one_fault(|_| Body::RoundOne { package: vec![1, 2, 3], key: [1; 32] }, RoundOneFault::Malformed);
}

#[test]
fn an_envelope_key_of_small_order_is_blamed_with_proof() {
    let nodes = identities(2);
    let parameters = parameters(&nodes, &[&[1], &[2]], 2, 1);
    let (mut states, one) = start(&parameters, &nodes);
    let Body::RoundOne { package, .. } = one[1].body().clone() else { panic!("round one") };
    let mut one_point = [0; 32];
    one_point[0] = 1;
    for key in [[0; 32], one_point] {
        let forged = Message::sign(&parameters, m(2), Body::RoundOne { package: package.clone(), key }, &nodes[1]);
        let fault = Fault::RoundOne { reason: RoundOneFault::Key, proof: Box::new(forged.clone()) };
        fault.verify(&parameters).unwrap();
        assert!(matches!(states[0].receive(&forged.to_bytes()), Err(ReceiveError::Fault(Fault::RoundOne { .. }))));
    }
}

#[test]
fn a_proof_about_an_honest_member_does_not_hold() {
    let (nodes, parameters) = three();
    let (states, one) = start(&parameters, &nodes);
    let (_, two) = to_round_two(states, &one);
    let boxed = |message: &Message| Box::new(message.clone());
    let lies = [
        Fault::RoundOne { reason: RoundOneFault::Proof, proof: boxed(&one[0]) },
        Fault::RoundOne { reason: RoundOneFault::Proof, proof: boxed(&two[0]) },
        Fault::Envelopes { proof: boxed(&two[0]) },
        Fault::Envelopes { proof: boxed(&one[0]) },
        Fault::Equivocation { first: boxed(&one[0]), second: boxed(&one[0]) },
        Fault::Equivocation { first: boxed(&one[0]), second: boxed(&one[1]) },
        Fault::Equivocation { first: boxed(&one[0]), second: boxed(&two[0]) },
        // Member 2 writes what member 1 should have said.
        Fault::Envelopes {
            proof: Box::new(Message::sign(&parameters, m(1), Body::RoundTwo { envelopes: Vec::new() }, &nodes[1])),
        },
    ];
    for lie in lies {
        assert_eq!(lie.verify(&parameters), Err(FaultUnproved), "{lie}");
    }
}

#[test]
fn two_different_messages_of_one_round_are_blamed_with_proof() {
    let (nodes, parameters) = three();
    let (mut states, one) = start(&parameters, &nodes);
    let (_, other) = begin(parameters.clone(), Arc::clone(&nodes[1]), &mut entropy::os()).unwrap();
    states[0].receive(&one[1].to_bytes()).unwrap();
    let Err(ReceiveError::Fault(fault)) = states[0].receive(&other[0].to_bytes()) else { panic!("equivocation") };
    assert!(matches!(fault, Fault::Equivocation { .. }));
    assert_eq!(fault.members(), [m(2)]);
    fault.verify(&parameters).unwrap();
}

#[test]
fn a_round_two_message_without_an_envelope_for_everybody_is_blamed_with_proof() {
    let (nodes, parameters) = three();
    let (states, one) = start(&parameters, &nodes);
    let (mut states, two) = to_round_two(states, &one);
    let Body::RoundTwo { envelopes } = two[2].body().clone() else { panic!("round two") };
    let (a, b) = (envelopes[0].clone(), envelopes[1].clone());
    for wrong in
        [vec![], vec![a.clone()], vec![b.clone(), a.clone()], vec![a.clone(), a.clone()], vec![a.clone(), b, a]]
    {
        let forged = Message::sign(&parameters, m(3), Body::RoundTwo { envelopes: wrong }, &nodes[2]);
        Fault::Envelopes { proof: Box::new(forged.clone()) }.verify(&parameters).unwrap();
        let error = states[0].receive(&forged.to_bytes()).unwrap_err();
        assert!(matches!(error, ReceiveError::Fault(Fault::Envelopes { .. })));
    }
}

/// A sender that seals nonsense, or swaps what is meant for two receivers: the receivers complain, and both sides are named.
#[test]
fn a_wrong_round_two_package_makes_a_complaint_that_names_accuser_and_accused() {
    let (nodes, parameters) = three();
    let (states, one) = start(&parameters, &nodes);
    let keys: BTreeMap<Member, [u8; 32]> = one
        .iter()
        .map(|message| match message.body() {
            Body::RoundOne { key, .. } => (message.sender(), *key),
            _ => panic!("round one"),
        })
        .collect();
    let (mut states, two) = to_round_two(states, &one);
    let nonsense = RoundTwoPackage::decode(&[1; 32]).unwrap();
    let hash = parameters.hash();
    let to_one = Envelope::seal(&nonsense, &keys[&m(1)], &hash, m(3), m(1), &mut entropy::os()).unwrap();
    // Sealed for member 1 again, and passed off as one for member 2: it does not open.
    let swapped = Envelope::seal(&nonsense, &keys[&m(1)], &hash, m(3), m(2), &mut entropy::os()).unwrap();
    let forged = Message::sign(&parameters, m(3), Body::RoundTwo { envelopes: vec![to_one, swapped] }, &nodes[2]);
    for receiver in [m(1), m(2)] {
        let mut state = states.remove(0);
        give(two[..2].iter().chain([&forged]), |bytes| state.receive(bytes));
        let failure = state.finish().err().unwrap();
        assert_eq!(failure.faults, [Fault::Complaint { accuser: receiver, accused: m(3) }]);
        assert_eq!(failure.faults[0].members(), [receiver, m(3)]);
        assert_eq!(failure.faults[0].verify(&parameters), Err(FaultUnproved));
        let complaint = failure.complaints[0].to_bytes();
        let heard = states.last_mut().unwrap().receive(&complaint).unwrap_err();
        assert_eq!(heard, ReceiveError::Fault(Fault::Complaint { accuser: receiver, accused: m(3) }));
    }
    let mut honest = states.pop().unwrap();
    give(&two, |bytes| honest.receive(bytes));
    assert_eq!(honest.finish().err().unwrap().faults.len(), 2, "who hears a complaint does not finish");
}

#[test]
fn a_complaint_about_oneself_or_a_stranger_is_no_message() {
    let (nodes, parameters) = three();
    let (mut states, _) = start(&parameters, &nodes);
    for accused in [m(2), m(77)] {
        let complaint = Message::sign(&parameters, m(2), Body::Complaint { accused }, &nodes[1]);
        let expected = MessageError::Accused { sender: m(2), accused };
        assert_eq!(states[0].receive(&complaint.to_bytes()), Err(ReceiveError::Message(expected)));
    }
}

#[test]
fn an_envelope_opens_for_its_receiver_ceremony_and_sender_alone() {
    let (ours, other) = (EnvelopeKey::generate(&mut entropy::os()), EnvelopeKey::generate(&mut entropy::os()));
    let package = RoundTwoPackage::decode(&[7; 32]).unwrap();
    let seal =
        |to: &EnvelopeKey| Envelope::seal(&package, &to.public(), &[1; 32], m(1), m(2), &mut entropy::os()).unwrap();
    let envelope = seal(&ours);
    assert_eq!(envelope.open(&ours, &[1; 32], m(1)).unwrap().encode().as_slice(), [7; 32]);
    assert!(envelope.open(&other, &[1; 32], m(1)).is_none());
    assert!(envelope.open(&ours, &[2; 32], m(1)).is_none());
    assert!(envelope.open(&ours, &[1; 32], m(3)).is_none());
    assert!(seal(&other).open(&ours, &[1; 32], m(1)).is_none());
    assert_ne!(encode(&seal(&ours)), encode(&envelope), "a fresh secret each time");
}

/// Hazard 6: a member that tells two nodes different envelope keys lets both finish with a working key; only the transcripts
/// differ.
#[test]
fn equivocation_that_the_key_generation_does_not_see_makes_no_certificate() {
    let (nodes, parameters) = three();
    let (mut states, one) = start(&parameters, &nodes);
    let Body::RoundOne { package, .. } = one[2].body().clone() else { panic!("round one") };
    let key = EnvelopeKey::generate(&mut entropy::os()).public();
    let other = Message::sign(&parameters, m(3), Body::RoundOne { package, key }, &nodes[2]);
    let told = [[&one[1], &one[2]], [&one[0], &other], [&one[0], &one[1]]];
    for (state, told) in states.iter_mut().zip(told) {
        give(told, |bytes| state.receive(bytes));
    }
    let (states, two): (Vec<_>, Vec<_>) =
        states.into_iter().map(|state| state.advance(&mut entropy::os()).unwrap()).unzip();
    let two = two.concat();
    let mut prepared: Vec<Prepared> = Vec::new();
    for mut state in states.into_iter().take(2) {
        give(&two, |bytes| state.receive(bytes));
        prepared.push(state.finish().unwrap());
    }
    let transcript = prepared[0].transcript().clone();
    let mismatch = CertificateError::Mismatch { ceremony: parameters.ceremony(), identity: nodes[1].public() };
    let statements = prepared.iter().map(|one| *one.statement());
    assert_eq!(Certificate::new(transcript.clone(), statements), Err(mismatch));
    assert_eq!(transcript.differences(prepared[1].transcript()), [m(3)]);
}

#[test]
fn a_certificate_needs_every_node_and_takes_no_stranger() {
    let (nodes, parameters) = three();
    let prepared = run(&parameters, &nodes);
    let transcript = prepared[0].transcript().clone();
    let statements: Vec<_> = prepared.iter().map(|one| *one.statement()).collect();
    assert_eq!(
        Certificate::new(transcript.clone(), statements[..2].iter().copied()),
        Err(CertificateError::Missing { identities: vec![nodes[2].public()] })
    );
    let stranger = NodeIdentity::generate(&mut entropy::os());
    let strange = Statement::sign(&transcript, &stranger);
    assert_eq!(
        Certificate::new(transcript.clone(), statements.iter().copied().chain([strange])),
        Err(CertificateError::Stranger { ceremony: parameters.ceremony(), identity: stranger.public() })
    );
    let whole = Certificate::new(transcript, statements).unwrap().to_bytes();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        assert!(Certificate::from_bytes(&damaged).is_err(), "byte {at}");
        assert!(Certificate::from_bytes(&whole[..at]).is_err());
    }
}

#[test]
fn the_certificate_of_the_largest_group_fits_in_one_record() {
    for count in [100u16, 255] {
        let nodes = identities(usize::from(count));
        let seats: Vec<Vec<u16>> = (0..count).map(|index| vec![65_535 - index]).collect();
        let seats: Vec<&[u16]> = seats.iter().map(Vec::as_slice).collect();
        let parameters = parameters(&nodes, &seats, count / 2, 1);
        let members: Vec<Member> = parameters.seats().keys().copied().collect();
        let (_, group) = deal(&members, count / 2, &mut entropy::os()).unwrap();
        let transcript = Transcript::new(parameters, vec![([1; 32], [2; 32]); usize::from(count)], group).unwrap();
        let statements: Vec<_> = nodes.iter().map(|node| Statement::sign(&transcript, node)).collect();
        let bytes = Certificate::new(transcript, statements).unwrap().to_bytes();
        assert!(bytes.len() < RECORD_BYTES_MAX / 8, "{count}: {} bytes", bytes.len());
        Certificate::from_bytes(&bytes).unwrap();
    }
}

#[test]
fn the_messages_of_the_largest_group_fit_their_bound() {
    let nodes = identities(1);
    let seats: Vec<u16> = (0..255).map(|index| 65_535 - index).collect();
    let parameters = parameters(&nodes, &[&seats], 255, 1);
    let member = m(65_535);
    let (_, package) = DkgRoundOne::start(member, 255, 255, &mut entropy::os()).unwrap();
    let one = Body::RoundOne { package: package.as_bytes().to_vec(), key: [1; 32] };
    let key = EnvelopeKey::generate(&mut entropy::os()).public();
    let share = RoundTwoPackage::decode(&[7; 32]).unwrap();
    let receivers = parameters.seats().keys().filter(|receiver| **receiver != member);
    let envelopes = receivers
        .map(|&receiver| Envelope::seal(&share, &key, &[0; 32], member, receiver, &mut entropy::os()).unwrap())
        .collect();
    for body in [one, Body::RoundTwo { envelopes }] {
        let bytes = Message::sign(&parameters, member, body, &nodes[0]).to_bytes();
        assert!(bytes.len() <= KEYGEN_MESSAGE_BYTES_MAX, "{} bytes", bytes.len());
        Message::open(&bytes, &parameters).unwrap();
    }
}

#[test]
fn there_is_no_address_before_every_node_has_confirmed() {
    let (nodes, parameters) = three();
    let certificate = certify(&run(&parameters, &nodes));
    let confirm = |node: &Arc<NodeIdentity>| Confirmation::sign(&certificate, node);
    assert_eq!(
        ConfirmedKeyGroup::new(certificate.clone(), nodes[..2].iter().map(confirm)),
        Err(CertificateError::Missing { identities: vec![nodes[2].public()] })
    );
    assert!(ConfirmedKeyGroup::new(certificate.clone(), [confirm(&nodes[0]), confirm(&nodes[0])]).is_err());
    let other = certify(&run(&parameters, &nodes));
    let of_other = nodes.iter().map(|node| Confirmation::sign(&other, node));
    assert!(matches!(ConfirmedKeyGroup::new(certificate.clone(), of_other), Err(CertificateError::Signature(_))));
    let stranger = Arc::new(NodeIdentity::generate(&mut entropy::os()));
    assert!(matches!(
        ConfirmedKeyGroup::new(certificate.clone(), [confirm(&stranger)]),
        Err(CertificateError::Stranger { .. })
    ));
    let read = nodes.iter().map(|node| Confirmation::from_bytes(&confirm(node).to_bytes()).unwrap());
    let group = ConfirmedKeyGroup::new(certificate.clone(), read).unwrap();
    let script = group.address(bitcoin::Network::Bitcoin).script_pubkey();
    assert!(script.is_p2tr());
    assert_eq!(script.as_bytes()[2..], certificate.group().output_key(None));
    assert!(group.address(bitcoin::Network::Regtest).to_string().starts_with("bcrt1p"));
    assert_eq!(group.descriptor(), format!("tr({})", &group.id().to_string()[2..]));
}

#[test]
fn a_prepared_share_stays_when_a_certificate_is_not_its_own() {
    let (nodes, parameters) = three();
    let mut ours = run(&parameters, &nodes);
    let same_ceremony = certify(&run(&parameters, &nodes));
    let elsewhere = self::parameters(&nodes, &[&[1], &[2], &[3]], 2, 2);
    let other_ceremony = certify(&run(&elsewhere, &nodes));
    let own = certify(&ours);
    let (kept, error) = ours.remove(0).activate(&same_ceremony).err().unwrap();
    assert_eq!(error, ActivateError::OtherTranscript { differences: vec![m(1), m(2), m(3)] });
    let (kept, error) = kept.activate(&other_ceremony).err().unwrap();
    assert_eq!(error, ActivateError::OtherCeremony { expected: parameters.ceremony(), found: elsewhere.ceremony() });
    assert_eq!(kept.activate(&own).map_err(|(_, error)| error).unwrap().len(), 1);
}

#[test]
fn a_damaged_prepared_record_is_refused() {
    let nodes = identities(2);
    let parameters = parameters(&nodes, &[&[1, 3], &[2]], 2, 1);
    let prepared = run(&parameters, &nodes);
    let bytes = prepared[0].encode();
    assert_eq!(bytes.len(), bytes.capacity(), "the buffer never grew");
    assert_eq!(*Prepared::decode(&bytes).unwrap().encode(), *bytes);
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        assert!(Prepared::decode(&damaged).is_err(), "byte {at}");
        assert!(Prepared::decode(&bytes[..at]).is_err(), "cut to {at}");
    }
    assert!(Prepared::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn parameters_that_no_group_can_have_do_not_exist() {
    let nodes = identities(1);
    let make = |count: u16, threshold: u16| {
        let seats = (1..=count).map(|seat| (m(seat), nodes[0].public())).collect();
        Parameters::new(CeremonyId::new([0; 16]), threshold, seats, AttemptPolicy::Evidence, [0; 32])
    };
    for (count, threshold) in [(0, 0), (3, 0), (3, 1), (3, 4), (1, 1), (256, 2)] {
        assert_eq!(make(count, threshold), Err(ParametersError::Threshold { threshold, members: count.into() }));
    }
    let fine = make(255, 255).unwrap();
    assert_eq!(fine.seats_of(nodes[0].public()).len(), 255);
}

#[test]
fn a_node_without_a_seat_does_not_begin() {
    let (_, parameters) = three();
    let stranger = Arc::new(NodeIdentity::generate(&mut entropy::os()));
    let expected = BeginError::NoSeat { ceremony: parameters.ceremony(), identity: stranger.public() };
    assert_eq!(begin(parameters, stranger, &mut entropy::os()).err(), Some(expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_decoder_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let nodes = identities(2);
        let parameters = parameters(&nodes, &[&[1], &[2]], 2, 1);
        prop_assert!(Message::open(&bytes, &parameters).is_err());
        prop_assert!(Transcript::from_bytes(&bytes).is_err());
        prop_assert!(Certificate::from_bytes(&bytes).is_err());
        prop_assert!(Prepared::decode(&bytes).is_err());
        let _ = Statement::from_bytes(&bytes);
        let _ = Confirmation::from_bytes(&bytes);
        let _ = decode::<Parameters>("parameters", &bytes, 600);
    }

    /// Bytes inside a valid signature: what a hostile member can send.
    #[test]
    fn no_signed_body_makes_a_node_panic(package in proptest::collection::vec(any::<u8>(), 0..200), key: [u8; 32]) {
        let nodes = identities(2);
        let parameters = parameters(&nodes, &[&[1], &[2]], 2, 1);
        let (mut state, _) = begin(parameters.clone(), Arc::clone(&nodes[0]), &mut entropy::os()).unwrap();
        let message = Message::sign(&parameters, m(2), Body::RoundOne { package, key }, &nodes[1]);
        let fault = matches!(state.receive(&message.to_bytes()), Err(ReceiveError::Fault(Fault::RoundOne { .. })));
        prop_assert!(fault);
    }
}
