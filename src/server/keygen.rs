//! Key generation. A ceremony's failure, and a fault of its messages, are answers: they carry proofs, which fit no status.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::services::{Services, aside, field, read, refused, taken};
use super::shared::{Asker, Shared};
use crate::client::Patience;
use crate::engine::{Engine, Refusal};
use crate::identity::IdentityKey;
use crate::keygen::{Certificate, Parameters};
use crate::limits::{PREFLIGHT_DIALS_MAX, PREFLIGHT_PEER_MS_MAX};
use crate::policy::SigningPolicy;
use crate::reasons::Reason;
use crate::wire::status::status;
use crate::wire::v1::key_generation_server::KeyGeneration;
use crate::wire::{ceremony, v1};

#[tonic::async_trait]
impl KeyGeneration for Services {
    async fn preflight(&self, request: Request<v1::PreflightRequest>) -> Result<Response<v1::PreflightReply>, Status> {
        let (asker, message) = taken(request)?;
        let engine = self.0.engine()?;
        engine.keygen_preflight(&asker.caller).map_err(refused)?;
        let (parameters, policy) = asked(message.parameters, &message.signing_policy)?;
        let own = engine.node_identity().map_err(refused)?;
        check(&self.0, &parameters, &policy, &own)?;
        // Whom the caller lists is its own affair: the seats say who has to be reached.
        let holders = parameters.identities().into_iter().filter(|identity| *identity != own);
        reach(&self.0, &engine, holders).await?;
        Ok(Response::new(v1::PreflightReply {}))
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::MessagesReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.note_traffic(None);
        let (parameters, policy) = asked(message.parameters, &message.signing_policy)?;
        let engine = self.0.engine()?;
        seated(&self.0, &parameters)?;
        let said = engine.keygen_begin(&asker.caller, parameters, policy).await;
        messages(said.map(|said| ceremony::messages_reply(&said)))
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.note_traffic(None);
        let id = field(ceremony::ceremony(&message.ceremony))?;
        let received = self.0.engine()?.keygen_receive(&asker.caller, &id, message.message).await;
        let failure = received.err().map(failed).transpose()?;
        Ok(Response::new(v1::ReceiveReply { failure }))
    }

    async fn advance(&self, request: Request<v1::CeremonyRequest>) -> Result<Response<v1::MessagesReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.note_traffic(None);
        let id = field(ceremony::ceremony(&message.ceremony))?;
        let said = self.0.engine()?.keygen_advance(&asker.caller, &id).await;
        messages(said.map(|said| ceremony::messages_reply(&said)))
    }

    async fn finish(&self, request: Request<v1::CeremonyRequest>) -> Result<Response<v1::FinishReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.note_traffic(None);
        let id = field(ceremony::ceremony(&message.ceremony))?;
        let reply = match self.0.engine()?.keygen_finish(&asker.caller, &id).await {
            Ok(prepared) => (&prepared).into(),
            Err(refusal) => v1::FinishReply { failure: Some(failed(refusal)?), ..Default::default() },
        };
        Ok(Response::new(reply))
    }

    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Result<Response<v1::CertifyReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.note_traffic(None);
        let (shared, named) = (Arc::clone(&self.0), asker.clone());
        let (engine, certificate) = aside(move || certified(&shared, &named, message.certificate)).await?;
        let confirmation = engine.keygen_certify(&asker.caller, certificate).await.map_err(refused)?;
        Ok(Response::new(v1::CertifyReply { confirmation: confirmation.to_bytes() }))
    }

    async fn abandon(&self, request: Request<v1::CeremonyRequest>) -> Result<Response<v1::AbandonReply>, Status> {
        let (asker, message) = taken(request)?;
        let id = field(ceremony::ceremony(&message.ceremony))?;
        self.0.engine()?.keygen_abandon(&asker.caller, &id).map_err(refused)?;
        Ok(Response::new(v1::AbandonReply {}))
    }

    async fn stage(&self, request: Request<v1::CeremonyRequest>) -> Result<Response<v1::StageReply>, Status> {
        let (asker, message) = taken(request)?;
        let id = field(ceremony::ceremony(&message.ceremony))?;
        let stage = self.0.engine()?.keygen_stage(&asker.caller, &id).await.map_err(refused)?;
        Ok(Response::new((&stage).into()))
    }

    async fn unfinished(
        &self,
        request: Request<v1::UnfinishedRequest>,
    ) -> Result<Response<v1::UnfinishedReply>, Status> {
        let (asker, _) = taken(request)?;
        let ids = self.0.engine()?.keygen_unfinished(&asker.caller).map_err(refused)?;
        let ceremonies = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
        Ok(Response::new(v1::UnfinishedReply { ceremonies }))
    }
}

