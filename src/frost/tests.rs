//! The hazards of the crate, one by one; then keys and signatures of every t-subset, judged by libsecp256k1.

use std::collections::BTreeMap;

use frost_secp256k1_tr::keys::{PublicKeyPackage, VerifyingShare};
use frostkeep_hsm::entropy;
use proptest::prelude::*;

use super::danger_dealer::deal;
use super::*;
use crate::ids::{MerkleRoot, Message};

fn m(number: u16) -> Member {
    Member::new(number).unwrap()
}

fn members(numbers: impl IntoIterator<Item = u16>) -> Vec<Member> {
    numbers.into_iter().map(m).collect()
}

const MESSAGE: Message = Message::new([7; 32]);
const ROOT: MerkleRoot = MerkleRoot::new([9; 32]);

fn subsets(of: usize, size: usize) -> Vec<Vec<usize>> {
    (0..1u32 << of)
        .filter(|mask| mask.count_ones() as usize == size)
        .map(|mask| (0..of).filter(|bit| mask >> bit & 1 == 1).collect())
        .collect()
}

/// A key without a dealer: every member's share, and the group key that all of them got.
fn generate(numbers: &[u16], threshold: u16) -> (Vec<KeyShare>, GroupKey) {
    let all = members(numbers.iter().copied());
    let started: BTreeMap<Member, (DkgRoundOne, RoundOnePackage)> = all
        .iter()
        .map(|&member| (member, DkgRoundOne::start(member, all.len(), threshold, &mut entropy::os()).unwrap()))
        .collect();
    let packages: BTreeMap<Member, RoundOnePackage> =
        started.iter().map(|(&member, (_, package))| (member, package.clone())).collect();
    let others = |member: Member| {
        let mut others = packages.clone();
        others.remove(&member);
        others
    };
    let mut waiting = BTreeMap::new();
    let mut inbox: BTreeMap<Member, BTreeMap<Member, RoundTwoPackage>> = BTreeMap::new();
    for (member, (state, _)) in started {
        let (state, outgoing) = state.advance(&others(member)).unwrap();
        waiting.insert(member, state);
        for (receiver, package) in outgoing {
            inbox.entry(receiver).or_default().insert(member, package);
        }
    }
    let results: Vec<(KeyShare, GroupKey)> =
        waiting.into_iter().map(|(member, state)| state.finish(&inbox.remove(&member).unwrap()).unwrap()).collect();
    let group = results[0].1.clone();
    assert!(results.iter().all(|(_, other)| *other == group));
    (results.into_iter().map(|(share, _)| share).collect(), group)
}

struct Round {
    package: SigningPackage,
    nonces: Vec<Nonces>,
}

fn round(shares: &[&KeyShare]) -> Round {
    let (nonces, commitments): (Vec<_>, Vec<_>) =
        shares.iter().map(|share| commit(share, &mut entropy::os())).map(|(n, c)| ((share_of(&n), n), c)).unzip();
    let map = nonces.iter().map(|(member, _)| *member).zip(commitments).collect();
    Round { package: SigningPackage::new(MESSAGE, map).unwrap(), nonces: nonces.into_iter().map(|(_, n)| n).collect() }
}

fn share_of(nonces: &Nonces) -> Member {
    nonces.member()
}

fn shares_of(
    signers: &[&KeyShare],
    group: &GroupKey,
    root: Option<&MerkleRoot>,
) -> (SigningPackage, Vec<(Member, SignatureShare)>) {
    let Round { package, nonces } = round(signers);
    let shares = nonces
        .into_iter()
        .zip(signers)
        .map(|(nonces, share)| (share.member(), sign(nonces, share, group, &package, root).unwrap()))
        .collect();
    (package, shares)
}

fn every_subset_signs(shares: &[KeyShare], group: &GroupKey) {
    for root in [None, Some(&ROOT)] {
        for subset in subsets(shares.len(), usize::from(group.threshold())) {
            let signers: Vec<&KeyShare> = subset.iter().map(|&index| &shares[index]).collect();
            let (package, made) = shares_of(&signers, group, root);
            let signature = group.aggregate(&package, &made, root).unwrap();
            group.verify(MESSAGE, root, &signature).unwrap();
            let other = if root.is_none() { Some(&ROOT) } else { None };
            assert!(group.verify(MESSAGE, other, &signature).is_err(), "the root is part of the key");
            assert!(group.verify(Message::new([8; 32]), root, &signature).is_err());
        }
    }
}

