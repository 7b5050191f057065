//! The machine of the policy `evidence` (RFC-21): one active attempt at a time, driven by the node of the member that the
//! selection yields, given up only with proof.
//!
//! - It collects what members have of the session, takes up the attempt that most of them have active, or begins attempt 1
//!   with the first t that answer.
//! - An attempt that selects a seat of ours is driven from here; any other by the node that it selects, which is asked to.
//! - Proved bad shares lead to the next attempt at once. Silence, of the coordinator or of any member that it waits for, leads
//!   there by votes: members are asked for them from the start of the attempt, and say themselves when the time has come.
//! - Votes speak of the coordinator alone. So silent members are excluded by nobody: they are left out of the next set, as
//!   long as t others remain.
//! - An attempt needs the votes of t members, or of all but the coordinator. When too few of those can be reached, it can
//!   neither be completed nor given up: then the session is over, and the next try begins with other members.
//! - The steps are kept and handed to every member that is asked, so that nodes that missed some are led through.

mod giving_up;
mod refusals;
mod running;
mod voice;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::running::Running;
use self::voice::Voice;
use super::ask::{Answer, Ask, AttemptAsk, Effect, Event, Hindrance, Machine, Progress};
use super::blame::{Blame, Fault};
use super::port::SessionReport;
use super::setting::Setting;
use crate::frost::Signature;
use crate::ids::{AttemptId, Member, RoundId};
use crate::limits::EVIDENCE_STEPS_MAX;
use crate::roast::{AttemptContext, Transition};

/// Added to the time that a coordinator has left, milliseconds: the clocks of two machines do not tick together.
const VOTE_MARGIN_MS: u64 = 20;

/// The coordinator of one session under the policy `evidence`.
pub struct EvidenceMachine {
    setting: Setting,
    /// The members on whose behalf this node may drive.
    own: BTreeSet<Member>,
    voices: BTreeMap<Member, Voice>,
    running: Option<Running>,
    /// The steps that led to the running attempt.
    chain: Vec<Transition>,
    /// Every round that was asked for: an answer to an attempt that was given up is late, not unsolicited.
    asked: BTreeSet<(Member, RoundId)>,
    finished: bool,
    stuck: bool,
    effects: Vec<Effect>,
}

impl EvidenceMachine {
    /// A coordinator that knows nothing yet, on a node that holds `own`; empty for one that is no node of the group.
    pub fn new(setting: Setting, own: BTreeSet<Member>) -> Self {
        let voices = setting.members().iter().map(|member| (*member, Voice::default())).collect();
        Self {
            setting,
            own,
            voices,
            running: None,
            chain: Vec::new(),
            asked: BTreeSet::new(),
            finished: false,
            stuck: false,
            effects: Vec::new(),
        }
    }

    /// A coordinator that was asked to drive this attempt. The members judge the evidence themselves.
    pub fn of_attempt(setting: Setting, own: BTreeSet<Member>, ask: &AttemptAsk) -> Self {
        let mut machine = Self::new(setting, own);
        machine.chain = ask.evidence.clone();
        machine.running = Some(Running::new(ask.context.clone()));
        machine
    }

    /// Takes those last that earlier sessions of the same subject waited for in vain.
    pub fn after(mut self, failures: &BTreeMap<Member, u32>) -> Self {
        for (member, count) in failures {
            if let Some(voice) = self.voices.get_mut(member) {
                voice.failures = *count;
            }
        }
        self
    }

    /// How often each member was waited for in vain.
    pub fn failures(&self) -> BTreeMap<Member, u32> {
        self.voices.iter().map(|(member, voice)| (*member, voice.failures)).collect()
    }

    /// The active attempt, once it is known.
    pub fn active(&self) -> Option<&AttemptContext> {
        self.running.as_ref().map(|running| &*running.context)
    }

    /// The steps that led there, for nodes that lag.
    pub fn chain(&self) -> &[Transition] {
        &self.chain
    }

    /// The members at fault.
    pub fn blamed(&self) -> Vec<(Member, Blame)> {
        let blame = |(member, voice): (&Member, &Voice)| Some((*member, voice.blame.clone()?));
        self.voices.iter().filter_map(blame).collect()
    }

    fn ask(&mut self, member: Member, ask: Ask) {
        self.effects.push(Effect::Ask { member, ask });
    }

    fn tell(&mut self, progress: Progress) {
        self.effects.push(Effect::Tell(progress));
    }

    fn blame(&mut self, member: Member, blame: Blame) {
        if let Some(voice) = self.voices.get_mut(&member)
            && voice.blame.is_none()
        {
            voice.blame = Some(blame.clone());
            self.tell(Progress::Blamed { member, blame });
        }
    }

