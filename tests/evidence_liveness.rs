//! Goal: under RFC-21's order, with at least t honest members whose nodes drive, a signature comes out after a bounded number
//! of attempts, every step is one that honest members accept, and no honest member is ever blamed. Method: seeded runs of the
//! machine with real FROST shares, real evidence and a network that delays, repeats and drops; members judge evidence by the
//! rules themselves. On a failure the seed and the log are printed.
//!
//! `FROSTKEEP_EVIDENCE_SEEDS` sets how many seeds there are (600), `FROSTKEEP_EVIDENCE_SEED` runs one.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod roast_sim;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use frostkeep::coordinator::ask::Answer;
use frostkeep::coordinator::{
    Ask, Effect, Event, EvidenceMachine, Machine, PortError, RefusedDetail, RoundAnswer, RoundAsk, RoundReport,
    SessionReport, Setting,
};
use frostkeep::frost::{self, Nonces, Signature, SignatureShare, SigningPackage};
use frostkeep::identity::IdentitySignature;
use frostkeep::ids::{AttemptId, Member};
use frostkeep::reasons::Reason;
use frostkeep::roast::{
    AgainstActive, AttemptBinding, AttemptContext, EvidenceOracle, ShareVerdict, SignedRound, TimeoutVote, evidence,
    round_signature_message, timeout_vote_message,
};
use roast_sim::member::{Reply, refused};
use roast_sim::{Dice, Group, SIGNED_HASH_DOMAIN, subject};

/// Silence after which a member votes.
const TIMEOUT: u64 = 1_000;
const LOSSES: [u64; 3] = [4, 10, 1_000_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Character {
    Honest,
    Silent,
    /// Answers a while, then never again.
    Dies,
    BadShareSigned,
    BadShareUnsigned,
    /// Does everything but sign.
    NeverSigns,
    /// Says for ever that it is too early to vote.
    NeverVotes,
    ForgesVotes,
}

const LIARS: [Character; 7] = [
    Character::Silent,
    Character::Dies,
    Character::BadShareSigned,
    Character::BadShareUnsigned,
    Character::NeverSigns,
    Character::NeverVotes,
    Character::ForgesVotes,
];

/// The rules, as a node applies them.
struct Judge<'a> {
    group: &'a Group,
    setting: &'a Setting,
}

impl Judge<'_> {
    fn genuine(&self, member: u16, hash: &[u8; 32], signature: &[u8]) -> bool {
        let Ok(member) = Member::new(member) else { return false };
        let Ok(signature) = <[u8; 64]>::try_from(signature) else { return false };
        let key = self.group.identities[&member].public();
        key.verify(SIGNED_HASH_DOMAIN, &[hash], &IdentitySignature::new(signature)).is_ok()
    }
}

impl EvidenceOracle for Judge<'_> {
    fn vote_is_genuine(&self, active: &AttemptContext, vote: &TimeoutVote) -> bool {
        let voter = Member::new(vote.voter).unwrap();
        let hash = timeout_vote_message(&self.setting.key_group(), self.setting.session(), active, voter);
        self.genuine(vote.voter, &hash, &vote.signature)
    }

    fn verdict(&self, active: &AttemptContext, round: &SignedRound) -> ShareVerdict {
        let member = Member::new(round.member).unwrap();
        let package = SigningPackage::from_bytes(&round.package).unwrap();
        let id = self.setting.round_id(active, member, &package);
        if !self.genuine(round.member, &round_signature_message(&id, member, &round.share), &round.round_signature) {
            return ShareVerdict::Indeterminate;
        }
        let share = SignatureShare::from_bytes(&round.share).unwrap();
        match self.group.key.verify_share(member, &package, &share, None) {
            Ok(()) => ShareVerdict::Valid,
            Err(_) => ShareVerdict::Invalid,
        }
    }
}

struct SimMember {
    member: Member,
    character: Character,
    group: Arc<Group>,
    setting: Setting,
    live: Option<Nonces>,
    active: Option<AttemptContext>,
    round: Option<(SigningPackage, RoundAnswer)>,
    timers: BTreeMap<AttemptId, u64>,
    answers_left: u64,
    /// Steps that an honest member refused.
    unauthorised: Vec<String>,
}

impl SimMember {
    fn answer(&mut self, ask: &Ask, now: u64, dice: &mut Dice) -> Option<Reply> {
        match self.character {
            Character::Silent => return None,
            Character::Dies if self.answers_left == 0 => return None,
            Character::Dies => self.answers_left -= 1,
            _ => {}
        }
        match ask {
            Ask::Session => Some(self.session()),
            Ask::Commitments => {
                let share = &self.group.shares[&self.member];
                let live = self.live.get_or_insert_with(|| frost::commit(share, dice).0);
                Some(Ok(Answer::Commitments(live.commitments().as_bytes().to_vec())))
            }
            Ask::Round(ask) => self.round(ask, now, dice),
            Ask::Vote(ask) => Some(self.vote(&ask.context, now)),
            // Its node does not drive.
            Ask::Drive(_) => None,
        }
    }