#[test]
fn every_pair_of_a_generated_two_of_three_signs_under_the_output_key() {
    let (shares, group) = generate(&[1, 2, 3], 2);
    every_subset_signs(&shares, &group);
}

#[test]
fn every_triple_of_a_generated_three_of_five_with_scattered_members_signs() {
    let (shares, group) = generate(&[1, 7, 300, 4_000, 65_535], 3);
    every_subset_signs(&shares, &group);
}

#[test]
fn a_generated_seven_of_ten_signs_and_so_does_every_larger_set() {
    let (shares, group) = generate(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 7);
    for take in 7..=10 {
        let signers: Vec<&KeyShare> = shares.iter().rev().take(take).collect();
        let (package, made) = shares_of(&signers, &group, Some(&ROOT));
        let signature = group.aggregate(&package, &made, Some(&ROOT)).unwrap();
        group.verify(MESSAGE, Some(&ROOT), &signature).unwrap();
    }
}

#[test]
fn dealt_and_generated_keys_of_either_parity_sign() {
    let mut seen = [false; 2];
    while seen != [true; 2] {
        let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
        seen[usize::from(group.id().as_bytes()[0] == 3)] = true;
        every_subset_signs(&shares, &group);
    }
}

/// `group` with other verifying shares, threshold or key, as anybody may write it.
fn rewritten(group: &GroupKey, edit: impl FnOnce(&mut BTreeMap<Identifier, VerifyingShare>, &mut u16)) -> Vec<u8> {
    let package = group.inner();
    let (mut shares, mut threshold) = (package.verifying_shares().clone(), group.threshold());
    edit(&mut shares, &mut threshold);
    let package = PublicKeyPackage::new(shares, *package.verifying_key(), Some(threshold));
    package.serialize().unwrap()
}

#[test]
fn verifying_shares_that_do_not_interpolate_to_the_group_key_are_no_group_key() {
    for (count, threshold) in [(2, 2), (3, 2), (5, 3), (5, 5), (40, 21)] {
        let all = members((1..=count).map(|number| number * 7));
        let (_, group) = deal(&all, threshold, &mut entropy::os()).unwrap();
        let (_, other) = deal(&all, threshold, &mut entropy::os()).unwrap();
        assert_eq!(GroupKey::from_bytes(&rewritten(&group, |_, _| {})).unwrap(), group);
        let refused = |bytes: Vec<u8>, fault: &str| {
            let read = GroupKey::from_bytes(&bytes);
            assert!(
                matches!(read, Err(DecodeError::VerifyingShares { .. })),
                "{threshold} of {count}: {fault}: {read:?}"
            );
        };
        for member in [all[0], all[all.len() - 1]] {
            let theirs = other.inner().verifying_shares()[&identifier(member)];
            refused(
                rewritten(&group, |shares, _| *shares.get_mut(&identifier(member)).unwrap() = theirs),
                "one false share",
            );
        }
        let all_theirs = other.inner().verifying_shares().clone();
        refused(rewritten(&group, |shares, _| *shares = all_theirs), "the shares of another key");
        if threshold > 2 {
            refused(rewritten(&group, |_, threshold| *threshold -= 1), "a lower threshold");
        }
        let (first, last) = (identifier(all[0]), identifier(all[all.len() - 1]));
        let swap = |shares: &mut BTreeMap<Identifier, VerifyingShare>, _: &mut u16| {
            let (one, two) = (shares[&first], shares[&last]);
            shares.insert(first, two);
            shares.insert(last, one);
        };
        refused(rewritten(&group, swap), "two members exchanged");
    }
}

#[test]
fn the_output_key_is_the_one_that_the_bitcoin_crate_derives() {
    use bitcoin::key::{TapTweak, UntweakedPublicKey};
    use bitcoin::secp256k1::Secp256k1;
    use bitcoin::taproot::TapNodeHash;
    let (_, group) = generate(&[1, 2], 2);
    let internal = UntweakedPublicKey::from_slice(&group.internal_key()).unwrap();
    for root in [None, Some(ROOT)] {
        let node = root.map(|root| TapNodeHash::assume_hidden(*root.as_bytes()));
        let (output, _) = internal.tap_tweak(&Secp256k1::verification_only(), node);
        assert_eq!(output.to_x_only_public_key().serialize(), group.output_key(root.as_ref()));
    }
}

