//! What the nodes of a roster say of one key group, and what of that is believed.
//!
//! Anybody can make a certificate that proves itself, for any key group id, with nodes and a threshold of their own. So an
//! answer counts for the seats that the certificate itself gives to the node of the roster that gave it: a node cannot sign as
//! another one. The certificate that most seats stand behind is taken, once those who are still silent could not change that;
//! then, of what is said of identities replaced since, what most seats say, if they are at least the threshold: fewer than
//! that are assumed to lie. A seat that was replaced counts for nobody, and has no share to sign with either.

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

/// What nodes have said, by their places in the roster.
type Answers = BTreeMap<usize, Result<KeyGroupDetail, ClientError>>;

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
            let next = match self.agreed(&answers, self.unheard(&answers)) {
                None => next.await,
                Some(_) => timeout(Duration::from_millis(OTHERS_MS_MAX), next).await.unwrap_or_default(),
            };
            match next {
                Some(Ok((index, answer))) => drop(answers.insert(index, answer)),
                Some(Err(_)) => {}
                None => break,
            }
        }
        let agreed = self.agreed(&answers, 0).cloned();
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

    /// The seats of nodes that have not answered yet.
    fn unheard(&self, answers: &Answers) -> usize {
        let silent = self.nodes().iter().enumerate().filter(|(index, _)| !answers.contains_key(index));
        silent.map(|(_, node)| node.members.len()).sum()
    }

    /// The answer that most seats stand behind, if they are enough whatever `unheard` seats more will say.
    fn agreed<'a>(&self, answers: &'a Answers, unheard: usize) -> Option<&'a KeyGroupDetail> {
        let said = answers.iter().filter_map(|(index, answer)| {
            let (node, detail) = (self.nodes().get(*index)?, answer.as_ref().ok()?);
            let certificate = detail.certificate.as_ref()?;
            Some((seats_of(node, certificate, &detail.info.seats), certificate, detail))
        });
        let said: Vec<_> = said.collect();
        let behind = |certificate: &Certificate| -> usize {
            said.iter().filter(|(_, other, _)| *other == certificate).map(|(seats, ..)| seats).sum()
        };
        let (most, leader) = said.iter().map(|(_, one, _)| (behind(one), *one)).max_by_key(|(seats, _)| *seats)?;
        let others = said.iter().filter(|(_, other, _)| *other != leader).map(|(_, other, _)| behind(other));
        if most <= others.max().unwrap_or_default() + unheard {
            return None;
        }
        let of_leader = || said.iter().filter(|(_, certificate, _)| *certificate == leader);
        let same = |detail: &KeyGroupDetail| -> usize {
            of_leader().filter(|(_, _, other)| other.info.seats == detail.info.seats).map(|(seats, ..)| seats).sum()
        };
        let (seats, detail) =
            of_leader().map(|(_, _, detail)| (same(detail), *detail)).max_by_key(|(seats, _)| *seats)?;
        (seats >= usize::from(leader.group().threshold())).then_some(detail)
    }
}

