//! What the nodes of a roster say of one key group, and what of that is believed.
//!
//! The certificate proves itself; which identities have been replaced since is what nodes say. So the answers that name the
//! same certificate and the same seats are counted by the members whose seats they are, as certificate *and* roster have them,
//! and what most of them say is taken if they are at least the threshold: fewer than that are assumed to lie.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::error::ClientError;
use super::network::{Network, NodeClient};
use super::patience::Patience;
use super::view::KeyGroupDetail;
use crate::coordinator::Setting;
use crate::engine::Subject;
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, KeyGroupId, Member};
use crate::keygen::Certificate;
use crate::reasons::Reason;

/// How long nodes are waited for once enough have said the same, milliseconds.
const OTHERS_MS_MAX: u64 = 1_000;

/// A key group as the nodes agree on it.
#[derive(Debug, Clone)]
pub struct KnownGroup {
    /// The certificate.
    pub certificate: Certificate,
    /// Who holds which seat now: the certificate's identities, or their replacements.
    pub seats: BTreeMap<Member, IdentityKey>,
    /// What each node of the roster said, in the roster's order.
    pub answers: Vec<(String, Result<KeyGroupDetail, ClientError>)>,
}

impl KnownGroup {
    /// A key group that was made just now: nobody has been asked, since nothing can have been replaced.
    pub fn certified(certificate: Certificate) -> Self {
        let seats = certificate.seats().clone();
        Self { certificate, seats, answers: Vec::new() }
    }

    /// The key group.
    pub fn id(&self) -> KeyGroupId {
        self.certificate.group().id()
    }

    /// How attempts advance.
    pub fn attempt_policy(&self) -> AttemptPolicy {
        self.certificate.transcript().parameters().attempt_policy()
    }

    /// What signs `subject`.
    pub fn setting(&self, subject: Subject) -> Setting {
        let first = crate::coordinator::session_id(&subject, 0);
        let setting = Setting::new(self.certificate.group().clone(), self.seats.clone(), first, subject);
        setting.of_ceremony(self.certificate.ceremony())
    }

    /// Those nodes of `network` that hold a seat.
    pub fn holders<'a>(&self, network: &'a Network) -> Vec<&'a NodeClient> {
        network.nodes().iter().filter(|node| self.seats.values().any(|holder| *holder == node.identity)).collect()
    }
}

/// Why it is not known what a key group is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("key group {key_group}: {problem}: {}", .nodes.iter().map(|(node, said)| format!("{node}: {said}")).collect::<Vec<_>>().join("; "))]
pub struct NotKnown {
    /// The key group.
    pub key_group: KeyGroupId,
    /// The stable reason.
    pub reason: Reason,
    /// What is missing.
    pub problem: String,
    /// What each node said.
    pub nodes: Vec<(String, String)>,
}

impl Network {
    /// Asks every node for the key group.
    ///
    /// # Errors
    /// [`NotKnown`] when fewer members than the threshold stand behind one answer.
    pub async fn key_group(&self, id: &KeyGroupId, patience: Patience) -> Result<KnownGroup, NotKnown> {
        let mut asked = JoinSet::new();
        for (index, node) in self.nodes().iter().enumerate() {
            let (client, id) = (node.client.with(patience), *id);
            asked.spawn(async move { (index, client.key_group(&id).await) });
        }
        let mut answers = BTreeMap::new();
        loop {
            let next = asked.join_next();
            let next = match self.agreed(&answers) {
                None => next.await,
                Some(_) => timeout(Duration::from_millis(OTHERS_MS_MAX), next).await.unwrap_or_default(),
            };
            match next {
                Some(Ok((index, answer))) => drop(answers.insert(index, answer)),
                Some(Err(_)) => {}
                None => break,
            }
        }
        let agreed = self.agreed(&answers).cloned();
        let silent = || Err(ClientError::Unreachable("it has not answered in time".into()));
        let answers: Vec<_> = self
            .nodes()
            .iter()
            .enumerate()
            .map(|(index, node)| (node.name.clone(), answers.remove(&index).unwrap_or_else(silent)))
            .collect();
        match agreed {
            Some(KeyGroupDetail { certificate: Some(certificate), info, .. }) => {
                Ok(KnownGroup { certificate, seats: info.seats, answers })
            }
            _ => Err(not_known(*id, &answers)),
        }
    }

    /// The answer that most members stand behind, if they are enough.
    fn agreed<'a>(
        &self,
        answers: &'a BTreeMap<usize, Result<KeyGroupDetail, ClientError>>,
    ) -> Option<&'a KeyGroupDetail> {
        let said = || answers.iter().filter_map(|(index, answer)| Some((*index, answer.as_ref().ok()?)));
        let behind = |detail: &KeyGroupDetail| -> usize {
            let same = |other: &KeyGroupDetail| {
                other.certificate == detail.certificate && other.info.seats == detail.info.seats
            };
            let nodes = said().filter(|(_, other)| same(other)).filter_map(|(index, _)| self.nodes().get(index));
            nodes.map(|node| seats_of(node, &detail.info.seats)).sum()
        };
        let counted = said().filter(|(_, detail)| detail.certificate.is_some());
        let counted = counted.map(|(_, detail)| (behind(detail), detail));
        let most = counted.max_by_key(|(members, _)| *members);
        most.filter(|(members, detail)| *members >= usize::from(detail.info.threshold)).map(|(_, detail)| detail)
    }
}

/// How many of the seats that the roster gives to a node are its own in `seats` too.
fn seats_of(node: &NodeClient, seats: &BTreeMap<Member, IdentityKey>) -> usize {
    node.members.iter().filter(|member| seats.get(member) == Some(&node.identity)).count()
}

fn not_known(key_group: KeyGroupId, answers: &[(String, Result<KeyGroupDetail, ClientError>)]) -> NotKnown {
    let said = |answer: &Result<KeyGroupDetail, ClientError>| match answer {
        Ok(KeyGroupDetail { certificate: None, .. }) => "prepared only, its certificate has not come".to_owned(),
        Ok(KeyGroupDetail { info, .. }) => {
            let members = info.local_members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ");
            format!("active, holds members [{members}] of seats that others name differently")
        }
        Err(ClientError::Refused(problem)) => format!("{} [{}]", problem.problem, problem.reason),
        Err(error) => error.to_string(),
    };
    let nodes = answers.iter().map(|(node, answer)| (node.clone(), said(answer))).collect();
    let has = |test: &dyn Fn(&Result<KeyGroupDetail, ClientError>) -> bool| answers.iter().any(|(_, it)| test(it));
    let (reason, problem) = if has(&|answer| matches!(answer, Ok(detail) if detail.certificate.is_some())) {
        let away = has(&|answer| matches!(answer, Err(ClientError::Unreachable(_))));
        let reason = if away { Reason::PeerUnreachable } else { Reason::RosterMismatch };
        (reason, "too few members say the same of it")
    } else if has(&Result::is_ok) {
        (Reason::KeyGroupPrepared, "no node has its certificate")
    } else if has(&|answer| matches!(answer, Err(ClientError::Unreachable(_)))) {
        (Reason::PeerUnreachable, "no node that answers knows it")
    } else {
        let refused = answers.iter().find_map(|(_, answer)| answer.as_ref().err()?.reason());
        (refused.unwrap_or(Reason::KeyGroupUnknown), "no node knows it")
    };
    NotKnown { key_group, reason, problem: problem.into(), nodes }
}
