//! The machine of the policy `roast` (Ruffing et al. 2022): several attempts at once over disjoint ready sets of exactly t
//! members, no timeout on the path, at most n - t + 1 attempts beside readmissions.
//!
//! ```text
//!   awaiting --- session and commitments are there ---> ready --- t are ready ---> pending --- its share came --+
//!      ^  \--- they lie in a package of an earlier coordinator: that package is answered first ------^          |
//!      +------------------- its next commitments came along, or are asked for --------------------------------+
//! ```
//!
//! - An attempt is finished by its last share: the sum is verified once, share by share only when that fails. Before a member
//!   enters another attempt, its shares in those that are not complete are verified: so each attempt that does not end well
//!   costs one member, one that is silent in it or one that sent a bad share and is in no later one.
//! - Identifiers come from the channel. An answer is known by its round id, which covers attempt, member and package.
//! - What repeats an answer is dropped before anything is called unsolicited.
//! - Who copied whose commitments cannot be told by their order, so nobody is blamed for a copy: two equal ones are only
//!   never put in one package.

mod attempt;
mod refusals;
mod sessions;
mod standing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use self::attempt::{Attempts, Said};
use self::standing::{Out, Seat, Standing};
use super::ask::{Answer, Ask, Effect, Event, Hindrance, Machine, Progress, RoundAsk};
use super::blame::{Blame, Fault};
use super::port::RoundAnswer;
use super::setting::Setting;
use crate::frost::{AggregateError, Commitments, SignatureShare, SigningPackage};
use crate::ids::{Member, RoundId};

/// The coordinator of one session under the policy `roast`.
pub struct RoastMachine {
    setting: Setting,
    seats: BTreeMap<Member, Seat>,
    /// Ready members, the first to become so first.
    ready: VecDeque<Member>,
    attempts: Attempts,
    finished: bool,
    stuck: bool,
    effects: Vec<Effect>,
}

impl RoastMachine {
    /// A coordinator that knows nothing yet: everything that it needs it asks of the members.
    pub fn new(setting: Setting) -> Self {
        let seats = setting.members().iter().map(|member| (*member, Seat::default())).collect();
        Self {
            setting,
            seats,
            ready: VecDeque::new(),
            attempts: Attempts::default(),
            finished: false,
            stuck: false,
            effects: Vec::new(),
        }
    }

    /// How many attempts this coordinator has made itself.
    pub fn attempts_made(&self) -> usize {
        self.attempts.made()
    }

    /// How many readmissions there were.
    pub fn readmissions(&self) -> usize {
        self.seats.values().map(Seat::readmissions).sum()
    }

    /// The members at fault.
    pub fn blamed(&self) -> Vec<(Member, Blame)> {
        let blame = |(member, seat): (&Member, &Seat)| match &seat.standing {
            Standing::Out(Out::Blamed(blame)) => Some((*member, blame.clone())),
            _ => None,
        };
        self.seats.iter().filter_map(blame).collect()
    }

    fn ask(&mut self, member: Member, ask: Ask) {
        self.effects.push(Effect::Ask { member, ask });
    }

    fn tell(&mut self, progress: Progress) {
        self.effects.push(Effect::Tell(progress));
    }

    /// Leaves `member` out for the rest of the session.
    fn put_out(&mut self, member: Member, out: Out) {
        let Some(seat) = self.seats.get_mut(&member) else { return };
        if matches!(seat.standing, Standing::Out(_)) && !matches!(out, Out::Blamed(_)) {
            return;
        }
        if matches!(seat.standing, Standing::Out(Out::Blamed(_))) {
            return;
        }
        if let Out::Blamed(blame) = &out {
            let blame = blame.clone();
            self.effects.push(Effect::Tell(Progress::Blamed { member, blame }));
        }
        seat.standing = Standing::Out(out);
        self.ready.retain(|ready| *ready != member);
    }

    fn blame(&mut self, member: Member, fault: Fault) {
        self.put_out(member, Out::Blamed(Blame::Unproved(fault)));
    }

    fn finish(&mut self, signature: crate::frost::Signature) {
        if !self.finished {
            self.finished = true;
            self.tell(Progress::Finished(signature));
            self.effects.push(Effect::Finished(signature));
        }
    }

    fn is_blamed(&self, member: Member) -> bool {
        self.seats.get(&member).is_some_and(|seat| matches!(seat.standing, Standing::Out(Out::Blamed(_))))
    }

    /// The commitments that the member has of its own accord, now.
    fn heard_commitments(&mut self, member: Member, bytes: &[u8]) {
        let Some(seat) = self.seats.get(&member) else { return };
        if !seat.awaits_commitments() {
            return;
        }
        match Commitments::from_bytes(bytes) {
            Err(_) => self.blame(member, Fault::Malformed),
            // An old answer that was late, or repeated: never a fault. The member is asked again.
            Ok(offered) if seat.has_used(&offered) => self.again(member, Ask::Commitments, None),
            Ok(offered) => self.offer(member, offered),
        }
    }