/// How many of the seats that the roster gives to a node are its own in the certificate, and in `seats` too.
fn seats_of(node: &NodeClient, certificate: &Certificate, seats: &BTreeMap<Member, IdentityKey>) -> usize {
    let own = |seats: &BTreeMap<Member, IdentityKey>, member| seats.get(member) == Some(&node.identity);
    node.members.iter().filter(|member| own(certificate.seats(), member) && own(seats, member)).count()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use frostkeep_hsm::entropy;

    use super::*;
    use crate::client::view::{GroupPhase, KeyGroupInfo};
    use crate::frost::{GroupKey, danger_dealer::deal};
    use crate::identity::NodeIdentity;
    use crate::ids::CeremonyId;
    use crate::keygen::Parameters;
    use crate::policy::SigningPolicy;
    use crate::roster::{NodeLine, Roster};
    use crate::tls::TlsKey;

    fn member(number: u16) -> Member {
        Member::new(number).unwrap()
    }

    /// A roster of these nodes, with the numbers of their members.
    fn network(nodes: &[(&NodeIdentity, &[u16])]) -> Network {
        let line = |(index, (identity, members)): (usize, &(&NodeIdentity, &[u16]))| {
            let line = NodeLine {
                name: format!("node-{index}"),
                address: format!("127.0.0.1:{}", 1_000 + index),
                identity: identity.public(),
                serving_pin: TlsKey::generate().unwrap().pin(),
                client_pin: TlsKey::generate().unwrap().pin(),
                members: members.iter().map(|number| member(*number)).collect(),
                roles: Vec::new(),
            };
            line.to_toml()
        };
        let text: String = nodes.iter().enumerate().map(line).collect();
        Network::new(Arc::new(Roster::parse(&text).unwrap()), &Arc::new(TlsKey::generate().unwrap())).unwrap()
    }

    /// A certificate of these nodes, who hold members 1, 2, ... each; for a key of their own choice.
    fn certificate(group: &GroupKey, seats: &[&NodeIdentity]) -> Certificate {
        let holders = (1..).map(member).zip(seats.iter().map(|node| node.public())).collect();
        let ceremony = CeremonyId::new([u8::try_from(group.threshold()).unwrap(); 16]);
        let parameters = Parameters::new(ceremony, group.threshold(), holders, AttemptPolicy::Roast, [1; 32]).unwrap();
        Certificate::made_up(parameters, group.clone(), seats)
    }

    /// An answer with this certificate; the seats are those of `seats`.
    fn says(certificate: &Certificate, seats: &[&NodeIdentity]) -> Result<KeyGroupDetail, ClientError> {
        let info = KeyGroupInfo {
            id: certificate.group().id(),
            phase: GroupPhase::Active,
            ceremony: certificate.ceremony(),
            threshold: certificate.group().threshold(),
            seats: (1..).map(member).zip(seats.iter().map(|node| node.public())).collect(),
            local_members: Vec::new(),
            attempt_policy: AttemptPolicy::Roast,
            signing_policy_hash: [1; 32],
            freezes: Vec::new(),
            frozen: false,
            sessions: 0,
            roster_agrees: true,
        };
        Ok(KeyGroupDetail { info, certificate: Some(certificate.clone()), policy: SigningPolicy::default() })
    }

    fn group(threshold: u16) -> GroupKey {
        deal(&[1, 2, 3, 4, 5].map(member), threshold, &mut entropy::os()).unwrap().1
    }

    fn identities<const N: usize>() -> [NodeIdentity; N] {
        std::array::from_fn(|_| NodeIdentity::generate(&mut entropy::os()))
    }

    #[tokio::test]
    async fn seats_that_the_certificate_does_not_give_to_a_node_do_not_count_for_it() {
        let nodes: [NodeIdentity; 4] = identities();
        let [a, b, c, liar] = &nodes;
        let network = network(&[(a, &[1]), (b, &[2]), (c, &[3]), (liar, &[4, 5])]);
        let stranger = &identities::<1>()[0];
        // Its own certificate of threshold 2, whose seats it says were all replaced by those of the roster.
        let false_one = certificate(&group(2), &[stranger; 5]);
        let answers = BTreeMap::from([(3, says(&false_one, &[a, b, c, liar, liar]))]);
        assert_eq!(network.agreed(&answers, 0), None);
        // The seats of the certificate, which the node says it holds no longer.
        let honest = certificate(&group(2), &[a, b, c, liar, liar]);
        let answers = BTreeMap::from([(3, says(&honest, &[a, b, c, stranger, stranger]))]);
        assert_eq!(network.agreed(&answers, 0), None);
        // A replacement that enough others confirm is believed, and counts for nobody.
        let seats = [a, b, c, stranger, liar];
        let of = |indices: &[usize]| indices.iter().map(|index| (*index, says(&honest, &seats))).collect();
        let one: Answers = of(&[0]);
        assert_eq!(network.agreed(&one, 0), None);
        let two: Answers = of(&[0, 1]);
        assert_eq!(network.agreed(&two, 0).unwrap().info.seats[&member(4)], stranger.public());
    }

    #[tokio::test]
    async fn a_certificate_of_few_nodes_that_answer_first_is_not_believed_before_the_others_are_heard() {
        let nodes: [NodeIdentity; 4] = identities();
        let [a, b, c, liar] = &nodes;
        let network = network(&[(a, &[1]), (b, &[2]), (c, &[3]), (liar, &[4, 5])]);
        let seats = [a, b, c, liar, liar];
        let (honest, false_one) = (certificate(&group(3), &seats), certificate(&group(2), &[liar; 5]));
        let mut answers = BTreeMap::from([(3, says(&false_one, &[liar; 5]))]);
        assert_eq!(network.unheard(&answers), 3);
        assert_eq!(network.agreed(&answers, network.unheard(&answers)), None);
        for index in 0..2 {
            answers.insert(index, says(&honest, &seats));
            assert_eq!(network.agreed(&answers, network.unheard(&answers)), None);
        }
        // As many seats behind the one as behind the other.
        assert_eq!(network.agreed(&answers, 0), None);
        answers.insert(2, says(&honest, &seats));
        assert_eq!(network.agreed(&answers, network.unheard(&answers)).unwrap().certificate, Some(honest.clone()));

        // Nobody is waited for whose word would change nothing.
        let three: Answers = [0, 1, 2].map(|index| (index, says(&honest, &seats))).into();
        assert_eq!(network.agreed(&three, network.unheard(&three)).unwrap().certificate, Some(honest));
    }
}
