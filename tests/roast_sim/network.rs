//! One run: the machine, the members, and everything that is on its way between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use frostkeep::coordinator::ask::Answer;
use frostkeep::coordinator::{Ask, Blame, Effect, Event, Machine, PortError, Progress, RoastMachine, Setting};
use frostkeep::frost::{Commitments, Signature, SigningPackage};
use frostkeep::ids::{AttemptId, Member};
use frostkeep::reasons::Reason;

use super::member::{Character, LIARS, Reply, SimMember};
use super::{Dice, Group, subject};

/// Far more than any run needs.
const STEPS_MAX: usize = 60_000;

enum Packet {
    /// The channel of a coordinator that has died takes no answer.
    ToMember {
        member: Member,
        ask: Ask,
        life: u64,
    },
    ToCoordinator {
        member: Member,
        ask: Ask,
        reply: Box<Reply>,
    },
    /// No answer came in time.
    Patience {
        member: Member,
        ask: Ask,
    },
    Send {
        member: Member,
        ask: Ask,
    },
    MemberRestart(Member),
    CoordinatorRestart,
}

/// What makes a run.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub threshold: u16,
    pub members: u16,
    pub characters: Vec<Character>,
    pub drop_once_in: u64,
    pub repeat_once_in: u64,
    pub delay_max: u64,
    /// Honest members lose their nonces once in a coordinator's life.
    pub members_restart: bool,
    pub coordinator_restarts: u64,
    /// Requests of a dead coordinator still arrive.
    pub stale_requests: bool,
}

impl Schedule {
    /// As many honest members as are needed, at least.
    pub fn draw(dice: &mut Dice) -> Self {
        let (threshold, members) = match dice.below(64) {
            0..=35 => (2, 3),
            36..=52 => (3, 5),
            53..=57 => (2, 5),
            58..=62 => (4, 6),
            _ => (7, 10),
        };
        let faulty = dice.below(u64::from(members - threshold) + 1) as usize;
        let mut characters = vec![Character::Honest; usize::from(members)];
        for character in characters.iter_mut().take(faulty) {
            *character = LIARS[dice.below(LIARS.len() as u64) as usize];
        }
        dice.shuffle(&mut characters);
        let members_restart = dice.once_in(3);
        Self {
            threshold,
            members,
            characters,
            drop_once_in: [4, 10, 1_000_000][dice.below(3) as usize],
            repeat_once_in: [3, 10, 1_000_000][dice.below(3) as usize],
            delay_max: [5, 50, 400][dice.below(3) as usize],
            members_restart,
            coordinator_restarts: if dice.once_in(2) { dice.below(3) } else { 0 },
            stale_requests: !members_restart,
        }
    }
}

/// A package, with the attempt that it is for.
type Package = (AttemptId, Vec<u8>);

/// One law broken.
#[derive(Debug)]
pub struct Broken(pub String);

pub struct Run {
    schedule: Schedule,
    setting: Setting,
    dice: Dice,
    members: BTreeMap<Member, SimMember>,
    machine: RoastMachine,
    wire: BinaryHeap<Reverse<(u64, u64)>>,
    packets: BTreeMap<u64, Packet>,
    serial: u64,
    now: u64,
    life: u64,
    /// Packages in which the machine has seen or put an honest member's commitments, in this life.
    seen: BTreeMap<(Member, [u8; Commitments::BYTES]), BTreeSet<Package>>,
    /// The packages that honest members have answered, as far as the machine has heard in this life.
    answered: BTreeMap<(Member, AttemptId), Vec<u8>>,
    /// Attempts that the machine has made in this life.
    started: BTreeSet<(u32, Vec<Member>)>,
    pub log: Option<Vec<String>>,
    pub attempts: usize,
    pub packets_sent: usize,
}

impl Run {
    pub fn new(seed: u64, logged: bool) -> Self {
        let mut dice = Dice(seed);
        let schedule = Schedule::draw(&mut dice);
        Self::of(schedule, dice, logged)
    }

    pub fn of(schedule: Schedule, mut dice: Dice, logged: bool) -> Self {
        let group = Group::of(schedule.threshold, schedule.members);
        let setting = group.setting("sim-0", subject(dice.roll() as u8));
        let members = group
            .key
            .members()
            .iter()
            .zip(&schedule.characters)
            .map(|(member, character)| {
                let one = SimMember::new(*member, *character, setting.clone(), Arc::clone(&group), &mut dice);
                (*member, one)
            })
            .collect();
        let mut run = Self {
            machine: RoastMachine::new(setting.clone()),
            schedule,
            setting,
            dice,
            members,
            wire: BinaryHeap::new(),
            packets: BTreeMap::new(),
            serial: 0,
            now: 0,
            life: 0,
            seen: BTreeMap::new(),
            answered: BTreeMap::new(),
            started: BTreeSet::new(),
            log: logged.then(Vec::new),
            attempts: 0,
            packets_sent: 0,
        };
        run.log(|run| format!("{:?}", run.schedule));
        let horizon = 6 * run.schedule.delay_max + 20;
        for _ in 0..run.schedule.coordinator_restarts {
            let at = run.dice.below(horizon);
            run.post(at, Packet::CoordinatorRestart);
        }
        run.plan_restarts();
        run
    }

