//! What earlier runs have left: key generations that some node has prepared and that lack their certificate there.

use std::collections::BTreeMap;
use std::fmt;

use crate::cli::reach::{ask_all, select};
use crate::client::view::{GroupPhase, KeyGroupInfo};
use crate::client::{Network, Patience};
use crate::ids::{CeremonyId, KeyGroupId};
use crate::keygen::Parameters;

/// How long nodes are waited for, milliseconds. One that is away is found by the pre-flight.
const REACHED_MS_MAX: u64 = 6_000;

/// A key generation without an end.
pub(super) struct Unfinished {
    pub(super) ceremony: CeremonyId,
    pub(super) key_group: KeyGroupId,
    info: KeyGroupInfo,
    nodes: Vec<String>,
}

impl Unfinished {
    /// Whether it is what the same command would begin.
    pub(super) fn is_of(&self, parameters: &Parameters) -> bool {
        self.info.threshold == parameters.threshold()
            && self.info.seats == *parameters.seats()
            && self.info.attempt_policy == parameters.attempt_policy()
            && self.info.signing_policy_hash == parameters.signing_policy()
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (threshold, members) = (self.info.threshold, self.info.seats.len());
        let nodes = self.nodes.join(", ");
        write!(f, "key generation {} of {threshold} of {members} members is unfinished on {nodes}", self.ceremony)
    }
}

/// Those that nodes which answer have.
pub(super) async fn find(network: &Network) -> Vec<Unfinished> {
    let targets = select(network, &[]).unwrap_or_default();
    let patience = Patience { call_ms_max: REACHED_MS_MAX, ..Patience::once() };
    let asked = ask_all(targets, move |client| async move { client.with(patience).key_groups().await });
    let mut found: BTreeMap<CeremonyId, Unfinished> = BTreeMap::new();
    for (node, answer) in asked.await {
        for info in answer.unwrap_or_default().into_iter().filter(|info| info.phase == GroupPhase::Prepared) {
            let (ceremony, key_group) = (info.ceremony, info.id);
            let left =
                found.entry(ceremony).or_insert_with(|| Unfinished { ceremony, key_group, info, nodes: Vec::new() });
            left.nodes.push(node.clone());
        }
    }
    found.into_values().collect()
}
