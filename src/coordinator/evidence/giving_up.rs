//! How an attempt is given up: by proof, by votes, or with its session.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::EvidenceMachine;
use super::running::Running;
use crate::coordinator::ask::{Effect, Machine, Progress};
use crate::coordinator::blame::Fault;
use crate::ids::{AttemptId, Member};
use crate::roast::evidence::votes_needed;
use crate::roast::{Evidence, SignedRound, TimeoutVote, Transition};

impl EvidenceMachine {
    pub(super) fn give_up_by_proof(&mut self, accused: Vec<SignedRound>) {
        let excluded: Vec<u16> = accused.iter().map(|round| round.member).collect();
        self.advance(excluded, Evidence::InvalidShare { accused }, 0);
    }

    pub(super) fn heard_vote(&mut self, member: Member, attempt: AttemptId, signature: &[u8]) {
        let Some(running) = &mut self.running else { return };
        let context = Arc::clone(&running.context);
        if context.id() != attempt {
            // Of an attempt that was given up.
            return;
        }
        if !context.includes(member) || member == context.coordinator() {
            return self.fault(member, Fault::Unsolicited);
        }
        let vote = TimeoutVote { voter: member.number(), signature: signature.to_vec() };
        if !self.setting.vote_is_genuine(&context, &vote) {
            return self.fault(member, Fault::BadVote);
        }
        running.votes.insert(member, vote);
        let votes: Vec<TimeoutVote> = running.votes.values().cloned().collect();
        self.heard_well(member);
        if votes.len() >= votes_needed(self.setting.group().threshold(), context.included().len()) {
            self.note_silence();
            let count = votes.len();
            self.advance(Vec::new(), Evidence::CoordinatorTimeout { votes }, count);
        }
    }

    /// Whom the attempt waited for in vain: members when it was ours, else its coordinator.
    fn note_silence(&mut self) {
        let Some(running) = &self.running else { return };
        let silent: Vec<Member> = if self.own.contains(&running.context.coordinator()) {
            running.missing()
        } else {
            vec![running.context.coordinator()]
        };
        for member in silent {
            if let Some(voice) = self.voices.get_mut(&member) {
                voice.failures += 1;
            }
        }
    }

    /// On to the next attempt, with t members: those that failed the least, and of those the ones that were heard.
    fn advance(&mut self, excluded: Vec<u16>, evidence: Evidence, votes: usize) {
        let Some(running) = self.running.take() else { return };
        let active = Arc::clone(&running.context);
        let mut able: Vec<(u32, bool, Member)> = self
            .voices
            .iter()
            .filter(|(member, voice)| voice.is_able() && !excluded.contains(&member.number()))
            .map(|(member, voice)| (voice.failures, !voice.heard, *member))
            .collect();
        able.sort_unstable();
        let included: Vec<Member> = able.iter().map(|(_, _, member)| *member).take(self.setting.threshold()).collect();
        let members = |numbers: &[u16]| numbers.iter().filter_map(|number| Member::new(*number).ok()).collect();
        let number = active.number();
        let Some(next) = number.checked_add(1).and_then(|number| self.setting.derive(number, &included).ok()) else {
            self.running = Some(running);
            return self.be_stuck();
        };
        let transition = Transition {
            active_number: number,
            active_id: active.id(),
            active_coordinator: active.coordinator().number(),
            excluded,
            evidence,
            next: next.parts(),
        };
        if self.setting.authorises(&active, &transition).is_err() {
            self.running = Some(running);
            return self.be_stuck();
        }
        self.tell(Progress::GivenUp { number, excluded: members(&transition.excluded), votes });
        self.chain.push(transition);
        self.begin(Running::new(next));
    }

    /// The attempt has lasted long, longer than the members' own timers. Once it is given the benefit of late votes; then it
    /// can neither be completed nor given up.
    pub(super) fn woke(&mut self, attempt: AttemptId) {
        let Some(running) = &mut self.running else { return };
        let context = Arc::clone(&running.context);
        if context.id() != attempt {
            return;
        }
        let silent: BTreeSet<Member> = context
            .included()
            .iter()
            .copied()
            .filter(|member| *member != context.coordinator() && !running.votes.contains_key(member))
            .collect();
        let can_vote =
            |member: &&Member| self.voices.get(member).is_some_and(|voice| voice.is_able() && !voice.is_unreachable());
        let votes = running.votes.len() + silent.iter().filter(can_vote).count();
        let first = !std::mem::replace(&mut running.woken, true);
        if first && votes >= votes_needed(self.setting.group().threshold(), context.included().len()) {
            return self.effects.push(Effect::Wake { attempt });
        }
        self.note_silence();
        for member in silent {
            if let Some(voice) = self.voices.get_mut(&member) {
                voice.failures += 1;
            }
        }
        self.stuck = true;
        let members = self.hindrances();
        self.effects.push(Effect::TryOver(members));
    }
}
