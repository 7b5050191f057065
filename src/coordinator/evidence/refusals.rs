//! What a member's refusal changes: nothing, but for the few reasons that say what to do.

use super::voice::Voice;
use super::{EvidenceMachine, VOTE_MARGIN_MS};
use crate::coordinator::ask::{Ask, Effect, Progress};
use crate::coordinator::blame::Fault;
use crate::coordinator::port::{PortError, Refused, RefusedDetail};
use crate::ids::Member;
use crate::reasons::Reason;

impl EvidenceMachine {
    fn wants(&self, member: Member, ask: &Ask) -> bool {
        if !self.voices.get(&member).is_some_and(Voice::is_able_or_refused) {
            return false;
        }
        let running = self.running.as_ref();
        match ask {
            Ask::Session => self.voices.get(&member).is_some_and(|voice| !voice.viewed) && running.is_none(),
            Ask::Commitments => running.is_some_and(|running| running.awaits_commitments_of(member)),
            Ask::Round(asked) => running.is_some_and(|running| running.awaits_round_of(member, asked.round)),
            Ask::Vote(asked) => running.is_some_and(|running| {
                running.context.id() == asked.context.id() && !running.votes.contains_key(&member)
            }),
            Ask::Drive(asked) => running.is_some_and(|running| running.context.id() == asked.context.id()),
        }
    }

    pub(super) fn heard_failure(&mut self, member: Member, ask: Ask, error: PortError) {
        let mut after_ms = None;
        match &error {
            PortError::Nonsense(_) => return self.fault(member, Fault::Malformed),
            PortError::Unreachable(_) => {}
            PortError::Refused(refused) => {
                if self.heard_refusal(member, &ask, refused) {
                    return;
                }
                after_ms = match refused.detail {
                    RefusedDetail::LeftMs(ms) => Some(ms.saturating_add(VOTE_MARGIN_MS)),
                    RefusedDetail::RetryAfterMs(ms) => Some(ms),
                    _ => None,
                };
            }
        }
        if !self.wants(member, &ask) {
            return;
        }
        if let Some(voice) = self.voices.get_mut(&member) {
            voice.heard |= matches!(error, PortError::Refused(_));
            voice.problem = Some(error.clone());
        }
        self.tell(Progress::Refused { member, error });
        self.effects.push(Effect::Again { member, ask, after_ms });
        self.look_whether_to_begin();
    }

    /// Whether nothing is to be asked again.
    fn heard_refusal(&mut self, member: Member, ask: &Ask, refused: &Refused) -> bool {
        match (refused.reason, ask) {
            (Reason::SessionFinalized, _) => self.heard_finalized(member, ask, &refused.detail),
            (Reason::SessionAborted | Reason::SessionClosed, _) => {
                if let Some(voice) = self.voices.get_mut(&member) {
                    voice.ended = Some(refused.reason);
                }
                true
            }
            (Reason::SessionUnknown, Ask::Session) => {
                self.heard_session(member, None);
                true
            }
            // Its commitments are lost, and others have answered this package: the attempt ends by votes.
            (Reason::CommitmentsUnknown, Ask::Round(_)) => {
                self.tell(Progress::Refused { member, error: PortError::Refused(Box::new(refused.clone())) });
                true
            }
            (Reason::VoteTooEarly, _) => {
                self.heard_well(member);
                false
            }
            _ => false,
        }
    }

    fn heard_finalized(&mut self, member: Member, ask: &Ask, detail: &RefusedDetail) -> bool {
        let RefusedDetail::Signature(bytes) = detail else { return false };
        match (self.setting.finished(bytes), ask) {
            (Some(signature), _) => self.finish(signature),
            (None, Ask::Round(_) | Ask::Vote(_)) => self.fault(member, Fault::BadSignature),
            // The request named the session alone.
            (None, _) => {
                if let Some(voice) = self.voices.get_mut(&member) {
                    voice.other_subject = true;
                }
            }
        }
        true
    }
}
