//! Why there is no signature, as an operator reads it.

use serde_json::json;

use crate::cli::CliError;
use crate::client::{KnownGroup, Network, SigningError};
use crate::ids::Member;
use crate::reasons::Reason;

/// A session without a signature: what stands between each member and it, with the names of their nodes.
pub(super) fn unsigned(network: &Network, group: &KnownGroup, error: &SigningError) -> CliError {
    let members = match error {
        SigningError::Drive(error) => error.members(),
        _ => &[],
    };
    let node = |member: &Member| {
        let node = group.seats.get(member).and_then(|identity| network.node_of(identity));
        node.map_or_else(|| "no node of the roster".to_owned(), |node| node.name.clone())
    };
    let told: String =
        members.iter().map(|(member, why)| format!("; member {member} ({}) {why}", node(member))).collect();
    let reason = error.reason();
    let refused = CliError::refused(reason, format!("{error}{told}"));
    let refused = match reason {
        Reason::MessageNotApproved => refused.with_hint(
            "give the transaction or the PSBT that the message is of; by itself a message is signed only where the policy says so",
        ),
        Reason::CoordinationOff => refused.with_hint("`coordination = true` in the configuration of the members' nodes"),
        _ => refused,
    };
    if members.is_empty() {
        return refused;
    }
    let members: Vec<_> = members
        .iter()
        .map(|(member, why)| json!({ "member": member.number(), "node": node(member), "problem": why.to_string() }))
        .collect();
    refused.with_details(json!({ "members": members }))
}