/// What a ceremony is to be about.
fn asked(parameters: Option<v1::Parameters>, policy: &str) -> Result<(Parameters, SigningPolicy), Status> {
    let parameters = parameters.ok_or_else(|| status(Reason::InvalidRequest, "parameters is missing"))?;
    Ok((read(parameters)?, field(ceremony::signing_policy(policy))?))
}

/// A refusal that carries proofs, as an answer; any other as it is.
fn failed(refusal: Refusal) -> Result<v1::CeremonyFailure, Status> {
    ceremony::failure(&refusal).ok_or_else(|| refused(refusal))
}

fn messages(reply: Result<v1::MessagesReply, Refusal>) -> Result<Response<v1::MessagesReply>, Status> {
    let failure = |refusal| Ok(v1::MessagesReply { messages: Vec::new(), failure: Some(failed(refusal)?) });
    reply.or_else(failure).map(Response::new)
}

/// The engine, for a certificate of a key group that the roster does not contradict.
fn certified(shared: &Shared, asker: &Asker, certificate: Vec<u8>) -> Result<(Engine, Vec<u8>), Status> {
    let parsed = Certificate::from_bytes(&certificate);
    let parsed = parsed.map_err(|error| refused(Refusal::CertificateInvalid(error.to_string())))?;
    Ok((shared.engine_for(asker, &parsed.group().id())?, certificate))
}

/// What has to hold of the parameters on this node before any secret exists.
fn check(shared: &Shared, parameters: &Parameters, policy: &SigningPolicy, own: &IdentityKey) -> Result<(), Status> {
    let invalid = |problem: String| status(Reason::InvalidRequest, problem);
    let hash = policy.hash().map_err(|error| invalid(format!("signing_policy: {error}")))?;
    if parameters.signing_policy() != hash {
        return Err(invalid("the parameters name another signing policy than the one given".into()));
    }
    if parameters.seats_of(*own).is_empty() {
        return Err(invalid(format!("the parameters give this node, {own}, no seat")));
    }
    seated(shared, parameters)
}

/// Every seat is the member and the identity of one line of the roster in force.
fn seated(shared: &Shared, parameters: &Parameters) -> Result<(), Status> {
    let strangers = shared.rosters.current().strangers(parameters.seats());
    if strangers.is_empty() {
        return Ok(());
    }
    let members: Vec<String> = strangers.iter().map(ToString::to_string).collect();
    let problem = format!(
        "the parameters give members {} to nodes to which the roster in force does not give them",
        members.join(", ")
    );
    Err(status(Reason::RosterMismatch, problem))
}

/// Asks each peer, over the network and with this node's own key, whether it is who it should be.
async fn reach(shared: &Shared, engine: &Engine, peers: impl Iterator<Item = IdentityKey>) -> Result<(), Status> {
    let network = shared.network(engine)?;
    let room = Arc::new(Semaphore::new(PREFLIGHT_DIALS_MAX));
    let mut dials = JoinSet::new();
    let mut unreachable = Vec::new();
    for identity in peers {
        // The roster may have been replaced since the seats were held against it.
        let Some(node) = network.node_of(&identity) else {
            unreachable.push(format!("no node of the roster in force has the identity {identity}"));
            continue;
        };
        let name = node.name.clone();
        let (client, room) = (node.client.with(Patience::once()), Arc::clone(&room));
        dials.spawn(async move {
            let _room = room.acquire_owned().await;
            let limit = Duration::from_millis(PREFLIGHT_PEER_MS_MAX);
            let problem = match timeout(limit, client.status()).await {
                Err(_) => format!("no answer within {PREFLIGHT_PEER_MS_MAX} ms"),
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(seen)) => match seen.identity {
                    Some(found) if found == identity => return None,
                    Some(found) => format!("it has the identity {found}, and should have {identity}"),
                    None => format!("its state is {}: {}", seen.phase.name(), seen.message.problem),
                },
            };
            Some(format!("{name}: {problem}"))
        });
    }
    while let Some(dialled) = dials.join_next().await {
        unreachable.extend(dialled.unwrap_or_else(|error| Some(format!("a call ended early: {error}"))));
    }
    if unreachable.is_empty() {
        return Ok(());
    }
    unreachable.sort();
    Err(status(Reason::PeerUnreachable, format!("this node does not reach {}", unreachable.join("; "))))
}