/// Our part 3 checks the sum and evaluates with short factors; the crate's does neither. The results must be the same bytes.
#[test]
fn the_summed_part_three_gives_exactly_what_the_crate_gives() {
    use frost_secp256k1_tr::keys::dkg;
    let numbers = [2u16, 3, 5, 40_000];
    let mut secrets = BTreeMap::new();
    let mut ones = BTreeMap::new();
    for &number in &numbers {
        let (secret, package) = dkg::part1(identifier(m(number)), 4, 3, entropy::os()).unwrap();
        secrets.insert(number, secret);
        ones.insert(number, package);
    }
    let mut inbox: BTreeMap<u16, BTreeMap<u16, dkg::round2::Package>> = BTreeMap::new();
    let mut twos = BTreeMap::new();
    for (&number, secret) in &secrets {
        let others = ones.iter().filter(|(n, _)| **n != number).map(|(&n, p)| (identifier(m(n)), p.clone())).collect();
        let (two, sent) = dkg::part2(secret.clone(), &others).unwrap();
        twos.insert(number, two);
        for (to, package) in sent {
            inbox.entry(member(&to).unwrap().number()).or_default().insert(number, package);
        }
    }
    for &number in &numbers {
        let others = ones.iter().filter(|(n, _)| **n != number).map(|(&n, p)| (identifier(m(n)), p.clone())).collect();
        let got = inbox[&number].iter().map(|(&n, p)| (identifier(m(n)), p.clone())).collect();
        let (key, public) = dkg::part3(&twos[&number], &others, &got).unwrap();
        let encode =
            |package: &dkg::round1::Package| RoundOnePackage::from_bytes(&package.serialize().unwrap()).unwrap();
        let ours =
            DkgRoundOne { member: m(number), own: encode(&ones[&number]), secret: Box::new(secrets[&number].clone()) };
        let packages = ones.iter().filter(|(n, _)| **n != number).map(|(&n, p)| (m(n), encode(p))).collect();
        let (two, _) = ours.advance(&packages).unwrap();
        let got = inbox[&number]
            .iter()
            .map(|(&n, p)| (m(n), RoundTwoPackage::decode(&p.signing_share().serialize().try_into().unwrap()).unwrap()))
            .collect();
        let (share, group) = two.finish(&got).unwrap();
        assert_eq!(share.encode().as_bytes(), key.serialize().unwrap());
        assert_eq!(group.as_bytes(), public.serialize().unwrap());
    }
}

/// Hazard 1, the reason for by-value nonces: what the crate allows, done with the crate.
#[test]
fn three_shares_from_one_nonce_pair_would_give_the_signing_share_away() {
    use frost_secp256k1_tr::{Field, Secp256K1ScalarField as F};
    // z_k = d + e rho_k + lambda c_k s: three equations, three unknowns. Random coefficients stand for rho_k and lambda c_k.
    let random = || F::random(&mut entropy::os());
    let (d, e, s) = (random(), random(), random());
    let rows: Vec<_> = (0..3).map(|_| (random(), random())).map(|(rho, c)| (rho, c, d + e * rho + c * s)).collect();
    let minus = |a: usize, b: usize| (rows[a].0 - rows[b].0, rows[a].1 - rows[b].1, rows[a].2 - rows[b].2);
    let ((r1, c1, z1), (r2, c2, z2)) = (minus(1, 0), minus(2, 0));
    let found = (z1 * r2 - z2 * r1) * F::invert(&(c1 * r2 - c2 * r1)).unwrap();
    assert!(found == s);
}

/// Hazard 2.
#[test]
fn a_package_with_two_equal_commitments_does_not_exist() {
    let (shares, _) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let (_, commitments) = commit(&shares[0], &mut entropy::os());
    let map = BTreeMap::from([(m(1), commitments.clone()), (m(2), commitments)]);
    assert_eq!(SigningPackage::new(MESSAGE, map), Err(PackageError::SameCommitments { first: m(1), second: m(2) }));
    assert_eq!(SigningPackage::new(MESSAGE, BTreeMap::new()), Err(PackageError::Empty));
}

