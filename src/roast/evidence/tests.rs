use proptest::prelude::*;

use super::*;
use crate::ids::{KeyGroupId, Message, SessionId};

const THRESHOLD: u16 = 3;

struct World {
    key_group: KeyGroupId,
    session: SessionId,
    message: Message,
}

/// Genuine votes hold the voter's number in every byte; the first byte of a share tells the verdict.
struct Scripted;

impl EvidenceOracle for Scripted {
    fn vote_is_genuine(&self, active: &AttemptContext, vote: &TimeoutVote) -> bool {
        vote.signature == signature(active, vote.voter)
    }

    fn verdict(&self, _: &AttemptContext, round: &SignedRound) -> ShareVerdict {
        match round.share[0] {
            0 => ShareVerdict::Valid,
            1 => ShareVerdict::Invalid,
            _ => ShareVerdict::Indeterminate,
        }
    }
}

fn signature(active: &AttemptContext, voter: u16) -> Vec<u8> {
    let mut bytes = vec![voter as u8; 64];
    bytes[..32].copy_from_slice(active.id().as_bytes());
    bytes
}

impl World {
    fn new() -> Self {
        Self {
            key_group: KeyGroupId::new([2; 33]).unwrap(),
            session: SessionId::new("session").unwrap(),
            message: Message::new([1; 32]),
        }
    }

    fn binding(&self) -> AttemptBinding<'_> {
        AttemptBinding {
            key_group: &self.key_group,
            session: &self.session,
            message: &self.message,
            threshold: THRESHOLD,
        }
    }

    fn attempt(&self, number: u32, included: &[u16]) -> AttemptContext {
        AttemptContext::derive(&self.binding(), number, included).unwrap()
    }

    fn try_chain(
        &self,
        active: &AttemptContext,
        target: &AttemptContext,
        chain: &[Transition],
    ) -> Result<Vec<Authorised>, TransitionError> {
        authorise(&self.binding(), None, active, target, chain, &Scripted)
    }

    fn try_step(&self, active: &AttemptContext, step: &Transition) -> Result<Authorised, TransitionError> {
        let target = AttemptContext::parse(&self.binding(), &step.next).unwrap_or_else(|_| active.clone());
        self.try_chain(active, &target, std::slice::from_ref(step)).map(|steps| steps[0].clone())
    }
}

fn others(active: &AttemptContext) -> Vec<u16> {
    active.included().iter().filter(|&&one| one != active.coordinator()).map(|one| one.number()).collect()
}

fn votes(active: &AttemptContext, count: usize) -> Vec<TimeoutVote> {
    let vote = |voter| TimeoutVote { voter, signature: signature(active, voter) };
    others(active).into_iter().take(count).map(vote).collect()
}

fn timeout(active: &AttemptContext, next: &AttemptContext) -> Transition {
    Transition {
        active_number: active.number(),
        active_id: active.id(),
        active_coordinator: active.coordinator().number(),
        excluded: vec![],
        evidence: Evidence::CoordinatorTimeout { votes: votes(active, 3) },
        next: next.parts(),
    }
}

fn signed_round(active: &AttemptContext, member: u16, verdict: u8) -> SignedRound {
    SignedRound {
        member,
        attempt: active.parts(),
        root: None,
        package: vec![7; 100],
        share: vec![verdict; 32],
        round_signature: vec![8; 64],
    }
}

fn invalid_share(active: &AttemptContext, next: &AttemptContext, accused: &[u16]) -> Transition {
    Transition {
        excluded: accused.to_vec(),
        evidence: Evidence::InvalidShare {
            accused: accused.iter().map(|&member| signed_round(active, member, 1)).collect(),
        },
        ..timeout(active, next)
    }
}

fn world() -> (World, AttemptContext, AttemptContext) {
    let world = World::new();
    let active = world.attempt(4, &[1, 2, 3, 4, 5]);
    let next = world.attempt(5, &[1, 2, 3, 4, 5]);
    (world, active, next)
}

