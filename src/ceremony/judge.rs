//! What answers and refusals mean, and whom they name: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::Step;
use super::finding::{Finding, Named};
use super::port::{PortError, Refused};
use super::reach::Answers;
use crate::engine::PreparedReply;
use crate::identity::IdentityKey;
use crate::ids::Member;
use crate::keygen::{
    Certificate, CertificateError, Confirmation, ConfirmedKeyGroup, Fault, Message, Parameters, Round,
};
use crate::reasons::Reason;

/// A message on its way from one node to all others.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// The index of the node that sent it.
    pub(super) from: usize,
    pub(super) bytes: Arc<[u8]>,
}

/// What a node says against the message of another that it was given.
pub(super) struct Objection {
    pub(super) from: usize,
    pub(super) error: PortError,
}

/// Knows who is who, and what the key is to be.
pub(super) struct Judge {
    parameters: Parameters,
    nodes: Vec<(String, IdentityKey)>,
}

impl Judge {
    pub(super) fn new(parameters: Parameters, nodes: Vec<(String, IdentityKey)>) -> Self {
        Self { parameters, nodes }
    }

    /// The node with all of its seats.
    pub(super) fn named(&self, index: usize) -> Named {
        let Some((node, identity)) = self.nodes.get(index) else {
            return Named { node: format!("node {index}"), members: Vec::new() };
        };
        Named { node: node.clone(), members: self.parameters.seats_of(*identity) }
    }

    fn by_identity(&self, identity: IdentityKey) -> Named {
        match self.nodes.iter().position(|(_, known)| *known == identity) {
            Some(index) => self.named(index),
            None => Named { node: format!("identity {identity}"), members: Vec::new() },
        }
    }

    /// The nodes that hold these seats, each with those of them that it holds.
    fn holders(&self, members: &[Member]) -> Vec<Named> {
        let mut held: BTreeMap<String, BTreeSet<Member>> = BTreeMap::new();
        for member in members {
            let holder = self.parameters.identity_of(*member);
            let node = holder.map_or_else(|| "the holder of a seat".into(), |identity| self.by_identity(identity).node);
            held.entry(node).or_default().insert(*member);
        }
        held.into_iter().map(|(node, members)| Named { node, members: members.into_iter().collect() }).collect()
    }

    /// A node's messages of one round: one for each of its seats, signed by it. What is not, is the node's own doing: the
    /// way to it is authenticated.
    pub(super) fn messages(
        &self,
        index: usize,
        step: Step,
        round: Round,
        messages: &[Vec<u8>],
    ) -> Result<Vec<Said>, Finding> {
        let wrong = |problem: String| Finding::WrongAnswer { node: self.named(index), step, problem };
        let mut senders = BTreeSet::new();
        for bytes in messages {
            let message = Message::open(bytes, &self.parameters).map_err(|error| wrong(error.to_string()))?;
            if message.round() != round {
                return Err(wrong(format!("a {} message where {round} is due", message.round())));
            }
            senders.insert(message.sender());
        }
        let seats = self.named(index).members;
        if messages.len() != seats.len() || !senders.iter().eq(&seats) {
            return Err(wrong(format!("messages of members {senders:?} where one of each of {seats:?} is due")));
        }
        Ok(messages.iter().map(|bytes| Said { from: index, bytes: Arc::from(bytes.as_slice()) }).collect())
    }

    /// What a failed step says, and about whom.
    pub(super) fn failure(&self, index: usize, step: Step, error: &PortError) -> Vec<Finding> {
        let node = self.named(index);
        let refused = match error {
            PortError::Unreachable(problem) => {
                return vec![Finding::Absent { node, step, problem: problem.clone() }];
            }
            PortError::Nonsense(problem) => {
                return vec![Finding::WrongAnswer { node, step, problem: problem.clone() }];
            }
            PortError::Refused(refused) => refused,
        };
        if !refused.faults.is_empty() {
            return self.faults(index, refused);
        }
        if refused.reason == Reason::CeremonyIncomplete && !refused.members.is_empty() {
            // Their messages were handed over, more than once, and the node has said that it took them.
            let accused = self.holders(&refused.members);
            return vec![Finding::Disputed { accuser: node, accused, problem: refused.problem.clone() }];
        }
        vec![Finding::Refused { node, step, reason: refused.reason, problem: refused.problem.clone() }]
    }

    /// What a node says against a message that it was given.
    pub(super) fn objection(&self, index: usize, objection: &Objection) -> Vec<Finding> {
        match &objection.error {
            PortError::Refused(refused) if !refused.faults.is_empty() => self.faults(index, refused),
            // A message that the driver could open: either its receiver is wrong, or the way to it changed the bytes.
            error => vec![Finding::Disputed {
                accuser: self.named(index),
                accused: vec![self.named(objection.from)],
                problem: error.to_string(),
            }],
        }
    }

    fn faults(&self, index: usize, refused: &Refused) -> Vec<Finding> {
        refused.faults.iter().map(|fault| self.fault(index, fault)).collect()
    }