    fn session(&self) -> Reply {
        let Some(active) = &self.active else { return Err(refused(Reason::SessionUnknown, RefusedDetail::None)) };
        let round = self.round.as_ref().map(|(package, answer)| RoundReport {
            member: self.member.number(),
            attempt: active.parts(),
            package: package.to_bytes(),
            share: answer.share.clone(),
            round_signature: answer.round_signature.clone(),
        });
        Ok(Answer::Session(Box::new(SessionReport {
            subject: *self.setting.subject(),
            active: Some((active.number(), active.id())),
            rounds: round.into_iter().collect(),
        })))
    }

    fn round(&mut self, ask: &RoundAsk, now: u64, dice: &mut Dice) -> Option<Reply> {
        if self.character == Character::NeverSigns {
            return None;
        }
        self.timers.entry(ask.context.id()).or_insert(now);
        if let Some(active) = &self.active {
            match ask.context.against(active) {
                AgainstActive::Same => {}
                AgainstActive::Stale { .. } => return Some(Err(refused(Reason::AttemptStale, RefusedDetail::None))),
                AgainstActive::Conflict { .. } => {
                    return Some(Err(refused(Reason::AttemptConflict, RefusedDetail::None)));
                }
                AgainstActive::Next | AgainstActive::Future { .. } => {
                    let group = Arc::clone(&self.group);
                    let judge = Judge { group: &group, setting: &self.setting };
                    let key_group = self.setting.key_group();
                    let binding = AttemptBinding {
                        key_group: &key_group,
                        session: self.setting.session(),
                        message: &self.setting.subject().message,
                        threshold: group.key.threshold(),
                    };
                    let step = evidence::authorise(&binding, None, active, &ask.context, &ask.evidence, &judge);
                    if let Err(error) = step {
                        self.unauthorised.push(error.to_string());
                        return Some(Err(refused(Reason::AttemptTransitionUnauthorized, RefusedDetail::None)));
                    }
                    self.active = None;
                    self.round = None;
                }
            }
        }
        if let Some((package, answer)) = &self.round {
            return Some(if *package == ask.package {
                Ok(Answer::Round(Box::new(answer.clone())))
            } else {
                Err(refused(Reason::AttemptConflict, RefusedDetail::None))
            });
        }
        let current = self.live.as_ref().map(Nonces::commitments);
        if current.is_none() || current != ask.package.commitments_of(self.member) {
            return Some(Err(refused(Reason::CommitmentsUnknown, RefusedDetail::None)));
        }
        let nonces = self.live.take().unwrap();
        let share = &self.group.shares[&self.member];
        let mut bytes = frost::sign(nonces, share, &self.group.key, &ask.package, None).unwrap().to_bytes();
        if matches!(self.character, Character::BadShareSigned | Character::BadShareUnsigned) {
            bytes[31] ^= 1;
        }
        let hash = round_signature_message(&ask.round, self.member, &bytes);
        let mut signature = self.group.identities[&self.member].sign(SIGNED_HASH_DOMAIN, &[&hash]).as_bytes().to_vec();
        if self.character == Character::BadShareUnsigned {
            signature[3] ^= 1;
        }
        self.live = Some(frost::commit(share, dice).0);
        let next = self.live.as_ref().map(|live| live.commitments().as_bytes().to_vec());
        let answer = RoundAnswer { round: ask.round, share: bytes.to_vec(), round_signature: signature, next };
        self.active = Some(ask.context.clone());
        self.round = Some((ask.package.clone(), answer.clone()));
        Some(Ok(Answer::Round(Box::new(answer))))
    }

    fn vote(&mut self, context: &AttemptContext, now: u64) -> Reply {
        if let Some(active) = &self.active
            && !matches!(context.against(active), AgainstActive::Same | AgainstActive::Next)
        {
            return Err(refused(Reason::AttemptStale, RefusedDetail::None));
        }
        let since = *self.timers.entry(context.id()).or_insert(now);
        let left = if self.character == Character::NeverVotes { 100 } else { (since + TIMEOUT).saturating_sub(now) };
        if left > 0 && self.character != Character::ForgesVotes {
            return Err(refused(Reason::VoteTooEarly, RefusedDetail::LeftMs(left)));
        }
        let hash = timeout_vote_message(&self.setting.key_group(), self.setting.session(), context, self.member);
        let mut signature = self.group.identities[&self.member].sign(SIGNED_HASH_DOMAIN, &[&hash]).as_bytes().to_vec();
        if self.character == Character::ForgesVotes {
            signature[0] ^= 1;
        }
        Ok(Answer::Vote { attempt: context.id(), signature })
    }
}