#[test]
fn a_timeout_needs_min_t_included_less_one_votes_and_may_exclude_nobody() {
    let (world, active, next) = world();
    let step = world.try_step(&active, &timeout(&active, &next)).unwrap();
    assert_eq!((step.reason, step.votes, step.excluded), (TransitionReason::CoordinatorTimeout, 3, vec![]));
    let few =
        Transition { evidence: Evidence::CoordinatorTimeout { votes: votes(&active, 2) }, ..timeout(&active, &next) };
    assert_eq!(world.try_step(&active, &few), Err(TransitionError::TooFewVotes { found: 2, needed: 3 }));
    // A set of exactly t: the coordinator cannot vote, so t - 1 votes are all there can be.
    let small = world.attempt(4, &[1, 2, 3]);
    assert_eq!(world.try_step(&small, &timeout(&small, &next)).unwrap().votes, 2);
    assert_eq!([votes_needed(3, 5), votes_needed(3, 3), votes_needed(1, 1)], [3, 2, 1]);
}

#[test]
fn votes_are_distinct_included_genuine_and_not_the_coordinators() {
    let (world, active, next) = world();
    let good = votes(&active, 4);
    let with = |vote: TimeoutVote| {
        let mut votes = good.clone();
        votes[1] = vote;
        world.try_step(
            &active,
            &Transition { evidence: Evidence::CoordinatorTimeout { votes }, ..timeout(&active, &next) },
        )
    };
    let (voter, coordinator) = (good[1].voter, active.coordinator().number());
    for outside in [0, 6, coordinator] {
        let vote = TimeoutVote { voter: outside, signature: signature(&active, outside) };
        assert_eq!(with(vote), Err(TransitionError::VoterOutside { voter: outside }));
    }
    assert_eq!(with(good[0].clone()), Err(TransitionError::VotedTwice { voter: good[0].voter }));
    let forged = TransitionError::VoteForged { voter };
    assert_eq!(with(TimeoutVote { voter, signature: signature(&next, voter) }), Err(forged.clone()));
    assert_eq!(with(TimeoutVote { voter, signature: vec![] }), Err(forged));
}

#[test]
fn a_timeout_excludes_at_most_the_coordinator() {
    let world = World::new();
    let active = world.attempt(4, &[1, 2, 3, 4, 5]);
    let coordinator = active.coordinator().number();
    let rest = others(&active);
    let without_coordinator = world.attempt(5, &rest);
    let step = Transition { excluded: vec![coordinator], ..timeout(&active, &without_coordinator) };
    assert_eq!(world.try_step(&active, &step).unwrap().excluded, vec![active.coordinator()]);
    let kept: Vec<u16> = (1..=5).filter(|&member| member != rest[0]).collect();
    let step = Transition { excluded: vec![rest[0]], ..timeout(&active, &world.attempt(5, &kept)) };
    assert_eq!(world.try_step(&active, &step), Err(TransitionError::ExcludedUnproved { member: rest[0] }));
}

#[test]
fn evidence_names_the_active_attempt_by_number_id_and_coordinator() {
    let (world, active, next) = world();
    let good = timeout(&active, &next);
    let other_number = Transition { active_number: 5, ..good.clone() };
    let other_id = Transition { active_id: AttemptId::new([0; 32]), ..good.clone() };
    let other_coordinator = Transition { active_coordinator: others(&active)[0], ..good };
    for step in [other_number, other_id, other_coordinator] {
        assert!(matches!(world.try_step(&active, &step), Err(TransitionError::OtherActive { .. })));
    }
}

#[test]
fn a_step_leads_exactly_one_further_to_a_valid_attempt() {
    let (world, active, next) = world();
    for number in [3, 4, 6] {
        let step = timeout(&active, &world.attempt(number, &[1, 2, 3]));
        assert_eq!(world.try_step(&active, &step), Err(TransitionError::NotNext { from: 4, to: number }));
    }
    let mut forged = timeout(&active, &next);
    forged.next.attempt_id = [0; 32];
    assert!(matches!(
        world.try_step(&active, &forged),
        Err(TransitionError::Next(ContextError::AttemptIdMismatch { .. }))
    ));
}

