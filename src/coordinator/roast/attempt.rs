//! The attempts of a session: those of this coordinator, and those that the members' durable rounds are of.

use std::collections::{BTreeMap, BTreeSet};

use super::standing::Members;
use crate::frost::{Commitments, SignatureShare, SigningPackage};
use crate::hash::sha256;
use crate::ids::{AttemptId, Member, MerkleRoot, RoundId};
use crate::limits::ATTEMPTS_MAX;
use crate::roast::{AttemptContext, SignedRound};

/// A share as a member said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) share: [u8; 32],
    pub(super) round_signature: [u8; 64],
}

/// One attempt with one package.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) context: AttemptContext,
    pub(super) package: SigningPackage,
    pub(super) said: BTreeMap<Member, Said>,
    /// Members that have answered another package of this attempt.
    pub(super) refused: Members,
    /// Members whose share was verified by itself.
    pub(super) verified: Members,
    /// Whether this coordinator made it.
    pub(super) own: bool,
}

impl Attempt {
    /// All shares, once the last is there.
    pub(super) fn complete(&self) -> Option<Vec<(Member, SignatureShare)>> {
        let included = self.context.included();
        let share = |member: &Member| {
            let said = self.said.get(member)?;
            Some((*member, SignatureShare::from_bytes(&said.share).ok()?))
        };
        if self.said.len() < included.len() { None } else { included.iter().map(share).collect() }
    }

    /// What the member said, as a third party can judge it.
    pub(super) fn signed_round(&self, member: Member, root: Option<MerkleRoot>) -> Option<SignedRound> {
        let said = self.said.get(&member)?;
        Some(SignedRound {
            member: member.number(),
            attempt: self.context.parts(),
            root,
            package: self.package.to_bytes(),
            share: said.share.to_vec(),
            round_signature: said.round_signature.to_vec(),
        })
    }

    fn has(&self, member: Member, commitments: &Commitments) -> bool {
        self.package.commitments_of(member) == Some(commitments)
    }
}

/// All attempts that this coordinator knows of.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    list: Vec<Attempt>,
    /// Attempt and package: two coordinators can have made two packages for one attempt.
    by_package: BTreeMap<(AttemptId, [u8; 32]), usize>,
    /// What members were asked for, or have answered before.
    rounds: BTreeMap<(Member, RoundId), usize>,
    /// Numbers of this coordinator's attempts.
    own_numbers: BTreeSet<u32>,
    /// Numbers of the rounds that each member returned.
    returned: BTreeMap<Member, BTreeSet<u32>>,
}

impl Attempts {
    pub(super) fn get(&self, index: usize) -> Option<&Attempt> {
        self.list.get(index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Attempt> {
        self.list.get_mut(index)
    }

    /// Attempts of this coordinator to which the member's share is there and not verified.
    pub(super) fn unverified_of(&mut self, member: Member) -> impl Iterator<Item = (usize, &mut Attempt)> {
        let open = move |attempt: &Attempt| {
            attempt.own && attempt.said.contains_key(&member) && !attempt.verified.contains(&member)
        };
        self.list.iter_mut().enumerate().filter(move |(_, attempt)| open(attempt))
    }

    pub(super) fn made(&self) -> usize {
        self.own_numbers.len()
    }

    /// Adds an attempt of this coordinator.
    pub(super) fn make(&mut self, context: AttemptContext, package: SigningPackage) -> usize {
        self.own_numbers.insert(context.number());
        self.place(context, package, true)
    }

    fn place(&mut self, context: AttemptContext, package: SigningPackage, own: bool) -> usize {
        let key = (context.id(), sha256(package.as_bytes()));
        let index = *self.by_package.entry(key).or_insert(self.list.len());
        if index == self.list.len() {
            self.list.push(Attempt {
                context,
                package,
                said: BTreeMap::new(),
                refused: Members::new(),
                verified: Members::new(),
                own,
            });
        }
        index
    }

    /// Adds a durable round that `member` returned. Gives the attempt.
    pub(super) fn returned(
        &mut self,
        member: Member,
        round: RoundId,
        context: AttemptContext,
        package: SigningPackage,
        said: Said,
    ) -> usize {
        self.returned.entry(member).or_default().insert(context.number());
        let index = self.place(context, package, false);
        self.rounds.insert((member, round), index);
        if let Some(attempt) = self.list.get_mut(index) {
            attempt.said.entry(member).or_insert(said);
        }
        index
    }

    /// Notes that `member` is asked for `round`.
    pub(super) fn asked(&mut self, member: Member, round: RoundId, index: usize) {
        self.rounds.insert((member, round), index);
    }

    /// The attempt that the member was asked, if it was.
    pub(super) fn index_of(&self, member: Member, round: RoundId) -> Option<usize> {
        self.rounds.get(&(member, round)).copied()
    }

    /// Whether the member has answered a package with these commitments: they are spent.
    pub(super) fn answered_with(&self, member: Member, commitments: &Commitments) -> bool {
        self.list.iter().any(|attempt| attempt.has(member, commitments) && attempt.said.contains_key(&member))
    }

    /// A package of an earlier coordinator that has these commitments of `member` and that it can still answer; of several,
    /// the one with the most shares. A member answers an attempt once: a package for one that it answered otherwise is none.
    pub(super) fn holding(&self, member: Member, commitments: &Commitments) -> Option<usize> {
        let answered: BTreeSet<AttemptId> =
            self.list.iter().filter(|one| one.said.contains_key(&member)).map(|one| one.context.id()).collect();
        let open = |attempt: &Attempt| {
            !attempt.own
                && attempt.has(member, commitments)
                && !answered.contains(&attempt.context.id())
                && !attempt.refused.contains(&member)
        };
        let held = self.list.iter().enumerate().filter(|(_, attempt)| open(attempt));
        held.max_by_key(|(index, attempt)| (attempt.said.len(), std::cmp::Reverse(*index))).map(|(index, _)| index)
    }

    /// The lowest number that no attempt of this coordinator and no returned round uses. Should liars have returned rounds
    /// of every number, the lowest that nobody of `included` has answered.
    pub(super) fn free_number(&self, included: &[Member]) -> Option<u32> {
        let lowest = |taken: &dyn Fn(u32) -> bool| (1..=ATTEMPTS_MAX).find(|number| !taken(*number));
        let own = |number: u32| self.own_numbers.contains(&number);
        lowest(&|number| own(number) || self.returned.values().any(|numbers| numbers.contains(&number))).or_else(|| {
            let of_included = |member: &Member, number: u32| {
                self.returned.get(member).is_some_and(|numbers| numbers.contains(&number))
            };
            lowest(&|number| own(number) || included.iter().any(|member| of_included(member, number)))
        })
    }
}
