//! Members of the small world: what they remember, and how they lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use frostkeep::coordinator::ask::Answer;
use frostkeep::coordinator::{
    Ask, PortError, Refused, RefusedDetail, RoundAnswer, RoundAsk, RoundReport, SessionReport, Setting,
};
use frostkeep::frost::{self, Commitments, Nonces, SigningPackage};
use frostkeep::ids::{AttemptId, Member, RoundId};
use frostkeep::reasons::Reason;
use frostkeep::roast::round_signature_message;

use super::{Dice, Group, SIGNED_HASH_DOMAIN};

/// How a member behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Character {
    Honest,
    /// Never answers.
    Silent,
    /// Answers a while, then never again.
    Dies,
    BadShareSigned,
    BadShareUnsigned,
    /// A share that is no scalar.
    NoScalar,
    /// Offers the commitments of its last package again.
    CommitmentsAgain,
    /// Answers with the name of a round that it was not asked.
    WrongRound,
    /// Sends answers that nobody asked for beside good ones.
    Unsolicited,
    /// Offers the commitments of another member.
    Copies,
    Garbage,
    /// A second answer beside the first, another share.
    TwoAnswers,
    FalseFinalized,
    /// Refuses every round with `commitments_unknown` and new commitments.
    Forgets,
    /// Says that the session was aborted.
    FalseAborted,
    /// Says that it is frozen.
    Refuses,
    /// Returns rounds that no coordinator asked for, with the commitments of others in their packages.
    ForgesSession,
    /// Says `attempt_conflict` to everything.
    FalseConflict,
}

pub const LIARS: [Character; 17] = [
    Character::Silent,
    Character::Dies,
    Character::BadShareSigned,
    Character::BadShareUnsigned,
    Character::NoScalar,
    Character::CommitmentsAgain,
    Character::WrongRound,
    Character::Unsolicited,
    Character::Copies,
    Character::Garbage,
    Character::TwoAnswers,
    Character::FalseFinalized,
    Character::Forgets,
    Character::FalseAborted,
    Character::Refuses,
    Character::ForgesSession,
    Character::FalseConflict,
];

/// One durable round.
struct Kept {
    package: SigningPackage,
    report: RoundReport,
    round: RoundId,
}

pub struct SimMember {
    pub member: Member,
    pub character: Character,
    pub setting: Setting,
    group: Arc<Group>,
    live: Option<Nonces>,
    rounds: BTreeMap<AttemptId, Kept>,
    last_used: Option<Commitments>,
    answers_left: u64,
    /// How often it refuses a round as in an outage before it answers.
    outages_left: u64,
}

pub type Reply = Result<Answer, PortError>;

pub fn refused(reason: Reason, detail: RefusedDetail) -> PortError {
    PortError::Refused(Box::new(Refused { reason, problem: reason.name().to_owned(), detail }))
}

impl SimMember {
    pub fn new(member: Member, character: Character, setting: Setting, group: Arc<Group>, dice: &mut Dice) -> Self {
        let (answers_left, outages_left) = (dice.below(5), if dice.once_in(6) { dice.below(3) } else { 0 });
        Self {
            member,
            character,
            setting,
            group,
            live: None,
            rounds: BTreeMap::new(),
            last_used: None,
            answers_left,
            outages_left,
        }
    }

    /// Unspent nonces are gone.
    pub fn restart(&mut self) {
        self.live = None;
    }

    pub fn commitments(&mut self, dice: &mut Dice) -> Commitments {
        let share = &self.group.shares[&self.member];
        self.live.get_or_insert_with(|| frost::commit(share, dice).0).commitments().clone()
    }

    /// What goes back for `ask`: nothing, one answer, or several. `others` are commitments of others, as a liar knows them.
    pub fn answer(&mut self, ask: &Ask, dice: &mut Dice, others: &BTreeMap<Member, Commitments>) -> Vec<Reply> {
        match self.character {
            Character::Silent => return Vec::new(),
            Character::Dies => {
                if self.answers_left == 0 {
                    return Vec::new();
                }
                self.answers_left -= 1;
            }
            Character::FalseAborted if dice.once_in(2) => {
                return vec![Err(refused(Reason::SessionAborted, RefusedDetail::None))];
            }
            Character::Refuses if dice.once_in(2) => return vec![Err(refused(Reason::Frozen, RefusedDetail::None))],
            Character::FalseFinalized if dice.once_in(3) => {
                return vec![Err(refused(Reason::SessionFinalized, RefusedDetail::Signature(vec![9; 64])))];
            }
            Character::Garbage if dice.once_in(3) => {
                let mut bytes = vec![0; dice.below(80) as usize];
                rand_core::RngCore::fill_bytes(dice, &mut bytes);
                return vec![match dice.below(4) {
                    0 => Err(PortError::Nonsense("bytes".into())),
                    1 => Ok(Answer::Commitments(bytes)),
                    2 => Ok(Answer::Driven(bytes)),
                    _ => Err(refused(Reason::CommitmentsUnknown, RefusedDetail::Current(bytes))),
                }];
            }
            _ => {}
        }
        match ask {
            Ask::Session => vec![self.session(dice, others)],
            Ask::Commitments => vec![Ok(Answer::Commitments(self.offered(dice, others)))],
            Ask::Round(ask) => self.round(ask, dice, others),
            Ask::Vote(_) | Ask::Drive(_) => Vec::new(),
        }
    }

    fn offered(&mut self, dice: &mut Dice, others: &BTreeMap<Member, Commitments>) -> Vec<u8> {
        let own = self.commitments(dice);
        if self.character == Character::Copies {
            let copied = others.iter().find(|(member, _)| **member != self.member).map(|(_, one)| one.clone());
            return copied.unwrap_or(own).as_bytes().to_vec();
        }
        own.as_bytes().to_vec()
    }