#[test]
fn the_excluded_are_unique_of_the_active_set_and_out_of_the_new_one() {
    let (world, active, _) = world();
    let next = world.attempt(5, &[1, 2, 3, 6]);
    let with = |excluded: &[u16]| {
        world.try_step(&active, &Transition { excluded: excluded.to_vec(), ..invalid_share(&active, &next, &[4, 5]) })
    };
    assert!(with(&[5, 4]).is_ok());
    assert_eq!(with(&[0]), Err(TransitionError::ExcludedZero));
    assert_eq!(with(&[4, 5, 4]), Err(TransitionError::ExcludedTwice { member: 4 }));
    assert_eq!(with(&[6]), Err(TransitionError::ExcludedOutside { member: 6, active: 4 }));
    let coordinator = next.coordinator().number();
    for member in [1, 2, 3] {
        let expected = if member == coordinator {
            TransitionError::ExcludedCoordinates { member }
        } else {
            TransitionError::ExcludedIncluded { member }
        };
        assert_eq!(with(&[member]), Err(expected));
    }
}

#[test]
fn trap_16_every_accused_is_proved_at_fault_and_every_excluded_is_accused() {
    let (world, active, _) = world();
    let next = world.attempt(5, &[1, 2, 3]);
    let with = |accused: Vec<SignedRound>| {
        let step =
            Transition { evidence: Evidence::InvalidShare { accused }, ..invalid_share(&active, &next, &[4, 5]) };
        world.try_step(&active, &step)
    };
    let (four, five) = (signed_round(&active, 4, 1), signed_round(&active, 5, 1));
    let step = with(vec![four.clone(), five.clone()]).unwrap();
    assert_eq!((step.reason, step.votes, step.excluded.len()), (TransitionReason::InvalidShare, 0, 2));
    assert_eq!(with(vec![]), Err(TransitionError::AccusedEmpty));
    assert_eq!(with(vec![four.clone()]), Err(TransitionError::ExcludedUnproved { member: 5 }));
    assert_eq!(with(vec![four.clone(), four.clone()]), Err(TransitionError::AccusedTwice { member: 4 }));
    assert_eq!(with(vec![signed_round(&active, 1, 1)]), Err(TransitionError::AccusedKept { member: 1 }));
    for (byte, verdict) in [(0, ShareVerdict::Valid), (2, ShareVerdict::Indeterminate)] {
        let accused = vec![four.clone(), signed_round(&active, 5, byte)];
        assert_eq!(with(accused), Err(TransitionError::NotProved { member: 5, verdict }));
    }
    let other_attempt = SignedRound { attempt: next.parts(), ..five.clone() };
    let other_root = SignedRound { root: Some(MerkleRoot::new([0; 32])), ..five.clone() };
    for round in [other_attempt, other_root] {
        assert_eq!(with(vec![four.clone(), round]), Err(TransitionError::RoundOfOther { member: 5 }));
    }
    let long_package = SignedRound { package: vec![0; SIGNING_PACKAGE_BYTES_MAX + 1], ..five.clone() };
    let short_share = SignedRound { share: vec![1; 31], ..five.clone() };
    let long_signature = SignedRound { round_signature: vec![1; 65], ..five };
    for round in [long_package, short_share, long_signature] {
        assert!(matches!(with(vec![four.clone(), round]), Err(TransitionError::RoundSize { member: 5, .. })));
    }
}

#[test]
fn the_order_of_the_accused_attempts_members_does_not_matter() {
    let (world, active, _) = world();
    let mut step = invalid_share(&active, &world.attempt(5, &[1, 2, 3]), &[4]);
    if let Evidence::InvalidShare { accused } = &mut step.evidence {
        accused[0].attempt.included.reverse();
    }
    assert!(world.try_step(&active, &step).is_ok());
}

