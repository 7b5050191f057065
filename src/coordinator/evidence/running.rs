//! The attempt that is active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::coordinator::ask::RoundAsk;
use crate::coordinator::blame::Fault;
use crate::coordinator::port::{RoundAnswer, SessionReport};
use crate::coordinator::setting::Setting;
use crate::frost::{AggregateError, Commitments, DecodeError, Signature, SignatureShare, SigningPackage};
use crate::ids::{Member, Message, RoundId};
use crate::roast::{AttemptContext, SignedRound, TimeoutVote, Transition};

/// What the shares of an attempt add up to.
pub(super) enum Verdict {
    /// Some are missing.
    Open,
    /// A signature.
    Finished(Signature),
    /// Bad shares: of members who signed theirs, and of members who did not.
    Bad { accused: Vec<SignedRound>, unproved: Vec<Member> },
}

struct Said {
    share: [u8; 32],
    round_signature: [u8; 64],
}

/// The active attempt, with what has come for it.
pub(super) struct Running {
    pub(super) context: Arc<AttemptContext>,
    pub(super) package: Option<SigningPackage>,
    pub(super) votes: BTreeMap<Member, TimeoutVote>,
    /// Whether it has lasted long already.
    pub(super) woken: bool,
    /// The names of the answers that are awaited.
    pub(super) rounds: BTreeMap<Member, RoundId>,
    commitments: BTreeMap<Member, Commitments>,
    said: BTreeMap<Member, Said>,
    /// Rounds of an earlier coordinator, until the package is settled.
    found: Vec<(Member, SigningPackage, Said)>,
}

impl Running {
    pub(super) fn new(context: AttemptContext) -> Self {
        Self {
            context: Arc::new(context),
            package: None,
            votes: BTreeMap::new(),
            woken: false,
            rounds: BTreeMap::new(),
            commitments: BTreeMap::new(),
            said: BTreeMap::new(),
            found: Vec::new(),
        }
    }

    /// Takes the member's own durable rounds of this attempt.
    pub(super) fn take_rounds(&mut self, setting: &Setting, member: Member, report: &SessionReport) {
        for round in report.rounds.iter().filter(|round| round.member == member.number()) {
            let share = <[u8; 32]>::try_from(round.share.as_slice());
            let round_signature = <[u8; 64]>::try_from(round.round_signature.as_slice());
            if round.attempt.attempt_id == *self.context.id().as_bytes()
                && let Some(package) = setting.package_of(&self.context, &round.package)
                && let (Ok(share), Ok(round_signature)) = (share, round_signature)
            {
                self.found.push((member, package, Said { share, round_signature }));
            }
        }
    }

