//! What a member's refusal changes: nothing, but for the few reasons that say what to do.

use super::standing::{Out, Standing};
use super::{Member, RoastMachine};
use crate::coordinator::ask::{Ask, Effect, Progress};
use crate::coordinator::blame::Fault;
use crate::coordinator::port::{PortError, Refused, RefusedDetail};
use crate::ids::RoundId;
use crate::reasons::Reason;

impl RoastMachine {
    pub(super) fn heard_failure(&mut self, member: Member, ask: Ask, error: PortError) {
        match &error {
            PortError::Nonsense(_) => return self.blame(member, Fault::Malformed),
            PortError::Unreachable(_) => {}
            PortError::Refused(refused) => {
                if self.heard_refusal(member, &ask, refused) {
                    return;
                }
            }
        }
        let after_ms = match &error {
            PortError::Refused(refused) => match refused.detail {
                RefusedDetail::RetryAfterMs(ms) => Some(ms),
                _ => None,
            },
            _ => None,
        };
        let Some(seat) = self.seats.get_mut(&member).filter(|seat| seat.wants(&ask)) else { return };
        seat.problem = Some(error.clone());
        self.tell(Progress::Refused { member, error });
        self.effects.push(Effect::Again { member, ask, after_ms });
    }

    /// Whether the refusal moved the member; any other leaves it where it is, and the same is asked again.
    fn heard_refusal(&mut self, member: Member, ask: &Ask, refused: &Refused) -> bool {
        match (refused.reason, ask) {
            (Reason::SessionFinalized, _) => self.heard_finalized(member, ask, &refused.detail),
            (Reason::SessionAborted | Reason::SessionClosed, _) => {
                self.put_out(member, Out::Ended(refused.reason));
                true
            }
            (Reason::SessionUnknown, Ask::Session) => {
                if let Some(seat) = self.seats.get_mut(&member) {
                    seat.viewed = true;
                }
                self.settle(member);
                true
            }
            (Reason::CommitmentsUnknown, Ask::Round(asked)) => {
                self.readmit(member, asked.round, &refused.detail);
                true
            }
            (Reason::AttemptConflict, Ask::Round(asked)) => self.release(member, asked.round),
            _ => false,
        }
    }

    fn heard_finalized(&mut self, member: Member, ask: &Ask, detail: &RefusedDetail) -> bool {
        let RefusedDetail::Signature(bytes) = detail else { return false };
        match (self.setting.finished(bytes), ask) {
            (Some(signature), _) => self.finish(signature),
            // The request named message and root, so the signature had to be of them.
            (None, Ask::Round(_)) => self.blame(member, Fault::BadSignature),
            // It named the session alone, which somebody may have opened with another subject.
            (None, _) => self.put_out(member, Out::OtherSubject),
        }
        true
    }

    /// After `commitments_unknown`: once per session, with the pair that the refusal carries or a fresh one.
    fn readmit(&mut self, member: Member, round: RoundId, detail: &RefusedDetail) {
        let Some(seat) = self.seats.get_mut(&member) else { return };
        if !seat.is_pending_on(round) {
            return;
        }
        if seat.readmitted {
            return self.put_out(member, Out::LostTwice);
        }
        seat.readmitted = true;
        seat.standing = Standing::Awaiting;
        self.tell(Progress::Readmitted { member });
        match detail {
            RefusedDetail::Current(bytes) => {
                self.heard_commitments(member, bytes);
            }
            _ => self.ask(member, Ask::Commitments),
        }
    }

    /// After `attempt_conflict`: the member answered an attempt of that name for an earlier coordinator, and can never
    /// answer this one. Its commitments are not spent. Once per session for an attempt of our own.
    fn release(&mut self, member: Member, round: RoundId) -> bool {
        let Some(seat) = self.seats.get_mut(&member) else { return false };
        let Standing::Pending { attempt: index, round: pending } = seat.standing else { return true };
        if pending != round {
            return true;
        }
        let Some(attempt) = self.attempts.get_mut(index) else { return false };
        if attempt.own && seat.released {
            return false;
        }
        seat.released |= attempt.own;
        attempt.refused.insert(member);
        if let Some(commitments) = attempt.package.commitments_of(member) {
            seat.forget_use(commitments);
        }
        seat.standing = Standing::Awaiting;
        self.tell(Progress::Readmitted { member });
        self.ask(member, Ask::Commitments);
        true
    }
}