/// Hazard 2.
#[test]
fn a_member_signs_no_package_with_an_unknown_member_too_few_members_or_other_commitments() {
    let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let (others, foreign) = deal(&members([1, 2, 4]), 2, &mut entropy::os()).unwrap();
    let package = |of: &[(u16, &Commitments)]| {
        SigningPackage::new(MESSAGE, of.iter().map(|(number, c)| (m(*number), (*c).clone())).collect()).unwrap()
    };
    let fresh = |share: &KeyShare| commit(share, &mut entropy::os());
    let (_, two) = fresh(&shares[1]);

    let (nonces, one) = fresh(&shares[0]);
    assert_eq!(
        sign(nonces, &shares[0], &group, &package(&[(1, &one), (4, &two)]), None),
        Err(SignError::Package(PackageError::UnknownMember { member: m(4), key_group: group.id() }))
    );
    let (nonces, one) = fresh(&shares[0]);
    assert_eq!(
        sign(nonces, &shares[0], &group, &package(&[(1, &one)]), None),
        Err(SignError::Package(PackageError::BelowThreshold { found: 1, threshold: 2 }))
    );
    let (nonces, _) = fresh(&shares[0]);
    let (_, three) = fresh(&shares[2]);
    assert_eq!(
        sign(nonces, &shares[0], &group, &package(&[(2, &two), (3, &three)]), None),
        Err(SignError::NotIncluded { member: m(1) })
    );
    let (nonces, _) = fresh(&shares[0]);
    assert_eq!(
        sign(nonces, &shares[0], &group, &package(&[(1, &three), (2, &two)]), None),
        Err(SignError::CommitmentsDiffer { member: m(1) })
    );
    let (nonces, one) = fresh(&shares[0]);
    assert_eq!(
        sign(nonces, &shares[1], &group, &package(&[(1, &one), (2, &two)]), None),
        Err(SignError::NoncesOfAnother { expected: m(2), found: m(1) })
    );
    let (nonces, one) = fresh(&others[0]);
    assert_eq!(
        sign(nonces, &shares[0], &group, &package(&[(1, &one), (2, &two)]), None),
        Err(SignError::NoncesOfAnother { expected: m(1), found: m(1) })
    );
    let (nonces, one) = fresh(&shares[0]);
    assert_eq!(
        sign(nonces, &shares[0], &foreign, &package(&[(1, &one), (2, &two)]), None),
        Err(SignError::ShareOfAnotherGroup { member: m(1), key_group: foreign.id(), threshold: 2 })
    );
}

/// Trap 13: a threshold that differs from the group's must cost nothing but this call.
#[test]
fn a_share_with_another_threshold_than_its_group_does_not_sign() {
    let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let mut bytes = shares[0].encode().as_bytes().to_vec();
    *bytes.last_mut().unwrap() = 3;
    let other = KeyShare::decode(&bytes).unwrap();
    let Round { package, mut nonces } = round(&[&other, &shares[1]]);
    assert!(matches!(
        sign(nonces.remove(0), &other, &group, &package, None),
        Err(SignError::ShareOfAnotherGroup { .. })
    ));
}

/// Hazard 3.
#[test]
fn no_decoder_takes_trailing_bytes_or_a_truncation() {
    let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let (package, made) = shares_of(&[&shares[0], &shares[1]], &group, None);
    let (_, one) = DkgRoundOne::start(m(1), 3, 2, &mut entropy::os()).unwrap();
    let key = shares[0].encode();
    let commitments = package.commitments_of(m(1)).unwrap();
    type Decode = fn(&[u8]) -> bool;
    let cases: [(&str, &[u8], Decode); 6] = [
        ("key share", key.as_bytes(), |b| KeyShare::decode(b).is_ok()),
        ("group key", group.as_bytes(), |b| GroupKey::from_bytes(b).is_ok()),
        ("commitments", commitments.as_bytes(), |b| Commitments::from_bytes(b).is_ok()),
        ("signing package", package.as_bytes(), |b| SigningPackage::from_bytes(b).is_ok()),
        ("signature share", &made[0].1.to_bytes(), |b| SignatureShare::from_bytes(b).is_ok()),
        ("round-one package", one.as_bytes(), |b| RoundOnePackage::from_bytes(b).is_ok()),
    ];
    for (what, bytes, decodes) in cases {
        assert!(decodes(bytes), "{what}");
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(!decodes(&longer), "{what} with a trailing byte");
        for len in 0..bytes.len() {
            assert!(!decodes(&bytes[..len]), "{what} cut to {len} bytes");
        }
    }
}

