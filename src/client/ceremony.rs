//! The calls of the service `KeyGeneration`, as the way of a driver to a node.

use super::error::ClientError;
use super::network::NodeClient;
use super::node::{Client, call};
use super::read::{at_most, member, plain};
use crate::ceremony::{NodePort, Peer, PortError, Refused};
use crate::engine::{CeremonyStage, PreparedReply};
use crate::ids::CeremonyId;
use crate::keygen::{Confirmation, Fault, Parameters};
use crate::limits::{KEY_GROUPS_MAX, MEMBERS_MAX};
use crate::policy::SigningPolicy;
use crate::reasons::Reason;
use crate::wire::ceremony::{ceremony, policy_json};
use crate::wire::v1;

impl From<ClientError> for PortError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) => Self::Refused(Box::new(Refused {
                reason: problem.reason,
                problem: problem.problem,
                members: problem.members,
                faults: Vec::new(),
                complaints: Vec::new(),
            })),
            ClientError::Unreachable(problem) => Self::Unreachable(problem),
            ClientError::Nonsense(problem) => Self::Nonsense(problem),
        }
    }
}

/// A refusal that came as an answer, with its proofs. The driver checks each.
pub(super) fn failed(failure: v1::CeremonyFailure) -> Result<Refused, ClientError> {
    let reason = Reason::ALL.iter().copied().find(|reason| reason.name() == failure.reason);
    let reason = reason
        .ok_or_else(|| ClientError::Unreachable(plain(&format!("{} is no reason of this version", failure.reason))))?;
    for list in [&failure.faults, &failure.complaints] {
        at_most("faults and complaints", list, MEMBERS_MAX)?;
    }
    at_most("members", &failure.members, MEMBERS_MAX)?;
    let members = failure.members.iter().map(|&number| member("members", number));
    let faults = failure.faults.iter().map(|fault| Fault::from_bytes(fault).map_err(ClientError::nonsense));
    Ok(Refused {
        reason,
        problem: plain(&failure.problem),
        members: members.collect::<Result<_, _>>()?,
        faults: faults.collect::<Result<_, _>>()?,
        complaints: failure.complaints,
    })
}

/// Refuses when the answer carries a failure.
fn unless_failed(failure: Option<v1::CeremonyFailure>) -> Result<(), PortError> {
    match failure {
        None => Ok(()),
        Some(failure) => Err(PortError::Refused(Box::new(failed(failure)?))),
    }
}

/// What a node said: one message for each of its seats, as far as one answer shows.
fn messages(reply: v1::MessagesReply) -> Result<Vec<Vec<u8>>, PortError> {
    unless_failed(reply.failure)?;
    at_most("messages", &reply.messages, MEMBERS_MAX)?;
    Ok(reply.messages)
}

fn named(id: &CeremonyId) -> v1::CeremonyRequest {
    v1::CeremonyRequest { ceremony: id.as_bytes().to_vec() }
}

impl Client {
    /// `Unfinished`: ceremonies that are prepared on the node and lack their certificate.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn unfinished_ceremonies(&self) -> Result<Vec<CeremonyId>, ClientError> {
        let reply = call!(self, key_generation_client::KeyGenerationClient::unfinished, v1::UnfinishedRequest {})?;
        at_most("ceremonies", &reply.ceremonies, KEY_GROUPS_MAX)?;
        reply.ceremonies.iter().map(|id| ceremony(id).map_err(ClientError::nonsense)).collect()
    }

    /// `Certify`: the node's word that it holds this certificate durably. Repeated, it is the same word.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn certify(&self, certificate: &[u8]) -> Result<Confirmation, ClientError> {
        let message = v1::CertifyRequest { certificate: certificate.to_vec() };
        let reply = call!(self, key_generation_client::KeyGenerationClient::certify, message)?;
        Confirmation::from_bytes(&reply.confirmation).map_err(ClientError::nonsense)
    }
}

impl NodePort for NodeClient {
    async fn preflight(
        &self,
        parameters: &Parameters,
        policy: &SigningPolicy,
        peers: &[Peer],
    ) -> Result<(), PortError> {
        let peer = |peer: &Peer| v1::Peer { name: peer.name.clone(), identity: peer.identity.as_bytes().to_vec() };
        let message = v1::PreflightRequest {
            parameters: Some(parameters.into()),
            signing_policy: policy_json(policy),
            peers: peers.iter().map(peer).collect(),
        };
        let asked = call!(self.client, key_generation_client::KeyGenerationClient::preflight, message);
        Ok(asked.map(|_| ())?)
    }

    async fn begin(&self, parameters: &Parameters, policy: &SigningPolicy) -> Result<Vec<Vec<u8>>, PortError> {
        let message = v1::BeginRequest { parameters: Some(parameters.into()), signing_policy: policy_json(policy) };
        messages(call!(self.client, key_generation_client::KeyGenerationClient::begin, message)?)
    }

    async fn receive(&self, ceremony: &CeremonyId, message: &[u8]) -> Result<(), PortError> {
        let message = v1::ReceiveRequest { ceremony: ceremony.as_bytes().to_vec(), message: message.to_vec() };
        let reply = call!(self.client, key_generation_client::KeyGenerationClient::receive, message)?;
        unless_failed(reply.failure)
    }

    async fn advance(&self, ceremony: &CeremonyId) -> Result<Vec<Vec<u8>>, PortError> {
        messages(call!(self.client, key_generation_client::KeyGenerationClient::advance, named(ceremony))?)
    }

    async fn finish(&self, ceremony: &CeremonyId) -> Result<PreparedReply, PortError> {
        let mut reply = call!(self.client, key_generation_client::KeyGenerationClient::finish, named(ceremony))?;
        unless_failed(reply.failure.take())?;
        Ok(PreparedReply::try_from(&reply).map_err(ClientError::nonsense)?)
    }

    async fn certify(&self, certificate: &[u8]) -> Result<Confirmation, PortError> {
        Ok(self.client.certify(certificate).await?)
    }

    async fn abandon(&self, ceremony: &CeremonyId) -> Result<(), PortError> {
        let asked = call!(self.client, key_generation_client::KeyGenerationClient::abandon, named(ceremony));
        Ok(asked.map(|_| ())?)
    }

    async fn stage(&self, ceremony: &CeremonyId) -> Result<CeremonyStage, PortError> {
        let reply = call!(self.client, key_generation_client::KeyGenerationClient::stage, named(ceremony))?;
        Ok(CeremonyStage::try_from(&reply).map_err(ClientError::nonsense)?)
    }

    async fn unfinished(&self) -> Result<Vec<CeremonyId>, PortError> {
        Ok(self.client.unfinished_ceremonies().await?)
    }
}
