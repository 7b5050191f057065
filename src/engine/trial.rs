//! The trial signature of a new key group: with that of a [drill](super::drill) the one message that every policy lets pass, because
//! it can be nothing else.
//!
//! Its message is a tagged hash (BIP-340) under a tag of our own over key group and ceremony. A signature hash of a
//! transaction is a tagged hash under `TapSighash` (BIP-341): for one value to be both, SHA-256 would have to collide. So a
//! trial signature proves that the shares work, and spends nothing under any policy.

use super::request::Subject;
use crate::hash::sha256;
use crate::ids::{CeremonyId, KeyGroupId, Message, SessionId};
use crate::limits::TRIALS_MAX;

const TAG: &str = "frostkeep/keygen-trial/v1";
const SESSION: &str = "keygen-trial-";

/// What the trial signature of a key group signs, and in which session: the first of [`trial_session`]'s.
pub fn trial_subject(key_group: &KeyGroupId, ceremony: &CeremonyId) -> (SessionId, Subject) {
    (named(&format!("{SESSION}{ceremony}")), subject(key_group, ceremony))
}

/// The session of trial number `trial`, from 0 to below [`TRIALS_MAX`]: a session that ended without a signature is not
/// opened again. None beyond.
pub fn trial_session(ceremony: &CeremonyId, trial: u8) -> Option<SessionId> {
    match trial {
        0 => Some(named(&format!("{SESSION}{ceremony}"))),
        1..TRIALS_MAX => Some(named(&format!("{SESSION}{ceremony}-{trial}"))),
        _ => None,
    }
}

fn named(text: &str) -> SessionId {
    SessionId::new(text).expect("a label, 32 hex digits and a number are printable and short")
}

fn subject(key_group: &KeyGroupId, ceremony: &CeremonyId) -> Subject {
    tagged(TAG, key_group, ceremony.as_bytes())
}

/// `SHA256(SHA256(tag) || SHA256(tag) || key group (33) || id (16))`, without a script tree. The tag is one of ours.
pub(super) fn tagged(tag: &str, key_group: &KeyGroupId, id: &[u8; 16]) -> Subject {
    let tag = sha256(tag.as_bytes());
    let hashed = [tag.as_slice(), &tag, key_group.as_bytes(), id].concat();
    Subject { message: Message::new(sha256(&hashed)), root: None }
}

/// Whether this is a trial of the key group that came out of this ceremony.
pub(crate) fn is_trial(key_group: &KeyGroupId, ceremony: &CeremonyId, session: &SessionId, asked: &Subject) -> bool {
    session.as_str().starts_with(SESSION)
        && *asked == subject(key_group, ceremony)
        && (0..TRIALS_MAX).any(|trial| trial_session(ceremony, trial).as_ref() == Some(session))
}