/// Hazard 3: the crate reads a cut public key package as one without a threshold.
#[test]
fn a_group_key_without_its_threshold_is_refused_by_name() {
    let (_, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let bytes = group.as_bytes();
    for cut in [1, 2] {
        assert_eq!(
            GroupKey::from_bytes(&bytes[..bytes.len() - cut]),
            Err(DecodeError::Threshold { what: "group key", found: 0, members: 3 })
        );
    }
    let mut wrong = bytes.to_vec();
    *wrong.last_mut().unwrap() = 4;
    assert_eq!(GroupKey::from_bytes(&wrong), Err(DecodeError::Threshold { what: "group key", found: 4, members: 3 }));
}

/// Hazard 3.
#[test]
fn a_signing_package_with_repeated_or_unsorted_members_is_refused() {
    let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let (package, _) = shares_of(&[&shares[0], &shares[1]], &group, None);
    let bytes = package.to_bytes();
    let (head, rest) = bytes.split_at(6);
    let (entries, tail) = rest.split_at(2 * 103);
    let (first, second) = entries.split_at(103);
    let canonical = Err(DecodeError::NotCanonical { what: "signing package" });
    assert_eq!(SigningPackage::from_bytes(&[head, second, first, tail].concat()), canonical);
    assert_eq!(SigningPackage::from_bytes(&[head, first, first, tail].concat()), canonical);
    assert_eq!(SigningPackage::from_bytes(&[head, first, second, tail].concat()), Ok(package));
    let mut far = bytes.clone();
    far[6] = 1;
    assert_eq!(SigningPackage::from_bytes(&far), Err(DecodeError::Member { what: "signing package" }));
}

/// Hazard 3.
#[test]
fn a_key_share_with_any_flipped_bit_in_its_secret_or_verifying_share_is_refused() {
    let (shares, _) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let encoded = shares[0].encode();
    // 5 bytes of header, 32 of identifier, then the signing share (32) and the verifying share (33).
    for bit in 37 * 8..102 * 8 {
        let mut bytes = encoded.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(KeyShare::decode(&bytes).is_err(), "bit {bit}");
    }
}

/// Hazard 5: the encoding is the crate's own, without the crate's growing buffer.
#[test]
fn a_key_share_is_encoded_into_a_fixed_buffer_with_the_bytes_of_the_crate() {
    let (shares, _) = deal(&members([1, 2, 65_535]), 2, &mut entropy::os()).unwrap();
    for share in &shares {
        let encoded = share.encode();
        assert_eq!(encoded.as_bytes(), share.inner().serialize().unwrap());
        let again = KeyShare::decode(encoded.as_bytes()).unwrap();
        assert_eq!((again.member(), again.key_group(), again.threshold()), (share.member(), share.key_group(), 2));
        assert_eq!(again.verifying_share(), share.verifying_share());
    }
}

/// Hazard 4: no refresh and no repair is used anywhere; this folder is the only one that could.
#[test]
fn only_this_folder_names_the_crate_and_nothing_names_refresh_or_repair() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut stack = vec![src.clone()];
    let mut seen = 0;
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("frost/tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = || text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let inside = path.starts_with(src.join("frost"));
            for line in code() {
                assert!(
                    inside || !(line.contains("frost_secp256k1_tr") || line.contains("frost_core")),
                    "{path:?}: {line}"
                );
                for banned in ["refresh_share", "refresh_dkg", "repair_share", "keys::refresh", "keys::repairable"] {
                    assert!(!line.contains(banned), "{path:?}: {line}");
                }
            }
            seen += 1;
        }
    }
    assert!(seen > 10);
}

#[test]
fn every_culprit_is_named_and_nobody_else() {
    let (shares, group) = deal(&members([1, 2, 3, 4, 5]), 4, &mut entropy::os()).unwrap();
    let signers: Vec<&KeyShare> = shares.iter().take(4).collect();
    let (package, made) = shares_of(&signers, &group, None);
    let (_, stray) = shares_of(&signers, &group, None);
    let mut bad = made.clone();
    bad[1].1 = stray[1].1.clone();
    bad[3].1 = stray[3].1.clone();
    let error = group.aggregate(&package, &bad, None).unwrap_err();
    assert_eq!(error, AggregateError::Invalid { culprits: members([2, 4]) });
    assert_eq!(error.culprits(), members([2, 4]));
    for (member, share) in &made {
        group.verify_share(*member, &package, share, None).unwrap();
    }
    assert_eq!(group.verify_share(m(2), &package, &bad[1].1, None), Err(ShareInvalid::Wrong { member: m(2) }));
    assert_eq!(group.verify_share(m(1), &package, &made[0].1, Some(&ROOT)), Err(ShareInvalid::Wrong { member: m(1) }));
    assert_eq!(group.verify_share(m(5), &package, &made[0].1, None), Err(ShareInvalid::NotIncluded { member: m(5) }));
}