#[test]
fn a_chain_leads_a_node_through_what_it_missed_and_no_further() {
    let world = World::new();
    let attempts: Vec<_> = (1..=5).map(|number| world.attempt(number, &[1, 2, 3, 4])).collect();
    let chain: Vec<_> = attempts.windows(2).map(|pair| timeout(&pair[0], &pair[1])).collect();
    // One chain serves nodes at any of its attempts.
    for from in 0..4 {
        let steps = world.try_chain(&attempts[from], &attempts[4], &chain).unwrap();
        assert_eq!(steps.len(), 4 - from);
        assert_eq!(steps.last().unwrap().to, attempts[4]);
    }
    let short = world.try_chain(&attempts[0], &attempts[4], &chain[..3]);
    assert_eq!(short, Err(TransitionError::ChainIncomplete { reached: 4, wanted: 5 }));
    let none = world.try_chain(&attempts[0], &attempts[1], &[]);
    assert_eq!(none, Err(TransitionError::ChainIncomplete { reached: 1, wanted: 2 }));
    let gap = world.try_chain(&attempts[0], &attempts[4], &[chain[0].clone(), chain[2].clone(), chain[3].clone()]);
    assert!(matches!(gap, Err(TransitionError::OtherActive { number: 3, active_number: 2, .. })));
    let far = world.try_chain(&attempts[0], &attempts[3], &chain);
    assert!(matches!(far, Err(TransitionError::OtherTarget { reached: 5, .. })));
    let other = world.attempt(5, &[1, 2, 3]);
    assert!(matches!(world.try_chain(&attempts[0], &other, &chain), Err(TransitionError::OtherTarget { .. })));
    let same = world.try_chain(&attempts[4], &attempts[4], &chain);
    assert!(matches!(same, Err(TransitionError::ChainIncomplete { .. })));
    let long = vec![chain[0].clone(); EVIDENCE_STEPS_MAX + 1];
    assert_eq!(
        world.try_chain(&attempts[0], &attempts[1], &long),
        Err(TransitionError::ChainTooLong { steps: EVIDENCE_STEPS_MAX + 1 })
    );
}

#[test]
fn members_who_were_not_in_the_old_set_may_come_in() {
    let (world, active, _) = world();
    assert!(world.try_step(&active, &timeout(&active, &world.attempt(5, &[6, 7, 8]))).is_ok());
}

#[test]
fn every_refusal_has_the_one_stable_reason() {
    assert_eq!(TransitionError::AccusedEmpty.reason().name(), "attempt_transition_unauthorized");
    assert_eq!(TransitionReason::InvalidShare.as_str(), "invalid_share_proof");
    assert_eq!(TransitionReason::CoordinatorTimeout.as_str(), "coordinator_timeout");
}

#[test]
fn trap_16_the_transcript_does_not_say_which_votes_proved_a_step() {
    use crate::roast::transcript::TransitionRecord;
    let (world, active, next) = world();
    let hash = |votes: Vec<TimeoutVote>| {
        let step = Transition { evidence: Evidence::CoordinatorTimeout { votes }, ..timeout(&active, &next) };
        let step = world.try_step(&active, &step).unwrap();
        TransitionRecord::new(&world.key_group, &world.session, &step).hash()
    };
    let all = votes(&active, 4);
    assert_eq!(hash(all.clone()), hash(all[1..].to_vec()));
}

proptest! {
    #[test]
    fn arbitrary_bytes_of_evidence_never_panic_and_never_authorise(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (world, active, next) = world();
        if let Ok(chain) = postcard::from_bytes::<Vec<Transition>>(&bytes) {
            prop_assert!(world.try_chain(&active, &next, &chain).is_err());
        }
    }

    #[test]
    fn a_flipped_byte_of_good_evidence_is_refused_or_means_the_same(offset: prop::sample::Index, bit in 0u8..8) {
        let (world, active, next) = world();
        let good = vec![timeout(&active, &next)];
        let expected = world.try_chain(&active, &next, &good).unwrap();
        let mut bytes = postcard::to_allocvec(&good).unwrap();
        let offset = offset.index(bytes.len());
        bytes[offset] ^= 1 << bit;
        if let Ok(chain) = postcard::from_bytes::<Vec<Transition>>(&bytes)
            && let Ok(steps) = world.try_chain(&active, &next, &chain)
        {
            prop_assert_eq!(steps, expected);
        }
    }
}
