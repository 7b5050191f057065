//! What earlier runs have left: key generations that some node has prepared and that lack their certificate there.

use std::fmt;

use crate::cli::reach::{ask_all, select};
use crate::client::view::{GroupPhase, KeyGroupInfo};
use crate::client::{Network, Patience};
use crate::ids::{CeremonyId, KeyGroupId};
use crate::keygen::Parameters;

/// How long nodes are waited for, milliseconds. One that is away is found by the pre-flight.
const REACHED_MS_MAX: u64 = 6_000;

/// A key generation without an end, as the nodes that list it describe it alike. What a node alone says is its word: a resumed
/// run holds it against all others.
pub(super) struct Unfinished {
    pub(super) ceremony: CeremonyId,
    key_group: KeyGroupId,
    info: KeyGroupInfo,
    nodes: Vec<String>,
    /// Whether another node describes the same ceremony otherwise: one of the two is wrong.
    contested: bool,
}

impl Unfinished {
    /// Whether it is what the same command would begin, and nobody says otherwise.
    pub(super) fn is_of(&self, parameters: &Parameters) -> bool {
        !self.contested
            && self.info.threshold == parameters.threshold()
            && self.info.seats == *parameters.seats()
            && self.info.attempt_policy == parameters.attempt_policy()
            && self.info.signing_policy_hash == parameters.signing_policy()
    }

    /// What to do when it can make no key any more. Only nodes that list this key group for this ceremony are told to drop it:
    /// elsewhere the id may be that of a key group that is needed.
    pub(super) fn over_for_good(&self) -> String {
        let (ceremony, id) = (self.ceremony, self.key_group);
        let nodes: String = self.nodes.iter().map(|node| format!(" --node {node}")).collect();
        format!(
            "key generation {ceremony} can make no key any more; `frostkeep keygroup danger-drop-prepared {id}{nodes}` frees \
             its place there"
        )
    }

    fn is_described_by(&self, info: &KeyGroupInfo) -> bool {
        self.ceremony == info.ceremony
            && self.key_group == info.id
            && self.info.threshold == info.threshold
            && self.info.seats == info.seats
            && self.info.attempt_policy == info.attempt_policy
            && self.info.signing_policy_hash == info.signing_policy_hash
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
    gather(asked.await.into_iter().map(|(node, answer)| (node, answer.unwrap_or_default())))
}

/// Puts together what nodes describe alike, and only that.
fn gather(reports: impl Iterator<Item = (String, Vec<KeyGroupInfo>)>) -> Vec<Unfinished> {
    let mut found: Vec<Unfinished> = Vec::new();
    for (node, infos) in reports {
        for info in infos.into_iter().filter(|info| info.phase == GroupPhase::Prepared) {
            if let Some(left) = found.iter_mut().find(|left| left.is_described_by(&info)) {
                left.nodes.push(node.clone());
                continue;
            }
            let mut contested = false;
            for other in found.iter_mut().filter(|other| other.ceremony == info.ceremony) {
                (other.contested, contested) = (true, true);
            }
            let (ceremony, key_group) = (info.ceremony, info.id);
            found.push(Unfinished { ceremony, key_group, info, nodes: vec![node.clone()], contested });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::AttemptPolicy;

    fn info(ceremony: u8, group: &str, threshold: u16) -> KeyGroupInfo {
        KeyGroupInfo {
            id: format!("02{group}").parse().unwrap(),
            phase: GroupPhase::Prepared,
            ceremony: CeremonyId::new([ceremony; 16]),
            threshold,
            seats: BTreeMap::new(),
            local_members: Vec::new(),
            attempt_policy: AttemptPolicy::Roast,
            signing_policy_hash: [0; 32],
            freezes: Vec::new(),
            frozen: false,
            sessions: 0,
            roster_agrees: true,
        }
    }

    const ONE: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    const TWO: &str = "c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";

    #[test]
    fn only_nodes_that_list_a_key_group_for_the_ceremony_are_told_to_drop_it() {
        let reports = [
            // It aims at the key group of another ceremony.
            ("liar", vec![info(2, ONE, 2)]),
            ("north", vec![info(1, ONE, 2)]),
            ("south", vec![info(1, ONE, 2), info(2, TWO, 2)]),
        ];
        let found = gather(reports.map(|(node, infos)| (node.to_owned(), infos)).into_iter());
        let hints: Vec<String> = found.iter().map(Unfinished::over_for_good).collect();
        assert_eq!(hints.len(), 3);
        for (hint, part) in hints.iter().zip([
            format!("danger-drop-prepared 02{ONE} --node liar`"),
            format!("danger-drop-prepared 02{ONE} --node north --node south`"),
            format!("danger-drop-prepared 02{TWO} --node south`"),
        ]) {
            assert!(hint.contains(&part), "{hint}");
        }
        assert_eq!(found.iter().map(|left| left.contested).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn a_ceremony_that_nodes_describe_otherwise_is_nobodys_to_complete_unasked() {
        let reports = [("liar", vec![info(1, ONE, 5)]), ("north", vec![info(1, ONE, 2)])];
        let found = gather(reports.map(|(node, infos)| (node.to_owned(), infos)).into_iter());
        assert!(found.len() == 2 && found.iter().all(|left| left.contested));
    }
}