    fn plan_restarts(&mut self) {
        if !self.schedule.members_restart {
            return;
        }
        let horizon = 4 * self.schedule.delay_max + 20;
        let members: Vec<Member> = self.members.keys().copied().collect();
        for member in members {
            if self.dice.once_in(2) {
                let at = self.dice.below(horizon);
                self.post(at, Packet::MemberRestart(member));
            }
        }
    }

    fn log(&mut self, line: impl FnOnce(&Self) -> String) {
        let line = self.log.is_some().then(|| format!("{:>6} {}", self.now, line(self)));
        self.log.iter_mut().for_each(|log| log.extend(line.clone()));
    }

    fn post(&mut self, after: u64, packet: Packet) {
        self.serial += 1;
        self.wire.push(Reverse((self.now + after, self.serial)));
        self.packets.insert(self.serial, packet);
    }

    /// Over the network: late, perhaps twice, perhaps never.
    fn ship(&mut self, mut packet: impl FnMut() -> Packet) {
        self.packets_sent += 1;
        if self.dice.once_in(self.schedule.drop_once_in) {
            return;
        }
        let copies = 1 + u64::from(self.dice.once_in(self.schedule.repeat_once_in));
        for _ in 0..copies {
            let delay = 1 + self.dice.below(self.schedule.delay_max);
            self.post(delay, packet());
        }
    }

    /// Who is at fault so far.
    pub fn blamed(&self) -> Vec<(Member, Blame)> {
        self.machine.blamed()
    }

    /// Runs to the signature.
    pub fn run(&mut self) -> Result<Signature, Broken> {
        let effects = self.machine.start();
        if let Some(signature) = self.carry_out(effects)? {
            return Ok(signature);
        }
        for _ in 0..STEPS_MAX {
            let Some(Reverse((at, serial))) = self.wire.pop() else { break };
            let Some(packet) = self.packets.remove(&serial) else { continue };
            self.now = at;
            if let Some(signature) = self.step(packet)? {
                self.setting.group().verify(self.setting.subject().message, None, &signature).unwrap();
                return Ok(signature);
            }
        }
        Err(Broken(format!("no signature: {:?}", self.machine.hindrances())))
    }

    fn step(&mut self, packet: Packet) -> Result<Option<Signature>, Broken> {
        match packet {
            Packet::ToMember { member, ask, life } => {
                let others = self.known_commitments();
                let replies = self.members.get_mut(&member).unwrap().answer(&ask, &mut self.dice, &others);
                self.log(|_| format!("member {member} is asked {:?}: {replies:?}", ask.key()));
                if life != self.life {
                    return Ok(None);
                }
                for reply in replies {
                    self.ship(|| Packet::ToCoordinator { member, ask: ask.clone(), reply: Box::new(reply.clone()) });
                }
                Ok(None)
            }
            Packet::ToCoordinator { member, ask, reply } => {
                self.log(|_| format!("coordinator hears of {member} to {:?}: {reply:?}", ask.key()));
                self.note_session(member, &reply);
                self.note_conflict(member, &ask, &reply);
                let event = match *reply {
                    Ok(answer) => Event::Answer { member, answer },
                    Err(error) => Event::Failed { member, ask, error },
                };
                self.handle(event)
            }
            Packet::Patience { member, ask } => {
                let error = PortError::Unreachable("no answer".into());
                self.handle(Event::Failed { member, ask, error })
            }
            Packet::Send { member, ask } => {
                self.send(member, ask);
                Ok(None)
            }
            Packet::MemberRestart(member) => {
                self.log(|_| format!("member {member} restarts"));
                self.members.get_mut(&member).unwrap().restart();
                Ok(None)
            }
            Packet::CoordinatorRestart => self.restart_coordinator(),
        }
    }

    fn known_commitments(&mut self) -> BTreeMap<Member, Commitments> {
        let needed =
            self.members.values().any(|one| matches!(one.character, Character::Copies | Character::ForgesSession));
        if !needed {
            return BTreeMap::new();
        }
        let honest = self.members.values_mut().filter(|one| one.character == Character::Honest);
        honest.map(|one| (one.member, one.commitments(&mut self.dice))).collect()
    }

    fn restart_coordinator(&mut self) -> Result<Option<Signature>, Broken> {
        self.log(|_| "the coordinator restarts".into());
        self.check_life()?;
        self.life += 1;
        self.machine = RoastMachine::new(self.setting.clone());
        self.seen.clear();
        self.answered.clear();
        self.started.clear();
        let stale = self.schedule.stale_requests;
        self.packets.retain(|_, packet| match packet {
            Packet::ToMember { .. } => stale,
            Packet::CoordinatorRestart => true,
            _ => false,
        });
        self.plan_restarts();
        let effects = self.machine.start();
        self.carry_out(effects)
    }