enum Packet {
    ToMember(Member, Ask, u64),
    ToCoordinator(Member, Ask, Box<Reply>, u64),
    Patience(Member, Ask, u64),
    Send(Member, Ask),
    Wake(AttemptId),
    CoordinatorRestart,
}

struct Run {
    dice: Dice,
    group: Arc<Group>,
    characters: Vec<Character>,
    own: BTreeSet<Member>,
    members: BTreeMap<Member, SimMember>,
    machine: EvidenceMachine,
    setting: Setting,
    wire: BinaryHeap<Reverse<(u64, u64)>>,
    packets: BTreeMap<u64, Packet>,
    serial: u64,
    now: u64,
    loss: u64,
    restarted: bool,
    calls: u64,
    /// Calls that are over.
    over: BTreeSet<u64>,
    attempts: usize,
    tries: u32,
    log: Option<Vec<String>>,
}

impl Run {
    fn new(seed: u64, logged: bool) -> Self {
        let mut dice = Dice(seed);
        let (threshold, count) = [(2, 3), (2, 3), (3, 5), (2, 4)][dice.below(4) as usize];
        let group = Group::of(threshold, count);
        let faulty = dice.below(u64::from(count - threshold) + 1) as usize;
        let mut characters = vec![Character::Honest; usize::from(count)];
        for character in characters.iter_mut().take(faulty) {
            *character = LIARS[dice.below(LIARS.len() as u64) as usize];
        }
        dice.shuffle(&mut characters);
        // The nodes of the honest members drive; of the others, none or some.
        let own = group.key.members().iter().zip(&characters);
        let own = own
            .filter(|(_, character)| **character == Character::Honest || dice.once_in(3))
            .map(|(member, _)| *member)
            .collect();
        let setting = group.setting("evidence-0", subject(seed as u8));
        let loss = LOSSES[dice.below(3) as usize];
        let mut run = Self {
            machine: EvidenceMachine::new(setting.clone(), BTreeSet::clone(&own)),
            dice,
            group,
            characters,
            own,
            members: BTreeMap::new(),
            setting,
            wire: BinaryHeap::new(),
            packets: BTreeMap::new(),
            serial: 0,
            now: 0,
            loss,
            restarted: false,
            calls: 0,
            over: BTreeSet::new(),
            attempts: 0,
            tries: 0,
            log: logged.then(Vec::new),
        };
        run.open_session();
        if run.dice.once_in(3) {
            let at = run.dice.below(3_000);
            run.post(at, Packet::CoordinatorRestart);
        }
        run
    }