    fn offer(&mut self, member: Member, offered: Commitments) {
        if let Some(seat) = self.seats.get_mut(&member) {
            seat.offered = Some(offered);
            seat.problem = None;
        }
        self.settle(member);
    }

    /// Places a member whose session and whose commitments are both there: in an attempt that has those commitments
    /// already, or among the ready.
    fn settle(&mut self, member: Member) {
        let Some(seat) = self.seats.get_mut(&member) else { return };
        if !seat.viewed || !matches!(seat.standing, Standing::Awaiting) {
            return;
        }
        let Some(offered) = seat.offered.take() else { return };
        if self.attempts.answered_with(member, &offered) {
            // They were spent between two answers of the member.
            self.again(member, Ask::Commitments, None);
        } else if let Some(index) = self.attempts.holding(member, &offered) {
            self.adopt(member, index);
        } else {
            seat.standing = Standing::Ready(Box::new(offered));
            self.ready.push_back(member);
        }
    }

    /// Has the member answer a package of an earlier coordinator: its commitments are in it, so they are good for nothing
    /// else.
    fn adopt(&mut self, member: Member, index: usize) {
        let Some((ask, number)) = self.round_ask(member, index) else { return };
        if let Some(seat) = self.seats.get_mut(&member) {
            seat.standing = Standing::Pending { attempt: index, round: ask.round };
        }
        self.tell(Progress::Adopted { number, member });
        self.ask(member, Ask::Round(ask));
    }

    fn round_ask(&mut self, member: Member, index: usize) -> Option<(Arc<RoundAsk>, u32)> {
        let attempt = self.attempts.get(index)?;
        let (context, package) = (attempt.context.clone(), attempt.package.clone());
        let round = self.setting.round_id(&context, member, &package);
        let number = context.number();
        self.attempts.asked(member, round, index);
        Some((Arc::new(RoundAsk { round, context, package, evidence: Vec::new() }), number))
    }

    /// Makes an attempt of every t ready members whose shares so far are good.
    fn make_attempts(&mut self) {
        while let Some(chosen) = self.choose() {
            let culprits: Vec<(usize, Member)> =
                chosen.keys().filter_map(|member| Some((self.bad_share_of(*member)?, *member))).collect();
            if culprits.is_empty() && !self.make_attempt(chosen) {
                return;
            }
            for (index, member) in culprits {
                self.blame_share(index, member);
            }
        }
    }

    /// The first t ready members. Those whose commitments are equal are never in one package.
    fn choose(&self) -> Option<BTreeMap<Member, Commitments>> {
        let mut chosen = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for member in &self.ready {
            let Some(Standing::Ready(offered)) = self.seats.get(member).map(|seat| &seat.standing) else { continue };
            if chosen.len() < self.setting.threshold() && seen.insert(*offered.as_bytes()) {
                chosen.insert(*member, (**offered).clone());
            }
        }
        (chosen.len() == self.setting.threshold()).then_some(chosen)
    }

    /// An attempt of this coordinator to which the member's share is bad. Good ones are verified once.
    fn bad_share_of(&mut self, member: Member) -> Option<usize> {
        let root = self.setting.subject().root;
        for (index, attempt) in self.attempts.unverified_of(member) {
            let share = attempt.said.get(&member).and_then(|said| SignatureShare::from_bytes(&said.share).ok());
            let verified = share.is_some_and(|share| {
                self.setting.group().verify_share(member, &attempt.package, &share, root.as_ref()).is_ok()
            });
            if !verified {
                return Some(index);
            }
            attempt.verified.insert(member);
        }
        None
    }

    /// Whether there was a number left for it.
    fn make_attempt(&mut self, chosen: BTreeMap<Member, Commitments>) -> bool {
        let included: Vec<Member> = chosen.keys().copied().collect();
        let Some(number) = self.attempts.free_number(&included) else { return false };
        let Ok(context) = self.setting.derive(number, &included) else { return false };
        let Ok(package) = SigningPackage::new(self.setting.subject().message, chosen) else { return false };
        self.ready.retain(|member| !included.contains(member));
        let index = self.attempts.make(context, package);
        self.tell(Progress::Started { number, included: included.clone() });
        for member in included {
            let Some((ask, _)) = self.round_ask(member, index) else { continue };
            if let Some(seat) = self.seats.get_mut(&member) {
                seat.enter(index, ask.round);
            }
            self.ask(member, Ask::Round(ask));
        }
        true
    }

    fn heard_round(&mut self, member: Member, answer: &RoundAnswer) {
        let Some(index) = self.attempts.index_of(member, answer.round) else {
            return self.blame(member, Fault::Unsolicited);
        };
        let (Ok(share), Ok(round_signature)) =
            (<[u8; 32]>::try_from(answer.share.as_slice()), <[u8; 64]>::try_from(answer.round_signature.as_slice()))
        else {
            return self.blame(member, Fault::Malformed);
        };
        let said = Said { share, round_signature };
        let Some(attempt) = self.attempts.get_mut(index) else { return };
        match attempt.said.get(&member) {
            // A retransmission or a replay: whatever came with it says nothing.
            Some(before) if before.share == said.share => return,
            Some(_) => return self.blame(member, Fault::TwoAnswers),
            None => attempt.said.insert(member, said),
        };
        let number = attempt.context.number();
        self.tell(Progress::Answered { member, number });
        self.judge(index, member);
        if !self.finished && !self.is_blamed(member) {
            self.next_of(member, answer.round, answer.next.as_deref());
        }
    }