    fn fault(&mut self, member: Member, fault: Fault) {
        self.blame(member, Blame::Unproved(fault));
    }

    fn finish(&mut self, signature: Signature) {
        if !self.finished {
            self.finished = true;
            self.tell(Progress::Finished(signature));
            self.effects.push(Effect::Finished(signature));
        }
    }

    fn heard_session(&mut self, member: Member, report: Option<&SessionReport>) {
        let Some(voice) = self.voices.get_mut(&member) else { return };
        voice.heard = true;
        voice.viewed = true;
        voice.problem = None;
        if let Some(report) = report {
            if report.subject != *self.setting.subject() {
                voice.other_subject = true;
                return;
            }
            voice.report = Some(report.clone());
        }
        self.look_whether_to_begin();
    }

    /// Begins once t members have answered that never failed, or t at all and nothing is to be awaited of the others.
    fn look_whether_to_begin(&mut self) {
        if self.running.is_some() {
            return;
        }
        let (mut good, mut able, mut awaited) = (0, 0, 0);
        for voice in self.voices.values() {
            if voice.viewed && voice.is_able() {
                able += 1;
                good += usize::from(voice.failures == 0);
            } else if !voice.viewed && voice.is_able() && voice.problem.is_none() {
                awaited += 1;
            }
        }
        if good >= self.setting.threshold() || able >= self.setting.threshold() && awaited == 0 {
            self.take_up();
        }
    }

    /// The attempt that most members have active, the highest of those; attempt 1 of the first t when there is none.
    fn take_up(&mut self) {
        let mut supported: BTreeMap<AttemptId, (usize, AttemptContext)> = BTreeMap::new();
        for voice in self.voices.values().filter(|voice| voice.is_able()) {
            if let Some(context) = voice.report.as_ref().and_then(|report| active_of(&self.setting, report)) {
                supported.entry(context.id()).or_insert((0, context)).0 += 1;
            }
        }
        let best = supported.into_values().max_by_key(|(count, context)| (*count, context.number()));
        let context = match best {
            Some((_, context)) => Ok(context),
            None => {
                let able = self.voices.iter().filter(|(_, voice)| voice.viewed && voice.is_able());
                let mut able: Vec<(u32, Member)> = able.map(|(member, voice)| (voice.failures, *member)).collect();
                able.sort_unstable();
                let included: Vec<Member> =
                    able.into_iter().map(|(_, member)| member).take(self.setting.threshold()).collect();
                self.setting.derive(1, &included)
            }
        };
        if let Ok(context) = context {
            let mut running = Running::new(context);
            for (member, voice) in &self.voices {
                if let Some(report) = &voice.report {
                    running.take_rounds(&self.setting, *member, report);
                }
            }
            running.settle_package();
            self.begin(running);
        }
    }

    /// Puts the questions of an attempt.
    fn begin(&mut self, running: Running) {
        let context = Arc::clone(&running.context);
        self.tell(Progress::Started { number: context.number(), included: context.included().to_vec() });
        let coordinator = context.coordinator();
        let has_package = running.package.is_some();
        self.running = Some(running);
        self.effects.push(Effect::Wake { attempt: context.id() });
        let attempt = Arc::new(AttemptAsk { context: (*context).clone(), evidence: self.evidence() });
        for member in context.included() {
            if *member != coordinator {
                self.ask(*member, Ask::Vote(Arc::clone(&attempt)));
            }
        }
        if !self.own.contains(&coordinator) {
            self.ask(coordinator, Ask::Drive(attempt));
        } else if has_package {
            self.ask_rounds();
            self.judge();
        } else {
            for member in context.included() {
                self.ask(*member, Ask::Commitments);
            }
        }
    }

    /// The last steps, as many as a node takes at once.
    fn evidence(&self) -> Vec<Transition> {
        let skipped = self.chain.len().saturating_sub(EVIDENCE_STEPS_MAX);
        self.chain.iter().skip(skipped).cloned().collect()
    }

    fn ask_rounds(&mut self) {
        let evidence = self.evidence();
        let Some(running) = &mut self.running else { return };
        let asks = running.round_asks(&self.setting, &evidence);
        for (member, ask) in asks {
            self.asked.insert((member, ask.round));
            self.ask(member, Ask::Round(ask));
        }
    }

    fn heard_commitments(&mut self, member: Member, bytes: &[u8]) {
        let Some(running) = &mut self.running else { return };
        if !running.awaits_commitments_of(member) {
            return;
        }
        if running.offer(member, bytes).is_err() {
            return self.fault(member, Fault::Malformed);
        }
        self.heard_well(member);
        let message = self.setting.subject().message;
        if self.running.as_mut().is_some_and(|running| running.make_package(message)) {
            self.ask_rounds();
        }
    }

