//! What only `token check` asks of a token, through the same agent.

use super::Pkcs11Token;
use crate::agent::anchor::{AnchorAct, AnchorRequest, Anchored};
use crate::agent::examine::{Examine, Examined};
use crate::agent::protocol::{Reply, Request};
use crate::supervisor::{Answer, Timing};
use crate::token::{Derived, TokenError};

impl Pkcs11Token {
    /// One question of a check.
    pub(crate) fn examine(&mut self, question: Examine) -> Result<Examined, TokenError> {
        let operation = question.operation();
        let deadline = match question {
            // As when the agent starts: the module is initialised.
            Examine::LoseSessions => self.deadlines.start(),
            // As for a sealing key: tokens may take seconds.
            Examine::SessionKey { .. } => self.deadlines.login(),
            Examine::Details | Examine::Attributes { .. } | Examine::Logout => self.deadlines.call(),
        };
        match self.supervisor.call(&Request::Examine(question), &[], deadline) {
            Ok(Answer::Reply(Reply::Examined(answer))) => Ok(answer),
            Ok(_) => Err(self.supervisor.confused(operation)),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    /// Something done to an anchor object; `value` is empty where the act has none.
    pub(crate) fn anchor(&mut self, request: AnchorRequest, value: &[u8]) -> Result<Anchored, TokenError> {
        let operation = request.act.operation();
        let deadline = match request.act {
            AnchorAct::Create => self.deadlines.login(),
            AnchorAct::Read | AnchorAct::Write | AnchorAct::Destroy => self.deadlines.call(),
        };
        match self.supervisor.call(&Request::Anchor(request), value, deadline) {
            Ok(Answer::Reply(Reply::Anchored(answer))) => Ok(answer),
            Ok(_) => Err(self.supervisor.confused(operation)),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    /// [`crate::token::Token::derive`] under a key that is not among the opened ones.
    pub(crate) fn derive_with(&mut self, key: u32, input: &[u8]) -> Result<Derived, TokenError> {
        match self.supervisor.call(&Request::Derive { key }, input, self.deadlines.call()) {
            Ok(Answer::Derived(derived)) => Ok(derived),
            Ok(Answer::Reply(_)) => Err(self.supervisor.confused("derive")),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    /// Ends the agent: the next connection starts another one.
    pub(crate) fn end_agent(&mut self) {
        self.supervisor.end_agent(0);
    }

    /// From now on every answered request is timed.
    pub(crate) fn record_timings(&mut self) {
        self.supervisor.record_timings();
    }

    /// What was recorded since the last time.
    pub(crate) fn take_timings(&mut self) -> Vec<Timing> {
        self.supervisor.take_timings()
    }
}