    /// A first answer brings the member's next commitments.
    fn next_of(&mut self, member: Member, round: RoundId, next: Option<&[u8]>) {
        let Some(seat) = self.seats.get_mut(&member) else { return };
        if !seat.is_pending_on(round) {
            return;
        }
        seat.problem = None;
        seat.standing = Standing::Awaiting;
        let Some(bytes) = next else {
            return self.ask(member, Ask::Commitments);
        };
        let Ok(offered) = Commitments::from_bytes(bytes) else {
            return self.blame(member, Fault::Malformed);
        };
        if seat.has_used(&offered) || self.attempts.answered_with(member, &offered) {
            return self.blame(member, Fault::CommitmentsAgain);
        }
        self.offer(member, offered);
    }

    /// Looks at what `member` added to an attempt: a share that is no number is bad at once, the last share finishes.
    fn judge(&mut self, index: usize, member: Member) {
        let Some(attempt) = self.attempts.get(index) else { return };
        let Some(said) = attempt.said.get(&member) else { return };
        if SignatureShare::from_bytes(&said.share).is_err() {
            return self.blame_share(index, member);
        }
        let Some(shares) = attempt.complete() else { return };
        match self.setting.group().aggregate(&attempt.package, &shares, self.setting.subject().root.as_ref()) {
            Ok(signature) => self.finish(signature),
            Err(AggregateError::Invalid { culprits }) => {
                for culprit in culprits {
                    self.blame_share(index, culprit);
                }
            }
            // Nobody is to blame; the attempt is lost.
            Err(_) => {}
        }
    }

    /// Blames a bad share, with proof when the member signed it.
    fn blame_share(&mut self, index: usize, member: Member) {
        let Some(attempt) = self.attempts.get(index) else { return };
        let Some(round) = attempt.signed_round(member, self.setting.subject().root) else { return };
        let signed = self.setting.is_signed(&attempt.context, member, &round);
        let blame = if signed { Blame::Proved(Box::new(round)) } else { Blame::Unproved(Fault::BadShareUnsigned) };
        self.put_out(member, Out::Blamed(blame));
    }

    /// Asks the same once more, unless it has become pointless.
    fn again(&mut self, member: Member, ask: Ask, after_ms: Option<u64>) {
        if self.seats.get(&member).is_some_and(|seat| seat.wants(&ask)) {
            self.effects.push(Effect::Again { member, ask, after_ms });
        }
    }

    fn look_whether_stuck(&mut self) {
        let (mut able, mut ended) = (0, 0);
        for seat in self.seats.values() {
            match &seat.standing {
                Standing::Out(Out::Ended(_)) => ended += 1,
                Standing::Out(_) => {}
                _ if seat.is_refused_for_good() => {}
                _ => able += 1,
            }
        }
        let stuck = able < self.setting.threshold();
        if stuck && !self.stuck {
            let members = self.hindrances();
            self.effects.push(if able + ended >= self.setting.threshold() {
                Effect::TryOver(members)
            } else {
                Effect::Stuck(members)
            });
        }
        self.stuck = stuck;
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        if !self.finished {
            self.make_attempts();
            self.look_whether_stuck();
        }
        std::mem::take(&mut self.effects)
    }
}

impl Machine for RoastMachine {
    fn start(&mut self) -> Vec<Effect> {
        let members: Vec<Member> = self.seats.keys().copied().collect();
        for member in members {
            self.ask(member, Ask::Session);
            self.ask(member, Ask::Commitments);
        }
        self.take_effects()
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let (Event::Answer { member, .. } | Event::Failed { member, .. }) = event else { return Vec::new() };
        if self.finished || !self.seats.contains_key(&member) || self.is_blamed(member) {
            return Vec::new();
        }
        match event {
            Event::Answer { answer, .. } => match answer {
                Answer::Session(report) => self.heard_session(member, &report),
                Answer::Commitments(bytes) => self.heard_commitments(member, &bytes),
                Answer::Round(answer) => self.heard_round(member, &answer),
                // Nobody was asked for these.
                Answer::Vote { .. } | Answer::Driven(_) => self.blame(member, Fault::Unsolicited),
            },
            Event::Failed { ask, error, .. } => self.heard_failure(member, ask, error),
            Event::Woke { .. } => {}
        }
        self.take_effects()
    }

    fn hindrances(&self) -> Vec<(Member, Hindrance)> {
        self.seats.iter().map(|(member, seat)| (*member, seat.hindrance())).collect()
    }
}
