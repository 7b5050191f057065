//! Outage drills: when one may begin, and what is said of it. What is played is the token agent's affair.

use std::sync::atomic::{AtomicU64, Ordering};

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::drill::{DURATION_MS_MAX, Drill, DrillSwitch, NotBegun};
use tonic::Status;

use super::services::{field, refused};
use super::shared::{Asker, Shared};
use crate::engine::is_drill_session;
use crate::ids::{DrillId, SessionId};
use crate::limits::{DRILL_MS_MAX, DRILL_QUIET_MS};
use crate::reasons::Reason;
use crate::wire::drill::{drill_id, drill_message, kind, token_message};
use crate::wire::status::{later_status, status};
use crate::wire::v1;

const _: () = assert!(DRILL_MS_MAX <= DURATION_MS_MAX, "the switch takes every duration that the interface allows");

/// When somebody last asked for work that a drill would stand in the way of.
#[derive(Default)]
pub(super) struct Traffic(AtomicU64);

impl Traffic {
    /// Milliseconds on the clock, and one: zero is never.
    fn note(&self, now: Millis) {
        self.0.store(now.0.saturating_add(1), Ordering::Relaxed);
    }

    fn last(&self) -> Option<Millis> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(Millis)
    }
}

impl Shared {
    /// Notes that somebody signs, or makes a key. A drill's own rounds are nobody's traffic.
    pub(super) fn note_traffic(&self, session: Option<&SessionId>) {
        if !session.is_some_and(is_drill_session) {
            self.traffic.note(self.clock.now());
        }
    }

    fn switch(&self) -> Result<&DrillSwitch, Status> {
        let none = || status(Reason::Internal, "the key provider of this node plays no outage");
        self.drills.as_ref().ok_or_else(none)
    }

    pub(super) fn begin_drill(
        &self,
        asker: &Asker,
        message: &v1::BeginDrillRequest,
    ) -> Result<v1::BeginDrillReply, Status> {
        let id = field(drill_id(&message.drill))?;
        let kind = field(kind(message.kind))?;
        let duration_ms = message.duration_ms;
        if !(1..=DRILL_MS_MAX).contains(&duration_ms) {
            let problem = format!("duration_ms is {duration_ms}: 1 to {DRILL_MS_MAX} are allowed");
            return Err(status(Reason::InvalidRequest, problem));
        }
        let switch = self.switch()?;
        // The same request again: what it began is told, whatever has become of the node since.
        let drill = match switch.known(id.as_bytes()) {
            Some(known) => known,
            None => {
                if let Some(on) = switch.on() {
                    return Err(self.on_already(&on));
                }
                // A node in an outage shows all that a drill could show.
                self.engine()?.admits_work().map_err(refused)?;
                if !message.danger_live_traffic {
                    self.quiet()?;
                }
                let by = &asker.caller.name;
                let begun = switch.begin(*id.as_bytes(), kind, duration_ms, by).map_err(|error| match error {
                    NotBegun::On(on) => self.on_already(&on),
                    NotBegun::Duration { .. } => status(Reason::InvalidRequest, error.to_string()),
                })?;
                tracing::warn!(
                    drill = %id, kind = kind.name(), %by, duration_ms, live_traffic = message.danger_live_traffic,
                    "drill: begun, the token agent plays an outage"
                );
                begun
            }
        };
        let times = switch.times();
        Ok(v1::BeginDrillReply {
            drill: Some(drill_message(&drill, self.clock.now())),
            token: switch.token().map(|token| token_message(&token)),
            refused_within_ms: times.refused_within_ms(kind),
            healed_within_ms: times.healed_within_ms(),
            health_interval_ms: times.health_interval_ms,
            slow_ms: times.slow_ms(),
        })
    }

    pub(super) fn end_drill(&self, asker: &Asker, message: &v1::EndDrillRequest) -> Result<v1::EndDrillReply, Status> {
        let id = if message.drill.is_empty() { None } else { Some(field(drill_id(&message.drill))?) };
        let ended = self.switch()?.end(id.map(|id| *id.as_bytes()));
        if let Some(drill) = &ended {
            tracing::warn!(drill = %DrillId::new(drill.id), by = %asker.caller.name, "drill: ended before its time");
        }
        Ok(v1::EndDrillReply { drill: ended.map(|drill| drill_message(&drill, self.clock.now())) })
    }

    /// A node that stops plays nothing: what is in line has to be written.
    pub(super) fn end_drill_to_stop(&self) {
        if self.drills.as_ref().and_then(|drills| drills.end(None)).is_some() {
            tracing::warn!("drill: ended, the node stops");
        }
    }

    fn on_already(&self, drill: &Drill) -> Status {
        let left_ms = drill.until.since(self.clock.now());
        let problem = format!("a drill is on, {} begun by {}: it is over in {left_ms} ms", drill.kind, drill.by);
        later_status(Reason::DrillOn, problem, left_ms)
    }

    /// Refuses while somebody signs.
    fn quiet(&self) -> Result<(), Status> {
        let Some(last) = self.traffic.last() else { return Ok(()) };
        let since_ms = self.clock.now().since(last);
        let left_ms = DRILL_QUIET_MS.saturating_sub(since_ms);
        if left_ms == 0 {
            return Ok(());
        }
        let problem = format!(
            "somebody has signed on this node {since_ms} ms ago: it has to be quiet for {DRILL_QUIET_MS} ms before a drill"
        );
        Err(later_status(Reason::LiveTraffic, problem, left_ms))
    }
}
