//! The seam at which a drill is played: every request to the agent passes here.

use std::path::PathBuf;
use std::time::Duration;

use super::{Pkcs11Token, latch_error};
use crate::agent::protocol::{PlayedCall, PlayedOutage, Reply, Request};
use crate::drill::{Drill, DrillKind, DrillSwitch, marked};
use crate::latch::Latch;
use crate::pin::Pin;
use crate::supervisor::Answer;
use crate::token::{FaultClass, TokenError};

impl Pkcs11Token {
    /// The drill that is on. Asked once for a whole opening, so that no login follows a connection that was only played.
    pub(super) fn playing(&mut self) -> Option<Drill> {
        let on = self.drills.as_ref().and_then(DrillSwitch::on);
        let known = self.drilled.as_ref().map(|(drill, _)| drill.id);
        if on.as_ref().map(|drill| drill.id) != known {
            match &on {
                Some(drill) => tracing::warn!(kind = drill.kind.name(), by = %drill.by, "drill: calls are played"),
                None => tracing::warn!("drill: over, calls go to the token again"),
            }
            self.drilled = on.clone().map(|drill| (drill, Latch::of_drill()));
        }
        on
    }

    /// One request to the agent; in a drill, what is played in its place.
    pub(super) fn ask(
        &mut self,
        play: Option<&Drill>,
        request: &Request,
        tail: &[u8],
        deadline: Duration,
    ) -> Result<Answer, TokenError> {
        let call = match request {
            Request::Connect { .. } => PlayedCall::Connect,
            Request::Login { .. } => PlayedCall::Login,
            Request::Find { .. } => PlayedCall::Find,
            Request::Derive { .. } => PlayedCall::Derive,
            Request::Hello { .. }
            | Request::CreateKey { .. }
            | Request::Play { .. }
            | Request::Delay { .. }
            | Request::Examine(_)
            | Request::Anchor(_) => {
                return self.supervisor.call(request, tail, deadline);
            }
        };
        let outage = match play.map(|drill| drill.kind) {
            None => return self.supervisor.call(request, tail, deadline),
            Some(DrillKind::Slow) => return self.ask_slowly(request, tail, deadline),
            Some(DrillKind::Hang) => PlayedOutage::Hang,
            Some(DrillKind::Crash) => PlayedOutage::Crash,
            Some(DrillKind::Pin) => match self.drills.as_ref().and_then(DrillSwitch::token) {
                Some(token) => PlayedOutage::Pin { token },
                // Never connected: there is nothing to log in to.
                None => PlayedOutage::Unplug,
            },
            Some(DrillKind::Unplug) => PlayedOutage::Unplug,
        };
        self.supervisor.call(&Request::Play { outage, call }, &[], deadline).map_err(marked)
    }

    /// The token itself, late. It keeps its whole deadline, so that an outage in here is a real one.
    fn ask_slowly(&mut self, request: &Request, tail: &[u8], deadline: Duration) -> Result<Answer, TokenError> {
        let ms = self.drills.as_ref().map_or(0, |drills| drills.times().slow_ms());
        // Those times are the longest of all tokens; this one may have less.
        let ms = ms.min(u64::try_from(deadline.as_millis() / 2).unwrap_or(u64::MAX));
        match self.supervisor.call(&Request::Delay { ms }, &[], deadline) {
            Ok(Answer::Reply(Reply::Done)) => {}
            Ok(_) => return Err(self.supervisor.confused("delay")),
            Err(error) => return Err(error),
        }
        self.supervisor.call(request, tail, deadline)
    }

    /// A login of a drill: the token is not asked, and its latch neither asked nor told.
    pub(super) fn played_login(&mut self, play: Option<&Drill>, pin: &Pin) -> Result<(), TokenError> {
        let missing = || TokenError::new(FaultClass::Usage, "login", "latch_missing", "");
        let (_, latch) = self.drilled.as_mut().ok_or_else(missing)?;
        latch.begin(pin).map_err(|cause| marked(latch_error(&cause)))?;
        let request = Request::Login { lock: PathBuf::new() };
        let error = match self.ask(play, &request, &[], self.deadlines.login()) {
            Ok(_) => return Err(self.supervisor.confused("login")),
            Err(error) => error,
        };
        if let (FaultClass::Credential, Some((_, latch))) = (error.class, self.drilled.as_mut()) {
            latch.refused(pin, self.entropy.as_mut()).map_err(|cause| marked(latch_error(&cause)))?;
        }
        Err(self.restart_after(error))
    }
}