    fn open_session(&mut self) {
        let members = self.group.key.members().iter().zip(&self.characters);
        self.members = members
            .map(|(member, character)| {
                let one = SimMember {
                    member: *member,
                    character: *character,
                    group: Arc::clone(&self.group),
                    setting: self.setting.clone(),
                    live: None,
                    active: None,
                    round: None,
                    timers: BTreeMap::new(),
                    answers_left: self.dice.below(5),
                    unauthorised: Vec::new(),
                };
                (*member, one)
            })
            .collect();
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>7} {}", self.now, line()));
        }
    }

    fn post(&mut self, after: u64, packet: Packet) {
        self.serial += 1;
        self.wire.push(Reverse((self.now + after, self.serial)));
        self.packets.insert(self.serial, packet);
    }

    fn ship(&mut self, mut packet: impl FnMut() -> Packet) {
        if self.dice.once_in(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.dice.once_in(6));
        for _ in 0..copies {
            let delay = 1 + self.dice.below(60);
            self.post(delay, packet());
        }
    }

    fn run(&mut self) -> Result<Signature, String> {
        let effects = self.machine.start();
        let mut finished = self.carry_out(effects)?;
        for _ in 0..40_000 {
            if let Some(signature) = finished {
                self.setting.group().verify(self.setting.subject().message, None, &signature).unwrap();
                return Ok(signature);
            }
            let Some(Reverse((at, serial))) = self.wire.pop() else { break };
            let Some(packet) = self.packets.remove(&serial) else { continue };
            self.now = at;
            finished = self.step(packet)?;
        }
        Err(format!("no signature: {:?}", self.machine.hindrances()))
    }

    fn step(&mut self, packet: Packet) -> Result<Option<Signature>, String> {
        let event = match packet {
            Packet::ToMember(member, ask, call) => {
                let reply = self.members.get_mut(&member).unwrap().answer(&ask, self.now, &mut self.dice);
                self.note(|| format!("member {member} is asked {:?}: {reply:?}", ask.key()));
                if let Some(reply) = reply {
                    self.ship(|| Packet::ToCoordinator(member, ask.clone(), Box::new(reply.clone()), call));
                }
                return Ok(None);
            }
            Packet::ToCoordinator(member, ask, reply, call) => match (*reply, self.over.insert(call)) {
                (Ok(answer), _) => Event::Answer { member, answer },
                (Err(error), true) => Event::Failed { member, ask, error },
                // A call fails once.
                (Err(_), false) => return Ok(None),
            },
            Packet::Patience(member, ask, call) => {
                if !self.over.insert(call) {
                    return Ok(None);
                }
                Event::Failed { member, ask, error: PortError::Unreachable("no answer".into()) }
            }
            Packet::Send(member, ask) => {
                self.send(member, ask);
                return Ok(None);
            }
            Packet::Wake(attempt) => Event::Woke { attempt },
            Packet::CoordinatorRestart => {
                self.note(|| "the coordinator restarts".into());
                self.restarted = true;
                return self.begin_anew(EvidenceMachine::new(self.setting.clone(), self.own.clone()));
            }
        };
        let effects = self.machine.handle(event);
        self.carry_out(effects)
    }

    fn begin_anew(&mut self, machine: EvidenceMachine) -> Result<Option<Signature>, String> {
        self.machine = machine;
        self.packets.retain(|_, packet| matches!(packet, Packet::CoordinatorRestart));
        let effects = self.machine.start();
        self.carry_out(effects)
    }

    fn send(&mut self, member: Member, ask: Ask) {
        self.calls += 1;
        let call = self.calls;
        self.post(150, Packet::Patience(member, ask.clone(), call));
        self.ship(|| Packet::ToMember(member, ask.clone(), call));
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<Option<Signature>, String> {
        let mut finished = None;
        for effect in effects {
            self.note(|| format!("  {effect:?}"));
            match effect {
                Effect::Ask { member, ask } => self.send(member, ask),
                Effect::Again { member, ask, after_ms } => {
                    let pause = after_ms.unwrap_or(20) + self.dice.below(20);
                    self.post(pause, Packet::Send(member, ask));
                }
                Effect::Wake { attempt } => self.post(4 * TIMEOUT, Packet::Wake(attempt)),
                Effect::Tell(frostkeep::coordinator::Progress::Started { .. }) => self.attempts += 1,
                Effect::Tell(_) => {}
                Effect::Finished(signature) => finished = Some(signature),
                Effect::TryOver(_) => {
                    self.tries += 1;
                    let failures = self.machine.failures();
                    self.setting = self.group.setting(&format!("evidence-{}", self.tries), *self.setting.subject());
                    self.open_session();
                    let machine = EvidenceMachine::new(self.setting.clone(), self.own.clone()).after(&failures);
                    return self.begin_anew(machine);
                }
                Effect::Stuck(members) => return Err(format!("stuck: {members:?}")),
            }
        }
        let honest = |member: &Member| self.members[member].character == Character::Honest;
        if let Some((member, blame)) = self.machine.blamed().into_iter().find(|(member, _)| honest(member)) {
            return Err(format!("honest member {member} is blamed: {blame:?}"));
        }
        let refused = self.members.values().filter(|one| one.character == Character::Honest);
        // A coordinator that died took its chain with it, and can have led members elsewhere: the next try is for them.
        let error = refused.flat_map(|one| &one.unauthorised).next();
        if let Some(error) = error.filter(|_| !self.restarted) {
            return Err(format!("an honest member does not accept a step: {error}"));
        }
        if self.attempts > 40 {
            return Err(format!("{} attempts", self.attempts));
        }
        Ok(finished)
    }
}

fn check(seed: u64) -> (usize, u32) {
    let mut run = Run::new(seed, false);
    if run.run().is_ok() {
        return (run.attempts, run.tries);
    }
    let mut run = Run::new(seed, true);
    let Err(broken) = run.run() else { panic!("seed {seed}: the run is not the same twice") };
    println!("{:?} own {:?}\n{}", run.characters, run.own, run.log.unwrap_or_default().join("\n"));
    panic!("seed {seed} (FROSTKEEP_EVIDENCE_SEED={seed}): {broken}");
}

#[test]
fn under_evidence_t_honest_members_sign_and_none_of_them_is_blamed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("FROSTKEEP_EVIDENCE_SEED") {
        check(seed);
        return;
    }
    let (mut attempts, mut tries) = (0, 0);
    for seed in 0..number("FROSTKEEP_EVIDENCE_SEEDS").unwrap_or(600) {
        let (made, tried) = check(seed);
        attempts = attempts.max(made);
        tries = tries.max(tried);
    }
    println!("at most {attempts} attempts and {tries} further tries in one run");
}
