//! Why there is no key, as an operator reads it and as a machine does.

use serde_json::{Value, json};

use crate::ceremony::{CeremonyError, Failed, Finding, Named, Stands};
use crate::cli::CliError;
use crate::client::SigningError;
use crate::ids::{CeremonyId, KeyGroupId, Member, to_hex};
use crate::reasons::Reason;

/// A key generation that made no key, for now or for good.
pub(super) fn failed(error: &CeremonyError) -> CliError {
    let failed = match error {
        CeremonyError::Setup(problem) => return CliError::usage(problem.clone()),
        CeremonyError::Failed(failed) => failed,
    };
    let details = json!({
        "ceremony": failed.ceremony.to_string(),
        "stands": stands(failed.stands),
        "findings": failed.findings.iter().map(finding).collect::<Vec<_>>(),
    });
    CliError::refused(reason(failed), failed.to_string()).with_hint(hint(failed)).with_details(details)
}

/// A key that every node has confirmed, and that has not signed its trial message.
pub(super) fn unproved(key_group: &KeyGroupId, ceremony: &CeremonyId, error: &SigningError) -> CliError {
    let members = match error {
        SigningError::Drive(error) => error.members(),
        _ => &[],
    };
    let told: String = members.iter().map(|(member, why)| format!("; member {member} {why}")).collect();
    let text =
        format!("key group {key_group} is confirmed by every node, but its trial signature failed: {error}{told}");
    CliError::refused(error.reason(), text)
        .with_hint(format!("pay nothing to it before `frostkeep keygen --resume {ceremony}`, with the threshold and the policies of this run, has proved it"))
        .with_details(json!({ "ceremony": ceremony.to_string(), "key_group": key_group.to_string() }))
}

fn stands(stands: Stands) -> &'static str {
    match stands {
        Stands::NothingBegun => "nothing_begun",
        Stands::Over => "over",
        Stands::Resumable => "resumable",
    }
}

/// The one reason of all findings; `ceremony_failed` when they differ, or when a key generation is over.
fn reason(failed: &Failed) -> Reason {
    let of = |finding: &Finding| match finding {
        Finding::Absent { .. } => Reason::PeerUnreachable,
        Finding::Refused { reason, .. } => *reason,
        Finding::Faulty { .. } | Finding::Disputed { .. } | Finding::Diverged { .. } | Finding::WrongAnswer { .. } => {
            Reason::CeremonyFailed
        }
    };
    let mut reasons = failed.findings.iter().map(of);
    match reasons.next() {
        Some(first) if reasons.all(|other| other == first) => first,
        _ => Reason::CeremonyFailed,
    }
}

fn hint(failed: &Failed) -> String {
    match failed.stands {
        Stands::NothingBegun => "there is no secret yet: mend what is named, then run the same command again".into(),
        Stands::Over => {
            "run the same command again: it takes a new id; a node that is at fault, proved, has to go first".into()
        }
        Stands::Resumable => {
            format!(
                "when the nodes that are named are back: frostkeep keygen --resume {}, with the threshold and the policies of \
                 this run",
                failed.ceremony
            )
        }
    }
}

fn named(named: &Named) -> Value {
    json!({ "node": named.node, "members": numbers(&named.members) })
}

fn numbers(members: &[Member]) -> Vec<u16> {
    members.iter().map(|member| member.number()).collect()
}

fn finding(finding: &Finding) -> Value {
    match finding {
        Finding::Absent { node, step, problem } => {
            json!({ "kind": "absent", "who": [named(node)], "step": step.to_string(), "problem": problem })
        }
        Finding::Refused { node, step, reason, problem } => json!({
            "kind": "refused", "who": [named(node)], "step": step.to_string(), "reason": reason.name(), "problem": problem,
        }),
        // The proof itself, for whoever wants to check it.
        Finding::Faulty { node, fault } => json!({
            "kind": "faulty", "who": [named(node)], "problem": fault.to_string(), "proof": to_hex(&fault.to_bytes()),
        }),
        Finding::Disputed { accuser, accused, problem } => json!({
            "kind": "disputed", "accuser": named(accuser), "who": accused.iter().map(named).collect::<Vec<_>>(),
            "problem": problem,
        }),
        Finding::Diverged { one, other, senders } => json!({
            "kind": "diverged", "who": [named(one), named(other)],
            "senders": senders.iter().map(named).collect::<Vec<_>>(),
        }),
        Finding::WrongAnswer { node, step, problem } => {
            json!({ "kind": "wrong_answer", "who": [named(node)], "step": step.to_string(), "problem": problem })
        }
    }
}