    fn handle(&mut self, event: Event) -> Result<Option<Signature>, Broken> {
        let effects = self.machine.handle(event);
        self.carry_out(effects)
    }

    fn send(&mut self, member: Member, ask: Ask) {
        let patience = 2 * self.schedule.delay_max + 10;
        self.post(patience, Packet::Patience { member, ask: ask.clone() });
        let life = self.life;
        self.ship(|| Packet::ToMember { member, ask: ask.clone(), life });
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<Option<Signature>, Broken> {
        let mut finished = None;
        for effect in effects {
            self.log(|_| format!("  {effect:?}"));
            match effect {
                Effect::Ask { member, ask } => {
                    // A package of an earlier coordinator is answered, whatever else its commitments are in by now.
                    if let Ask::Round(round) = &ask
                        && self.started.contains(&(round.context.number(), round.context.included().to_vec()))
                    {
                        self.check_package(round.context.id(), &round.package)?;
                    }
                    self.send(member, ask);
                }
                Effect::Again { member, ask, after_ms } => {
                    let pause = after_ms.unwrap_or(1 + self.dice.below(20));
                    self.post(pause, Packet::Send { member, ask });
                }
                Effect::Tell(Progress::Started { number, included }) => {
                    self.started.insert((number, included));
                }
                Effect::Tell(_) | Effect::Wake { .. } => {}
                Effect::Finished(signature) => finished = Some(signature),
                Effect::Stuck(members) | Effect::TryOver(members) => {
                    return Err(Broken(format!("stuck: {members:?}")));
                }
            }
        }
        self.check_blame()?;
        if finished.is_some() {
            self.check_life()?;
        }
        Ok(finished)
    }

    fn honest(&self, member: Member) -> bool {
        self.members.get(&member).is_some_and(|one| one.character == Character::Honest)
    }

    fn check_blame(&self) -> Result<(), Broken> {
        match self.machine.blamed().into_iter().find(|(member, _)| self.honest(*member)) {
            Some((member, blame)) => Err(Broken(format!("honest member {member} is blamed: {blame:?}"))),
            None => Ok(()),
        }
    }

    fn check_life(&mut self) -> Result<(), Broken> {
        let (made, readmitted) = (self.machine.attempts_made(), self.machine.readmissions());
        self.attempts = self.attempts.max(made);
        let bound = usize::from(self.schedule.members - self.schedule.threshold) + 1 + readmitted;
        if made > bound {
            return Err(Broken(format!("{made} attempts with {readmitted} readmissions: at most {bound}")));
        }
        Ok(())
    }

    /// What an honest member returned: its package has used the commitments of those in it.
    fn note_session(&mut self, member: Member, reply: &Reply) {
        if !self.honest(member) {
            return;
        }
        if let Ok(Answer::Session(report)) = reply {
            for round in &report.rounds {
                let attempt = AttemptId::new(round.attempt.attempt_id);
                self.answered.insert((member, attempt), round.package.clone());
                self.note_package(attempt, &SigningPackage::from_bytes(&round.package).unwrap());
            }
        }
    }

    /// It answered an attempt of this name for an earlier coordinator: it can never answer this one, nor use up its
    /// commitments with it.
    fn note_conflict(&mut self, member: Member, ask: &Ask, reply: &Reply) {
        if let (Ask::Round(ask), Err(PortError::Refused(refused))) = (ask, reply)
            && refused.reason == Reason::AttemptConflict
            && let Some(commitments) = ask.package.commitments_of(member)
        {
            self.seen.remove(&(member, *commitments.as_bytes()));
        }
    }

    fn note_package(&mut self, attempt: AttemptId, package: &SigningPackage) {
        for member in package.members().filter(|member| self.honest(*member)).collect::<Vec<_>>() {
            let commitments = *package.commitments_of(member).unwrap().as_bytes();
            self.seen.entry((member, commitments)).or_default().insert((attempt, package.to_bytes()));
        }
    }

    /// Commitments of an honest member are in one package. A package for an attempt that the member has answered otherwise
    /// does not count: it can never answer that one.
    fn check_package(&mut self, attempt: AttemptId, package: &SigningPackage) -> Result<(), Broken> {
        let this = (attempt, package.to_bytes());
        for member in package.members().filter(|member| self.honest(*member)).collect::<Vec<_>>() {
            let commitments = *package.commitments_of(member).unwrap().as_bytes();
            let holds = |other: &Package| {
                *other != this && self.answered.get(&(member, other.0)).is_none_or(|answered| *answered == other.1)
            };
            let used = self.seen.get(&(member, commitments)).is_some_and(|packages| packages.iter().any(holds));
            if used && !self.forgers() {
                return Err(Broken(format!("used commitments of member {member} are in a new package")));
            }
        }
        self.note_package(attempt, package);
        Ok(())
    }

    /// With forged packages about, an honest member's commitments can be in several.
    fn forgers(&self) -> bool {
        self.members.values().any(|one| one.character == Character::ForgesSession)
    }
}
