//! The subject of an outage drill: what a drill's rounds sign, under any policy, because it can be nothing else.
//!
//! It is a tagged hash as that of a [trial](super::trial), under a tag of its own, over key group and drill. A drill has one session,
//! which its end aborts; the tombstone keeps the same drill from being opened again, and few can be open at one time.

use super::caller::{Caller, Role};
use super::refusal::Refusal;
use super::request::Subject;
use super::state::KeyGroup;
use super::trial::tagged;
use crate::ids::{DrillId, KeyGroupId, SessionId};
use crate::limits::DRILL_SESSIONS_OPEN_MAX;

const TAG: &str = "frostkeep/outage-drill/v1";
const SESSION: &str = "outage-drill-";

/// What the rounds of a drill sign, and in which session.
pub fn drill_subject(key_group: &KeyGroupId, drill: &DrillId) -> (SessionId, Subject) {
    (session_of(drill), tagged(TAG, key_group, drill.as_bytes()))
}

fn session_of(drill: &DrillId) -> SessionId {
    SessionId::new(&format!("{SESSION}{drill}")).expect("a label and 32 hex digits are printable and short")
}

/// Whether a session has the name of a drill's: its rounds are nobody's traffic.
pub fn is_drill_session(session: &SessionId) -> bool {
    drill_of(session).is_some()
}

fn drill_of(session: &SessionId) -> Option<DrillId> {
    let drill = session.as_str().strip_prefix(SESSION)?.parse().ok()?;
    // Hex of either case reads; one name is a drill's.
    (session_of(&drill) == *session).then_some(drill)
}

/// Whether this is the subject of the drill that the session is named after.
pub(crate) fn is_drill(key_group: &KeyGroupId, session: &SessionId, asked: &Subject) -> bool {
    drill_of(session).is_some_and(|drill| *asked == tagged(TAG, key_group, drill.as_bytes()))
}

/// Refuses to open one drill's session more than there may be: their message is always allowed, so their number is not left to
/// the caller.
pub(crate) fn check_drill_room(group: &KeyGroup, session: &SessionId) -> Result<(), Refusal> {
    if !is_drill_session(session) || group.sessions.contains_key(session) {
        return Ok(());
    }
    let first = SessionId::new(SESSION).expect("a label is printable and short");
    let named = group.sessions.range(first..).take_while(|(id, _)| id.as_str().starts_with(SESSION));
    if named.take(DRILL_SESSIONS_OPEN_MAX).count() < DRILL_SESSIONS_OPEN_MAX {
        return Ok(());
    }
    Err(Refusal::CapacityExceeded {
        what: "open drill sessions of the key group",
        limit: DRILL_SESSIONS_OPEN_MAX as u64,
    })
}

/// Opens a drill's session for an admin alone: each leaves a tombstone, and no approved transaction limits their number. What is open
/// goes on for every coordinator, as any session does.
pub(crate) fn check_drill_caller(group: &KeyGroup, caller: &Caller, session: &SessionId) -> Result<(), Refusal> {
    if !is_drill_session(session) || group.sessions.contains_key(session) {
        return Ok(());
    }
    caller.require(&[Role::Admin])
}
