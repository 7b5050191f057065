//! What is checked of a request, one function a rule; the operations put them in order.

use super::caller::Caller;
use super::core::{Env, ended};
use super::drill::is_drill;
use super::record::Advance;
use super::refusal::Refusal;
use super::request::{SignRequest, Subject};
use super::state::{Approval, KeyGroup, Session, session_room};
use super::trial::is_trial;
use crate::bitcoin::{OutputKeys, TransactionFacts, UnsignedTransaction};
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, KeyGroupId, Member, Message, SessionId};
use crate::limits;
use crate::roast::{AttemptBinding, AttemptContext};

/// Validates an attempt context under its binding.
pub(crate) fn parse_context(
    key_group: &KeyGroupId,
    session: &SessionId,
    subject: &Subject,
    threshold: u16,
    parts: &crate::roast::AttemptContextParts,
) -> Result<AttemptContext, Refusal> {
    let binding = AttemptBinding { key_group, session, message: &subject.message, threshold };
    Ok(AttemptContext::parse(&binding, parts)?)
}

/// Step 3 on the durable view.
pub(crate) fn check_session<'a>(
    group: &'a KeyGroup,
    id: &SessionId,
    subject: &Subject,
) -> Result<Option<&'a Session>, Refusal> {
    if let Some(tombstone) = group.tombstone(id) {
        return Err(ended(id, tombstone, Some(subject)));
    }
    match group.sessions.get(id) {
        Some(session) if session.subject != *subject => Err(Refusal::SessionConflict(id.clone())),
        found => Ok(found),
    }
}

/// Step 4: the message is a sighash of an approved transaction, for an input whose prevout is this group's output
/// under the session's root (trap 12); the policy of now allows that transaction, rate limits apart. Beside it, under any
/// policy, the group's own messages of trial and drill, which are no sighashes.
/// `output_key` is the group's under that root: its tweak is a curve operation, done off the lock.
pub(crate) fn check_policy(
    group: &KeyGroup,
    session: &SessionId,
    subject: &Subject,
    output_key: &[u8; 32],
    env: &Env<'_>,
) -> Result<(), Refusal> {
    let policy = env.config.effective_policy(&group.policy)?;
    let id = group.group_key.id();
    let own = is_trial(&id, &group.ceremony, session, subject) || is_drill(&id, session, subject);
    if policy.danger_sign_any_message || own {
        return Ok(());
    }
    let (approval, input) = approved(group, &subject.message).ok_or(Refusal::MessageNotApproved)?;
    if !approval.transaction.inputs_of(output_key).contains(&input) {
        return Err(Refusal::MessageNotApproved);
    }
    policy.check_transaction(&facts(&approval.transaction, &approval.keys))?;
    Ok(())
}

fn approved<'a>(group: &'a KeyGroup, message: &Message) -> Option<(&'a Approval, usize)> {
    let (key, input) = group.sighashes.get(message)?;
    Some((group.approvals.get(key)?, *input))
}

/// Under `evidence`, a round is asked for by the node of the selected member.
pub(crate) fn check_driver(group: &KeyGroup, caller: &Caller, context: &AttemptContext) -> Result<(), Refusal> {
    let selected: Option<&IdentityKey> = group.identities.get(&context.coordinator());
    if group.attempt_policy == AttemptPolicy::Roast || (selected.is_some() && caller.identity.as_ref() == selected) {
        return Ok(());
    }
    Err(Refusal::PermissionDenied {
        caller: caller.name.clone(),
        needs: format!("the node of member {}, the selected coordinator", context.coordinator()),
    })
}

/// Nobody included is quarantined, by the scores as they are when `advances` are recorded: an advance must not be installed
/// and then be refused for the blame that it brings itself (I3).
pub(crate) fn check_quarantine(
    group: &KeyGroup,
    env: &Env<'_>,
    included: &[Member],
    advances: &[Advance],
) -> Result<(), Refusal> {
    let scores = group.scores_after(advances);
    for member in included {
        if let Some(score) = scores.get(member).filter(|score| score.quarantined(env.config.scoring)) {
            return Err(Refusal::Quarantined { member: *member, score: score.points() });
        }
    }
    Ok(())
}

/// What a transaction does, as the policy sees it. `keys` are the group's output keys, the one without a script tree
/// first. Inputs are the group's under any of them; an output is its own under the first alone, since who asks could choose
/// a tree that others can spend.
pub(crate) fn facts(transaction: &UnsignedTransaction, keys: &[[u8; 32]]) -> TransactionFacts {
    let plain: OutputKeys = keys.iter().take(1).copied().collect();
    let mut facts = transaction.facts(&plain);
    facts.inputs = transaction.facts(&keys.iter().copied().collect()).inputs;
    facts
}

/// Step 8: registries have room. `computing`: rounds of the member that are on their way into its session.
pub(crate) fn check_room(
    group: &KeyGroup,
    session: Option<&Session>,
    member: Member,
    computing: usize,
) -> Result<(), Refusal> {
    match session {
        None if !session_room(group) => Err(open_sessions_full()),
        None => Ok(()),
        Some(session) => {
            let answers = session.consumed.iter().filter(|(_, answered)| *answered == member).count();
            if answers + computing >= limits::ANSWERS_MAX {
                return Err(Refusal::AttemptExhausted { member, limit: limits::ANSWERS_MAX });
            }
            Ok(())
        }
    }
}

pub(crate) fn open_sessions_full() -> Refusal {
    Refusal::CapacityExceeded { what: "open sessions of the key group", limit: limits::SESSIONS_OPEN_MAX as u64 }
}

/// Step 8: the package is the attempt's. A bad package never burns nonces (trap 13).
pub(crate) fn check_package(group: &KeyGroup, request: &SignRequest, context: &AttemptContext) -> Result<(), Refusal> {
    let package = &request.package;
    package.check_against(&group.group_key).map_err(|error| Refusal::PackageInvalid(error.to_string()))?;
    if !package.includes(request.member) {
        return Err(Refusal::PackageInvalid(format!("member {} is not included", request.member)));
    }
    if !package.members().eq(context.included().iter().copied()) {
        return Err(Refusal::PackageInvalid("its members are not the attempt's included set".into()));
    }
    if package.message() != request.subject.message {
        return Err(Refusal::PackageInvalid("its message is not the session's".into()));
    }
    Ok(())
}
