//! What an earlier coordinator left behind: the durable rounds that members return.

use super::attempt::Said;
use super::standing::{Out, Standing};
use super::{Member, RoastMachine};
use crate::coordinator::ask::Ask;
use crate::coordinator::blame::Fault;
use crate::coordinator::port::{RoundReport, SessionReport};
use crate::limits::ANSWERS_MAX;

impl RoastMachine {
    /// Takes a member's session: its own rounds alone, whatever its node says of others. A later report can hold more.
    pub(super) fn heard_session(&mut self, member: Member, report: &SessionReport) {
        let Some(seat) = self.seats.get_mut(&member) else { return };
        seat.viewed = true;
        seat.problem = None;
        if report.subject != *self.setting.subject() {
            return self.put_out(member, Out::OtherSubject);
        }
        let own = report.rounds.iter().filter(|round| round.member == member.number());
        if own.clone().count() > ANSWERS_MAX {
            return self.blame(member, Fault::BadSession);
        }
        let mut touched = Vec::new();
        for round in own {
            match self.take_round(member, round) {
                Some(index) => touched.extend(index),
                None => return self.blame(member, Fault::BadSession),
            }
        }
        for index in touched {
            self.judge(index, member);
            if self.finished || self.is_blamed(member) {
                return;
            }
        }
        self.settle(member);
        self.settle_ready();
    }

    /// None when it cannot be of this session; no index when the member's own answer is still to come, with more in it.
    fn take_round(&mut self, member: Member, round: &RoundReport) -> Option<Option<usize>> {
        let context = self.setting.parse(&round.attempt)?;
        if !context.includes(member) {
            return None;
        }
        let package = self.setting.package_of(&context, &round.package)?;
        let said = Said {
            share: round.share.as_slice().try_into().ok()?,
            round_signature: round.round_signature.as_slice().try_into().ok()?,
        };
        let id = self.setting.round_id(&context, member, &package);
        if self.seats.get(&member).is_some_and(|seat| seat.is_pending_on(id)) {
            return Some(None);
        }
        Some(Some(self.attempts.returned(member, id, context, package, said)))
    }

    /// Ready members whose commitments turn out to be in a package already: those that have answered it are asked for new
    /// ones, the others for their answer.
    fn settle_ready(&mut self) {
        for member in self.ready.iter().copied().collect::<Vec<_>>() {
            let Some(Standing::Ready(offered)) = self.seats.get(&member).map(|seat| &seat.standing) else { continue };
            let spent = self.attempts.answered_with(member, offered);
            let held = self.attempts.holding(member, offered);
            if !spent && held.is_none() {
                continue;
            }
            self.ready.retain(|ready| *ready != member);
            if let Some(seat) = self.seats.get_mut(&member) {
                seat.standing = Standing::Awaiting;
            }
            match held {
                Some(index) if !spent => self.adopt(member, index),
                _ => self.ask(member, Ask::Commitments),
            }
        }
    }
}