    /// The package that most of the rounds are of goes on; the others cannot be completed.
    pub(super) fn settle_package(&mut self) {
        let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (_, package, _) in &self.found {
            *counts.entry(package.to_bytes()).or_default() += 1;
        }
        let Some((chosen, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
        for (member, package, said) in std::mem::take(&mut self.found) {
            if package.as_bytes() == chosen {
                self.package = Some(package);
                self.said.insert(member, said);
            }
        }
    }

    pub(super) fn awaits_commitments_of(&self, member: Member) -> bool {
        self.package.is_none() && self.context.includes(member) && !self.commitments.contains_key(&member)
    }

    pub(super) fn awaits_round_of(&self, member: Member, round: RoundId) -> bool {
        self.rounds.get(&member) == Some(&round) && !self.said.contains_key(&member)
    }

    pub(super) fn offer(&mut self, member: Member, bytes: &[u8]) -> Result<(), DecodeError> {
        self.commitments.insert(member, Commitments::from_bytes(bytes)?);
        Ok(())
    }

    /// Makes the package when the last commitments are there. Equal ones make none: the attempt ends by votes.
    pub(super) fn make_package(&mut self, message: Message) -> bool {
        if self.package.is_some() || self.commitments.len() < self.context.included().len() {
            return false;
        }
        self.package = SigningPackage::new(message, self.commitments.clone()).ok();
        self.package.is_some()
    }

    /// What the members that have not answered are asked.
    pub(super) fn round_asks(&mut self, setting: &Setting, evidence: &[Transition]) -> Vec<(Member, Arc<RoundAsk>)> {
        let Some(package) = &self.package else { return Vec::new() };
        let mut asks = Vec::new();
        for member in self.context.included() {
            let round = setting.round_id(&self.context, *member, package);
            self.rounds.insert(*member, round);
            if !self.said.contains_key(member) {
                let (context, package) = ((*self.context).clone(), package.clone());
                asks.push((*member, Arc::new(RoundAsk { round, context, package, evidence: evidence.to_vec() })));
            }
        }
        asks
    }

    /// Keeps an answer; false for a repetition.
    pub(super) fn say(&mut self, member: Member, answer: &RoundAnswer) -> Result<bool, Fault> {
        let share = answer.share.as_slice().try_into().map_err(|_| Fault::Malformed)?;
        let round_signature = answer.round_signature.as_slice().try_into().map_err(|_| Fault::Malformed)?;
        match self.said.get(&member) {
            Some(before) if before.share == share => Ok(false),
            Some(_) => Err(Fault::TwoAnswers),
            None => {
                self.said.insert(member, Said { share, round_signature });
                Ok(true)
            }
        }
    }

    /// Included members for whom the attempt waits; all of those whose commitments are equal when there is no package for it.
    pub(super) fn missing(&self) -> Vec<Member> {
        let included = self.context.included().iter().copied();
        if self.package.is_some() {
            return included.filter(|member| !self.said.contains_key(member)).collect();
        }
        let mut seen = BTreeSet::new();
        let equal: BTreeSet<_> =
            self.commitments.values().map(Commitments::as_bytes).filter(|bytes| !seen.insert(*bytes)).collect();
        let stands = |member: &Member| self.commitments.get(member).is_some_and(|one| !equal.contains(one.as_bytes()));
        included.filter(|member| !stands(member)).collect()
    }

    pub(super) fn judge(&self, setting: &Setting) -> Verdict {
        let Some(package) = &self.package else { return Verdict::Open };
        if self.said.len() < self.context.included().len() {
            return Verdict::Open;
        }
        let root = setting.subject().root;
        let shares: Vec<(Member, SignatureShare)> = self
            .said
            .iter()
            .filter_map(|(member, said)| Some((*member, SignatureShare::from_bytes(&said.share).ok()?)))
            .collect();
        let culprits: Vec<Member> = if shares.len() < self.said.len() {
            // Some are no scalars: those that are count one by one.
            let good = |member: &Member| {
                let share = shares.iter().find(|(one, _)| one == member).map(|(_, share)| share);
                share.is_some_and(|share| setting.group().verify_share(*member, package, share, root.as_ref()).is_ok())
            };
            self.said.keys().copied().filter(|member| !good(member)).collect()
        } else {
            match setting.group().aggregate(package, &shares, root.as_ref()) {
                Ok(signature) => return Verdict::Finished(signature),
                Err(AggregateError::Invalid { culprits }) => culprits,
                Err(_) => return Verdict::Open,
            }
        };
        let rounds = culprits.iter().filter_map(|member| {
            let said = self.said.get(member)?;
            let round = SignedRound {
                member: member.number(),
                attempt: self.context.parts(),
                root,
                package: package.to_bytes(),
                share: said.share.to_vec(),
                round_signature: said.round_signature.to_vec(),
            };
            Some((*member, round))
        });
        let (mut accused, mut unproved) = (Vec::new(), Vec::new());
        for (member, round) in rounds {
            if setting.is_signed(&self.context, member, &round) {
                accused.push(round);
            } else {
                unproved.push(member);
            }
        }
        Verdict::Bad { accused, unproved }
    }
}
