//! A transaction is shown to every member's node before anything is signed: at least t members have to allow it.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Course;
use crate::cli::CliError;
use crate::client::{ClientError, Patience};
use crate::engine::BuildRequest;
use crate::identity::IdentityKey;
use crate::reasons::Reason;

/// How long a node is asked, milliseconds, all repetitions together.
const ASKED_MS_MAX: u64 = 30_000;

/// How long the others are waited for once enough members have approved, milliseconds. A node that has not heard of the
/// transaction refuses to sign it.
const OTHERS_MS_MAX: u64 = 2_000;

impl Course {
    /// Has every member's node approve.
    ///
    /// # Errors
    /// [`CliError`] with the reason of those that refuse, when fewer than t members approve.
    pub(super) async fn approve(&self, request: &BuildRequest) -> Result<(), CliError> {
        let holders = self.group.holders(&self.network);
        let mut asked = JoinSet::new();
        for (index, node) in holders.iter().enumerate() {
            let (client, request) = (node.client.with(Patience::within_ms(ASKED_MS_MAX)), request.clone());
            asked.spawn(async move { (index, client.build_taproot_tx(&request).await) });
        }
        let threshold = usize::from(self.group.certificate.group().threshold());
        let (mut members, mut refused) = (0, Vec::new());
        let mut undecided: usize = holders.iter().map(|node| self.seats_of(&node.identity)).sum();
        // Not beyond where it is clear that too few will approve: a node that is away is tried for long.
        while members + undecided >= threshold {
            let next = asked.join_next();
            let next = if members < threshold {
                next.await
            } else {
                timeout(Duration::from_millis(OTHERS_MS_MAX), next).await.unwrap_or_default()
            };
            let Some(answer) = next else { break };
            let Some((node, answer)) = answer.ok().and_then(|(index, answer)| Some((holders.get(index)?, answer)))
            else {
                continue;
            };
            let seats = self.seats_of(&node.identity);
            undecided = undecided.saturating_sub(seats);
            match answer {
                Ok(_) => {
                    members += seats;
                    self.reporter.at(&node.name, "has approved the transaction");
                }
                Err(error) => {
                    self.reporter.at(&node.name, &format!("has not approved the transaction: {error}"));
                    refused.push((node.name.clone(), error));
                }
            }
        }
        if members >= threshold { Ok(()) } else { Err(too_few(members, threshold, &refused)) }
    }

    fn seats_of(&self, identity: &IdentityKey) -> usize {
        self.group.seats.values().filter(|holder| *holder == identity).count()
    }
}

fn too_few(members: usize, threshold: usize, refused: &[(String, ClientError)]) -> CliError {
    // A node that is away says nothing about the transaction.
    let mut reasons = refused.iter().filter_map(|(_, error)| error.reason());
    let reason = match reasons.next() {
        Some(first) if reasons.all(|other| other == first) => first,
        Some(_) => Reason::TooFewMembers,
        None => Reason::PeerUnreachable,
    };
    let told: Vec<String> = refused.iter().map(|(node, error)| format!("{node}: {error}")).collect();
    let text = format!("{members} members approve the transaction, {threshold} are needed: {}", told.join("; "));
    let nodes: Vec<_> = refused
        .iter()
        .map(|(node, error)| json!({ "node": node, "reason": error.reason().map(Reason::name), "problem": error.to_string() }))
        .collect();
    let hint = match reason {
        Reason::PolicyDenied => "`frostkeep policy show` prints the rules; `frostkeep policy set` changes them",
        other => other.retry().advice(),
    };
    CliError::refused(reason, text).with_hint(hint).with_details(json!({ "nodes": nodes }))
}