#[test]
fn shares_of_the_wrong_set_blame_nobody() {
    let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let (package, made) = shares_of(&[&shares[0], &shares[1]], &group, None);
    let one = made[0].clone();
    let cases = [
        (vec![one.clone()], AggregateError::Missing { member: m(2) }),
        (vec![one.clone(), one.clone()], AggregateError::Repeated { member: m(1) }),
        (vec![one.clone(), (m(3), one.1)], AggregateError::NotIncluded { member: m(3) }),
    ];
    for (set, expected) in cases {
        let error = group.aggregate(&package, &set, None).unwrap_err();
        assert_eq!(error, expected);
        assert!(error.culprits().is_empty());
    }
}

#[test]
fn a_wrong_round_one_or_round_two_package_names_every_sender_of_one() {
    let all = members([1, 2, 3, 4]);
    let start = |member| DkgRoundOne::start(member, 4, 2, &mut entropy::os()).unwrap();
    let (state, _) = start(m(1));
    let mut others: BTreeMap<Member, RoundOnePackage> =
        all[1..].iter().map(|&member| (member, start(member).1)).collect();
    // A proof names its prover: one member's package is no other member's.
    let swapped = others[&m(3)].clone();
    others.insert(m(2), swapped);
    let (_, short) = DkgRoundOne::start(m(4), 4, 3, &mut entropy::os()).unwrap();
    others.insert(m(4), short);
    assert_eq!(state.advance(&others).err(), Some(DkgError::RoundOne { culprits: members([2, 4]) }));

    let states: Vec<_> = all.iter().map(|&member| start(member)).collect();
    let packages: BTreeMap<Member, RoundOnePackage> =
        all.iter().copied().zip(states.iter().map(|(_, package)| package.clone())).collect();
    let mut two = Vec::new();
    let mut inbox = BTreeMap::new();
    for (&member, (state, _)) in all.iter().zip(states) {
        let mut others = packages.clone();
        others.remove(&member);
        let (state, mut outgoing) = state.advance(&others).unwrap();
        two.push(state);
        if member != m(1) {
            // Members 2 and 4 send member 1 what was meant for member 3 or 2.
            let receiver = match member.number() {
                2 => m(3),
                4 => m(2),
                _ => m(1),
            };
            inbox.insert(member, outgoing.remove(&receiver).unwrap());
        }
    }
    let first = two.remove(0);
    assert_eq!(first.finish(&inbox).err(), Some(DkgError::RoundTwo { culprits: members([2, 4]) }));
}

#[test]
fn a_threshold_below_two_or_above_the_members_is_refused() {
    for (members, threshold) in [(3, 0), (3, 1), (3, 4), (1, 2), (256, 2), (70_000, 2)] {
        let refused = DkgRoundOne::start(m(1), members, threshold, &mut entropy::os()).err();
        assert_eq!(refused, Some(DkgError::Threshold { threshold, members }));
    }
}

#[test]
fn public_values_survive_postcard_and_arbitrary_bytes_of_them_are_refused() {
    let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
    let (package, made) = shares_of(&[&shares[0], &shares[1]], &group, None);
    let signature = group.aggregate(&package, &made, None).unwrap();
    let all = (group, package, made[0].1.clone(), signature);
    let bytes = postcard::to_allocvec(&all).unwrap();
    assert_eq!(postcard::from_bytes::<(GroupKey, SigningPackage, SignatureShare, Signature)>(&bytes).unwrap(), all);
    assert!(postcard::from_bytes::<Commitments>(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_decoder_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = KeyShare::decode(&bytes).is_ok();
        let _ = GroupKey::from_bytes(&bytes);
        let _ = Commitments::from_bytes(&bytes);
        let _ = SigningPackage::from_bytes(&bytes);
        let _ = SignatureShare::from_bytes(&bytes);
        let _ = Signature::from_bytes(&bytes);
        let _ = RoundOnePackage::from_bytes(&bytes);
    }

    #[test]
    fn a_damaged_encoding_never_panics_and_never_reads_as_the_original(at in 0usize..4_096, change in 1u8..) {
        let (shares, group) = deal(&members([1, 2, 3]), 2, &mut entropy::os()).unwrap();
        let (package, _) = shares_of(&[&shares[0], &shares[1]], &group, None);
        let damage = |bytes: &[u8]| { let mut b = bytes.to_vec(); let at = at % b.len(); b[at] ^= change; b };
        if let Ok(read) = SigningPackage::from_bytes(&damage(package.as_bytes())) { prop_assert_ne!(read, package); }
        if let Ok(read) = GroupKey::from_bytes(&damage(group.as_bytes())) { prop_assert_ne!(read, group); }
    }
}