    fn session(&mut self, dice: &mut Dice, others: &BTreeMap<Member, Commitments>) -> Reply {
        let mut rounds: Vec<RoundReport> = self.rounds.values().map(|kept| kept.report.clone()).collect();
        if self.character == Character::ForgesSession {
            rounds.extend((0..3).filter_map(|_| self.forge(dice, others)));
        }
        if rounds.is_empty() {
            return Err(refused(Reason::SessionUnknown, RefusedDetail::None));
        }
        Ok(Answer::Session(Box::new(SessionReport { subject: *self.setting.subject(), active: None, rounds })))
    }

    /// A round with a good share of its own, in a package that holds what others have at this moment.
    fn forge(&mut self, dice: &mut Dice, others: &BTreeMap<Member, Commitments>) -> Option<RoundReport> {
        let share = &self.group.shares[&self.member];
        let (nonces, own) = frost::commit(share, dice);
        let mut chosen: Vec<_> = others.iter().filter(|(member, _)| **member != self.member).collect();
        dice.shuffle(&mut chosen);
        let mut set: BTreeMap<Member, Commitments> =
            chosen.into_iter().take(self.setting.threshold() - 1).map(|(member, one)| (*member, one.clone())).collect();
        set.insert(self.member, own);
        if set.len() < self.setting.threshold() {
            return None;
        }
        let included: Vec<Member> = set.keys().copied().collect();
        let package = SigningPackage::new(self.setting.subject().message, set).ok()?;
        let context = self.setting.derive(1 + dice.below(3) as u32, &included).ok()?;
        let signed = frost::sign(nonces, share, &self.group.key, &package, None).ok()?;
        let round = self.setting.round_id(&context, self.member, &package);
        let said = self.say(round, signed.to_bytes());
        Some(RoundReport {
            member: self.member.number(),
            attempt: context.parts(),
            package: package.to_bytes(),
            share: said.share,
            round_signature: said.round_signature,
        })
    }

    fn say(&self, round: RoundId, share: [u8; 32]) -> RoundAnswer {
        let hash = round_signature_message(&round, self.member, &share);
        let signature = self.group.identities[&self.member].sign(SIGNED_HASH_DOMAIN, &[&hash]);
        RoundAnswer { round, share: share.to_vec(), round_signature: signature.as_bytes().to_vec(), next: None }
    }

    fn round(&mut self, ask: &RoundAsk, dice: &mut Dice, others: &BTreeMap<Member, Commitments>) -> Vec<Reply> {
        if let Some(kept) = self.rounds.get(&ask.context.id()) {
            if kept.package != ask.package {
                return vec![Err(refused(Reason::AttemptConflict, RefusedDetail::None))];
            }
            return vec![Ok(Answer::Round(Box::new(RoundAnswer {
                round: kept.round,
                share: kept.report.share.clone(),
                round_signature: kept.report.round_signature.clone(),
                next: self.live.as_ref().map(|live| live.commitments().as_bytes().to_vec()),
            })))];
        }
        if self.character == Character::FalseConflict {
            return vec![Err(refused(Reason::AttemptConflict, RefusedDetail::None))];
        }
        let current = self.commitments(dice);
        if ask.package.commitments_of(self.member) != Some(&current) || self.character == Character::Forgets {
            if self.character == Character::Forgets {
                self.live = None;
            }
            let current = self.commitments(dice).as_bytes().to_vec();
            return vec![Err(refused(Reason::CommitmentsUnknown, RefusedDetail::Current(current)))];
        }
        if self.outages_left > 0 {
            self.outages_left -= 1;
            return vec![Err(refused(Reason::KeyProviderUnavailable, RefusedDetail::RetryAfterMs(30)))];
        }
        let nonces = self.live.take().unwrap();
        let share = &self.group.shares[&self.member];
        let signed = frost::sign(nonces, share, &self.group.key, &ask.package, None).unwrap().to_bytes();
        let share_bytes = match self.character {
            Character::BadShareSigned | Character::BadShareUnsigned => {
                let mut bytes = signed;
                bytes[31] ^= 1;
                bytes
            }
            Character::NoScalar => [0xff; 32],
            _ => signed,
        };
        let mut answer = self.say(ask.round, share_bytes);
        if self.character == Character::BadShareUnsigned {
            answer.round_signature[5] ^= 1;
        }
        let report = RoundReport {
            member: self.member.number(),
            attempt: ask.context.parts(),
            package: ask.package.to_bytes(),
            share: answer.share.clone(),
            round_signature: answer.round_signature.clone(),
        };
        let kept = Kept { package: ask.package.clone(), report, round: ask.round };
        self.rounds.insert(ask.context.id(), kept);
        self.last_used = Some(current.clone());
        answer.next = Some(self.offered(dice, others));
        self.twist(answer, &current, dice)
    }

    fn twist(&mut self, mut answer: RoundAnswer, spent: &Commitments, dice: &mut Dice) -> Vec<Reply> {
        let good = answer.clone();
        let unasked = || RoundId::new([3; 32]);
        match self.character {
            Character::CommitmentsAgain => answer.next = Some(spent.as_bytes().to_vec()),
            Character::WrongRound => answer.round = unasked(),
            Character::TwoAnswers => answer.share[31] ^= 1,
            Character::Unsolicited if dice.once_in(2) => answer.round = unasked(),
            _ => return vec![Ok(Answer::Round(Box::new(answer)))],
        }
        match self.character {
            Character::TwoAnswers | Character::Unsolicited => {
                vec![Ok(Answer::Round(Box::new(good))), Ok(Answer::Round(Box::new(answer)))]
            }
            _ => vec![Ok(Answer::Round(Box::new(answer)))],
        }
    }
}