    /// A fault whose proof holds names its author alone; any other names who reports it as well.
    fn fault(&self, reporter: usize, fault: &Fault) -> Finding {
        let proved = fault.verify(&self.parameters).is_ok();
        let accuser = self.named(reporter);
        let mut members = fault.members();
        if proved && let [node] = self.holders(&members).as_slice() {
            return Finding::Faulty { node: node.clone(), fault: Box::new(fault.clone()) };
        }
        members.retain(|member| !accuser.members.contains(member));
        Finding::Disputed { accused: self.holders(&members), accuser, problem: fault.to_string() }
    }

    /// The certificate of what all nodes have said, if they have all said the same and signed it.
    pub(super) fn certificate(&self, replies: &[(usize, PreparedReply)]) -> Result<Certificate, Vec<Finding>> {
        let wrong: Vec<Finding> = replies.iter().filter_map(|(index, reply)| self.wrong_reply(*index, reply)).collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let Some((reference, first)) = most_common(replies) else { return Err(Vec::new()) };
        let diverged: Vec<Finding> = replies
            .iter()
            .filter(|(_, reply)| reply.transcript != first.transcript)
            .map(|(index, reply)| Finding::Diverged {
                one: self.named(reference),
                other: self.named(*index),
                senders: self.holders(&first.transcript.differences(&reply.transcript)),
            })
            .collect();
        if !diverged.is_empty() {
            return Err(diverged);
        }
        let statements = replies.iter().map(|(_, reply)| reply.statement);
        Certificate::new(first.transcript.clone(), statements).map_err(|error| self.incomplete(Step::Finish, error))
    }

    /// Whether every node is there, each with the same parameters of this ceremony, which are not ours.
    pub(super) fn all_have_others(&self, answers: &Answers<PreparedReply>) -> bool {
        let mut theirs =
            answers.iter().map(|(_, answer)| answer.as_ref().ok().map(|reply| reply.transcript.parameters()));
        match theirs.next() {
            Some(Some(first)) => {
                *first != self.parameters
                    && first.ceremony() == self.parameters.ceremony()
                    && theirs.all(|other| other == Some(first))
            }
            _ => false,
        }
    }

    fn wrong_reply(&self, index: usize, reply: &PreparedReply) -> Option<Finding> {
        let (transcript, statement) = (&reply.transcript, &reply.statement);
        let parameters = transcript.parameters();
        let problem = if parameters.ceremony() != self.parameters.ceremony() {
            "a transcript of another ceremony"
        } else if *parameters != self.parameters {
            "a transcript with other parameters"
        } else if self.nodes.get(index).is_none_or(|(_, identity)| *identity != statement.identity()) {
            "a statement of another node"
        } else if statement.verify(parameters).is_err() {
            "a statement that it did not sign"
        } else if statement.transcript() != transcript.hash() {
            "a statement on another transcript than the one beside it"
        } else {
            return None;
        };
        Some(Finding::WrongAnswer { node: self.named(index), step: Step::Finish, problem: problem.into() })
    }

    /// Who has not signed, as refusals: nodes that were asked and know nothing, or that nobody asked.
    fn incomplete(&self, step: Step, error: CertificateError) -> Vec<Finding> {
        let problem = "it holds a seat, and has not signed";
        match error {
            CertificateError::Missing { identities } => identities
                .into_iter()
                .map(|identity| Finding::Refused {
                    node: self.by_identity(identity),
                    step,
                    reason: Reason::CeremonyUnknown,
                    problem: problem.into(),
                })
                .collect(),
            CertificateError::Stranger { identity, .. } | CertificateError::Mismatch { identity, .. } => {
                vec![Finding::WrongAnswer { node: self.by_identity(identity), step, problem: error.to_string() }]
            }
            CertificateError::Encoding(_) | CertificateError::Signature(_) => {
                let node = Named { node: "somebody".into(), members: Vec::new() };
                vec![Finding::WrongAnswer { node, step, problem: error.to_string() }]
            }
        }
    }

    /// The key group, if every node has confirmed it in its own name.
    pub(super) fn confirmed(
        &self,
        certificate: Certificate,
        confirmations: &[(usize, Confirmation)],
    ) -> Result<ConfirmedKeyGroup, Vec<Finding>> {
        let wrong: Vec<Finding> = confirmations
            .iter()
            .filter_map(|(index, confirmation)| {
                let own = self.nodes.get(*index).is_some_and(|(_, identity)| *identity == confirmation.identity());
                let problem = match confirmation.verify(&certificate) {
                    Ok(()) if own => return None,
                    Ok(()) => "a confirmation of another node".to_string(),
                    Err(error) => error.to_string(),
                };
                Some(Finding::WrongAnswer { node: self.named(*index), step: Step::Certify, problem })
            })
            .collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let confirmations = confirmations.iter().map(|(_, confirmation)| *confirmation);
        ConfirmedKeyGroup::new(certificate, confirmations).map_err(|error| self.incomplete(Step::Certify, error))
    }
}

/// The reply whose transcript most nodes have, the first of equals.
fn most_common(replies: &[(usize, PreparedReply)]) -> Option<(usize, &PreparedReply)> {
    let count =
        |reply: &PreparedReply| replies.iter().filter(|(_, other)| other.transcript == reply.transcript).count();
    let mut best: Option<(usize, usize, &PreparedReply)> = None;
    for (index, reply) in replies {
        let votes = count(reply);
        if best.is_none_or(|(most, _, _)| votes > most) {
            best = Some((votes, *index, reply));
        }
    }
    best.map(|(_, index, reply)| (index, reply))
}