    fn heard_well(&mut self, member: Member) {
        if let Some(voice) = self.voices.get_mut(&member) {
            voice.heard = true;
            voice.problem = None;
        }
    }

    fn heard_round(&mut self, member: Member, answer: &super::port::RoundAnswer) {
        if !self.asked.contains(&(member, answer.round)) {
            let known = self.running.as_ref().is_some_and(|running| running.rounds.get(&member) == Some(&answer.round));
            if !known {
                return self.fault(member, Fault::Unsolicited);
            }
        }
        let Some(running) = &mut self.running else { return };
        if running.rounds.get(&member) != Some(&answer.round) {
            // Of an attempt that was given up.
            return;
        }
        match running.say(member, answer) {
            Ok(true) => {}
            // A retransmission.
            Ok(false) => return,
            Err(fault) => return self.fault(member, fault),
        }
        let number = running.context.number();
        self.heard_well(member);
        self.tell(Progress::Answered { member, number });
        self.judge();
    }

    /// The last share finishes the session, or names who is at fault.
    fn judge(&mut self) {
        let Some(running) = &self.running else { return };
        let (accused, unproved) = match running.judge(&self.setting) {
            running::Verdict::Open => return,
            running::Verdict::Finished(signature) => return self.finish(signature),
            running::Verdict::Bad { accused, unproved } => (accused, unproved),
        };
        for member in unproved {
            self.fault(member, Fault::BadShareUnsigned);
        }
        for round in &accused {
            if let Ok(member) = Member::new(round.member) {
                self.blame(member, Blame::Proved(Box::new(round.clone())));
            }
        }
        // Without proof nothing authorises an advance: the votes will, in time.
        if !accused.is_empty() {
            self.give_up_by_proof(accused);
        }
    }

    fn be_stuck(&mut self) {
        if !self.stuck {
            self.stuck = true;
            let members = self.hindrances();
            let ended = self.voices.values().filter(|voice| voice.ended.is_some()).count();
            let able = self.voices.values().filter(|voice| voice.is_able()).count();
            self.effects.push(if able < self.setting.threshold() && able + ended >= self.setting.threshold() {
                Effect::TryOver(members)
            } else {
                Effect::Stuck(members)
            });
        }
    }

    fn heard_driven(&mut self, member: Member, bytes: &[u8]) {
        match self.setting.finished(bytes) {
            Some(signature) => self.finish(signature),
            None => self.fault(member, Fault::BadSignature),
        }
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        let able = self.voices.values().filter(|voice| voice.is_able()).count();
        if !self.finished && able < self.setting.threshold() {
            self.be_stuck();
        }
        std::mem::take(&mut self.effects)
    }
}

/// The active attempt of a report, whole: its number and id say what it is, a round of it gives the rest.
fn active_of(setting: &Setting, report: &SessionReport) -> Option<AttemptContext> {
    let (number, id) = report.active?;
    let named =
        |parts: &&crate::roast::AttemptContextParts| parts.number == number && parts.attempt_id == *id.as_bytes();
    let parts = report.rounds.iter().map(|round| &round.attempt).find(named)?;
    setting.parse(parts)
}

impl Machine for EvidenceMachine {
    fn start(&mut self) -> Vec<Effect> {
        match self.running.take() {
            Some(running) => self.begin(running),
            None => {
                let members: Vec<Member> = self.voices.keys().copied().collect();
                for member in members {
                    self.ask(member, Ask::Session);
                }
            }
        }
        self.take_effects()
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let member = match &event {
            Event::Answer { member, .. } | Event::Failed { member, .. } => *member,
            Event::Woke { attempt } => {
                if !self.finished {
                    self.woke(*attempt);
                }
                return self.take_effects();
            }
        };
        if self.finished || self.voices.get(&member).is_none_or(|voice| voice.blame.is_some()) {
            return Vec::new();
        }
        match event {
            Event::Answer { answer, .. } => match answer {
                Answer::Session(report) => self.heard_session(member, Some(&report)),
                Answer::Commitments(bytes) => self.heard_commitments(member, &bytes),
                Answer::Round(answer) => self.heard_round(member, &answer),
                Answer::Vote { attempt, signature } => self.heard_vote(member, attempt, &signature),
                Answer::Driven(bytes) => self.heard_driven(member, &bytes),
            },
            Event::Failed { ask, error, .. } => self.heard_failure(member, ask, error),
            Event::Woke { .. } => {}
        }
        self.take_effects()
    }

    fn hindrances(&self) -> Vec<(Member, Hindrance)> {
        self.voices.iter().map(|(member, voice)| (*member, voice.hindrance())).collect()
    }
}
